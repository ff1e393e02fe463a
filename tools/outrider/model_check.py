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

from outrider.doctor import Finding
from outrider.progress import Tell
from outrider_cloud.answering.answers import check_replies, mass_problem
from outrider_cloud.answering.first import load_first
from outrider_cloud.answering.strategies import (
    LEAST_CAPTURED,
    STRATEGIES,
    fit_conformal,
    fit_lambda,
)
from outrider_cloud.config import CloudConfig, TaskSettings
from outrider_cloud.large.base import LargeModel, LargeRefusal, LargeReply, LargeRequest
from outrider_cloud.large.table import load_large
from outrider_cloud.service import read_tasks
from outrider_wire.calibration import expected_calibration_error, fit_temperature, softmax
from outrider_wire.errors import CallerUnknownError
from outrider_wire.task import FACTS_PART, Task

if TYPE_CHECKING:
    from outrider_export.data import Table

_BATCH = 16
_LEAST = 1e-9
_ENOUGH = 100
"""With fewer labelled samples the calibration is said with a warning."""
_BIN_ROWS = 20
"""Fewer in a bin of the calibration error measure chance."""
_READS_PROMPT = ("openai", "transformers")


class Calibrated(Struct, kw_only=True):
    """What labelled samples say."""

    samples: int
    accuracy: float
    ece: float
    """Expected calibration error of the model as it is."""
    temperature: float
    """Under which it would be calibrated; in ``[[tasks.grades]]``."""
    ece_at_temperature: float
    strength: float | None = None
    """λ of ``soft-prune``, fitted with the model that ``fuse_with`` names."""
    keep: float | None = None
    """``keep`` of ``hard-prune`` at the configured ``alpha``, likewise."""


class ModelReport(Struct, kw_only=True):
    """Everything on the screen."""

    task: str
    kind: str
    name: str
    strategy: str
    samples: int
    answered: int
    refusals: dict[str, int]
    captured: float
    """Median share of the mass that fell on the labels."""
    captured_worst: float
    tokens: float
    """Mean an answer."""
    money: float
    """Mean an answer, in the currency of the configured prices."""
    ms_p50: float
    sample: dict[str, float]
    """The first answer's likeliest labels."""
    serves: dict[str, str]
    """Strategy → '' where it can, else why it cannot."""
    calibration: Calibrated | None
    findings: list[Finding]


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


def rows(report: ModelReport) -> list[tuple[str, str]]:
    """The report as (name, value), for people."""
    said = ", ".join(f"{label} {p:.1%}" for label, p in report.sample.items()) or "nothing"
    served = [name if not why else f"{name} ✗ ({why})" for name, why in report.serves.items()]
    made = [
        ("kind", report.kind),
        ("name and revision", report.name),
        ("of the first sample it says", said),
        ("mass on the labels", f"median {report.captured:.1%}, worst {report.captured_worst:.1%}"),
        ("an answer", f"{report.ms_p50:.1f} ms p50, {report.tokens:.0f} tokens, {report.money:.6f} money"),
        ("can serve", "; ".join(served)),
    ]
    if (found := report.calibration) is not None and found.strength is not None and found.keep is not None:
        made.append(("fitted with fuse_with", f"lambda = {found.strength}, keep = {found.keep:.4g}"))
    return made


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
    report.findings = _findings(settings, report, replies)
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


def _findings(
    settings: TaskSettings, report: ModelReport, replies: Sequence[LargeReply | LargeRefusal]
) -> list[Finding]:
    found = [_answers(report, replies)]
    if report.answered:
        found.append(_mass(report))
    why = report.serves[report.strategy]
    found.append(
        Finding(
            check="strategy",
            level="bad" if why else "ok",
            what=f"{report.strategy}: {why or 'can be served'}",
            fix="choose a strategy that this model can serve" if why else "",
        )
    )
    found.append(_calibration_finding(settings, report.calibration))
    if report.tokens and not report.money:
        found.append(
            Finding(
                check="price",
                level="warning",
                what=f"{report.tokens:.0f} tokens an answer, and no price",
                fix="set asking.price_in and asking.price_out (money for a million tokens)",
            )
        )
    return found


def _answers(report: ModelReport, replies: Sequence[LargeReply | LargeRefusal]) -> Finding:
    refused = next((reply for reply in replies if isinstance(reply, LargeRefusal)), None)
    what = f"{report.answered} of {report.samples} samples answered"
    if refused is None:
        return Finding(check="answers", level="ok", what=what)
    return Finding(
        check="answers",
        level="warning" if report.answered else "bad",
        what=f"{what}; {refused.reason}: {refused.detail}",
        fix="see what its server logs" if report.kind == "openai" else "correct the samples, or the task",
    )


def _mass(report: ModelReport) -> Finding:
    enough = report.captured_worst >= LEAST_CAPTURED
    return Finding(
        check="mass on the labels",
        level="ok" if enough else "warning",
        what=f"median {report.captured:.1%}, worst {report.captured_worst:.1%}",
        fix="" if enough else "say in the task's prompt that one letter is the answer, or use a model that follows it",
    )


def _calibration_finding(settings: TaskSettings, calibration: Calibrated | None) -> Finding:
    if calibration is None:
        return Finding(
            check="calibration", level="warning", what="not measured", fix="give labelled samples: --samples DIR"
        )
    what = (
        f"{calibration.accuracy:.1%} right of {calibration.samples}, ECE {calibration.ece:.3f}; "
        f"{calibration.ece_at_temperature:.3f} at temperature {calibration.temperature:.2f}"
    )
    if calibration.samples < _ENOUGH:
        fix = f"give at least {_ENOUGH} labelled samples before you rely on it"
        return Finding(check="calibration", level="warning", what=what, fix=fix)
    off = calibration.ece > 0.05 and calibration.ece_at_temperature < calibration.ece and not settings.grades
    fix = f"set [[tasks.grades]] temperature = {calibration.temperature:.2f}" if off else ""
    return Finding(check="calibration", level="warning" if off else "ok", what=what, fix=fix)


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
