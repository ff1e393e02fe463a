"""The way of an entry into the outbox: what makes way for it, its payload, its row. Knows no account and no end of a question."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial

from outrider_edge.outbox.policy import Held, Need, Standing
from outrider_edge.outbox.room import Room
from outrider_edge.outbox.rows import NewRow, OutboxStore, Settled
from outrider_edge.outbox.shelf import Shelf, evicted
from outrider_edge.outbox.shelves import Shelves, goes_to_disk
from outrider_edge.outbox.watch_desk import WatchDesk, begin, now_ms
from outrider_edge.ports import OutboxEntry, Watched
from outrider_edge.uplink.escalations import fulls_of
from outrider_wire.errors import OperatorSetupError, RuleRefusalError
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.messages import Escalation

OnPut = Callable[[NewRow, bool], None]
"""A row was written (True), or its id was there already."""
Kept = Callable[[], bool]
"""Told that an entry is durable. True: whoever offers entries has this one and every older one, and need not be given it again."""
OnEvicted = Callable[[Shelf, str, Settled], None]
"""A held entry has made way."""

_LAST = 1 << 62
"""A place in the order of arrival after everything that is here."""


class Putting:
    """Brings entries in.

    Args:
        shelves: where they go.
        room: what may be held.
        watches: what settling an audit moves.
        disk_work: where large payload is written.
        notes: what is to be remembered no later than the next entry.
        on_put: told of every row that is written.
        on_evicted: told of everything that makes way.
    """

    def __init__(
        self,
        *,
        shelves: Shelves,
        room: Room,
        watches: WatchDesk,
        disk_work: Executor,
        notes: Callable[[], Mapping[str, str]],
        on_put: OnPut,
        on_evicted: OnEvicted,
    ) -> None:
        self.evictions: Counter[tuple[str, str]] = Counter()
        """What made way since the start, by the bound that was reached and by what it was worth."""
        self._shelves = shelves
        self._room = room
        self._watches = watches
        self._disk_work = disk_work
        self._notes = notes
        self._on_put = on_put
        self._on_evicted = on_evicted

    def need(self, entry: OutboxEntry) -> Need | None:
        """What must make way for it; None: there is room."""
        return self._room.need(size_of(entry), on_disk=goes_to_disk(entry))

    async def put(
        self, entry: OutboxEntry, envelope: Escalation, need: Need | None, at_s: float, kept: Kept | None
    ) -> None:
        """Keeps it; `Room.coming` has been told of it, and ``need`` is what `need` said just before.

        Raises:
            RuleRefusalError: nothing, or not enough, is worth less.
            OperatorSetupError: the disk cannot keep it.
        """
        is_new = False
        try:
            shelf = await self._shelves.place(entry)
            inline = [part.data if len(part.data) <= INLINE_BYTES else None for part in entry.parts]
            fulls = fulls_of(entry, envelope)
            row = NewRow.of(entry, envelope, inline, fulls=fulls, at_s=at_s)
            if need is not None:
                await self._make_way(shelf, Standing(row.worth, False, row.gain, _LAST), need)
            if shelf is not self._shelves.disk:
                await self._write_notes()
            large = fulls | {
                part.sha256: held.data
                for part, held in zip(envelope.parts, entry.parts, strict=True)
                if part.size > INLINE_BYTES
            }
            is_new = await self._write(shelf, row, large, partial(self._written, shelf, row, size_of(entry), kept))
        finally:
            if not is_new:
                self._shelves.forget(entry.id)
                self._room.arrived(size_of(entry), kept=None)

    async def _write(self, shelf: Shelf, row: NewRow, large: dict[str, bytes], done: Callable[[int], None]) -> bool:
        """Whether it is new here. Its large payload is there before its row is, and gone when that cannot be written."""
        seq = 0
        if not large:
            seq = await shelf.writer.run(self._job(row), done=done)
            return seq > 0
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._disk_work, shelf.hold, large)
            seq = await shelf.writer.run(self._job(row), done=done)
        finally:
            self._disk_work.submit(shelf.release, large)
            if not seq:
                await shelf.drop_unreferenced(list(large), self._disk_work)
        return seq > 0

    def _written(self, shelf: Shelf, row: NewRow, coming: int, kept: Kept | None, seq: int) -> None:
        self._on_put(row, seq > 0)
        if seq:
            self._room.arrived(coming, kept=row.payload_bytes)
            if kept is not None and kept():
                shelf.passed(seq)

    async def _make_way(self, own: Shelf, newcomer: Standing, need: Need) -> None:
        """Ends what is worth less than a new entry; where it is to lie first, then elsewhere."""
        for shelf in sorted(self._shelves.all(), key=lambda one: one is not own):
            work = partial(_evict, newcomer=newcomer, need=need, begun=self._watches.unsaved())
            if await shelf.writer.run(work, done=partial(self._made_way, shelf, need)) is not None:
                return
        held = self._room.held
        raise RuleRefusalError(
            f"the outbox is full ({need.because}): it holds {held.entries} inputs and {held.bytes} bytes,"
            " and none that is worth less",
            reason="outbox_full",
            fix=f"reach the broker, or change [outbox] {need.because}",
        )

    def _made_way(self, shelf: Shelf, need: Need, ended: Sequence[tuple[Held, Settled]] | None) -> None:
        for held, settled in ended or ():
            if not held.expired:
                self.evictions[need.because, held.standing.worth.name.lower()] += 1
            self._on_evicted(shelf, held.id, settled)

    async def _write_notes(self) -> None:
        """What is to be remembered outlives a restart, also where the input that goes with it does not."""
        if notes := dict(self._notes()):
            with suppress(OperatorSetupError):  # logged where it happened; the next flush tries again
                await self._shelves.disk.writer.run(lambda store: store.remember(notes))

    def _job(self, row: NewRow) -> Callable[[OutboxStore], int]:
        """Writes a row, and in the same transaction what is to be remembered."""
        notes = dict(self._notes())

        def put(store: OutboxStore) -> int:
            store.remember(notes)
            return store.put(row)

        return put


def age_of(entry: OutboxEntry) -> float:
    """Seconds since its caller asked."""
    return 0.0 if entry.began is None else max(0.0, time.perf_counter() - entry.began)


def size_of(entry: OutboxEntry) -> int:
    """Payload of an entry, in bytes."""
    return sum(len(part.data) + (len(part.full.data) if part.full else 0) for part in entry.parts)


def _evict(
    store: OutboxStore, *, newcomer: Standing, need: Need, begun: Sequence[Watched]
) -> list[tuple[Held, Settled]] | None:
    begin(store, begun)
    return evicted(store, newcomer=newcomer, need=need, now_ms=now_ms())
