"""The quick start of docs/access.md, command by command: a site is secured, a device joins, is answered, renews, and is put out."""

import json
import ssl
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mosquitto
import pytest
from running import LARGE_SAYS, task_toml
from typed import Machine, commands

from factory import QUESTION, make_bundle, make_task, sure, unsure
from outrider.client import Client
from outrider.processes import any_port
from outrider_wire.task import Policy

pytestmark = pytest.mark.broker
DOCUMENT = Path(__file__).parents[2] / "docs/access.md"
BROKER_PASSWORD = "correct horse battery staple"
LARGE_KEY = "sk-this-is-the-key-of-the-large-model"


class Site(Machine):
    """Where the block's commands run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, LARGE_KEY=LARGE_KEY)
        self.broker, self.api = any_port(), any_port()
        self.agent = any_port()

    def amended(self, command: str) -> str:
        """On this machine, whatever else runs on it."""
        command = command.replace("cloud.example", "localhost")
        if "broker init" in command:
            plugin = mosquitto.library("mosquitto_dynamic_security.so")
            command += f" --port {self.broker} --api-port {self.api} --listen 127.0.0.1 --plugin {plugin}"
        return command


@dataclass(frozen=True)
class Played:
    """What was seen when the quick start had been played."""

    steps: list[str]
    line: str
    certain: tuple[str, str]
    uncertain: tuple[str, str]
    listed: list[dict[str, Any]]
    kept_out: bool
    afterwards: tuple[str, str]
    shown: dict[str, Any]
    said: dict[str, str]
    """Everything that a person or another program can read, by where."""
    secrets: dict[str, str]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """The quick start, played at debug level with every kind of secret in use."""
    machine = Site(tmp_path_factory.mktemp("site"))
    try:
        _lay_out(machine)
        yield _play(machine)
    finally:
        machine.end()


def _lay_out(machine: Site) -> None:
    folder, task = machine.folder, make_task(policy=Policy(answer_within_ms=10_000, keep_for_s=600))
    (folder / "task.toml").write_text(task_toml(task))
    make_bundle(folder / "small", task)
    make_bundle(folder / "large", task, seed=1, bias=[6.0, 0.0, 0.0], certified=False)
    tasks = '[[tasks]]\nfile = "task.toml"\n'
    (folder / "cloud.toml").write_text(
        '[broker]\nusername = "ignored"\npassword_file = "password"\n'
        f'{tasks}large = "onnx:large"\nstrategy = "shunt"\n[tasks.asking]\napi_key_env = "LARGE_KEY"\n'
    )
    (folder / "password").write_text(f"{BROKER_PASSWORD}\n")
    (folder / "password").chmod(0o600)
    (folder / "edge.toml").write_text(f'# ours\n[api]\nport = {machine.agent}\n{tasks}bundle = "small"\n')


def _play(machine: Site) -> Played:
    steps, facts = commands(DOCUMENT), {}
    for step in steps:
        if "revoke" in step:
            assert broker_is(machine, "connected"), machine.log()
            facts["uncertain"], facts["certain"] = answered(machine, unsure()), answered(machine, sure(1))
            facts["listed"] = json.loads(machine.run("outrider cloud devices ls --json"))["devices"]
        out = machine.run(step)
        if "invite" in step:
            machine.variables["LINE"] = out.strip()
    return Played(
        steps=steps,
        line=machine.variables["LINE"],
        kept_out=broker_is(machine, "unreachable"),
        afterwards=answered(machine, sure(1)),
        shown=json.loads(machine.run("outrider cloud devices show cam-1 --json")),
        said=_said(machine),
        secrets=_secrets(machine),
        **facts,
    )


def _said(machine: Site) -> dict[str, str]:
    folder, agent = machine.folder, f"http://127.0.0.1:{machine.agent}"
    context = ssl.create_default_context(cafile=folder / "site/cloud/ca.pem")
    said = {f"{file.stem}.log": file.read_text(errors="replace") for file in folder.glob("*.log")}
    for path in ("/metrics", "/v1/status", "/v1/tasks", "/v1/account", "/openapi.json"):
        with urllib.request.urlopen(agent + path) as reply:  # noqa: S310  the agent on this machine
            said[f"agent {path}"] = reply.read().decode()
    token = (folder / "site/cloud/token").read_text().strip()
    for path in ("/metrics", "/v1/account", "/v1/devices", "/v1/identities", "/v1/dead-letters", "/openapi.json"):
        asked = urllib.request.Request(
            f"https://localhost:{machine.api}{path}", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(asked, context=context) as reply:  # noqa: S310  the cloud on this machine
            said[f"cloud {path}"] = reply.read().decode()
    for command in ("config show edge.toml --json", "config show cloud.toml --json", "doctor --json"):
        said[command] = machine.run(f"outrider {command}", code=1 if "doctor" in command else 0)
    return said


def _secrets(machine: Site) -> dict[str, str]:
    """What must be read nowhere; of a private key, a line from its middle."""
    folder = machine.folder
    found = {
        "join secret": machine.variables["LINE"].split(".")[-2],
        "operator's token": (folder / "site/cloud/token").read_text().strip(),
        "broker's password": BROKER_PASSWORD,
        "large model's key": LARGE_KEY,
        "audit key": next(folder.rglob("audit.key")).read_text().strip(),
        "roles key": next(folder.rglob("roles.key")).read_text().strip(),
    }
    keys = [*folder.rglob("*.key"), *folder.rglob("*.pem")]
    for file in (each for each in keys if "PRIVATE KEY" in each.read_text()):
        found[str(file.relative_to(folder))] = file.read_text().rpartition("PRIVATE KEY-----\n")[0].splitlines()[-2]
    return found


def answered(machine: Site, picture: bytes) -> tuple[str, str]:
    """By whom, and what."""
    with Client(f"http://127.0.0.1:{machine.agent}") as client:
        report = client.ask("colours", {"image": picture, "question": QUESTION})
        return report.answered_by, str(report.label)


def broker_is(machine: Site, wanted: str) -> bool:
    """Whether the agent soon says that of its broker."""
    deadline = time.monotonic() + 10
    with Client(f"http://127.0.0.1:{machine.agent}") as client:
        while client.status()["broker"] != wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        return bool(client.status()["broker"] == wanted)


def test_a_secured_site_takes_at_most_twelve_commands(played: Played) -> None:
    assert len(played.steps) <= 12
    assert played.line.startswith("https://localhost:") and len(played.line.splitlines()) == 1


def test_a_device_that_joined_is_answered_by_the_cloud(played: Played) -> None:
    assert played.uncertain == ("cloud", LARGE_SAYS)
    assert played.certain[0] == "edge"
    assert [(row["device"], row["state"], row["online"]) for row in played.listed] == [("cam-1", "accepted", True)]


def test_a_device_that_was_put_out_stays_out_and_answers_for_itself(played: Played) -> None:
    assert played.kept_out
    assert played.afterwards[0] == "edge"
    assert (played.shown["state"], played.shown["online"]) == ("revoked", False)
    assert "does not take this certificate" in played.said["doctor --json"]


def test_no_secret_is_read_in_logs_metrics_status_settings_or_the_doctors_words(played: Played) -> None:
    assert len(played.secrets) >= 10 and all(len(secret) >= 16 for secret in played.secrets.values())
    assert "access.joined" in "".join(played.said.values()), "the logs are those of the daemons"
    found = [
        (what, where)
        for what, secret in played.secrets.items()
        for where, text in played.said.items()
        if secret in text
    ]
    assert found == []
