"""Releases: bundles whose every file is here, offered to devices as a retained wish and pulled by them block by block.

The cloud says what a device should hold; the device verifies and decides. Who is to hold what is said by rollouts
(`outrider_cloud.rollout`), whose signed orders travel in the same wish, or, where nothing is signed, by people.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from outrider_cloud.background import Background
from outrider_cloud.clock import now_ms
from outrider_cloud.deltas import Deltas
from outrider_cloud.intake.replies import Publish
from outrider_cloud.store import release_rows, rollouts
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.store import Store
from outrider_engine.walk import walk
from outrider_link.blobs import BlobHolder
from outrider_link.envelope import Outgoing
from outrider_link.files import sha256_file
from outrider_link.lanes import Shares
from outrider_wire.blobs import blocks_for
from outrider_wire.codec import encode
from outrider_wire.errors import (
    BundleDamagedError,
    BundleMismatchError,
    CallerUnknownError,
    PeerError,
    UnreachableError,
)
from outrider_wire.manifest import BundleFile, Manifest, decode_manifest
from outrider_wire.messages import Assignment, BlobGone, BlobWant, DeltaWant, Desired
from outrider_wire.task import Task
from outrider_wire.topics import Topics

log = logging.getLogger(__name__)

WANTS_AT_ONCE = 4
"""Wants of one device that are served at the same time; it asks again for what is left out."""
OFFERS_AT_ONCE = 1024
FLEET_WANTS_AT_ONCE = 1024
"""The same over all devices; each holds a block in memory."""


class Releases:
    """Takes, assigns and serves releases; ``deltas``: a folder for what is known of deltas between their files."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: BlobStore,
        deltas: Path,
        tasks: Mapping[str, Task],
        publish: Publish,
        topics: Topics,
        background: Background,
        bytes_per_s: float | None = None,
        device_bytes_per_s: float = 8 * 1024 * 1024,
        signed: Callable[[str], Path | None] = lambda _: None,
    ) -> None:
        self._signed = signed
        self._store = store
        self._blobs = blobs
        self._deltas = Deltas(
            store=store, blobs=blobs, folder=deltas, publish=publish, topics=topics, background=background
        )
        self._tasks = tasks
        self._publish = publish
        self._topics = topics
        self._background = background
        self._holder = BlobHolder(
            publish=publish,
            open_blob=lambda sha256: signed(sha256) or blobs.find(sha256),
            bytes_per_s=bytes_per_s,
            most_wants=FLEET_WANTS_AT_ONCE,
        )
        self._shares = Shares(bytes_per_s=device_bytes_per_s)
        self._serving: Counter[str] = Counter()
        self._offering: set[str] = set()

    async def add(self, digest: str) -> dict[str, Any]:
        """Makes a release of the manifest blob ``digest``, if every file it names is here and sound.

        Raises:
            CallerUnknownError: the manifest was not put here.
            BundleError: a file is absent or damaged, a model is unsafe, or it is not for a task of this cloud.
        """
        path = self._blobs.find(digest)
        if path is None:
            raise CallerUnknownError(
                f"there is no blob {digest}", reason="unknown_blob", fix="PUT the manifest and its files first"
            )
        manifest = decode_manifest(path.read_bytes())
        check_task(manifest, self._tasks)
        await self._store.read(lambda _: check_files(manifest, self._blobs))  # hashes: not on the event loop
        row = release_rows.row_of(manifest, digest=digest, size=path.stat().st_size, stamp_ms=now_ms())
        files = {digest: path.stat().st_size} | {entry.sha256: entry.size for entry in manifest.files}

        def add(connection: sa.Connection) -> None:
            check_there(manifest, self._blobs)  # once more: what nothing named might have been removed meanwhile
            release_rows.add(connection, row=row, files=files)

        await self._store.write(add)
        log.info("release.added", extra={"release": digest, "task": manifest.task, "version": manifest.version})
        return row

    async def assign(self, digest: str, to: Sequence[str] | None) -> dict[str, int]:
        """Assigns a release to devices (None: to all that are known), and offers it to them; the counter of each.

        Raises:
            CallerUnknownError: no such release, or no such device.
        """
        counters = await self._store.write(partial(release_rows.assign, digest=digest, to=to, stamp_ms=now_ms()))
        log.info("release.assigned", extra={"release": digest, "devices": len(counters)})
        for device in counters:
            await self.offer(device)
        return counters

    async def offer(self, device: str) -> bool:
        """Publishes what a device should hold, retained, with the order that stands; whether the broker took it.

        What it does not take is offered when the device next connects."""

        def standing(connection: sa.Connection) -> tuple[list[Assignment], bytes | None]:
            assigned = release_rows.assigned_to(connection, device=device)
            return assigned, rollouts.order_to(connection, device=device)

        wished, order = await self._store.read(standing)
        if not wished and order is None:
            return True
        payload = encode(Desired(assignments=wished, order=order or b""))
        try:
            await self._publish(Outgoing(topic=self._topics.of("desired", device), payload=payload, retain=True))
        except (UnreachableError, PeerError) as error:
            log.warning("release.not_offered", extra={"device": device, "reason": error.reason})
            return False
        return True

    def offer_soon(self, device: str) -> None:
        """The same, beside the caller; once at a time for each device, and not too many at once: it asks again anyway."""
        if device not in self._offering and len(self._offering) < OFFERS_AT_ONCE:
            self._offering.add(device)
            self._background.spawn(self._offer_once(device), "offer")

    async def _offer_once(self, device: str) -> None:
        try:
            await self.offer(device)
        finally:
            self._offering.discard(device)

    async def list(self) -> list[dict[str, Any]]:
        """All releases, newest first, each with the number of devices that it is assigned to."""
        return await self._store.read(release_rows.listed)

    async def on_want(self, device: str, want: BlobWant) -> None:
        """Serves blocks of a file that is assigned to the device; of nothing else, whoever knows its digest."""
        self._background.spawn(self._serve(device, want), "serve", waited_for=False)

    async def on_delta_want(self, device: str, want: DeltaWant) -> None:
        """Tells of a delta to a file that is assigned to the device."""
        self._deltas.on_want(device, want)

    async def file_for(self, device: str, sha256: str) -> Path | None:
        """A file of a release that is assigned to the device, a delta to one, or signed metadata; None: it is none, or not here."""
        if (path := self._signed(sha256)) is not None:
            return path
        if (path := self._blobs.find(sha256)) is None:
            return None
        assigned = await self._store.read(partial(release_rows.is_assigned, device=device, sha256=sha256))
        return path if assigned or await self._deltas.allows(device, path) else None

    @contextmanager
    def serving(self, device: str) -> Iterator[bool]:
        """Whether one more may be served to the device now; while the block lasts, it counts."""
        if self._serving[device] >= WANTS_AT_ONCE:
            yield False
            return
        self._serving[device] += 1
        try:
            yield True
        finally:
            self._serving[device] -= 1
            if not self._serving[device]:
                del self._serving[device]

    async def share(self, device: str, size: int) -> None:
        """Waits until the device may be served ``size`` bytes more."""
        await self._shares.wait(device, size)

    async def _serve(self, device: str, want: BlobWant) -> None:
        reply_topic = self._topics.of("blob-down", device, transfer=want.transfer)
        with self.serving(device) as taken:
            if not taken:
                return
            try:
                if (path := await self.file_for(device, want.sha256)) is None:
                    gone = BlobGone(transfer=want.transfer, sha256=want.sha256, reason="gone")
                    await self._publish(Outgoing(reply_topic, encode(gone)))
                    return
                await self.share(device, sum(length for _, length in blocks_for(want, path.stat().st_size)))
                await self._holder.on_want(want, reply_topic)
            except (UnreachableError, PeerError) as error:
                log.warning("release.cut", extra={"device": device, "blob": want.sha256, "reason": error.reason})


