"""One task's line to its large model: what is admitted is batched, asked, combined, committed and answered.

Knows the store and the replies; knows no broker and no message that has not been checked.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from outrider_cloud import inputs
from outrider_cloud.answers import make_answer
from outrider_cloud.background import Background
from outrider_cloud.batcher import DeadlineQueue, wait_for_more
from outrider_cloud.clock import now_ms
from outrider_cloud.config import BatchSettings, TaskSettings
from outrider_cloud.examples import NewExample
from outrider_cloud.jobs import Job
from outrider_cloud.large.base import LargeModel, LargeRefusal, LargeReply, LargeRequest
from outrider_cloud.metrics import Metrics
from outrider_cloud.replies import Replies
from outrider_cloud.store import Change, Store
from outrider_wire.codec import decode, encode
from outrider_wire.limits import BLOB_BYTES
from outrider_wire.messages import Answer, Receipt, Refusal
from outrider_wire.roles import Shares
from outrider_wire.task import Task

log = logging.getLogger(__name__)

MAX_FAILURES = 3
"""How often the large model is asked about one input that it fails on, alone."""
_RETRY_S = 1.0
_RECEIPT_S = 0.025
"""An answer that comes within this replaces the receipt."""


class PartReader(Protocol):
    """Where a worker finds the parts that are not inside their escalation."""

    async def read(self, sha256: str) -> bytes | None:
        """The bytes; None when they are not here."""
        ...


class Worker:
    """Batches of one task, one at a time."""

    def __init__(
        self,
        *,
        name: str,
        task: Task,
        settings: TaskSettings,
        batch: BatchSettings,
        large: LargeModel,
        store: Store,
        parts: PartReader,
        replies: Replies,
        roles_key: str,
        shares: Shares,
        lease_s: float,
        background: Background,
        metrics: Metrics,
    ) -> None:
        self.task = task
        self.large = large
        self._name = name
        self._settings = settings
        self._batch = batch
        self._store = store
        self._parts = parts
        self._replies = replies
        self._roles_key = roles_key
        self._shares = shares
        self._lease_s = lease_s
        self._background = background
        self._metrics = metrics
        self._jobs: dict[tuple[str, str], Job] = {}
        self._bytes = 0
        self._queue: DeadlineQueue[Job] = DeadlineQueue()
        self._wake = asyncio.Event()
        self._stopping = False
        self._last_size = 0
        metrics.waiting.labels(task.name).set_function(lambda: len(self._jobs))

    @property
    def full(self) -> bool:
        """Whether one more must be refused as busy."""
        return len(self._jobs) >= self._batch.queue_max or self._bytes >= self._batch.queue_max_bytes

    def find(self, key: tuple[str, str]) -> Job | None:
        """The admitted, unanswered job of that (device, id)."""
        return self._jobs.get(key)

    def admit(self, job: Job) -> None:
        """From here on it is ours: repeats are met by it."""
        self._jobs[job.key] = job
        self._bytes += job.size

    def drop(self, job: Job) -> None:
        """It came to nothing here: another holds it, it is answered, or its parts did not come."""
        if self._jobs.pop(job.key, None) is not None:
            self._bytes -= job.size

    def enqueue(self, job: Job) -> None:
        """It may be asked about; unless the answer is quick, the device gets its receipt meanwhile."""
        loop = asyncio.get_running_loop()
        job.queued = loop.time()
        self._queue.push(job, job.queued)
        self._wake.set()
        if job.claimed and not job.failures:
            loop.call_later(_RECEIPT_S, self._receipt_if_waiting, job)

    async def run(self) -> None:
        """Asks batch after batch until `stop`; the batch in hand is finished."""
        loop = asyncio.get_running_loop()
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while len(self._queue) and not self._stopping:
                await self._gather()
                batch = self._queue.take(self._batch.max_size, loop.time())
                for job in batch.expired:
                    refusal = Refusal(id=job.escalation.id, reason="expired", detail="nobody wanted the answer any more")
                    self._background.spawn(self._settle(job, "expired", refusal), "settle")
                if batch.items:
                    self._last_size = len(batch.items)
                    await self._ask(batch.items)

    async def give_up(self, job: Job) -> None:
        """It was claimed too often and never settled: it ends here, refused."""
        refusal = Refusal(id=job.escalation.id, reason="gave_up", detail="workers ended while they held it, again and again")
        await self._settle(job, "refused", refusal)

    def stop(self) -> None:
        """No further batch is begun."""
        self._stopping = True
        self._wake.set()

    async def _gather(self) -> None:
        """Holds a batch back for a moment where more is on its way."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._batch.max_wait_ms / 1000
        while (
            wait := wait_for_more(
                queued=len(self._queue), most=self._batch.max_size, left_s=until - loop.time(), last_size=self._last_size
            )
        ) > 0:
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), wait)
            except TimeoutError:
                return

    async def _ask(self, jobs: Sequence[Job]) -> None:
        """Asks the large model about all of them; when that fails, about each alone, so that one cannot fail the others."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        ready, requests = await self._requests(jobs)
        if not ready:
            return
        try:
            replies = await self.large.answer(requests)
        except Exception:  # supervised: whatever a backend raises is about this batch, and the worker goes on
            log.exception("large_model.failed", extra={"task": self.task.name, "batch": len(ready)})
            self._metrics.error("large_model")
            await self._failed(ready)
            return
        took = loop.time() - started
        self._metrics.batch_size.labels(self.task.name).observe(len(ready))
        self._metrics.model_seconds.labels(self.task.name).observe(took)
        for job, reply in zip(ready, replies, strict=True):
            job.ms |= {"queue": (started - job.queued) * 1000, "model": took * 1000}
            self._background.spawn(self._reply(job, reply), "settle")

    async def _requests(self, jobs: Sequence[Job]) -> tuple[list[Job], list[LargeRequest]]:
        """The requests of all whose parts are here; the others are refused."""
        ready: list[Job] = []
        requests: list[LargeRequest] = []
        for job in jobs:
            parts: dict[str, bytes] = {}
            for part in job.escalation.parts:
                data = part.inline if part.inline is not None else await self._parts.read(part.sha256)
                if data is not None:
                    parts[part.name] = data
            if len(parts) < len(job.escalation.parts):
                lost = Refusal(id=job.escalation.id, reason="payload_lost", detail="a stored part is not there any more")
                self._background.spawn(self._settle(job, "refused", lost), "settle")
                continue
            ready.append(job)
            requests.append(LargeRequest(parts=parts, labels=self.task.labels, small=job.escalation.probabilities))
        return ready, requests

    async def _failed(self, jobs: Sequence[Job]) -> None:
        if len(jobs) > 1:
            for job in jobs:
                await self._ask([job])
            return
        job = jobs[0]
        job.failures += 1
        if job.failures < MAX_FAILURES:
            asyncio.get_running_loop().call_later(_RETRY_S * job.failures, self.enqueue, job)
            return
        refusal = Refusal(
            id=job.escalation.id, reason="large_model_failed", detail=f"the large model failed on it {MAX_FAILURES} times"
        )
        await self._settle(job, "refused", refusal)

    async def _reply(self, job: Job, reply: LargeReply | LargeRefusal) -> None:
        if isinstance(reply, LargeRefusal):
            refusal = Refusal(id=job.escalation.id, reason=reply.reason, detail=reply.detail[:2048])
            await self._settle(job, "refused", refusal)
            return
        self._metrics.tokens.labels(self.task.name).inc(reply.cost.tokens)
        self._metrics.money.labels(self.task.name).inc(reply.cost.money)
        job.ms["total"] = (asyncio.get_running_loop().time() - job.arrived) * 1000
        answer = make_answer(
            input_id=job.escalation.id,
            task=self.task,
            large=reply.probabilities,
            small=job.escalation.probabilities,
            strategy=self._settings.strategy,
            strength=self._settings.strength,
            model=self.large.name,
            ms=job.ms,
        )
        await self._settle(job, "answered", answer, job.example(reply, key=self._roles_key, shares=self._shares))

    async def _settle(
        self, job: Job, state: inputs.Settled, reply: Answer | Refusal, example: NewExample | None = None
    ) -> None:
        """Commits the end of a job, and sends the reply that stands: the first one committed."""
        end = inputs.Settlement(
            device=job.device,
            id=job.escalation.id,
            task=self.task.name,
            state=state,
            reply=encode(reply),
            settled_ms=now_ms(),
            example=example,
        )
        if job.in_memory:
            await self._send(job, reply)
            claim = job.claim(worker=self._name, lease_s=self._lease_s)
            await self._commit(partial(inputs.record, claim=claim, end=end))
        else:
            standing = decode(await self._commit(partial(inputs.settle, end=end)), limit=BLOB_BYTES)
            if isinstance(standing, Answer | Refusal):
                await self._send(job, standing)
        self._metrics.settled.labels(self.task.name, state).inc()

    async def _commit(self, change: Change[bytes]) -> bytes:
        """Writes until it is written: a full disk makes everybody wait, and loses nothing."""
        pause = _RETRY_S
        while True:
            try:
                return await self._store.write(change)
            except SQLAlchemyError:
                log.exception("store.failed", extra={"task": self.task.name, "retry_after_s": pause})
                self._metrics.error("store")
                await asyncio.sleep(pause)
                pause = min(2 * pause, 30.0)

    async def _send(self, job: Job, reply: Receipt | Answer | Refusal) -> None:
        loop = asyncio.get_running_loop()
        if not isinstance(reply, Receipt):
            self.drop(job)
            self._metrics.answer_seconds.labels(self.task.name).observe(loop.time() - job.arrived)
        await self._replies.send(
            job.device,
            reply,
            content_type=job.content_type,
            correlation=job.correlation,
            expiry_s=job.keep_until - loop.time(),
        )

    def _receipt_if_waiting(self, job: Job) -> None:
        if self._jobs.get(job.key) is job:
            self._background.spawn(self._send(job, Receipt(id=job.escalation.id)), "receipt")
