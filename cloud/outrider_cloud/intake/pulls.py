"""Fetches the parts that a device offers by digest: what it has put over HTTP, else block by block over the broker.

Blocks count only from the device that was asked, and what one device has put is no other's. A digest proves nothing: a file that is
here spares a device the bytes only where it has delivered them to this worker itself, so that none learns, or is answered about, what
another has sent.

A part of a task that keeps examples becomes a file of the blob store; of any other task, it is only held in memory.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from weakref import WeakValueDictionary

from outrider_cloud.intake.replies import Publish
from outrider_cloud.intake.uploads import KEPT_S, Uploads
from outrider_cloud.store.blobstore import BlobStore
from outrider_link.blobs import BlobPuller
from outrider_link.files import move_durably
from outrider_link.sinks import sweep_parts
from outrider_wire.blobs import block_size
from outrider_wire.errors import OutriderError, PeerMessageError
from outrider_wire.messages import BlobBlock, BlobGone, Part
from outrider_wire.topics import Topics

AT_ONCE = 16
"""Parts under way at the same time; the rest wait their turn."""
AT_ONCE_A_DEVICE = 4
"""Of them, from one device: one that serves nothing keeps no other waiting."""
MOST_PARTS = 64
"""Files that were begun and are kept to go on with; of more, the oldest go."""
DELIVERED = 4096
"""Files whose bringers are remembered, so that an offer that comes again is not pulled again."""
_FORGET_PARTS_S = 86_400.0
_TIMEOUT_S = 3.0
_RETRIES = 5


class Pulls:
    """All pulls of one worker. ``folder`` is its own: two workers never write one file."""

    def __init__(
        self,
        *,
        publish: Publish,
        topics: Topics,
        worker: str,
        blobs: BlobStore,
        folder: Path,
        packet_limit: Callable[[], int],
        uploads: Uploads,
        bytes_per_s: float | None = None,
    ) -> None:
        self._topics = topics
        self._worker = worker
        self._blobs = blobs
        self._folder = folder
        self._uploads = uploads
        self._packet_limit = packet_limit
        self._puller = BlobPuller(publish=publish, timeout_s=_TIMEOUT_S, retries=_RETRIES, bytes_per_s=bytes_per_s)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._of_device: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._asked: dict[str, str] = {}
        self._fetching: dict[asyncio.Task[object], tuple[str, str]] = {}
        self._delivered: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def fetch(self, device: str, part: Part, *, keep: bool) -> bytes | None:
        """Pulls a part: into the blob store (``keep``: returns None), or into memory.

        Raises:
            UnreachableError: the device sent nothing useful in time.
            PeerError: it does not have the part, or sends what was not asked for.
            BundleDamagedError: what it sent has another digest.
            OSError: the file cannot be written.
        """
        put = self._uploads.find(device, part.sha256)
        if put is not None:
            data = await asyncio.to_thread(self._take, put, part, keep)
            if keep:
                self._has_delivered(device, part.sha256)
            return data
        task = asyncio.current_task()
        mine = self._of_device.setdefault(device, asyncio.Semaphore(AT_ONCE_A_DEVICE))
        try:
            if task is not None:
                self._fetching[task] = (device, part.sha256)
            return await self._fetch(device, part, mine, keep=keep)
        finally:
            if task is not None:
                self._fetching.pop(task, None)

    async def _fetch(self, device: str, part: Part, mine: asyncio.Semaphore, *, keep: bool) -> bytes | None:
        async with mine, self._slots:
            if not keep:
                return await self._pull(device, part, None)
            found = self._blobs.find(part.sha256) if (device, part.sha256) in self._delivered else None
            if found is None:
                await self._pull_to_store(device, part)
            else:
                _check_size(found, part)
                os.utime(found)  # one that nothing refers to any more, and is old, is deleted
            self._has_delivered(device, part.sha256)
            return None

    def _has_delivered(self, device: str, sha256: str) -> None:
        self._delivered[device, sha256] = None
        self._delivered.move_to_end((device, sha256))
        while len(self._delivered) > DELIVERED:
            self._delivered.popitem(last=False)

    def was_put(self, device: str, part: Part) -> bool:
        """Whether the device itself has put the part, so that `fetch` needs nothing of it any more."""
        return self._uploads.find(device, part.sha256) is not None

    def tidy(self, now_s: float) -> None:
        """Deletes what was begun and not touched for a day: its device is gone; and what was put and nothing refers to."""
        sweep_parts(self._folder, before_s=now_s - _FORGET_PARTS_S, most=MOST_PARTS)
        self._uploads.tidy(now_s - KEPT_S)

    def connected(self, device: str) -> None:
        """It has a new connection, perhaps over another link."""
        self._puller.lanes.forget(device)

    def begun(self, device: str) -> list[Path]:
        """What any worker has of a device beside the inputs: parts that were begun, and parts that were put."""
        return [*self._folder.parent.glob(f"*/{device}.*"), *self._uploads.of(device)]

    def forget(self, device: str) -> None:
        """Deletes it. Blocks."""
        for file in self.begun(device):
            file.unlink(missing_ok=True)
        self._uploads.forget(device)

    def on_message(self, device: str, message: BlobBlock | BlobGone) -> None:
        """Takes what a device sent; from another than was asked, nothing."""
        if self._asked.get(message.transfer) == device:
            self._puller.on_message(message)

    async def abandon(self, device: str, digests: Collection[str] | None) -> None:
        """Ends what is being pulled from a device ('': from any): those parts, or all (None); nor has it brought them any more."""
        todo = [
            task
            for task, (of, sha256) in self._fetching.items()
            if device in ("", of) and (digests is None or sha256 in digests)
        ]
        for task in todo:
            task.cancel()
        ended = [self._fetching[task] for task in todo]
        await asyncio.gather(*todo, return_exceptions=True)
        for key in [
            key for key in self._delivered if device in ("", key[0]) and (digests is None or key[1] in digests)
        ]:
            del self._delivered[key]
        for of, sha256 in ended if digests is not None else []:
            for file in self._folder.glob(f"{of}.{sha256}*"):
                file.unlink(missing_ok=True)

    def _take(self, put: Path, part: Part, keep: bool) -> bytes | None:
        """Out of what was put: into the blob store (``keep``), or into memory. Blocks."""
        _check_size(put, part)
        if not keep:
            data = put.read_bytes()
            put.unlink()
            return data
        move_durably(put, self._blobs.path(part.sha256))
        return None

    async def _pull_to_store(self, device: str, part: Part) -> None:
        arrived = self._folder / f"{device}.{part.sha256}"  # no device writes into, or waits for, another's
        try:
            await self._pull(device, part, arrived)
        except OutriderError:  # what came stays, so that another try goes on there; but not of endlessly many
            await asyncio.to_thread(sweep_parts, self._folder, before_s=0.0, most=MOST_PARTS)
            raise
        if arrived.exists():  # two inputs may bring the same bytes; the first moves them
            await asyncio.to_thread(move_durably, arrived, self._blobs.path(part.sha256))

    async def _pull(self, device: str, part: Part, to: Path | None) -> bytes | None:
        transfers: set[str] = set()

        def topic(transfer: str) -> str:
            transfers.add(transfer)
            self._asked[transfer] = device
            return self._topics.of("blob-down", device, transfer=transfer)

        self._puller.block = block_size(self._packet_limit())
        try:
            if to is None:
                return await self._puller.pull(
                    sha256=part.sha256, size=part.size, want_topic=topic, worker=self._worker, lane=device
                )
            await self._puller.pull(
                sha256=part.sha256, size=part.size, want_topic=topic, worker=self._worker, lane=device, to=to
            )
            return None
        finally:
            for transfer in transfers:
                self._asked.pop(transfer, None)


def _check_size(found: Path, part: Part) -> None:
    if found.stat().st_size != part.size:
        raise PeerMessageError(f"part {part.name!r} is not of the size it says", reason="part_damaged")
