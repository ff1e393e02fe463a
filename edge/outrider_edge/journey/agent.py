"""An input's journey on the device: answered here, or sent for, and told about. Knows no HTTP, MQTT, SQLite or ONNX.

What the caller is told is final at its deadline; what the account says is set once, when the input really ends::

    submit ── local answer ── gate ──┬── answer here ───────────────────────────── edge
                                     ├── answer here, send a copy ──────────────── edge, audited
                                     └── send for the large model's answer ─────── pending
                                             │ in time                                └── cloud
                                             │ after the deadline: the local answer stood  └── cloud, late
                                             │ never, within ``keep_for_s``                └── expired
                                             └ the cloud will not answer it                └── refused
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from outrider_edge.journey.asked import Asked
from outrider_edge.journey.finals import Finals, within
from outrider_edge.journey.gate import decide
from outrider_edge.journey.pipeline import LocalAnswer, Parts, TaskRuntime
from outrider_edge.journey.recent import Recent
from outrider_edge.journey.reports import kept_back, local_report, overdue, stages, stands
from outrider_edge.metrics import Metrics
from outrider_edge.ports import LedgerPort, OutboxEntry, UplinkPort
from outrider_wire.errors import CallerUnknownError, OutriderError
from outrider_wire.ids import RANDOM_BYTES, uuid7
from outrider_wire.report import TERMINAL, Account, AnswerReport
from outrider_wire.roles import is_audited

log = logging.getLogger(__name__)

NO_TASK = "-"
"""Under this name the account counts what named no task of this device; no task can have it."""


class Agent:
    """Answers inputs. Everything runs on one event loop.

    Args:
        runtimes: by task name.
        ledger: keeps the account and the escalated inputs.
        uplink: the way to the cloud; tells `on_final`.
        metrics: for the same tasks.
        audit_key: secret of the keyed hash that chooses the audits.
    """

    def __init__(
        self,
        *,
        runtimes: Mapping[str, TaskRuntime],
        ledger: LedgerPort,
        uplink: UplinkPort,
        metrics: Metrics,
        audit_key: str,
    ) -> None:
        self.runtimes = runtimes
        self.stopping = False
        self._ledger = ledger
        self._uplink = uplink
        self._metrics = metrics
        self._audit_key = audit_key
        self._finals = Finals()
        self._recent = Recent()
        self._background: set[asyncio.Task[Any]] = set()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def submit(
        self,
        task: str,
        parts: Parts,
        *,
        wait: bool = True,
        answer_within_ms: int | None = None,
        group: str = "",
        insist: bool = False,
    ) -> AnswerReport:
        """Answers one input.

        Args:
            task: its name.
            parts: bytes, or text, by part name.
            wait: for the final answer, up to the deadline; else the device's own comes at once, marked provisional.
            answer_within_ms: the deadline; None: the task's.
            group: what this input is correlated with (clip, event, image).
            insist: the large model is asked even when the device is sure.

        Raises:
            CallerError: no such task, or not an input of it.
            BundleMismatchError: the model on this device failed.
        """
        if (runtime := self.runtimes.get(task)) is None:
            raise self.refused(NO_TASK, unknown_task(task, self.runtimes))
        asked = Asked(
            task=runtime.task,
            parts=parts,
            wait=wait,
            answer_within_ms=runtime.task.policy.answer_within_ms if answer_within_ms is None else answer_within_ms,
            group=group,
            insist=insist,
            began=time.perf_counter(),
        )
        self._ledger.arrived(task)
        self._in_flight += 1
        self._idle.clear()
        try:
            return await self._decided(asked, await self._answered(asked, runtime))
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def get(self, input_id: str) -> AnswerReport:
        """The report of an input as it stands now.

        Raises:
            CallerUnknownError: no such input, or one so old that it is forgotten.
        """
        report = self._recent.get(input_id) or await self._ledger.find(input_id)
        if report is None:
            raise CallerUnknownError(
                f"no input {input_id[:64]!r} is known here", reason="unknown_input", fix="submit it again"
            )
        return report

    async def wait_final(self, input_id: str, timeout_s: float) -> AnswerReport:
        """The report of an input, once it is in its terminal state, or as it stands when the time is up. Errors as `get`."""
        with self._finals.waiter(input_id) as waiter:
            report = await self.get(input_id)
            if report.state in TERMINAL or timeout_s <= 0:
                return report
            return await within(waiter, timeout_s) or report

    def account(self, task: str = "") -> Account:
        """How many inputs of one task, or of all, are in which state."""
        return self._ledger.account(task)

    def refused(self, task: str, error: OutriderError) -> OutriderError:
        """Counts an input that never came as far as `submit`, and gives the error back."""
        known = task if task in self.runtimes else NO_TASK
        self._ledger.arrived(known)
        self._count_refused(known, error.reason)
        return error

    async def on_final(self, report: AnswerReport) -> None:
        """The uplink's word that an escalated input has its terminal state."""
        told = self._finals.tell(report)
        if report.state == "cloud" and (metrics := self._metrics.tasks.get(report.task)) is not None:
            metrics.cloud_ms.add(report.ms.get("total", 0.0))
        log.debug(
            "escalation.ended",
            extra={"id": report.id, "task": report.task, "state": report.state, "late": report.late, "awaited": told},
        )

    async def drain(self, grace_s: float) -> None:
        """Gives the inputs under way that long to get their answers, then the device's own to whoever still waits."""
        self.stopping = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_s)
        self._finals.release()
        await self._idle.wait()
        await asyncio.gather(*self._background)

    async def _answered(self, asked: Asked, runtime: TaskRuntime) -> LocalAnswer:
        """The device's own answer; whatever prevents it is counted, so that the account adds up."""
        try:
            asked.check()
            return await runtime.ask(asked.parts)
        except BaseException as error:
            self._count_refused(asked.task.name, _reason_of(error))
            raise

    async def _decided(self, asked: Asked, local: LocalAnswer) -> AnswerReport:
        task, metrics = asked.task, self._metrics.tasks[asked.task.name]
        input_id = uuid7(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES))
        rate = task.policy.audit_rate
        code, note = kept_back(task, alone=not self._uplink.enabled)
        decision = decide(
            local.verdict,
            certified=not local.model.certified,
            wants_cloud=asked.insist,
            audit=rate > 0 and local.verdict.accepted and is_audited(input_id, key=self._audit_key, rate=rate),
            may_send=not code,
        )
        if held_back := bool(code) and (decision.uncertified or asked.insist):
            metrics.not_sent[code] += 1
        report = local_report(
            input_id=input_id,
            task=task,
            local=local,
            decision=decision,
            ms=stages(local, 1e3 * (time.perf_counter() - asked.began)),
            note=note if held_back else "",
        )
        metrics.saw(report.confidence, report.why, report.ms["total"])
        if decision.answer_here:
            self._recent.add(report)
        if not decision.send:
            self._ledger.count_local(task.name, "edge", uncertified=decision.uncertified)
            return report
        entry = asked.entry(local, decision, report)
        if decision.answer_here:
            self._in_background(self._kept(entry))
            return report
        return await self._escalated(asked, entry)

    async def _escalated(self, asked: Asked, entry: OutboxEntry) -> AnswerReport:
        with self._finals.waiter(entry.id) as waiter:
            # Shielded: once begun, it is kept or counted, whether or not its caller still waits.
            if problem := await asyncio.shield(self._in_background(self._kept(entry))):
                return stands(entry.report, problem)
            if not asked.wait:
                return entry.report
            left_s = asked.began + asked.answer_within_ms / 1e3 - time.perf_counter()
            if (final := await within(waiter, left_s)) is not None:
                return final
        self._metrics.tasks[entry.task].overdue += 1
        return overdue(
            entry.report,
            answer_within_ms=asked.answer_within_ms,
            connected=self._uplink.connected,
            stopping=self.stopping,
        )

    async def _kept(self, entry: OutboxEntry) -> str:
        """Makes an entry durable. '' or, when that fails and the input is counted as answered here, what the matter is."""
        try:
            await self._uplink.escalate(entry)
        except OutriderError as error:
            self._metrics.tasks[entry.task].not_sent[error.reason] += 1
            self._ledger.count_local(entry.task, "edge", uncertified=not entry.report.certified)
            log.warning("escalation.not_kept", extra={"id": entry.id, "task": entry.task, "reason": error.reason})
            if entry.state == "pending":
                self._recent.add(stands(entry.report, error.what))
            return error.what
        return ""

    def _in_background(self, work: Coroutine[Any, Any, str]) -> "asyncio.Task[str]":
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def _count_refused(self, task: str, reason: str) -> None:
        self._ledger.count_local(task, "refused")
        if (metrics := self._metrics.tasks.get(task)) is not None:
            metrics.refused[reason] += 1
        log.info("input.refused", extra={"task": task, "reason": reason})


def unknown_task(name: str, known: Mapping[str, object]) -> CallerUnknownError:
    """The error for a task that is not served here."""
    return CallerUnknownError(
        f"no task {name[:64]!r} is served here",
        reason="unknown_task",
        fix=f"ask for one of: {', '.join(sorted(known))}",
    )


def _reason_of(error: BaseException) -> str:
    """The code under which an input without an answer is counted."""
    if isinstance(error, OutriderError):
        return error.reason
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "internal_error"
