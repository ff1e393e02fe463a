"""An escalation's claim and its end: committed first, then told to the device. Knows the store and the replies, no queue, no model."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from outrider_cloud.answering.deliveries import Deliveries
from outrider_cloud.clock import now_ms
from outrider_cloud.intake.jobs import Job
from outrider_cloud.lease_clock import lease
from outrider_cloud.metrics import Metrics
from outrider_cloud.seldom import Seldom
from outrider_cloud.store import inputs
from outrider_cloud.store.examples import NewExample
from outrider_cloud.store.store import Change, Store
from outrider_wire.codec import decode, encode
from outrider_wire.limits import BLOB_BYTES
from outrider_wire.messages import Answer, Receipt, Refusal

T = TypeVar("T")

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_BEHIND_S = 0.1
log = logging.getLogger(__name__)
log.addFilter(Seldom())


class Settler:
    """Commits ends and sends replies, for every task of this process."""

    def __init__(self, *, name: str, store: Store, deliveries: Deliveries, lease_s: float, metrics: Metrics) -> None:
        self._name = name
        self._store = store
        self._deliveries = deliveries
        self._lease_s = lease_s
        self._metrics = metrics
        self._good_until: float | None = None
        self._doubtful: float | None = None
        self._behind: list[tuple[inputs.Claim, inputs.Settlement]] = []
        self._writing: asyncio.Task[None] | None = None

    async def claim(self, job: Job) -> inputs.Found:
        """Makes a job ours in the store, unless more is known of it there.

        Raises:
            SQLAlchemyError: the store cannot be written.
        """
        found = await self._store.write(partial(inputs.start, wanted=self._claim_of(job)))
        job.came_to("claimed" if found.outcome == "claimed" else "repeated")
        return found

    async def restate(self, job: Job) -> None:
        """Stores what more has come of a job; returns when that is durable. Nothing of one that is forgotten, or whose task gave
        durability up."""
        if job.in_memory or job.forgotten:
            return
        if not job.claimed:
            found = await self._commit(partial(inputs.start, wanted=self._claim_of(job)))
            job.came_to("claimed" if found.outcome == "claimed" else "repeated")
        request = encode(job.escalation)
        await self._commit(partial(inputs.restate, device=job.device, input_id=job.id, request=request))

    async def renew(self) -> None:
        """Prolongs the leases of all that this worker holds. One that comes too late may find that others have taken over."""
        now = asyncio.get_running_loop().time()
        if self._lapsed(now):
            self._doubtful = now
        await self._store.write(partial(inputs.renew, worker=self._name, lease=lease(self._lease_s)))
        self._good_until = now + self._lease_s

    async def ours(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that are still this worker's: nobody pays twice for what another took over while this process stood still."""
        now = asyncio.get_running_loop().time()
        if not self._lapsed(now) and all(job.arrived > (self._doubtful or 0.0) for job in jobs):
            return list(jobs)
        try:
            held = await self._store.read(partial(inputs.held_by, worker=self._name))
        except SQLAlchemyError:
            return list(jobs)  # to pay twice is better than not to answer
        return [job for job in jobs if not job.claimed or job.key in held]

    def forget(self, device: str, input_id: str = "") -> None:
        """Leaves out of what is still to be written what is of that device (or of one of its inputs)."""
        self._behind = [
            (claim, end)
            for claim, end in self._behind
            if device not in ("", claim.device) or input_id not in ("", claim.id)
        ]

    def _lapsed(self, now: float) -> bool:
        return self._good_until is not None and now > self._good_until

    async def settle(
        self, job: Job, state: inputs.Settled, reply: Answer | Refusal, example: NewExample | None = None
    ) -> None:
        """Commits ``reply`` as the end of a job, and sends the one that stands: the first committed.

        One that is not claimed yet is claimed in the same commit. A task that gave durability up is answered first and
        recorded afterwards.
        """
        if job.forgotten:
            return
        task, loop = job.task.name, asyncio.get_running_loop()
        ours, sent = True, job.in_memory and await self.send(job, reply)
        end = inputs.Settlement(
            device=job.device,
            id=job.escalation.id,
            task=task,
            state=state,
            reply=encode(reply),
            settled_ms=now_ms(),
            sent=sent,
            example=example,
        )
        if job.in_memory:
            job.told = reply
            await self._record_soon(self._claim_of(job), end)
        else:
            stored = await self._stored(job, end)
            ours = stored == end.reply
            job.came_to("claimed" if ours else "repeated")
            standing = reply if ours else decode(stored, limit=BLOB_BYTES)
            if isinstance(standing, Answer | Refusal):
                await self.send(job, standing, committed=True)
        if ours:  # whoever committed the reply that stands has counted it
            self._metrics.settled.labels(task, state).inc()
            self._metrics.answer_seconds.labels(task).observe(loop.time() - job.arrived)

    async def send(self, job: Job, reply: Receipt | Answer | Refusal, *, committed: bool = False) -> bool:
        """Sends a reply to the job's device in the coding of its request; whether the broker took it."""
        return await self._deliveries.send(
            job.device,
            reply,
            content_type=job.content_type,
            correlation=job.correlation,
            expiry_s=job.keep_until - asyncio.get_running_loop().time(),
            committed=committed,
        )

    def _claim_of(self, job: Job) -> inputs.Claim:
        return job.claim(worker=self._name, lease=lease(self._lease_s))

    async def _record_soon(self, claim: inputs.Claim, end: inputs.Settlement) -> None:
        """Writes together with others, so that the store does not compete with the next answers; returns when it is durable."""
        self._behind.append((claim, end))
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_behind())
        await asyncio.shield(self._writing)

    async def _write_behind(self) -> None:
        await asyncio.sleep(_BEHIND_S)
        lives, self._behind, self._writing = self._behind, [], None
        await self._commit(partial(inputs.record, lives=lives))

    async def _stored(self, job: Job, end: inputs.Settlement) -> bytes:
        """The reply that stands, once that is durable. What was never claimed is recorded together with its neighbours."""
        if job.claimed:
            return await self._commit(partial(inputs.settle, end=end))
        life = (self._claim_of(job), end)
        return await self._until_written(lambda: self._store.write_each(inputs.record, life))

    async def _commit(self, change: Change[T]) -> T:
        return await self._until_written(lambda: self._store.write(change))

    async def _until_written(self, write: Callable[[], Awaitable[T]]) -> T:
        """Writes until it is written: a full disk makes everybody wait, and loses nothing."""
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return await write()
            except SQLAlchemyError:
                log.exception("store.failed", extra={"retry_after_s": pause})
                self._metrics.error("store")
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
