"""One screen about a configured large model: does it answer, how surely is it read, what does it cost, what can it serve. Prints nothing.

A sample that nobody labelled shows that the model answers; labelled ones show how far it can be believed.
"""

import asyncio
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from outrider.model_report import Calibrated, ModelReport, findings_of
from outrider.progress import Tell
from outrider_cloud.answering.answers import check_replies, mass_problem
from outrider_cloud.answering.first import load_first
from outrider_cloud.answering.strategies import (
    STRATEGIES,
    fit_conformal,
    fit_lambda,
)
from outrider_cloud.config import CloudConfig, TaskSettings, read_tasks
from outrider_cloud.large.base import LargeModel, LargeRefusal, LargeReply, LargeRequest
from outrider_cloud.large.table import load_large
from outrider_wire.calibration import expected_calibration_error, fit_temperature, softmax
from outrider_wire.errors import CallerUnknownError
from outrider_wire.task import FACTS_PART, Task

if TYPE_CHECKING:
    from outrider_export.data import Table

_BATCH = 16
_LEAST = 1e-9
_BIN_ROWS = 20
"""Fewer in a bin of the calibration error measure chance."""
_READS_PROMPT = ("openai", "transformers")


class _Subject(Struct, kw_only=True, frozen=True):
    settings: TaskSettings
    task: Task
    large: LargeModel


class _Samples(Struct, kw_only=True, frozen=True):
    inputs: list[dict[str, bytes]]
    labels: list[int]
    """−1: nobody labelled it."""


def check_model(config: CloudConfig, *, task: str, samples: Path | None, most: int, tell: Tell) -> ModelReport:
    """Loads the large model of a task (the only one where ``task`` is empty) and asks it.

    Raises:
        OutriderError: there is no such task, the model does not load, or the samples are none of the task's.
    """
    settings, described = _chosen(config, task)
    table = _table(samples, described) if samples else None
    tell("loading", 0.0)
    large = load_large(settings, described)
    subject = _Subject(settings=settings, task=described, large=large)
    return asyncio.run(_checked(subject, _samples(described, table, most), tell))


async def _checked(subject: _Subject, samples: _Samples, tell: Tell) -> ModelReport:
    settings, task, large, inputs = subject.settings, subject.task, subject.large, samples.inputs
    try:
        small = await _small(settings, task, inputs)
        replies, ms = await _asked(subject, inputs, small, tell)
    finally:
        await large.close()
    answered = [reply for reply in replies if isinstance(reply, LargeReply)]
    calibration = _calibration(settings, replies, samples.labels, small)
    report = ModelReport(
        task=task.name,
        kind=settings.large.partition(":")[0],
        name=large.name,
        strategy=settings.strategy,
        samples=len(inputs),
        answered=len(answered),
        refusals=_refusals(replies),
        captured=float(np.median([reply.captured for reply in answered] or [0.0])),
        captured_worst=min((reply.captured for reply in answered), default=0.0),
        tokens=float(np.mean([reply.cost.tokens for reply in answered] or [0])),
        money=float(np.mean([reply.cost.money for reply in answered] or [0.0])),
        ms_p50=float(np.median(ms)),
        sample=_likeliest(task, answered),
        serves=_serves(settings, task, answered),
        calibration=calibration,
        findings=[],
    )
    report.findings = findings_of(settings, report, replies)
    return report


async def _asked(
    subject: _Subject, inputs: Sequence[dict[str, bytes]], small: Sequence[Sequence[float] | None], tell: Tell
) -> tuple[list[LargeReply | LargeRefusal], list[float]]:
    """All replies, and milliseconds an input of each batch; the first is of a lone input, as a device would wait for it."""
    task, strategy, terms = subject.task, STRATEGIES[subject.settings.strategy], subject.settings.terms
    even = [1.0 / len(task.labels)] * len(task.labels)
    requests = [
        LargeRequest(parts=parts, labels=task.labels, small=said or even, tell_small=strategy.tells_small(terms))
        for parts, said in zip(inputs, small, strict=True)
    ]
    replies: list[LargeReply | LargeRefusal] = []
    ms: list[float] = []
    sizes = [1, *[_BATCH] * len(requests)]
    while len(replies) < len(requests):
        batch = requests[len(replies) : len(replies) + sizes.pop(0)]
        started = time.perf_counter()
        said = await subject.large.answer(batch)
        check_replies(said, len(batch), len(task.labels))
        ms += [(time.perf_counter() - started) * 1000 / len(batch)] * len(batch)
        replies += said
        tell("asking", len(replies) / len(requests))
    return replies, ms


async def _small(
    settings: TaskSettings, task: Task, inputs: Sequence[dict[str, bytes]]
) -> Sequence[Sequence[float] | None]:
    """What the model that ``fuse_with`` names says of the samples; None where there is none."""
    first = load_first(settings.fuse_with, task, threads=settings.threads)
    if first is None:
        return [None] * len(inputs)
    try:
        return await first.distributions(inputs)
    finally:
        await first.close()


