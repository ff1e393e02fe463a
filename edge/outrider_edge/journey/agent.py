"""An input's journey on the device: answered here, or sent for, and told about. Knows no HTTP, MQTT, SQLite or ONNX.

What the caller is told is final at its deadline; what the account says is set once, when the input really ends::

    submit ── local answer ── gate ──┬── answer here ───────────────────────────── edge
                                     ├── answer here, send a copy ──────────────── edge, audited
                                     ├── refused, and known from memory ────────── memory (some of them audited)
                                     ├── refused, and not worth the budget ─────── edge, uncertified
                                     └── send for the large model's answer ─────── pending
                                             │ in time                                └── cloud
                                             │ after the deadline: the local answer stood  └── cloud, late
                                             │ never, within ``keep_for_s``                └── expired
                                             └ the cloud will not answer it                └── refused
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from msgspec.structs import replace

from outrider_edge.budget.budget import LimitView
from outrider_edge.budget.spending import Spending
from outrider_edge.journey.asked import Asked
from outrider_edge.journey.decider import Decider, Judged
from outrider_edge.journey.finals import Finals, within
from outrider_edge.journey.pipeline import LocalAnswer, Parts, TaskRuntime
from outrider_edge.journey.recent import Recent
from outrider_edge.journey.reports import (
    from_memory,
    local_report,
    noted,
    overdue,
    stages,
    stands,
)
from outrider_edge.journey.subtasks import SubtaskModels
from outrider_edge.journey.watch import Promise, Watch
from outrider_edge.journey.way_out import Left, WayOut
from outrider_edge.memory.answers import Hit
from outrider_edge.memory.memory import MemoryView, TaskMemory
from outrider_edge.metrics import Metrics
from outrider_edge.ports import LedgerPort, OutboxEntry, Pulled, UplinkPort
from outrider_edge.thermal.pacer import Pacer
from outrider_edge.uplink.escalations import pull_size, wire_size
from outrider_wire.errors import CallerUnknownError, OutriderError
from outrider_wire.images import Decode, decode_picture
from outrider_wire.messages import Answer, Escalation, Fact
from outrider_wire.report import TERMINAL, Account, AnswerReport

log = logging.getLogger(__name__)

NO_SUBTASKS: Mapping[str, SubtaskModels] = MappingProxyType({})
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
        spending: the tasks' budgets.
        memories: of the tasks that have one.
        subtasks: by task name, where this device answers some.
        decode: turns pictures into pixels, where what leaves is drawn anew.
        pacer: lets inputs take turns while the board is warm; None: it never is.
    """

    def __init__(
        self,
        *,
        runtimes: Mapping[str, TaskRuntime],
        ledger: LedgerPort,
        uplink: UplinkPort,
        metrics: Metrics,
        audit_key: str,
        spending: Spending,
        memories: Mapping[str, TaskMemory],
        subtasks: Mapping[str, SubtaskModels] = NO_SUBTASKS,
        decode: Decode = decode_picture,
        pacer: Pacer | None = None,
    ) -> None:
        self.runtimes = runtimes
        self.stopping = False
        self._ledger = ledger
        self._uplink = uplink
        self._metrics = metrics
        self._spending = spending
        self._memories = memories
        self._subtasks = subtasks
        self._pacer = pacer or Pacer()
        self.watch = Watch(watches=ledger.watches)
        metrics.attach(lambda task: self.watch.figures(runtimes[task].task, runtimes[task].model))
        self._decider = Decider(
            watch=self.watch, watches=ledger.watches, spending=spending, memories=memories, audit_key=audit_key
        )
        self._ways_out = {
            name: WayOut(runtime.task, key=audit_key, redacted=metrics.tasks[name].redacted, decode=decode)
            for name, runtime in runtimes.items()
        }
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
            return await self._decided(*await self._answered(asked, runtime))
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

    def tell(self, on_answer: Callable[[AnswerReport], None]) -> None:
        """Names whom to tell of every answer that is given here for good; as `outrider_edge.journey.recent.Recent.listen`."""
        self._recent.listen(on_answer)

    def promise(self, runtime: TaskRuntime) -> Promise:
        """How the watch over a task's certificate stands, and what shadow mode would have done."""
        task, model = runtime.task, runtime.model
        return Promise(
            threshold=self.watch.threshold(task, model),
            watch=self.watch.view(task, model, alone=not self._uplink.enabled),
            shadow=self._ledger.watches.shadow_counts(task.name, model.digest)
            if task.policy.mode == "shadow"
            else None,
        )

    def account(self, task: str = "") -> Account:
        """How many inputs of one task, or of all, are in which state."""
        return self._ledger.account(task)

    def budgets(self) -> dict[str, dict[str, LimitView]]:
        """How the limits stand of every task that has some."""
        return {task: self._spending.view(task) for task in self.runtimes if task in self._spending}

    def memories(self) -> dict[str, MemoryView]:
        """How every answer memory fares."""
        return {task: memory.view() for task, memory in self._memories.items()}

    def refused(self, task: str, error: OutriderError) -> OutriderError:
        """Counts an input that never came as far as `submit`, and gives the error back."""
        known = task if task in self.runtimes else NO_TASK
        self._ledger.arrived(known)
        self._count_refused(known, error.reason)
        return error

    async def on_final(self, report: AnswerReport) -> None:
        """The uplink's word that an escalated input has its terminal state."""
        if (memory := self._memories.get(report.task)) is not None:
            memory.ended(report)
        if report.state == "cloud" and (runtime := self.runtimes.get(report.task)) is not None:
            fault = runtime.heard(report.large_model, report.strategy)
            if fault:
                log.warning("system_claim.void", extra={"task": report.task, "what": fault})
        told = self._finals.tell(report)
        if report.state == "cloud" and (metrics := self._metrics.tasks.get(report.task)) is not None:
            metrics.cloud_ms.add(report.ms.get("total", 0.0))
        log.debug(
            "escalation.ended",
            extra={"id": report.id, "task": report.task, "state": report.state, "late": report.late, "awaited": told},
        )

    async def on_aside(self, answer: Answer) -> None:
        """The uplink's word of what the large model says of an input that was answered without it."""
        if (memory := self._memories.get(answer.task)) is not None:
            memory.answered(answer)

    def may_spare(self, escalation: Escalation) -> bool:
        """Whether the budget has room for an input that is kept to be learnt from; then it is spent."""
        sizes = ((part.name, part.size) for part in escalation.parts)
        names = len(escalation.task) + len(escalation.group)
        fulls = sum(part.unseen is not None for part in escalation.parts)
        return self._spending.ask_spare(
            escalation.task, size=wire_size(sizes, names=names, labels=len(escalation.probabilities), fulls=fulls)
        )

    def on_pulled(self, pulled: Pulled) -> None:
        """The uplink's word that a worker pulls all of an input of which a first form was sent."""
        self._spending.count_pulled(pulled.task, size=pull_size(pulled.size), audit=pulled.audit)

    async def drain(self, grace_s: float) -> None:
        """Gives the inputs under way that long to get their answers, then the device's own to whoever still waits."""
        self.stopping = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace_s)
        self._finals.release()
        await self._idle.wait()
        await asyncio.gather(*self._background)
        for way_out in self._ways_out.values():
            way_out.close()

    async def _answered(self, asked: Asked, runtime: TaskRuntime) -> tuple[Asked, LocalAnswer]:
        """The device's own answer, and how much would leave; whatever prevents it is counted, so that the account adds up."""
        try:
            asked.check()
            patience_s = asked.answer_within_ms / 1e3
            deadline = asked.began + patience_s
            if self._pacer.slowed:
                turn = partial(runtime.ask, asked.parts, deadline)
                local = await self._pacer.run(turn, patience_s=patience_s)
            else:
                local = await runtime.ask(asked.parts, deadline)
            return await self._sized(asked, local), local
        except BaseException as error:  # cancelled too: every input is counted once
            self._count_refused(asked.task.name, _reason_of(error))
            raise

    async def _decided(self, asked: Asked, local: LocalAnswer) -> AnswerReport:
        judged, metrics = self._decider.judge(asked, local, alone=not self._uplink.enabled), self._metrics
        if judged.held_back:
            metrics.tasks[asked.task.name].not_sent[judged.held_back] += 1
        report = local_report(
            input_id=judged.id,
            task=asked.task,
            local=local,
            decision=judged.decision,
            ms=stages(local, 1e3 * (time.perf_counter() - asked.began)),
            note=noted(judged.decision, kept_back=judged.note),
            suspended=judged.suspended,
        )
        metrics.tasks[asked.task.name].saw(report.confidence, report.why, report.ms["total"])
        if judged.hit is not None:
            return self._from_memory(asked, local, report, judged.hit, audited=judged.audit_hit)
        return await self._carried_out(asked, local, report, judged)

    async def _carried_out(
        self, asked: Asked, local: LocalAnswer, report: AnswerReport, judged: Judged
    ) -> AnswerReport:
        name, decision = asked.task.name, judged.decision
        if decision.answer_here:
            self._recent.add(report)
        if not decision.send and not judged.spare:
            self._ledger.count_local(name, "edge", uncertified=decision.uncertified)
            return report
        entry = asked.entry(local, decision, report)
        if not decision.audited and name in self._memories:
            self._memories[name].expect(report.id, asked.parts, local)
        if decision.answer_here:
            self._send_copy(asked, local, entry)
            return report
        return await self._escalated(asked, local, entry)

    async def _sized(self, asked: Asked, local: LocalAnswer) -> Asked:
        """With what leaves of it, where a budget must know how much that is; of one that is not fit to leave, without."""
        way_out = self._ways_out[asked.task.name]
        if not way_out.changes_size or not self._decider.weighs(asked, local, alone=not self._uplink.enabled):
            return asked
        with contextlib.suppress(OutriderError):  # said where it is to be sent
            return replace(asked, left=await self._left(asked, local))
        return asked

    async def _left(self, asked: Asked, local: LocalAnswer) -> Left:
        """What leaves of an input, made once."""
        return asked.left or await self._ways_out[asked.task.name].leave(asked.parts, local, group=asked.group)

    def _from_memory(
        self, asked: Asked, local: LocalAnswer, report: AnswerReport, hit: Hit, *, audited: bool
    ) -> AnswerReport:
        """Answers with what the large model said before; some of these answers are audited."""
        name, memory = asked.task.name, self._memories[asked.task.name]
        report = from_memory(report, hit, age_s=memory.age_s(hit), audited=audited)
        self._recent.add(report)
        if audited:
            memory.expect(report.id, asked.parts, local, hit)
            self._send_copy(asked, local, asked.audit_of_memory(local, report))
        else:
            self._ledger.count_local(name, "memory", uncertified=True)
        return report

    def _send_copy(self, asked: Asked, local: LocalAnswer, entry: OutboxEntry) -> None:
        """Sends what is answered already: an audit, or what is kept to be learnt from."""
        self._in_background(self._kept(asked, local, entry))

    async def _escalated(self, asked: Asked, local: LocalAnswer, entry: OutboxEntry) -> AnswerReport:
        with self._finals.waiter(entry.id) as waiter:
            # Shielded: once begun, it is kept or counted, whether or not its caller still waits.
            if problem := await asyncio.shield(self._in_background(self._kept(asked, local, entry))):
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

    async def _kept(self, asked: Asked, local: LocalAnswer, entry: OutboxEntry) -> str:
        """Makes durable what leaves. '' or, when that fails and the input is counted as answered here, what the matter is."""
        try:
            left = await self._left(asked, local)
            if entry.report.audited and entry.task in self._spending:
                self._spending.count_audit(entry.task, size=replace(asked, left=left).wire_size())
            entry = replace(entry, parts=left.parts, group=left.group, facts=await self._facts(entry, left))
            await self._uplink.escalate(entry)
        except Exception as error:  # of any kind: an input that is neither kept nor counted would be pending for ever
            reason = _reason_of(error)
            self._metrics.tasks[entry.task].not_sent[reason] += 1
            ended: Literal["edge", "memory"] = "memory" if entry.state == "memory" else "edge"
            self._ledger.count_local(entry.task, ended, uncertified=not entry.report.certified)
            known = isinstance(error, OutriderError)
            what = error.what if isinstance(error, OutriderError) else "this device failed on it"
            facts = {"id": entry.id, "task": entry.task, "reason": reason}
            log.log(logging.WARNING if known else logging.ERROR, "escalation.not_kept", extra=facts, exc_info=not known)
            if entry.state == "pending":
                self._recent.add(stands(entry.report, what))
            elif entry.report.audited:
                self._ledger.watches.audit_missed(entry.report)
            return what
        return ""

    async def _facts(self, entry: OutboxEntry, left: Left) -> list[Fact]:
        """What this device can answer of the sub-tasks, from what leaves. Audits are asked plainly, and carry none."""
        subtasks, readable = self._subtasks.get(entry.task), left.readable
        return await subtasks.facts(readable) if subtasks and readable and entry.state == "pending" else []

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
