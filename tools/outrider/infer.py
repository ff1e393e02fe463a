"""Asks a bundle once, in this process: no daemon, no broker, nothing sent. Knows the agent's own pipeline and gate."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from outrider.asking import Parts
from outrider.bundle_report import claim
from outrider.exchange import read_part
from outrider_edge.journey.gate import decide
from outrider_edge.journey.pipeline import TaskRuntime, check_fit
from outrider_edge.journey.reports import local_report, stages
from outrider_engine.model import load_model
from outrider_wire.errors import CallerInputError
from outrider_wire.ids import RANDOM_BYTES, uuid7
from outrider_wire.manifest import Manifest
from outrider_wire.messages import Modality
from outrider_wire.report import AnswerReport
from outrider_wire.task import Task

NOTE = "asked once, without an agent: nothing is sent, the device's own answer stands"


class OneShot:
    """A task and its model, loaded once for any number of inputs.

    Args:
        task: the task.
        bundle_dir: the bundle that answers it.
        threads: threads within one operator.
    """

    def __init__(self, *, task: Task, bundle_dir: Path, threads: int = 1) -> None:
        self._task = task
        self.task = task.name
        self.modalities: dict[str, Modality] = {part.name: part.modality for part in task.inputs}
        self._bundle_dir = bundle_dir
        self._threads = threads
        self._runtime: TaskRuntime | None = None

    @property
    def manifest(self) -> Manifest:
        """Of the bundle."""
        return self._loaded().model.manifest

    def ask(self, parts: Parts) -> AnswerReport:
        """The device's own answer, by the agent's pipeline and gate.

        Raises:
            CallerInputError: it is no input of the task.
            BundleError: the bundle is damaged, unsafe, or not for this task.
        """
        runtime, began = self._loaded(), time.perf_counter()
        local = runtime.answer(parts)
        decision = decide(
            local.verdict, certified=not local.model.certified, wants_cloud=False, audit=False, may_send=False
        )
        return local_report(
            input_id=uuid7(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES)),
            task=self._task,
            local=local,
            decision=decision,
            ms=stages(local, 1e3 * (time.perf_counter() - began)),
            note="" if decision.certified else NOTE,
        )

    def _loaded(self) -> TaskRuntime:
        if self._runtime is None:
            model = load_model(self._bundle_dir, threads=self._threads, bounds=self._task.inputs)
            check_fit(self._task, model)
            self._runtime = TaskRuntime(task=self._task, model=model)
            self._runtime.warm()
        return self._runtime


def parse_parts(given: Iterable[str]) -> dict[str, bytes | str]:
    """``NAME=VALUE`` or ``NAME=@FILE``, by name.

    Raises:
        CallerInputError: one has no name.
        CallerUnknownError: a file cannot be read.
    """
    parts: dict[str, bytes | str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise CallerInputError(
                f"--part {text!r} has no name", reason="invalid_part", fix="write --part NAME=VALUE, or NAME=@FILE"
            )
        parts[name] = read_part(name, Path(value[1:])) if value.startswith("@") else value
    return parts


def explain(report: AnswerReport, manifest: Manifest) -> str:
    """The decision in words."""
    ranked = sorted(report.probabilities.items(), key=lambda item: -item[1])[:3]
    others = ", ".join(f"{label} {share:.1%}" for label, share in ranked)
    lines = [f"{report.label} ({others})", _why(report), claim(manifest)]
    if not report.certified:
        lines.append(
            "an agent with a broker would ask the large model; here the device's own answer stands, uncertified"
        )
    lines.append(f"{report.ms['total']:.2f} ms: preparing {report.ms['prepare']:.2f}, model {report.ms['model']:.2f}")
    return "\n  ".join(lines)


def _why(report: AnswerReport) -> str:
    against = "" if report.threshold is None else f"{report.threshold:.4f}"
    score = f"{report.scored_by.replace('_', ' ')} {report.score:.4f}"
    match report.why:
        case "accepted":
            return f"kept: {score} ≥ threshold {against}, and the input looks like those it knows"
        case "low_confidence":
            return f"not kept: {score} < threshold {against}"
        case "unsupported":
            return "not kept: the input looks unlike those that the model knows, however sure it sounds"
        case "no_certificate":
            kind = f"of kind {report.stratum!r} " if report.stratum else ""
            return f"not kept: nothing {kind}is certified for what runs here, so that there is no threshold to trust"
        case _:
            return report.why
