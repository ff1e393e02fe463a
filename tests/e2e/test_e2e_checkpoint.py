"""From a Hugging Face checkpoint and a folder to a certified small model, by the command: pictures, sounds, texts; nothing from a hub."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_checkpoints
from checkpoint_world import colours, picture_teacher, pitches, topics

from outrider_engine.model import load_model
from outrider_engine.selftest import run_selftest
from outrider_export.sources import task_from_folder

ROOT = Path(__file__).parents[2]
ROOMS = [str(ROOT / room) for room in ("wire", "export", "edge", "cloud", "tools")]


def fit(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`outrider distill fit` in ``where``, unable to ask a hub."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(ROOMS),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(where / "hub"),
    }
    command = [
        sys.executable,
        "-m",
        "outrider",
        "distill",
        "fit",
        *arguments,
        "--risk",
        "0.1",
        "--delta",
        "0.1",
        "--json",
    ]
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=600, check=False)


def pictures(where: Path) -> str:
    data = colours(where / "data", 420)
    picture_teacher(where / "teacher", data, task_from_folder(data, "data"))
    return "image-small"


def sounds(where: Path) -> str:
    data = pitches(where / "data", 420)
    tiny_checkpoints.audio_classifier(where / "teacher", task_from_folder(data, "data").labels)
    return "audio-small"


def texts(where: Path) -> str:
    topics(where / "data", 420)
    tiny_checkpoints.text_encoder(where / "teacher")
    return "text-small"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("make", [pictures, sounds, texts])
def test_a_checkpoint_and_a_folder_make_a_certified_student_beside_the_teachers_own_int8(
    make: Callable[[Path], str], tmp_path: Path
) -> None:
    student = make(tmp_path)
    ran = fit(tmp_path, "--teacher", "teacher", "--student", student, "--data", "data", "-o", "out")
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    sides = {side["name"]: side for side in said["sides"]}
    assert {"large fp32", "small fp32"} <= set(sides), f"fp32 is near enough to itself: {said['sentences']}"
    assert set(sides) <= {"large fp32", "large int8", "small int8", "small fp32"}
    for who, name in (("the large model's int8", "large int8"), ("int8", "small int8")):
        why = [each for each in said["sentences"] if each.startswith(f"{who} does not ship")]
        assert (name in sides) != bool(why), "an INT8 is in the table, or a sentence says why not"
    assert all(side["bytes"] > 1000 and side["p50_ms"] > 0 for side in sides.values())
    assert said["student_accuracy"] == pytest.approx(
        sides["small int8" if "small int8" in sides else "small fp32"]["accuracy"]
    )
    assert said["student_accuracy"] > 0.8
    assert said["certificate"] is not None
    assert not (tmp_path / "hub").exists(), "nothing was fetched"
    model = load_model(tmp_path / "out" / "large")
    assert model.manifest.architecture.startswith("huggingface:")
    assert run_selftest(tmp_path / "out" / "small").ok
