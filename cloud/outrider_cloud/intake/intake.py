"""What becomes of an escalation between the broker and the queue: decoded, checked, pulled, claimed, queued; or put off.

Nothing that arrives can end the service: what cannot be taken is somebody else's to park. What can is stored before it is
queued, and what there is no room for is asked to come again. Every offer has exactly one outcome.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from sqlalchemy.exc import SQLAlchemyError

from outrider_cloud.answering.deliveries import Deliveries
from outrider_cloud.answering.settler import Settler
from outrider_cloud.answering.worker import Worker
from outrider_cloud.background import Background
from outrider_cloud.clock import now_ms
from outrider_cloud.intake.admission import Admission, Shed
from outrider_cloud.intake.checks import check_escalation, check_manner
from outrider_cloud.intake.jobs import Job, new_job, with_inline
from outrider_cloud.intake.parking import CORRELATION_BYTES, REPLIES_AT_ONCE, Parking, echoed, read_id
from outrider_cloud.intake.pulls import Pulls
from outrider_cloud.intake.taking_over import TakingOver
from outrider_cloud.metrics import Metrics
from outrider_cloud.seldom import Seldom
from outrider_cloud.store import inputs
from outrider_cloud.store.store import Store
from outrider_link.envelope import Incoming
from outrider_wire.codec import JSON, MSGPACK, decode
from outrider_wire.errors import BundleDamagedError, OutriderError, PeerError, PeerMessageError
from outrider_wire.limits import BLOB_BYTES
from outrider_wire.messages import Answer, Escalation, Receipt, Refusal
from outrider_wire.topics import Address

log = logging.getLogger(__name__)
log.addFilter(Seldom())

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
        admission: Admission,
        parking: Parking,
        lease_s: float,
        background: Background,
        metrics: Metrics,
    ) -> None:
        self.received = 0
        """Offers since the start."""
        self.outcomes: Counter[str] = Counter()
        self.taking = TakingOver(
            name=name,
            workers=workers,
            store=store,
            deliveries=deliveries,
            admission=admission,
            lease_s=lease_s,
            metrics=metrics,
        )
        self._workers = workers
        self._tasks = {name: worker.task for name, worker in workers.items()}
        self._store = store
        self._pulls = pulls
        self._settler = settler
        self._deliveries = deliveries
        self._admission = admission
        self._parking = parking
        self._chance = random.SystemRandom()
        self._background = background
        self._metrics = metrics
        self._draining = False

    @property
    def workers(self) -> list[Worker]:
        """One for each task."""
        return list(self._workers.values())

    async def expire(self) -> None:
        """Ends what nobody wants any more."""
        for worker in self._workers.values():
            worker.expire()

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
        now, mark = asyncio.get_running_loop().time(), self._store.forgotten
        if shed := self._admission.too_often(address.device, address.task, now):
            await self._put_off_unread(address, message, shed)
            return None
        try:
            job = self.read(address, message)
        except PeerError as error:
            self.outcomes["dead_letter"] += 1
            self._metrics.offers.labels(self._label(address), "dead_letter").inc()
            await self._parking.park(address, message, error, mark=mark)
            return error
        await self._offered(self._workers[job.task.name], job, pull=pull)
        return None

    def read(self, address: Address, message: Incoming) -> Job:
        """The escalation that a message brings, checked against its task; nothing is done about it.

        Raises:
            PeerError: it is no escalation that this cloud can answer.
        """
        check_manner(message)
        if len(message.correlation or b"") > CORRELATION_BYTES:
            what = f"its correlation data is longer than {CORRELATION_BYTES} bytes"
            raise PeerMessageError(what, reason="correlation_too_long")
        escalation = decode(message.payload, message.content_type)
        if not isinstance(escalation, Escalation):
            raise PeerMessageError(f"a {type(escalation).__name__} is no escalation", reason="wrong_message")
        return new_job(
            device=address.device,
            task=check_escalation(escalation, address.task, self._tasks),
            escalation=escalation,
            content_type=message.content_type,
            correlation=message.correlation,
            now=asyncio.get_running_loop().time(),
            received_ms=now_ms(),
            mark=self._store.forgotten,
        )

    async def would(self, job: Job) -> str:
        """What an offer would come to now: ``repeated``, ``busy`` or ``claimed``."""
        if self._workers[job.task.name].find(job.key) is not None or await self._find(job) is not None:
            return "repeated"
        return "busy" if self._no_room(job) else "claimed"

    async def offer(self, job: Job) -> None:
        """One offer that was read already, whatever the rates."""
        self.received += 1
        await self._offered(self._workers[job.task.name], job, pull=True)

    async def _offered(self, worker: Worker, job: Job, *, pull: bool) -> None:
        if (known := worker.find(job.key)) is not None:
            self._count(job, "repeated")
            if known.told is not None:
                self._tell(job, known.told)
            elif known.claimed and not known.holds_back:
                self._tell(job, Receipt(id=job.escalation.id))
        elif shed := self._no_room(job):
            await self._put_off(job, shed)
        else:
            with self._letting_go(worker, job, "failed"):
                worker.admit(job)
                if any(part.inline is None for part in job.escalation.parts):
                    await self._fetch_once(worker, job, pull=pull)
                else:
                    await self._claim(worker, job)

    async def standing(self, device: str, input_id: str) -> Answer | Refusal | Receipt | None:
        """The reply that stands, or a receipt for one that is claimed; None: it is not in the store."""
        found = await self._store.read(partial(inputs.find, device=device, input_id=input_id))
        return _reply_of(input_id, found.reply) if found is not None else None

    def _no_room(self, job: Job) -> Shed | None:
        return Shed("draining") if self._draining else self._admission.no_room(job.device, job.task.name, job.size)

    def _label(self, address: Address) -> str:
        """A task's name as a label of a metric; hostile topics make no new ones."""
        return address.task if address.task in self._tasks else ""

    @contextmanager
    def _letting_go(self, worker: Worker, job: Job, outcome: Outcome) -> Iterator[None]:
        """What fails inside lets go of an admitted job, or no repeat of it would ever be taken. The device has no receipt of it,
        unless it stands claimed by then: see `TakingOver.take_back`."""
        try:
            yield
        except BaseException:  # no memory, no thread, cancelled, to be forgotten
            worker.drop(job)
            self._count(job, outcome)
            raise

    async def _fetch_once(self, worker: Worker, job: Job, *, pull: bool) -> None:
        """Pulls behind, unless it is known: a device that has its receipt may not have the payload any more."""
        if await self._known(worker, job):
            return
        offered = [part for part in job.escalation.parts if part.inline is None]
        lacking = [part for part in offered if not pull and not self._pulls.was_put(job.device, part)]
        if not lacking:
            self._background.spawn(self._fetched(worker, job), "fetch")
            return
        worker.drop(job)
        self._count(job, "unfetched")
        detail = f"part {lacking[0].name!r} is not here: put it, then send this again"
        self._tell(job, Refusal(id=job.escalation.id, reason="part_not_here", detail=detail, retry_after_s=1.0))

    async def _known(self, worker: Worker, job: Job) -> bool:
        """Whether the store knows an admitted one already: then it gets its reply or receipt, and comes to nothing here."""
        try:
            found = inputs.found(await self._store.glance(inputs.STANDING, job.device, job.escalation.id))
        except SQLAlchemyError:
            worker.drop(job)
            self._cannot_store(job)
            return True
        if found is None:
            return False
        worker.drop(job)
        self._count(job, "repeated")
        self._repeat(job, found.reply)
        return True

    async def _fetched(self, worker: Worker, job: Job) -> None:
        with self._letting_go(worker, job, "unfetched"):
            await self._fetch(worker, job)

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
            return
        worker.drop(job)
        if isinstance(error, OSError):
            self._come_again(job, Shed("store"))

    async def _claim(self, worker: Worker, job: Job) -> None:
        if job.in_memory:
            worker.enqueue(job)
            self._count(job, "claimed")
            return
        if worker.quick and job.escalation.offer == 1:
            # A device that died after its first offer offers for the first time again, and a broker may repeat it.
            if not await self._known(worker, job):
                await self._ask_first(worker, job)
            return
        try:
            found = await self._settler.claim(job)
        except SQLAlchemyError:
            worker.drop(job)
            self._cannot_store(job)
            return
        if found.outcome == "claimed":
            worker.enqueue(job)
            self._count(job, "claimed")
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
        outcome = await job.stored
        self._count(job, outcome)
        if outcome == "failed" and not job.forgotten:  # it is answered all the same, once that can be written
            self._come_again(job, Shed("store"))

    async def _put_off(self, job: Job, shed: Shed) -> None:
        """Too much to do: a known one still gets its answer or receipt, any other is asked to come again."""
        try:
            found = await self._find(job)
        except SQLAlchemyError:
            self._cannot_store(job)
            return
        if found is not None:
            self._count(job, "repeated")
            self._repeat(job, found.reply)
            return
        self._count(job, "busy")
        self._come_again(job, shed)

    async def _put_off_unread(self, address: Address, message: Incoming, shed: Shed) -> None:
        """Too many: nothing is spent on it but the reading of its id."""
        self.outcomes["busy"] += 1
        task = self._label(address)
        self._metrics.offers.labels(task, "busy").inc()
        self._metrics.shed.labels(task, shed.why).inc()
        if input_id := read_id(message):
            refusal = self._busy(input_id, shed)
            coding = JSON if message.content_type == JSON else MSGPACK
            self._reply(
                lambda: self._deliveries.send(address.device, refusal, content_type=coding, correlation=echoed(message))
            )

    def _cannot_store(self, job: Job) -> None:
        """No receipt: the device keeps it, and is told when to come again."""
        self._count(job, "failed")
        self._metrics.error("store")
        log.exception("store.failed", extra={"device": job.device, "input": job.escalation.id})
        self._come_again(job, Shed("store"))

    def _come_again(self, job: Job, shed: Shed) -> None:
        self._metrics.shed.labels(job.task.name, shed.why).inc()
        self._tell(job, self._busy(job.escalation.id, shed))

    def _busy(self, input_id: str, shed: Shed) -> Refusal:
        now = asyncio.get_running_loop().time()
        after_s = self._admission.retry_after_s(shed, now, self._chance.random())
        return Refusal(id=input_id, reason="busy", detail=shed.why, retry_after_s=round(after_s, 3))

    async def _find(self, job: Job) -> inputs.Found | None:
        return await self._store.read(partial(inputs.find, device=job.device, input_id=job.escalation.id))

    def _repeat(self, job: Job, reply: bytes) -> None:
        if not reply and job.holds_back:  # whoever holds it may still pull the full form
            return
        if (standing := _reply_of(job.escalation.id, reply)) is not None:
            self._tell(job, standing, committed=bool(reply))

    def _tell(self, job: Job, reply: Answer | Refusal | Receipt, *, committed: bool = False) -> None:
        self._reply(lambda: self._settler.send(job, reply, committed=committed))

    def _reply(self, send: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Sends beside the handler: a broker may hold back its PUBACKs until we have acknowledged what it delivered.

        What there is no room for is left out: none of these is the only one of its kind, and the device asks again.
        """
        if self._background.running("reply") >= REPLIES_AT_ONCE:
            self._metrics.shed.labels("", "reply").inc()
            return
        self._background.spawn(send(), "reply")

    def _count(self, job: Job, outcome: Outcome) -> None:
        self.outcomes[outcome] += 1
        self._metrics.offers.labels(job.task.name, outcome).inc()


def _reply_of(input_id: str, reply: bytes) -> Answer | Refusal | Receipt | None:
    """A stored reply; a receipt where there is none yet."""
    said = decode(reply, limit=BLOB_BYTES) if reply else Receipt(id=input_id)
    return said if isinstance(said, Answer | Refusal | Receipt) else None
