"""The examples: their task files hold, their commands exist, and each goes its whole way on little data where the data is there."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from absent import skip_without

from outrider_engine.model import load_model
from outrider_engine.selftest import run_selftest
from outrider_wire.task import Task, parse_task

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NAMES = ("audio", "image", "text")
PART = {"audio": "audio", "image": "image", "text": "text"}
DATA = {
    "audio": ("OUTRIDER_FSDD", [ROOT.parent / "shared/data/fsdd/recordings"]),
    "image": ("OUTRIDER_FASHION_MNIST", [Path("/usr/share/datasets/fashion-mnist")]),
    "text": ("OUTRIDER_MAILS", []),
}
"""Example → variable that names its data's folder, and where else it may lie."""
SMALL = {"audio": ["--lines", "1"], "image": ["--rows", "700"], "text": ["--rows", "1500"]}
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in ("wire", "export", "edge", "cloud", "tools")),
    "HF_HUB_OFFLINE": "1",
}


def task_of(name: str) -> Task:
    return parse_task((EXAMPLES / name / "task.toml").read_text(), name)


def data_of(name: str) -> Path:
    variable, places = DATA[name]
    for place in [*([Path(os.environ[variable])] if variable in os.environ else []), *places]:
        if place.is_dir():
            return place
    skip_without(f"the data of example {name}", f"name their folder with {variable}")


def run(*command: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def commands_of(name: str) -> list[list[str]]:
    """What the README tells to type, by line of its code blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (EXAMPLES / name / "README.md").read_text(), re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("name", NAMES)
def test_a_task_file_of_an_example_holds(name: str) -> None:
    task = task_of(name)
    assert [part.modality for part in task.inputs] == [PART[name]]
    assert task.labels == sorted(task.labels), "as the sub-folders of its data stand"


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_told_in_ten_lines_that_say_what_is_not_in_this_version(name: str) -> None:
    text = (EXAMPLES / name / "README.md").read_text()
    prose = [line for line in text.splitlines() if line.strip() and not line.startswith("```")]
    assert len(prose) <= 14
    assert "not in this version" in text


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_every_command_of_an_examples_readme_exists(name: str) -> None:
    told = commands_of(name)
    assert {command[0].rpartition("/")[2] for command in told} >= {"python", "outrider"}
    known: dict[tuple[str, ...], str] = {}
    for program, *rest in told:
        if program.endswith(".sh"):
            assert os.access(ROOT / program, os.X_OK)
        elif program == "python":
            helped = run(str(ROOT / rest[0]), "--help")
            assert helped.returncode == 0, helped.stderr
            assert all(flag in helped.stdout for flag in rest if flag.startswith("-"))
        else:
            assert program == "outrider"
            verbs = tuple(rest[:2])
            if verbs not in known:
                helped = run("-m", "outrider", *verbs, "--help")
                assert helped.returncode == 0, helped.stderr
                known[verbs] = helped.stdout
            assert all(flag in known[verbs] for flag in rest[2:] if flag.startswith("-"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_an_example_trains_certifies_or_says_why_not_and_answers(name: str, tmp_path: Path) -> None:
    data, out = data_of(name), tmp_path / "out"
    trainer = str(EXAMPLES / name / "trainer.py")
    trained = run(trainer, "--data", str(data), "-o", str(out), *SMALL[name], timeout_s=1700)
    assert trained.returncode == 0, trained.stderr
    assert "certified" in trained.stdout or "no certificate" in trained.stdout
    small, large = load_model(out / "fit" / "small"), load_model(out / "fit" / "large")
    assert small.labels == large.labels == task_of(name).labels
    assert run_selftest(out / "fit" / "small").ok
    if name != "audio":  # its large model hears a sixth of its recordings here
        assert "what escalates gets no better answer" not in trained.stdout
    asked = _ask(name, out)
    right = sum(said["label"] == label for said, label in asked)
    assert right > 2 * len(asked) / len(small.labels), "twice as good as guessing, on little data"


def _ask(name: str, out: Path) -> list[tuple[dict[str, str], str]]:
    """(answer, label) of some of the stream, by `outrider edge infer` without a daemon."""
    infer = ["-m", "outrider", "edge", "infer", "--config", str(out / "fit" / "edge.toml")]
    if name == "text":
        rows = [json.loads(line) for line in (out / "stream.jsonl").read_text().splitlines()[:30]]
        files = []
        for number, row in enumerate(rows):
            files.append(out / f"{number}.txt")
            files[-1].write_text(row["parts"]["text"])
        labels = [row["label"] for row in rows]
    else:
        files = sorted((out / "stream").glob("*/*"))[::2]
        labels = [file.parent.name for file in files]
    said = run(*infer, *map(str, files))
    assert said.returncode == 0, said.stderr
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert len(lines) == len(files)
    return list(zip(lines, labels, strict=True))
