"""``outrider cloud check-model``: one screen about the large model that is configured, and every problem with its way out."""

from pathlib import Path
from typing import Any

import pytest
from large_server import MODEL, TASK, ChatServer, prose, says, status

from factory import make_bundle, make_task, sure
from outrider.model_check import check_model
from outrider.model_report import rows
from outrider_cloud.config import load_cloud_config
from outrider_export.task_text import task_to_toml
from outrider_wire.task import AnswerSpace, InputPart, Task

PICTURES = Task(
    name="pictures",
    inputs=[InputPart(name="image", modality="image")],
    answer=AnswerSpace(labels=["red", "green", "blue"]),
)


def write(folder: Path, task: Task, large: str, *, more: str = "", strategy: str = "shunt") -> Path:
    """A ``cloud.toml`` of one task."""
    (folder / "task.toml").write_text(task_to_toml(task))
    file = folder / "cloud.toml"
    file.write_text(f'[[tasks]]\nfile = "task.toml"\nlarge = "{large}"\nstrategy = "{strategy}"\n{more}')
    return file


def quiet(_what: str, _share: float) -> None:
    """Nobody watches."""


async def checked(file: Path, samples: Path | None = None, most: int = 200) -> Any:
    """The report, made as the command does, off the test's own loop."""
    import asyncio

    return await asyncio.to_thread(
        check_model, load_cloud_config(file), task="", samples=samples, most=most, tell=quiet
    )


async def test_a_server_that_follows_serves_every_strategy_it_can(tmp_path: Path) -> None:
    async with ChatServer([says(B=0.97, A=0.02)]) as server:
        report = await checked(write(tmp_path, TASK, f"openai:{server.url}#{MODEL}"))
    assert (report.kind, report.samples, report.answered) == ("openai", 1, 1)
    assert report.name.startswith(f"{MODEL}@") and list(report.sample) == ["science", "sport", "politics"]
    assert report.captured == pytest.approx(0.99) and report.tokens == 41
    assert report.serves == {
        "shunt": "",
        "soft-prune": "",
        "hard-prune": "keep is not fitted",
        "transfer": "the task names no sub-tasks",
    }
    levels = {finding.check: finding.level for finding in report.findings}
    assert levels == {
        "answers": "ok",
        "mass on the labels": "ok",
        "strategy": "ok",
        "calibration": "warning",
        "price": "warning",
    }
    assert all(finding.fix for finding in report.findings if finding.level != "ok")
    assert ("name and revision", report.name) in rows(report)


async def test_a_server_that_writes_prose_is_shown_to_serve_no_distribution(tmp_path: Path) -> None:
    async with ChatServer([prose]) as server:
        report = await checked(write(tmp_path, TASK, f"openai:{server.url}#{MODEL}", strategy="soft-prune"))
    assert "5.0%" in report.serves["soft-prune"] and report.serves["shunt"] == ""
    bad = next(finding for finding in report.findings if finding.check == "strategy")
    assert bad.level == "bad" and bad.fix


async def test_a_server_that_fails_is_said_with_its_reason(tmp_path: Path) -> None:
    more = "[tasks.asking]\nretries = 0\n"
    async with ChatServer([status(500)]) as server:
        report = await checked(write(tmp_path, TASK, f"openai:{server.url}#{MODEL}", more=more))
    assert report.answered == 0 and report.refusals == {"large_model_unreachable": 1}
    assert report.findings[0].level == "bad" and "500" in report.findings[0].what


def labelled(folder: Path) -> Path:
    """Pictures in a folder a label; every fourth stands under a wrong one."""
    names = ("red", "green", "blue")
    for name in names:
        (folder / name).mkdir(parents=True)
    for label, name in enumerate(names):
        for shade in range(20):
            home = names[(label + 1) % 3] if shade % 4 == 0 else name
            (folder / home / f"{name}-{shade}.png").write_bytes(sure(label, shade=shade))
    return folder


def expert(tmp_path: Path) -> tuple[Task, Path]:
    """A bundle that reads a picture and a question, and its task."""
    task = make_task()
    return task, make_bundle(tmp_path / "large", task)


async def test_labelled_samples_measure_accuracy_calibration_and_what_is_fitted(tmp_path: Path) -> None:
    task, bundle = expert(tmp_path)
    lines = []
    for file in sorted(labelled(tmp_path / "samples").rglob("*.png")):
        path = file.relative_to(tmp_path)
        lines.append(f'{{"parts": {{"image": "{path}", "question": "which?"}}, "label": "{file.parent.name}"}}')
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    file = write(tmp_path, task, f"onnx:{bundle}", more=f'fuse_with = "{bundle}"\nalpha = 0.3\n')
    report = await checked(file, tmp_path / "rows.jsonl")
    found = report.calibration
    assert (report.samples, found.samples) == (60, 60)
    assert 0.6 < found.accuracy < 0.8, "one in four is labelled wrongly"
    assert found.temperature > 2 and found.ece > 0.15 and found.ece_at_temperature < found.ece / 2
    assert found.strength is not None and 0 < found.keep < 1
    assert "temperature" in next(each.what for each in report.findings if each.check == "calibration")
    few = await checked(file, tmp_path / "rows.jsonl", most=7)
    assert few.samples == 7


def test_the_command_prints_a_screen_or_json_and_says_bad_with_its_code(outrider: Any, tmp_path: Path) -> None:
    write(tmp_path, make_task(), f"onnx:{expert(tmp_path)[1]}")
    ran = outrider("cloud", "check-model")
    assert ran.code == 0, ran.err
    assert "✓ answers" in ran.out and "‼ calibration" in ran.out and "can serve" in ran.out
    said = outrider("cloud", "check-model", "--json").json
    assert said["kind"] == "onnx" and said["findings"][0]["check"] == "answers"
    assert outrider("cloud", "check-model", "--task", "other").code != 0


def test_a_model_that_is_not_there_is_one_sentence(outrider: Any, tmp_path: Path) -> None:
    write(tmp_path, PICTURES, "onnx:nowhere")
    ran = outrider("cloud", "check-model")
    assert ran.code == 2 and "outrider export run" in ran.err and ran.err.count("error:") == 1
