"""What becomes of an escalation between the broker and the queue: decoded, checked, pulled, claimed, queued; or refused.

Nothing that arrives can end the service: what cannot be taken is parked in the dead-letter table, counted, and told to the
device where one can be named. Every offer has exactly one outcome.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from outrider_cloud.answering.deliveries import Deliveries
from outrider_cloud.answering.settler import Settler
from outrider_cloud.answering.worker import Worker
from outrider_cloud.background import Background
from outrider_cloud.clock import now_ms
from outrider_cloud.intake.checks import check_escalation, check_labels
from outrider_cloud.intake.jobs import Job, job_from_row, new_job, with_inline
from outrider_cloud.intake.pulls import Pulls
from outrider_cloud.metrics import Metrics
from outrider_cloud.store import dead_letters, inputs
from outrider_cloud.store.store import Store
from outrider_link.envelope import Incoming
from outrider_wire.codec import JSON, MSGPACK, decode, encode
from outrider_wire.errors import BundleDamagedError, OutriderError, PeerError, PeerMessageError
from outrider_wire.limits import BLOB_BYTES
from outrider_wire.messages import Answer, Escalation, Receipt, Refusal
from outrider_wire.names import Identifier
from outrider_wire.topics import Address

log = logging.getLogger(__name__)

CORRELATION_BYTES = 256
"""Of the correlation data that is kept with an input and comes back with its answer."""

Outcome = Literal["claimed", "repeated", "busy", "dead_letter", "unfetched", "failed"]


class Intake:
    """Takes what comes on the escalation topics."""

    def __init__(
        self,
        *,
        name: str,
        workers: Mapping[str, Worker],
        store: Store,
        pulls: Pulls,
        settler: Settler,
        deliveries: Deliveries,
        lease_s: float,
        retry_after_s: float,
        background: Background,
        metrics: Metrics,
    ) -> None:
        self.received = 0
        """Offers since the start."""
        self.outcomes: Counter[str] = Counter()
        self._name = name
        self._workers = workers
        self._tasks = {name: worker.task for name, worker in workers.items()}
        self._store = store
        self._pulls = pulls
        self._settler = settler
        self._deliveries = deliveries
        self._lease_s = lease_s
        self._retry_after_s = retry_after_s
        self._background = background
        self._metrics = metrics
        self._draining = False

    @property
    def workers(self) -> list[Worker]:
        """One for each task."""
        return list(self._workers.values())

    def drain(self) -> None:
        """From now on every offer is put off: the process is about to end."""
        self._draining = True

    async def on_escalation(self, address: Address, message: Incoming, *, pull: bool = True) -> PeerError | None:
        """One offer. Returns once it is claimed or answered durably, or was put off; pulling goes on behind.

        Args:
            pull: whether the device can be asked for what it only refers to; if not, that must be here.

        Returns:
            What is wrong with one that was parked.
        """
        self.received += 1
        try:
            if len(message.correlation or b"") > CORRELATION_BYTES:
                what = f"its correlation data is longer than {CORRELATION_BYTES} bytes"
                raise PeerMessageError(what, reason="correlation_too_long")
            escalation = decode(message.payload, message.content_type)
            if not isinstance(escalation, Escalation):
                raise PeerMessageError(f"a {type(escalation).__name__} is no escalation", reason="wrong_message")
            task = check_escalation(escalation, address.task, self._tasks)
        except PeerError as error:
            await self.park(address, message, error)
            return error
        worker = self._workers[task.name]
        job = new_job(
            device=address.device,
            task=task,
            escalation=escalation,
            content_type=message.content_type,
            correlation=message.correlation,
            now=asyncio.get_running_loop().time(),
            received_ms=now_ms(),
        )
        if (known := worker.find(job.key)) is not None:
            self._count(job, "repeated")
            if known.claimed:
                self._tell(job, Receipt(id=escalation.id))
        elif self._draining or worker.full:
            await self._put_off(job)
        elif any(part.inline is None for part in escalation.parts):
            await self._fetch_once(worker, job, pull=pull)
        else:
            worker.admit(job)
            await self._claim(worker, job)
        return None

    async def standing(self, device: str, input_id: str) -> Answer | Refusal | Receipt | None:
        """The reply that stands, or a receipt for one that is claimed; None: it is not in the store."""
        found = await self._store.read(partial(inputs.find, device=device, input_id=input_id))
        return _reply_of(input_id, found.reply) if found is not None else None

    async def park(self, address: Address | None, message: Incoming, error: OutriderError) -> None:
        """Puts a message that cannot be taken aside, and tells the device when its topic and an id can be read."""
        input_id = read_id(message)
        device = address.device if address else ""
        if address and address.kind == "escalate":
            self.outcomes["dead_letter"] += 1
            task = address.task if address.task in self._tasks else ""
            self._metrics.offers.labels(task, "dead_letter").inc()
            if input_id:
                refusal = Refusal(id=input_id, reason=error.reason, detail=str(error)[:2048])
                coding = JSON if message.content_type == JSON else MSGPACK
                correlation = (message.correlation or b"")[:CORRELATION_BYTES] or None
                work = self._deliveries.send(device, refusal, content_type=coding, correlation=correlation)
                self._background.spawn(work, "reply")
        self._metrics.dead_letters.labels(error.reason).inc()
        log.warning("message.dead", extra={"topic": message.topic[:256], "reason": error.reason, "input": input_id})
        letter = dead_letters.DeadLetter(
            received_ms=now_ms(),
            topic=message.topic[:256],
            device=device,
            input=input_id,
            reason=error.reason,
            detail=str(error)[:512],
            size=len(message.payload),
            head=message.payload[: dead_letters.HEAD_BYTES],
        )
        await self._store.write(partial(dead_letters.park, letter=letter))

    async def take_over(self, *, own: bool) -> int:
        """Re-queues what is claimed, unanswered and orphaned (``own``: and our own, after a restart); how many."""
        stamp = now_ms()
        rows = await self._store.write(
            partial(
                inputs.take_over,
                worker=self._name,
                tasks=list(self._workers),
                now_ms=stamp,
                lease_until_ms=stamp + round(self._lease_s * 1000),
                own=own,
            )
        )
        taken = 0
        for row in rows:
            worker = self._workers[row["task"]]
            try:
                job = job_from_row(row, worker.task, now=asyncio.get_running_loop().time(), now_ms=stamp)
            except (OutriderError, TypeError, ValueError) as error:  # one damaged row must not keep the others waiting
                await self._give_up(row, error)
                continue
            if worker.find(job.key) is None:
                taken += 1
                self._resume(worker, job, row["claims"])
        if taken:
            log.info("inputs.taken_over", extra={"count": taken})
        return taken

    async def _give_up(self, row: Mapping[str, Any], error: Exception) -> None:
        """Refuses an input of which no more can be read than whose it is."""
        log.error("input.unreadable", extra={"device": row["device"], "input": row["id"], "what": str(error)[:512]})
        self._metrics.error("stored_input")
        detail = "what was stored of it cannot be read any more"
        refusal = Refusal(id=row["id"], reason="stored_unreadable", detail=detail)
        end = inputs.Settlement(
            device=row["device"],
            id=row["id"],
            task=row["task"],
            state="refused",
            reply=encode(refusal),
            settled_ms=now_ms(),
        )
        await self._store.write(partial(inputs.settle, end=end))
        await self._deliveries.send(
            row["device"],
            refusal,
            content_type=row["content_type"],
            correlation=row["correlation"],
            committed=True,
        )

    def _resume(self, worker: Worker, job: Job, claims: int) -> None:
        """Queues an input that was claimed before this process began, if that can end well."""
        worker.admit(job)
        try:
            check_labels(job.escalation, worker.task)
        except PeerError as error:  # the task has changed meanwhile
            worker.refuse(job, error.reason, str(error))
            return
        if claims > inputs.MAX_CLAIMS:
            worker.refuse(job, "gave_up", "workers ended while they held it, again and again")
        else:
            worker.enqueue(job)

    async def _fetch_once(self, worker: Worker, job: Job, *, pull: bool) -> None:
        """Pulls behind, unless it is known: a device that has its receipt may not have the payload any more."""
        worker.admit(job)
        if await self._known(worker, job):
            return
        offered = [part for part in job.escalation.parts if part.inline is None]
        lacking = [part for part in offered if not pull and not self._pulls.was_put(job.device, part)]
        if not lacking:
            self._background.spawn(self._fetch(worker, job), "fetch")
            return
        worker.drop(job)
        self._count(job, "unfetched")
        detail = f"part {lacking[0].name!r} is not here: put it, then send this again"
        self._tell(job, Refusal(id=job.escalation.id, reason="part_not_here", detail=detail, retry_after_s=1.0))

    async def _known(self, worker: Worker, job: Job) -> bool:
        """Whether the store knows an admitted one already: then it gets its reply or receipt, and comes to nothing here."""
        try:
            found = await self._find(job)
        except BaseException:  # cancelled too: the room taken for it must be given back
            worker.drop(job)
            self._count(job, "failed")  # no receipt, so the device offers it again
            raise
        if found is None:
            return False
        worker.drop(job)
        self._count(job, "repeated")
        self._repeat(job, found.reply)
        return True

    async def _fetch(self, worker: Worker, job: Job) -> None:
        """Pulls the parts that were offered by digest, then claims; nothing is acknowledged before."""
        loop = asyncio.get_running_loop()
        started, keep = loop.time(), job.task.privacy.keep_examples
        try:
            offered = [part for part in job.escalation.parts if part.inline is None]
            fetched = {part.name: await self._pulls.fetch(job.device, part, keep=keep) for part in offered}
        except (OutriderError, OSError) as error:
            await self._not_fetched(worker, job, error)
            return
        with_inline(job, {name: data for name, data in fetched.items() if data is not None})
        job.ms["pull"] = (loop.time() - started) * 1000
        await self._claim(worker, job)

    async def _not_fetched(self, worker: Worker, job: Job, error: OutriderError | OSError) -> None:
        """Without a receipt the device offers again; where that cannot help, it ends here, unless another worker has it."""
        reason = error.reason if isinstance(error, OutriderError) else "disk"
        gone = isinstance(error, PeerError | BundleDamagedError)
        log.warning("payload.unfetched", extra={"device": job.device, "input": job.escalation.id, "reason": reason})
        if gone and await self._known(worker, job):
            return
        self._count(job, "unfetched")
        if gone:
            worker.refuse(job, "payload_unavailable", str(error))
        else:
            worker.drop(job)

    async def _claim(self, worker: Worker, job: Job) -> None:
        if job.in_memory:
            self._count(job, "claimed")
            worker.enqueue(job)
            return
        if worker.quick and job.escalation.offer == 1:
            await self._ask_first(worker, job)
            return
        try:
            found = await self._settler.claim(job)
        except SQLAlchemyError:
            worker.drop(job)
            self._count(job, "failed")  # no receipt, so the device offers it again
            raise
        if found.outcome == "claimed":
            self._count(job, "claimed")
            worker.enqueue(job)
            return
        worker.drop(job)
        self._count(job, "repeated")
        self._repeat(job, found.reply)

    async def _ask_first(self, worker: Worker, job: Job) -> None:
        """Claim and answer share a commit; a second offer, or an answer that is not quick after all, is claimed first.

        Nothing is told to the device before it stands in the store, so that a crash in between costs one more offer. Should
        another worker have answered meanwhile, the answer that was committed first is sent, as ever.
        """
        job.stored = asyncio.get_running_loop().create_future()
        worker.enqueue(job)
        self._count(job, await job.stored)

    async def _put_off(self, job: Job) -> None:
        """Too much to do: a known one still gets its answer or receipt, any other is asked to come again."""
        found = await self._find(job)
        if found is not None:
            self._count(job, "repeated")
            self._repeat(job, found.reply)
            return
        self._count(job, "busy")
        self._tell(job, Refusal(id=job.escalation.id, reason="busy", retry_after_s=self._retry_after_s))

    async def _find(self, job: Job) -> inputs.Found | None:
        return await self._store.read(partial(inputs.find, device=job.device, input_id=job.escalation.id))

    def _repeat(self, job: Job, reply: bytes) -> None:
        if (standing := _reply_of(job.escalation.id, reply)) is not None:
            self._tell(job, standing, committed=bool(reply))

    def _tell(self, job: Job, reply: Answer | Refusal | Receipt, *, committed: bool = False) -> None:
        """Sends beside the handler: a broker may hold back its PUBACKs until we have acknowledged what it delivered."""
        self._background.spawn(self._settler.send(job, reply, committed=committed), "reply")

    def _count(self, job: Job, outcome: Outcome) -> None:
        self.outcomes[outcome] += 1
        self._metrics.offers.labels(job.task.name, outcome).inc()


def _reply_of(input_id: str, reply: bytes) -> Answer | Refusal | Receipt | None:
    """A stored reply; a receipt where there is none yet."""
    said = decode(reply, limit=BLOB_BYTES) if reply else Receipt(id=input_id)
    return said if isinstance(said, Answer | Refusal | Receipt) else None


class _Id(msgspec.Struct):
    id: Identifier


def read_id(message: Incoming) -> str:
    """The input's id in a message that may be broken otherwise; '' when none can be read."""
    try:
        if message.content_type == JSON:
            return msgspec.json.decode(message.payload, type=_Id).id
        return msgspec.msgpack.decode(message.payload, type=_Id).id
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return ""