def _calibration(
    settings: TaskSettings,
    replies: Sequence[LargeReply | LargeRefusal],
    labels: Sequence[int],
    small: Sequence[Sequence[float] | None],
) -> Calibrated | None:
    rows = [
        (reply.probabilities, label, said)
        for reply, label, said in zip(replies, labels, small, strict=True)
        if isinstance(reply, LargeReply) and label >= 0
    ]
    if not rows:
        return None
    p, y = np.asarray([row[0] for row in rows], np.float64), np.asarray([row[1] for row in rows], np.int64)
    logits = np.log(np.maximum(p, _LEAST))
    temperature, bins = fit_temperature(logits, y), max(1, min(15, len(rows) // _BIN_ROWS))
    made = Calibrated(
        samples=len(rows),
        accuracy=float((p.argmax(axis=1) == y).mean()),
        ece=expected_calibration_error(p, y, bins),
        temperature=temperature,
        ece_at_temperature=expected_calibration_error(softmax(logits, temperature), y, bins),
    )
    if all(row[2] is not None for row in rows):
        s = np.asarray([row[2] for row in rows], np.float64)
        made.strength = fit_lambda(softmax(logits, temperature), s, y)
        made.keep = fit_conformal(s, y, settings.alpha)
    return made


def _serves(settings: TaskSettings, task: Task, answered: Sequence[LargeReply]) -> dict[str, str]:
    """Which strategies this model can serve, judged by the worst of the samples."""
    kind = settings.large.partition(":")[0]
    worst = min(answered, key=lambda reply: reply.captured, default=None)
    serves: dict[str, str] = {}
    for name, strategy in STRATEGIES.items():
        why = "it answered no sample" if worst is None else mass_problem(worst, strategy, settings.terms)
        if not why and name == "transfer":
            why = _no_transfer(settings, task, kind)
        if not why and name == "hard-prune" and settings.keep is None:
            why = "keep is not fitted"
        serves[name] = why
    return serves


def _no_transfer(settings: TaskSettings, task: Task, kind: str) -> str:
    if not task.subtasks:
        return "the task names no sub-tasks"
    if kind in _READS_PROMPT and not _is_classifier(settings):
        return ""
    if kind == "onnx" and FACTS_PART in _parts_read(settings):
        return ""
    return "this model does not read facts"


def _is_classifier(settings: TaskSettings) -> bool:
    kind, _, place = settings.large.partition(":")
    if kind != "transformers":
        return False
    from outrider_cloud.large.checkpoints import open_checkpoint

    return open_checkpoint(Path(place)).head != "causal"


def _parts_read(settings: TaskSettings) -> set[str]:
    from outrider_engine.bundle import open_bundle

    return {entry.part for entry in open_bundle(Path(settings.large.partition(":")[2])).manifest.inputs}


def _refusals(replies: Sequence[LargeReply | LargeRefusal]) -> dict[str, int]:
    reasons = [reply.reason for reply in replies if isinstance(reply, LargeRefusal)]
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}


def _likeliest(task: Task, answered: Sequence[LargeReply]) -> dict[str, float]:
    if not answered:
        return {}
    ranked = sorted(zip(task.labels, answered[0].probabilities, strict=True), key=lambda each: -each[1])
    return {label: round(p, 4) for label, p in ranked[:3]}


def _chosen(config: CloudConfig, name: str) -> tuple[TaskSettings, Task]:
    tasks = read_tasks(config)
    if not name and len(tasks) == 1:
        return next(iter(tasks.values()))
    if name not in tasks:
        raise CallerUnknownError(
            f"no task {name!r} is configured" if name else "several tasks are configured",
            reason="unknown_task",
            fix=f"name one with --task: {', '.join(tasks)}",
        )
    return tasks[name]


def _table(samples: Path, task: Task) -> "Table":
    from outrider_export.sources import from_folder, from_jsonl

    return from_jsonl(samples, task) if samples.is_file() else from_folder(samples, task)


def _samples(task: Task, table: "Table | None", most: int) -> _Samples:
    """Parts and labels, evenly taken; without samples, one that stands for an input."""
    if table is None:
        return _Samples(inputs=[{part.name: _made_up(part.modality, task) for part in task.inputs}], labels=[-1])
    rows = np.unique(np.linspace(0, len(table) - 1, min(most, len(table))).round().astype(int))
    parts = [
        {name: value.encode() if isinstance(value, str) else value for name, value in table.parts(int(row)).items()}
        for row in rows
    ]
    return _Samples(inputs=parts, labels=[int(table.labels[row]) for row in rows])


def _made_up(modality: str, task: Task) -> bytes:
    if modality == "image":
        from PIL import Image

        out = io.BytesIO()
        Image.new("RGB", (64, 64), (128, 128, 128)).save(out, "PNG")
        return out.getvalue()
    return (task.description or "hello").encode() if modality == "text" else bytes(4096)