def check_task(manifest: Manifest, tasks: Mapping[str, Task]) -> None:
    """Whether the bundle answers a task of this cloud.

    Raises:
        BundleMismatchError: unknown task, other labels, or other parts.
    """
    task = tasks.get(manifest.task)
    if task is None:
        raise BundleMismatchError(
            f"task {manifest.task!r} is not served here",
            reason="unknown_task",
            fix=f"this cloud serves {', '.join(sorted(tasks))}",
        )
    if manifest.labels != task.labels:
        raise BundleMismatchError(
            f"the bundle's labels are not those of task {task.name!r}",
            reason="labels_mismatch",
            fix="build it with the task file that this cloud serves",
        )
    if {entry.part for entry in manifest.inputs} - {part.name for part in task.inputs}:
        raise BundleMismatchError(
            f"the bundle reads a part that task {task.name!r} does not have",
            reason="parts_mismatch",
            fix="build it with the task file that this cloud serves",
        )


def check_there(manifest: Manifest, blobs: BlobStore) -> list[tuple[BundleFile, Path]]:
    """Every file of the manifest, and where it is.

    Raises:
        BundleDamagedError: one is absent.
    """
    found = []
    for entry in manifest.files:
        path = blobs.find(entry.sha256)
        if path is None:
            raise BundleDamagedError(
                f"{entry.path} is not here", reason="file_missing", fix=f"PUT /v1/blobs/{entry.sha256} first"
            )
        found.append((entry, path))
    return found


def check_files(manifest: Manifest, blobs: BlobStore) -> None:
    """Whether every file of the manifest is here, byte for byte, and every model is one that a device may load.

    Raises:
        BundleDamagedError: a file is absent, or not what the manifest says.
        BundleUnsafeError: a model asks for something no bundle may do.
    """
    models = {variant.file for variant in manifest.variants}
    for entry, path in check_there(manifest, blobs):
        if path.stat().st_size != entry.size or sha256_file(path) != entry.sha256:
            raise BundleDamagedError(
                f"{entry.path} is not what the manifest says", reason="file_damaged", fix="put it again"
            )
        if entry.path in models:
            walk(path.read_bytes())
