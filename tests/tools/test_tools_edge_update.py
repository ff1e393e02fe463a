"""``outrider edge update`` against a real agent: what a person may do at the device, and what is refused there."""

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from edge_agents import QUIET, SERVE, serve_environment, write_config

from factory import make_bundle, make_task, sure
from outrider import Client
from outrider.cli import main

TASK = make_task(policy=QUIET)
PATIENT = "[updates]\nprobation_s = 3600.0\nprobation_answers = 100000\n"
SIGNED = '[updates]\nroot = "root.json"\n'


@contextmanager
def agent(config: Path):
    """Its address, while it runs."""
    command = [sys.executable, "-c", SERVE, str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=serve_environment())
    try:
        yield process.stdout.readline().split(",")[0].strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        process.stdout.close()


@pytest.fixture
def update(capsys, monkeypatch):
    """Runs one command; its exit code and its JSON."""

    def run(address, *arguments):
        words = ["outrider", "edge", "update", *map(str, arguments), "--agent", address, "--json"]
        monkeypatch.setattr(sys, "argv", words)
        try:
            code = main() or 0
        except SystemExit as ended:
            code = ended.code or 0
        out = capsys.readouterr().out
        return code, json.loads(out) if out.strip() else {}

    return run


def until_state(update, address, state):
    deadline = time.monotonic() + 180
    while (slot := update(address, "status")[1]["slots"][0])["state"] != state:
        assert time.monotonic() < deadline, slot
        time.sleep(0.1)
    return slot


def test_a_person_installs_keeps_and_returns(tmp_path, update):
    second = make_bundle(tmp_path / "second", TASK, seed=2, version="2")
    with agent(write_config(tmp_path, extra=PATIENT)) as address:
        code, found = update(address, "install", second, "--dry-run")
        assert code == 0 and list(found["releases"]) == [TASK.name] and found["dry_run"]
        assert update(address, "status")[1]["slots"][0]["state"] == "idle"
        assert update(address, "install", second, "--yes")[0] == 0
        slot = until_state(update, address, "probation")
        assert slot["version"] == "2" and slot["left_s"] > 0
        with Client(address) as client:
            assert client.ask(TASK.name, {"image": sure(), "question": "what colour is it?"}).model == "2"
        assert update(address, "commit", TASK.name, "--yes") == (0, {"tasks": [TASK.name]})
        until_state(update, address, "committed")
        assert update(address, "rollback", TASK.name, "--reason", "too slow", "--yes")[0] == 0
        slot = until_state(update, address, "refused")
        assert (slot["version"], slot["code"]) == ("1", "by_hand") and "too slow" in slot["reason"]
        assert update(address, "install", second, "--yes")[0] == 3  # refused for good
        assert update(address, "commit", TASK.name, "--yes")[0] == 3


def test_a_pin_survives_a_restart(tmp_path, update):
    second = make_bundle(tmp_path / "second", TASK, seed=2, version="2")
    config = write_config(tmp_path, extra=PATIENT)
    with agent(config) as address:
        assert update(address, "pin", "--reason", "audit")[1]["pinned"]
    with agent(config) as address:
        found = update(address, "status")[1]
        assert found["pinned"] and "audit" in found["held"]
        assert update(address, "install", second, "--yes")[0] == 3
        assert not update(address, "pin", "--off")[1]["pinned"]
        assert update(address, "check")[0] == 3  # nothing is signed here


def test_with_a_root_of_trust_a_plain_bundle_is_refused(tmp_path, update):
    second = make_bundle(tmp_path / "second", TASK, seed=2, version="2")
    (tmp_path / "root.json").write_bytes(b"{}")
    with agent(write_config(tmp_path, extra=SIGNED)) as address:
        code, found = update(address, "install", second, "--yes")
        assert (code, found["error"]["reason"]) == (3, "no_plan")
        assert update(address, "status")[1]["signed"]


def test_without_an_agent_it_says_so(update):
    assert update("http://127.0.0.1:9", "status")[0] == 4
