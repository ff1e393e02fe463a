"""Commands of docs/ota.md against a real broker, cloud and agent, each a process: the quick start as it stands; deltas; a stick."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from delta_pairs import bundle_with, model_of, some_weights
from running import task_toml
from typed import Machine, commands

from factory import make_bundle, make_task
from outrider.ota.passphrases import VARIABLE
from outrider.processes import any_port
from outrider_link.files import sha256_file
from outrider_wire.task import Policy

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]
DOCUMENT = Path(__file__).parents[2] / "docs/ota.md"


class Lab(Machine):
    """A folder with a task, its bundles, and the two configurations that the document shows."""

    def __init__(self, folder: Path) -> None:
        self.broker, self.api, self.agent = any_port(), any_port(), any_port()
        super().__init__(
            folder,
            OUTRIDER_OTA_CLOUD=f"http://127.0.0.1:{self.api}",
            OUTRIDER_AGENT=f"http://127.0.0.1:{self.agent}",
            **{VARIABLE: "correct horse battery staple"},
        )
        task = make_task(policy=Policy(answer_within_ms=10_000, keep_for_s=600))
        (folder / "task.toml").write_text(task_toml(task))
        weights = some_weights(1)
        after = weights | {"layer.3.weight": weights["layer.3.weight"] + np.float32(1e-3)}
        self.size = len(model_of(after))
        for version, tensors in (("1", weights), ("2", after)):
            bundle_with(folder / f"v{version}", task, model_of(tensors), version)
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

    def until_committed(self, version: str) -> None:
        """Waits until the device keeps that version."""
        deadline = time.monotonic() + 90
        while (slot := self.slot())["version"] != version or slot["state"] != "committed":
            assert time.monotonic() < deadline, (slot, self.log()[-4000:])
            time.sleep(0.5)


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


KEY = "--key file:outrider-releases/keys/colours.pem"
START = ("outrider ota init --task colours", "outrider broker run &")


def test_a_release_comes_by_delta_over_the_broker_and_then_both_sides_are_silent(lab: Lab) -> None:
    for command in (
        *START,
        "outrider cloud serve &",
        "outrider edge run &",
        f"outrider ota publish v1 {KEY} --yes",
        f"outrider ota publish v2 {KEY} --yes",
        f"outrider ota rollout 2 --groups 100% --soak 0s {KEY} --yes",
        "outrider ota wait --timeout 2m",
    ):
        lab.run(command)
    assert lab.slot()["version"] == "2"
    applied = re.findall(r"update.delta_applied file=(\S+).* size=(\d+)", lab.log())
    assert applied == [("large.onnx", str(lab.size))]
    assert "update.delta_failed" not in lab.log()
    assert json.loads(lab.run("outrider ota status --json"))["devices"][0]["current"]
    time.sleep(2.0)
    judged = lab.log().count("order.approved")
    time.sleep(3.0)
    assert lab.log().count("order.approved") == judged <= 4


def test_a_stick_brings_a_release_by_delta_where_there_is_no_cloud(lab: Lab) -> None:
    for command in (
        *START,
        "outrider edge run &",
        f"outrider ota publish v2 {KEY} --offline --yes",
        f"outrider ota rollout 2 --groups 100% --soak 0s --offline {KEY} --yes",
        "outrider ota export stick --bundle v2 --base v1 --offline",
    ):
        lab.run(command)
    (
        lab.folder / "stick/files" / sha256_file(lab.folder / "v2/large.onnx")
    ).unlink()  # so that only the delta can bring it
    lab.run("outrider edge update install stick", code=2)
    lab.run("outrider edge update install stick --yes")
    lab.until_committed("2")
    assert "update.delta_applied file=large.onnx" in lab.log()
