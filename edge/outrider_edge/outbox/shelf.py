"""One place for entries: a file with its payload folder, or memory; and how far whoever offers them has looked. Counts no inputs."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from itertools import islice

from outrider_edge.outbox.outcomes import Expired, GivenUp
from outrider_edge.outbox.payloads import PayloadFiles, Payloads
from outrider_edge.outbox.policy import Bound, Held, Need, Standing
from outrider_edge.outbox.rows import Freed, OutboxStore, Settled
from outrider_edge.outbox.waiting import Waiting
from outrider_edge.outbox.writer import Writer
from outrider_wire.errors import OperatorSetupError

SWEPT_AT_ONCE = 500
WHY: Mapping[Bound, str] = {
    "max_count": "the outbox held as many inputs as it may, and this one made way",
    "max_bytes": "the outbox held as many bytes as it may, and this one made way",
    "min_free_bytes": "the disk was nearly full, and this one made way",
}
"""What the application of an input that made way is told."""


class Shelf:
    """One place for entries."""

    def __init__(self, *, writer: Writer, payloads: Payloads) -> None:
        self.writer = writer
        self.payloads = payloads
        self._open_after = 0
        self._spare_after = 0

    async def next_open(self, limit: int) -> list[Waiting]:
        """The oldest open questions that were not given out since `rewind`."""
        after = self._open_after
        found = await self.writer.run(lambda store: store.waiting.next_open(after, limit))
        if found and self._open_after == after:  # nobody has rewound it meanwhile
            self._open_after = found[-1].seq
        return found

    async def next_spare(self, limit: int) -> list[Waiting]:
        """The oldest of what is kept to be learnt from; after the last one, the first again."""
        after = self._spare_after
        found = await self.writer.run(lambda store: store.waiting.next_spare(after, limit))
        self._spare_after = found[-1].seq if len(found) == limit else 0
        return found

    def passed(self, seq: int) -> None:
        """Everything up to there is at hand already."""
        self._open_after = max(self._open_after, seq)

    def rewind(self) -> None:
        """From the first on again."""
        self._open_after = self._spare_after = 0

    def hold(self, large: Mapping[str, bytes]) -> None:
        """Keeps large payload. Blocks.

        Raises:
            OperatorSetupError: the disk is full, or cannot be written.
        """
        try:
            for sha256, data in large.items():
                self.payloads.hold(sha256, data)
        except OSError as error:
            raise OperatorSetupError(
                f"the outbox cannot keep a payload: {error.strerror or error}",
                reason="outbox_unwritable",
                fix="free the disk, or repair it",
            ) from error

    def release(self, large: Mapping[str, bytes]) -> None:
        """Its rows are committed, or never will be."""
        for sha256 in large:
            self.payloads.release(sha256)

    async def drop_unreferenced(self, digests: Sequence[str], disk_work: Executor) -> None:
        """Removes those that no row refers to; a disk that does not tell, or that fails, keeps them until the next start.

        ``disk_work`` does one thing after another, `hold` and `release` among them: an entry of the same bytes whose row
        comes after the question asked here is released after what is removed here, and so spared.
        """
        with suppress(OperatorSetupError, OSError):
            unused = await self.writer.run(lambda store: store.unreferenced(digests))
            await asyncio.get_running_loop().run_in_executor(disk_work, self._drop, unused)

    def _drop(self, digests: Sequence[str]) -> None:
        for sha256 in digests:
            self.payloads.drop(sha256)


async def sweep(shelf: Shelf, files: PayloadFiles, disk_work: Executor) -> None:
    """Removes every file of the payload folder that no row refers to. For a start: nothing is being written yet."""
    names = files.names()
    while some := _some(names):
        await shelf.drop_unreferenced(some, disk_work)


def _some(names: Iterator[str]) -> list[str]:
    try:
        return list(islice(names, SWEPT_AT_ONCE))
    except OSError:  # there is no folder, and nothing to sweep
        return []


def evicted(store: OutboxStore, *, newcomer: Standing, need: Need, now_ms: int) -> list[tuple[Held, Settled]] | None:
    """Ends whoever makes way; None: nobody does, and nothing has changed. Part of a job."""
    chosen = store.chosen(newcomer, need)
    if chosen is None:
        return None
    gone = GivenUp(WHY[need.because])
    return [(one, store.settle(one.id, Expired() if one.expired else gone, now_ms=now_ms)) for one in chosen]


def received(store: OutboxStore, ids: Sequence[str]) -> list[Freed]:
    """What the receipts let go. Part of a job."""
    return [freed for id_ in ids if (freed := store.received(id_)) is not None]
