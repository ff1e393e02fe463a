"""One task's line to its large model: what is admitted is batched, asked about, combined, and handed on to be settled.

Knows no broker, and no message that has not been checked.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest

from msgspec import UnsetType
from sqlalchemy.exc import SQLAlchemyError

from outrider_cloud.answering.answers import check_replies, make_answer, mass_problem, spread
from outrider_cloud.answering.batcher import DeadlineQueue, wait_for_more
from outrider_cloud.answering.first import FirstModel
from outrider_cloud.answering.forms import decided_on, suffices
from outrider_cloud.answering.grades import temperature_of, tempered
from outrider_cloud.answering.ports import Completer, PartReader
from outrider_cloud.answering.settler import Settler
from outrider_cloud.answering.strategies import LEAST_CAPTURED, STRATEGIES
from outrider_cloud.background import Background
from outrider_cloud.config import BatchSettings, TaskSettings
from outrider_cloud.intake.admission import Admission
from outrider_cloud.intake.jobs import Job
from outrider_cloud.large.base import LargeModel, LargeRefusal, LargeReply, LargeRequest
from outrider_cloud.metrics import Metrics
from outrider_cloud.store import inputs
from outrider_cloud.store.examples import NewExample
from outrider_wire.messages import Answer, Receipt, Refusal
from outrider_wire.roles import Shares
from outrider_wire.task import Task

log = logging.getLogger(__name__)

MAX_FAILURES = 3
"""How often the large model is asked about one input that it fails on, alone."""
_RETRY_S = 1.0
_LONGEST_RETRY_S = 300.0
"""However long a server asks to be left alone: a Retry-After of a day may be a mistake, and is mended sooner."""
_RECEIPT_S = 0.25
"""An answer that comes within this replaces the receipt. A device that hears nothing offers again after seconds, not sooner."""
_QUICK_S = 0.01
"""A model that takes less will have answered by then."""


class Worker:
    """Batches of one task, one at a time."""

    def __init__(
        self,
        *,
        task: Task,
        settings: TaskSettings,
        batch: BatchSettings,
        large: LargeModel,
        first: FirstModel | None = None,
        parts: PartReader,
        completer: Completer,
        settler: Settler,
        admission: Admission,
        roles_key: str,
        shares: Shares,
        background: Background,
        metrics: Metrics,
    ) -> None:
        self.task = task
        self._settings = settings
        self._batch = batch
        self._large = large
        self._first = first
        self._cited = ""
        self._parts = parts
        self._completer = completer
        self._settler = settler
        self._admission = admission
        self._roles_key = roles_key
        self._shares = shares
        self._background = background
        self._metrics = metrics
        self._jobs: dict[tuple[str, str], Job] = {}
        self._queue: DeadlineQueue[Job] = DeadlineQueue()
        self._wake = asyncio.Event()
        self._stopping = False
        self._last_size = 0
        self.quick = False
        """Whether the last batch was answered so soon that the next one will not need a receipt."""

    def find(self, key: tuple[str, str]) -> Job | None:
        """The admitted, unsettled job of that (device, id)."""
        return self._jobs.get(key)

    @property
    def jobs(self) -> list[Job]:
        """All that is admitted and unsettled."""
        return list(self._jobs.values())

    def admit(self, job: Job) -> None:
        """From here on it is ours: repeats are met by it."""
        self._jobs[job.key] = job
        self._admission.enter(job.place, job.size, asyncio.get_running_loop().time())

    def drop(self, job: Job) -> None:
        """It is settled, or came to nothing here: another holds it, its parts did not come, or whatever had it in hand failed."""
        if self.find(job.key) is not job:
            return
        del self._jobs[job.key]
        try:
            self._admission.leave(job.place, asyncio.get_running_loop().time())
        finally:
            job.came_to("failed")

    @contextmanager
    def _supervised(self, *jobs: Job) -> Iterator[None]:
        """What fails inside, for want of memory say, lets go of these jobs, so that nothing meets their repeats and does no more.

        What is not in the store its device offers again; what stands claimed there `TakingOver.take_back` finds.
        """
        try:
            yield
        except Exception:  # supervised: the worker goes on
            for job in jobs:
                self.drop(job)
            self._metrics.error("worker")
            with suppress(Exception):  # there may be no memory for a line either
                log.exception("worker.failed", extra={"task": self.task.name, "jobs": len(jobs)})

    def forget(self, device: str, input_id: str = "") -> list[Job]:
        """Lets go of a device's open questions (or of one), without a trace; what they were."""
        gone = [
            job for job in self._jobs.values() if device in ("", job.device) and input_id in ("", job.escalation.id)
        ]
        for job in gone:
            job.forgotten = True
            self.drop(job)
        return gone

    def enqueue(self, job: Job) -> None:
        """It may be asked about; unless the answer is quick, the device gets its receipt meanwhile."""
        self._push(job)
        if not job.in_memory and not job.failures:
            asyncio.get_running_loop().call_later(_RECEIPT_S, self._receipt_if_waiting, job)

    def _push(self, job: Job) -> None:
        with self._supervised(job):
            job.queued = asyncio.get_running_loop().time()
            self._queue.push(job, job.queued)
            self._wake.set()

    def refuse(self, job: Job, reason: str, detail: str) -> None:
        """It ends here without an answer."""
        state: inputs.Settled = "expired" if reason == "expired" else "refused"
        with self._supervised(job):
            refusal = Refusal(id=job.escalation.id, reason=reason, detail=detail[:2048])
            trace = job.unanswered(key=self._roles_key, shares=self._shares)
            self._background.spawn(self._finish(job, state, refusal, trace), "settle")

    def expire(self) -> None:
        """Ends whatever nobody wants any more, wherever it stands: a large model that hangs, or is waited for, keeps no device waiting."""
        now = asyncio.get_running_loop().time()
        for job in [job for job in self._jobs.values() if job.keep_until <= now]:
            self._expire(job)

    def _expire(self, job: Job) -> None:
        if not job.expired:
            job.expired = True
            self.refuse(job, "expired", "its time ran out before the large model had answered")

    async def run(self) -> None:
        """Asks batch after batch until `stop`; the batch in hand is finished."""
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while len(self._queue) and not self._stopping:
                with self._supervised():
                    await self._gather()
                with self._supervised():
                    await self._take_turn()

    async def _take_turn(self) -> None:
        """Asks about one batch."""
        batch = self._queue.take(self._batch.max_size, asyncio.get_running_loop().time())
        for job in batch.expired:
            self._expire(job)
        with self._supervised(*batch.items):
            if jobs := await self._still_ours(batch.items):
                self._last_size = len(jobs)
                await self._ask(jobs)

    def stop(self) -> None:
        """No further batch is begun; what waits for one stands in the store soon."""
        self._stopping = True
        self._wake.set()
        for job in self._jobs.values():
            if job.stored is not None and not job.claimed:
                self._background.spawn(self._acknowledge(job), "receipt")

    async def _still_ours(self, jobs: Sequence[Job]) -> list[Job]:
        """Without what was let go of meanwhile, and what another worker took over while this process stood still."""
        wanted = [job for job in jobs if not job.over and self.find(job.key) is job]
        ours = await self._settler.ours(wanted)
        for job in wanted:
            if job not in ours:
                self.drop(job)
        return ours

    async def _gather(self) -> None:
        """Holds a batch back for a moment where more is on its way."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._batch.max_wait_ms / 1000
        while not self._stopping:
            wait_s = wait_for_more(
                queued=len(self._queue),
                most=self._batch.max_size,
                left_s=until - loop.time(),
                last_size=self._last_size,
            )
            if wait_s <= 0:
                return
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), wait_s)
            except TimeoutError:
                return

    async def _ask(self, jobs: Sequence[Job]) -> None:
        """Asks the large model about all of them; when that fails, about each alone, so that one cannot fail the others."""
        loop = asyncio.get_running_loop()
        started, ready = loop.time(), jobs
        try:
            loaded = await self._loaded(jobs)
            ready = [job for job, _ in loaded]
            if not ready:
                return
            requests = await self._requests(loaded)
            replies = await self._large.answer(requests)
            check_replies(replies, len(requests), len(self.task.labels))
        except Exception:  # supervised: whatever a backend raises is about this batch, and the worker goes on
            log.exception("large_model.failed", extra={"task": self.task.name, "batch": len(jobs)})
            self._metrics.error("large_model")
            await self._failed(ready)
            return
        took = loop.time() - started
        self.quick = took < _QUICK_S
        self._metrics.batch_size.labels(self.task.name).observe(len(ready))
        self._metrics.model_seconds.labels(self.task.name).observe(took)
        self._look_at_name()
        for job, request, reply in zip(ready, requests, replies, strict=True):
            with self._supervised(job):
                job.ms |= {"queue": (started - job.queued) * 1000, "model": took * 1000}
                self._take(job, request, reply)

    def _take(self, job: Job, request: LargeRequest, reply: LargeReply | LargeRefusal) -> None:
        """What becomes of a reply: the input waits where it is the large model's own trouble, and where a first form did not
        suffice, for the full one."""
        self._metrics.paid(self.task.name, reply.cost)
        if job.over:
            return
        if isinstance(reply, LargeRefusal) and reply.retry_after_s is not None:
            self._metrics.put_off.labels(self.task.name, reply.reason).inc()
            wait_s = min(max(_RETRY_S, reply.retry_after_s), _LONGEST_RETRY_S)
            asyncio.get_running_loop().call_later(wait_s, self._push, job)
        elif job.holds_back and not self._suffices(job, reply):
            self._background.spawn(self._ask_fully(job, request, reply), "full form")
        else:
            self._conclude(job, request, reply, decided_on(job.escalation))

    def _suffices(self, job: Job, reply: LargeReply | LargeRefusal) -> bool:
        if isinstance(reply, LargeRefusal) or mass_problem(
            reply, STRATEGIES[self._strategy_of(job)], self._settings.terms
        ):
            return False
        return suffices(self._said(job, reply), job.escalation.parts, self._settings.grades)

    async def _ask_fully(self, job: Job, request: LargeRequest, reply: LargeReply | LargeRefusal) -> None:
        """Asks again about the full form; where it cannot be had, the first one has to do."""
        try:
            if await self._completer.complete(job):
                self.enqueue(job)
            else:
                self._conclude(job, request, reply, "first_only")
        except BaseException:  # cancelled too: there was no receipt, so that the device offers it again
            self.drop(job)
            raise

    def _conclude(
        self, job: Job, request: LargeRequest, reply: LargeReply | LargeRefusal, form: str | UnsetType
    ) -> None:
        """An answer is settled, a refusal too."""
        if isinstance(reply, LargeRefusal):
            self.refuse(job, reply.reason, reply.detail)
        elif problem := mass_problem(reply, STRATEGIES[self._strategy_of(job)], self._settings.terms):
            self.refuse(job, "mass_too_low", problem)
        else:
            self._background.spawn(self._carried_out(job, self._answer(job, request, reply, form)), "settle")

    def _look_at_name(self) -> None:
        """A large model that changes under the cloud is said, counted, and cited by its new name."""
        if (name := self._large.name) != self._cited:
            if self._cited:
                log.warning("large_model.changed", extra={"task": self.task.name, "before": self._cited, "after": name})
                self._metrics.large_changes.labels(self.task.name).inc()
            self._cited = name

    async def _loaded(self, jobs: Sequence[Job]) -> list[tuple[Job, dict[str, bytes]]]:
        """All whose parts are here, with them; those whose parts are lost are refused, and those that cannot be read now wait."""
        ready: list[tuple[Job, dict[str, bytes]]] = []
        for job in jobs:
            try:
                parts = await self._parts_of(job)
            except OSError as error:  # the disk's trouble, and not the input's: it waits
                log.error("part.unreadable", extra={"task": self.task.name, "input": job.id, "what": str(error)})
                self._metrics.error("part")
                asyncio.get_running_loop().call_later(_RETRY_S, self._push, job)
                continue
            if len(parts) < len(job.escalation.parts):
                self.refuse(job, "payload_lost", "a part that was stored is not there any more")
            else:
                ready.append((job, parts))
        return ready

    async def _parts_of(self, job: Job) -> dict[str, bytes]:
        """Those of its parts that are here."""
        found: dict[str, bytes] = {}
        for part in job.escalation.parts:
            data = part.inline if part.inline is not None else await self._parts.load(part.sha256)
            if data is not None:
                found[part.name] = data
        return found

    async def _requests(self, ready: Sequence[tuple[Job, dict[str, bytes]]]) -> list[LargeRequest]:
        """What the large model is asked."""
        first = await self._first.distributions([parts for _, parts in ready]) if self._first else []
        smalls = [said or job.escalation.probabilities for (job, _), said in zip_longest(ready, first)]
        return [self._request(job, parts, small) for (job, parts), small in zip(ready, smalls, strict=True)]

    def _strategy_of(self, job: Job) -> str:
        """The task's; an audit is asked plainly, so that nothing that the device said colours the answer that judges it."""
        return "shunt" if job.is_audit else self._settings.strategy

    def _request(self, job: Job, parts: dict[str, bytes], small: Sequence[float]) -> LargeRequest:
        """How the strategy asks."""
        strategy, terms = STRATEGIES[self._strategy_of(job)], self._settings.terms
        return LargeRequest(
            parts=parts,
            labels=self.task.labels,
            small=small,
            candidates=strategy.candidates(small, terms),
            tell_small=strategy.tells_small(terms),
            facts=job.escalation.known if strategy.tells_facts else (),
        )

    async def _failed(self, jobs: Sequence[Job]) -> None:
        if len(jobs) > 1:
            for job in jobs:
                with self._supervised(job):
                    await self._ask([job])
            return
        job = jobs[0]
        job.failures += 1
        if job.failures < MAX_FAILURES:
            asyncio.get_running_loop().call_later(_RETRY_S * job.failures, self.enqueue, job)
        else:
            self.refuse(job, "large_model_failed", f"the large model failed on it {MAX_FAILURES} times")

    def _said(self, job: Job, reply: LargeReply) -> Sequence[float]:
        """The large model's own word, as sure as it may be of what it was given."""
        temperature = temperature_of(job.escalation.parts, self._settings.grades)
        return spread(tempered(reply.probabilities, temperature), reply.captured)

    async def _carried_out(self, job: Job, work: Awaitable[None]) -> None:
        with self._supervised(job):
            await work

    async def _answer(self, job: Job, request: LargeRequest, reply: LargeReply, form: str | UnsetType) -> None:
        large = self._said(job, reply)
        job.ms["total"] = (asyncio.get_running_loop().time() - job.arrived) * 1000
        answer = make_answer(
            input_id=job.escalation.id,
            task=self.task,
            large=large,
            small=request.small,
            strategy=self._strategy_of(job),
            terms=self._settings.terms,
            model=self._large.name,
            ms=job.ms,
            form=form,
        )
        if form:
            self._metrics.forms.labels(self.task.name, form).inc()
        example = None
        if reply.captured >= LEAST_CAPTURED or job.is_audit:  # less is no distribution to learn from, but an outcome
            example = job.example(large, model=self._large.name, key=self._roles_key, shares=self._shares)
        await self._finish(job, "answered", answer, example)

    async def _finish(
        self, job: Job, state: inputs.Settled, reply: Answer | Refusal, example: NewExample | None = None
    ) -> None:
        try:
            await self._settler.settle(job, state, reply, example)
        finally:
            self.drop(job)

    def _receipt_if_waiting(self, job: Job) -> None:
        if self._jobs.get(job.key) is job and not self._stopping:
            self._background.spawn(self._acknowledge(job), "receipt")

    async def _acknowledge(self, job: Job) -> None:
        """The receipt, of what stands in the store by then. What is answered already gets the answer again instead, and the
        device keeps what a full form may still be pulled of."""
        try:
            found = None if job.claimed else await self._settler.claim(job)
        except SQLAlchemyError:
            job.came_to("failed")  # no receipt; it is answered all the same, once that can be written
            return
        if not job.holds_back and (found is None or found.outcome != "settled"):
            await self._settler.send(job, Receipt(id=job.escalation.id))
