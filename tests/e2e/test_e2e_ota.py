"""The quick start of docs/ota.md, command by command, as it stands: signed, published, rolled out to a real agent, rolled back."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import task_toml
from typed import Machine, commands

from factory import make_bundle, make_task
from outrider.ota.passphrases import VARIABLE
from outrider.processes import free_port
from outrider_wire.task import Policy

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]
DOCUMENT = Path(__file__).parents[2] / "docs/ota.md"


class Lab(Machine):
    """A folder with a task, its bundles, and the two configurations that the document shows."""

    def __init__(self, folder: Path) -> None:
        self.broker, self.api, self.agent = free_port(25000), free_port(25500), free_port(26000)
        super().__init__(
            folder,
            OUTRIDER_OTA_CLOUD=f"http://127.0.0.1:{self.api}",
            OUTRIDER_AGENT=f"http://127.0.0.1:{self.agent}",
            **{VARIABLE: "correct horse battery staple"},
        )
        task = make_task(policy=Policy(answer_within_ms=10_000, keep_for_s=600))
        (folder / "task.toml").write_text(task_toml(task))
        for version in ("1", "2"):
            make_bundle(folder / f"v{version}", task, seed=int(version), version=version)
        make_bundle(folder / "large", task, seed=9, bias=[6.0, 0.0, 0.0], certified=False)
        for name, port in (("cloud", self.api), ("edge", self.agent)):
            text = shown(f"{name}.toml").replace(":1883", f":{self.broker}")
            (folder / f"{name}.toml").write_text(f"{text}[api]\nport = {port}\n")

    def amended(self, command: str) -> str:
        """On ports that are free."""
        return command.replace("broker run", f"broker run --port {self.broker}")

    def slot(self) -> dict[str, Any]:
        """What the device says of its one task."""
        slot: dict[str, Any] = json.loads(self.run("outrider edge update status --json"))["slots"][0]
        return slot


def shown(name: str) -> str:
    """A configuration as the document shows it."""
    block = re.search(rf"```toml\n# {re.escape(name)}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert block
    return block[1]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    machine = Lab(tmp_path)
    try:
        yield machine
    finally:
        machine.end()


def test_the_quick_start_as_it_stands(lab: Lab) -> None:
    steps, versions = commands(DOCUMENT), {}
    assert len(steps) == 10
    for step in steps:
        if "rollback" in step:
            versions["rolled out"] = lab.slot()["version"]
        said = lab.run(step)
        if step == steps[-1]:
            assert "rolled back" in said
    versions["rolled back"] = lab.slot()["version"]
    assert versions == {"rolled out": "2", "rolled back": "1"}
    assert json.loads(lab.run("outrider ota status --json"))["rollouts"][0]["state"] == "rolled_back"
