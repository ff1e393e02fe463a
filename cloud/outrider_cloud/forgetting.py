"""Forgets a device, or an input, everywhere: in memory, in every table, in files, at the broker, and in the bytes of the store.

What was learnt from an example is not unlearnt by this: `Found.used` says which rounds and certificates have seen it.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.exc import SQLAlchemyError

from outrider_cloud.answering.deliveries import Deliveries
from outrider_cloud.answering.settler import Settler
from outrider_cloud.answering.worker import Worker
from outrider_cloud.clock import now_ms
from outrider_cloud.intake.jobs import Job
from outrider_cloud.intake.pulls import Pulls
from outrider_cloud.intake.replies import Publish
from outrider_cloud.store import forget, forgotten, inputs, references
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.forget import Erased, Found, Whom
from outrider_cloud.store.store import Store
from outrider_link.envelope import Outgoing
from outrider_wire.errors import PeerError, UnreachableError
from outrider_wire.messages import Refusal
from outrider_wire.topics import TABLE, Topics

log = logging.getLogger(__name__)


class Forgotten(Struct, kw_only=True, frozen=True):
    """What was forgotten, or would be."""

    dry_run: bool
    device: str
    input: str
    found: Found
    not_cleared: dict[str, str] = {}
    """Retained topics that the broker did not let us clear, and why."""
    compacted: bool = False
    """Whether the store's files were written anew, so that no byte of it is left in them."""
    remains: str = ""
    """Where bytes of it are left until others let go of them; '': nowhere."""


class Forgetting:
    """Given everything that may hold something; ``looked``: drops what was last seen of rollouts."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: BlobStore,
        workers: Sequence[Worker],
        settler: Settler,
        deliveries: Deliveries,
        pulls: Pulls,
        publish: Publish,
        topics: Topics,
        looked: Callable[[], None] = lambda: None,
    ) -> None:
        self._looked = looked
        self._store = store
        self._blobs = blobs
        self._workers = workers
        self._settler = settler
        self._deliveries = deliveries
        self._pulls = pulls
        self._publish = publish
        self._topics = topics

    async def look(self, whom: Whom) -> Forgotten:
        """What there is to forget; changes nothing."""
        found = await self._store.read(partial(forget.find, whom=whom))
        named = await self._store.read(partial(forget.digests, whom=whom))
        files = [path for digest in named if (path := self._blobs.find(digest))]
        begun = self._pulls.begun(whom.device) if whom.device and not whom.input else []
        found = msgspec.structs.replace(found, files=len(files) + len(begun), retained=self._retained(whom))
        return Forgotten(dry_run=True, device=whom.device, input=whom.input, found=found)

    async def forget(self, whom: Whom) -> Forgotten:
        """Forgets it, and says what there was."""
        seen = await self.look(whom)
        held = await self._let_go(whom)
        erased = await self._store.write(partial(forget.erase, whom=whom, at_ms=now_ms()))
        self._store.forgotten = max(self._store.forgotten, erased.mark)
        self._looked()
        erased.digests.update(await self._store.read(partial(references.unnamed, digests=held)))
        await self._delete_files(whom, erased)
        not_cleared = await self._clear(seen.found.retained)
        await self._tell(erased)
        log.info("forgotten", extra={"rows": seen.found.inputs + seen.found.examples})  # and not of whom
        compacted, remains = await self._compact(), self._store.remains
        return msgspec.structs.replace(
            seen, dry_run=False, not_cleared=not_cleared, compacted=compacted, remains=remains
        )

    async def heed(self) -> None:
        """Lets go of what another process has forgotten: until then it is only not written any more."""
        last = await self._store.read(forgotten.newest)
        if last <= self._store.forgotten:
            return
        jobs = [job for worker in self._workers for job in worker.jobs]
        gone = await self._store.read(partial(_gone, jobs=jobs))
        self._store.forgotten = max(self._store.forgotten, last)
        for job in gone:
            held = await self._let_go(Whom(*job.key))
            unnamed = await self._store.read(partial(references.unnamed, digests=held))
            await self._delete_blobs(unnamed)
        self._looked()
        log.info("forgotten.heeded", extra={"inputs": len(gone)})

    async def _let_go(self, whom: Whom) -> set[str]:
        """Out of memory first, so that nothing writes it down again; SHA-256 of the parts of what was there."""
        jobs = [job for worker in self._workers for job in worker.forget(whom.device, whom.input)]
        self._settler.forget(whom.device, whom.input)
        parts = {digest for job in jobs for digest in job.escalation.digests}
        await self._pulls.abandon(whom.device, parts if whom.input else None)
        return parts

    async def _delete_blobs(self, digests: Collection[str]) -> None:
        for digest in digests:
            if path := self._blobs.find(digest):
                await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _delete_files(self, whom: Whom, erased: Erased) -> None:
        await self._delete_blobs(erased.digests)
        if not whom.input:
            await asyncio.to_thread(self._pulls.forget, whom.device)

    def _retained(self, whom: Whom) -> list[str]:
        if whom.input:
            return []
        return [self._topics.of(row.kind, whom.device) for row in TABLE if row.retained and "{device}" in row.pattern]

    async def _clear(self, topics: Sequence[str]) -> dict[str, str]:
        """An empty retained message takes the place of what the broker keeps (MQTT 5, §3.3.1.3)."""
        refused: dict[str, str] = {}
        for topic in topics:
            try:
                await self._publish(Outgoing(topic, b"", retain=True, content_type=""))
            except (PeerError, UnreachableError) as error:
                refused[topic] = str(error)
        return refused

    async def _tell(self, erased: Erased) -> None:
        """Whoever still waits is told that no answer will come."""
        for row in erased.open:
            refusal = Refusal(id=row["id"], reason="forgotten", detail="the cloud was asked to forget it")
            coding, correlation = row["content_type"], row["correlation"]
            await self._deliveries.send(row["device"], refusal, content_type=coding, correlation=correlation)

    async def _compact(self) -> bool:
        try:
            return await asyncio.to_thread(self._store.compact)
        except SQLAlchemyError:
            log.exception("store.not_compacted")
            return False


def _gone(connection: sa.Connection, jobs: Sequence[Job]) -> list[Job]:
    """Those that were forgotten: what is claimed has lost its row, and of what is not, nothing would be written."""
    claimed = [job.key for job in jobs if job.claimed]
    there = inputs.there(connection, keys=claimed)
    covered = forgotten.covered(connection, [forgotten.Said(*job.key, job.mark) for job in jobs])
    return [job for at, job in enumerate(jobs) if (job.key not in there if job.claimed else at in covered)]
