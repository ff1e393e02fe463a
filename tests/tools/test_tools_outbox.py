"""``outrider edge outbox`` against a real agent without a broker in reach, and against its file once it is down."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import NamedTuple

import pytest
from edge_agents import SERVE, serve_environment, write_config

from factory import unsure
from outrider import Client
from outrider.cli import main

UNREACHABLE = '[broker]\nurl = "mqtt://127.0.0.1:9"\n'


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """A folder with an ``edge.toml`` whose agent has run, kept four inputs, and ended."""
    folder = tmp_path_factory.mktemp("device")
    config = write_config(folder, extra=UNREACHABLE)
    with Running(config) as address, Client(address) as client:
        for _ in range(4):
            client.ask("colours", {"image": unsure(), "question": "what colour is it?"}, wait=False)
    return folder


class Running:
    """The agent of a configuration, as a process of its own."""

    def __init__(self, config):
        self.config = config

    def __enter__(self):
        command = [sys.executable, "-c", SERVE, str(self.config)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=serve_environment())
        return self.process.stdout.readline().split(",")[0].strip()

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        self.process.stdout.close()


class Ran(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """Its one JSON document."""
        return json.loads(self.out)


@pytest.fixture
def at(device, tmp_path, monkeypatch, capsys):
    """Runs the command where the device's configuration lies, on a copy of its folder; in this process, which saves seconds."""
    shutil.copytree(device, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["outrider", "edge", "outbox", *arguments])
        try:
            code = main() or 0
        except SystemExit as ended:
            code = ended.code or 0
        return Ran(code, *capsys.readouterr())

    return run


DOWN = {"OUTRIDER_AGENT": "http://127.0.0.1:9"}


def test_the_agent_lists_shows_retries_and_drops(at, tmp_path):
    with Running(tmp_path / "edge.toml") as address:
        here = {"OUTRIDER_AGENT": address}
        listed = at("ls", "--json", "--limit", "3", **here).json
        assert listed["read_from"] == "agent"
        ids = [entry["id"] for entry in listed["page"]["entries"]]
        assert len(ids) == 3
        assert listed["page"]["next"] is not None
        assert listed["outbox"]["count"] == 4
        assert at("show", ids[0], "--json", **here).json["entry"]["id"] == ids[0]
        assert at("retry", "--dry-run", "--json", **here).json == {"due": 4, "dry_run": True}
        assert at("retry", ids[0], "--json", **here).json == {"due": 1, "dry_run": False}
        refused = at("drop", ids[0], **here)
        assert (refused.code, "--yes" in refused.err) == (2, True)
        assert at("drop", "--all", "--dry-run", "--json", **here).json["would_drop"][:3] == ids
        assert at("drop", ids[0], "--yes", "--json", **here).json["dropped"] == ids[:1]
        assert len(at("drop", "--all", "--task", "colours", "--yes", "--json", **here).json["dropped"]) == 3
        with Client(address) as client:
            assert client.account().expired == 4
            assert client.status()["outbox"]["count"] == 0


def test_while_the_agent_is_down_its_file_is_read_and_that_is_said(at, tmp_path):
    before = (tmp_path / "data" / "outbox" / "outbox.db").read_bytes()
    ran = at("ls", **DOWN)
    assert ran.code == 0
    assert "the agent is down" in ran.err
    listed = at("ls", "--json", **DOWN).json
    assert (listed["read_from"], listed["outbox"], len(listed["page"]["entries"])) == ("file", None, 4)
    assert listed["page"]["entries"][0]["id"] in ran.out
    id_ = listed["page"]["entries"][0]["id"]
    shown = at("show", id_, "--json", **DOWN).json
    assert (shown["read_from"], shown["report"]["id"]) == ("file", id_)
    assert at("show", "nothing", **DOWN).code == 1
    assert (tmp_path / "data" / "outbox" / "outbox.db").read_bytes() == before


@pytest.mark.parametrize("command", [("retry",), ("drop", "--all", "--yes")])
def test_what_changes_something_needs_the_agent(at, command):
    ran = at(*command, "--json", **DOWN)
    assert ran.code == 4
    assert json.loads(ran.out)["error"]["reason"] == "unreachable"


def test_it_must_be_clear_what_to_drop(at):
    assert at("drop", "--yes", **DOWN).code == 1
    assert at("drop", "an-id", "--all", "--yes", **DOWN).code == 1


def test_doctor_tells_the_bounds_the_fill_what_was_damaged_and_who_gave_durability_up(at, outrider, tmp_path):
    (tmp_path / "data" / "outbox" / "outbox.db.damaged-20260101T000000Z").write_bytes(b"x")
    task = tmp_path / "task.toml"
    task.write_text(task.read_text().replace("[policy]\n", '[policy]\ndurability = "memory"\n'))
    findings = outrider("doctor", "--json").json["findings"]
    said = {(each["check"], each["level"]): each["what"] for each in findings}
    assert "4 inputs wait" in said["outbox", "ok"]
    assert "at most 10,000 inputs" in said["outbox", "ok"]
    assert "damaged-20260101T000000Z" in said["outbox", "warning"]
    assert 'colours has durability = "memory"' in said["durability", "warning"]


def test_doctor_warns_of_an_outbox_that_is_nearly_full_and_of_one_that_it_cannot_read(outrider, at, tmp_path):
    config = tmp_path / "edge.toml"
    config.write_text(config.read_text().replace("[api]", "[outbox]\nmax_count = 4\n[api]"))
    found = {each["check"]: each for each in outrider("doctor", "--json").json["findings"]}["outbox"]
    assert (found["level"], "100% full" in found["what"]) == ("warning", True)
    with closing(sqlite3.connect(tmp_path / "data" / "outbox" / "outbox.db")) as file:
        file.execute("PRAGMA user_version = 1")
    found = {each["check"]: each for each in outrider("doctor", "--json").json["findings"]}["outbox"]
    assert "schema 1" in found["what"]
