"""The outbox and the account: what was asked of the cloud and not yet answered, and how every input ended. Knows no network.

Escalated inputs are durable before anybody is told that they were accepted. Inputs answered here are counted in memory and
written at most `flush_s` later, each with its arrival and its end together: a kill loses the last second of those counts, and
the account adds up all the same.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from outrider_edge.outbox.accounts import Accounts
from outrider_edge.outbox.clock import RunClock, run_clock
from outrider_edge.outbox.feed import EndedFeed
from outrider_edge.outbox.looking import EntryDetail, Page
from outrider_edge.outbox.mending import damaged_files
from outrider_edge.outbox.outcomes import GivenUp, Outcome
from outrider_edge.outbox.payloads import PayloadFiles, PayloadMemory
from outrider_edge.outbox.policy import Bounds, Held, Need, Standing
from outrider_edge.outbox.room import Room
from outrider_edge.outbox.rows import Freed, NewRow, OpenRow, OutboxStore, Settled
from outrider_edge.outbox.shelf import Shelf, evicted, received, sweep
from outrider_edge.outbox.view import OutboxView
from outrider_edge.outbox.waiting import Sum, Waiting
from outrider_edge.outbox.watch_desk import WatchDesk, begin, now_ms
from outrider_edge.outbox.watch_desk import write as write_watches
from outrider_edge.outbox.watching import Moved
from outrider_edge.outbox.writer import MemoryWriter, OutboxWriter
from outrider_edge.ports import OutboxEntry, Watched
from outrider_edge.uplink.escalations import envelope_of
from outrider_wire.errors import OperatorSetupError, RuleRefusalError
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.messages import Escalation
from outrider_wire.report import Account, AnswerReport

UNBOUNDED = Bounds(max_count=100_000, max_bytes=1 << 30, max_age_s=365 * 86_400, min_free_bytes=0)
"""What a device without a configuration may hold."""
EXPIRED_AT_ONCE = 128
"""Questions that expire in one transaction."""

OnClosed = Callable[[str, Settled], None]
"""Told of a question that was ended by the outbox or a person, not by whoever offers it. Must not raise."""


class Outbox:
    """The device's outbox. Everything but `open_blob` runs on one event loop; the file is touched by a thread of its own.

    Args:
        folder: where it lies; made when absent.
        bounds: what it may hold.
        keep_settled: ended escalations that can still be looked up by id.
        flush_s: how long a local count may wait for the disk.
    """

    def __init__(
        self,
        *,
        folder: Path,
        bounds: Bounds = UNBOUNDED,
        keep_settled: int = 10_000,
        flush_s: float = 1.0,
        clock: RunClock | None = None,
    ) -> None:
        self.folder = folder
        self._keep_settled = keep_settled
        self._flush_s = flush_s
        self._clock = clock or run_clock()
        self._files = PayloadFiles(folder=folder / "payload")
        self._writer = OutboxWriter(path=folder / "outbox.db", clock=self._clock, on_opened=self._reopened)
        self._disk = Shelf(writer=self._writer, payloads=self._files)
        self._memory: Shelf | None = None
        self._in_memory: set[str] = set()
        self._disk_work = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox-payload")
        self._room = Room(bounds=bounds, folder=folder, now=self._clock.now)
        self._accounts = Accounts()
        self._taken = False
        self._on_closed: OnClosed = lambda _id, _settled: None
        self._on_reopened: Callable[[], None] = lambda: None
        self._stopped = False
        self.watches = WatchDesk(writer=self._disk.writer, flush_soon=self._flush_soon)
        self.feed = EndedFeed(shelves=self._all_shelves)
        self._offers: Counter[str] = Counter()
        self._receipts: set[str] = set()
        self._notes: dict[str, str] = {}
        self._background: set[asyncio.Future[Any]] = set()
        self.evictions: Counter[tuple[str, str]] = Counter()
        """What made way since the start, by the bound that was reached and by what it was worth."""
        self.remembered: dict[str, str] = {}
        """What `remember` was given before this start."""
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Opens it, takes up the account, and removes payload that nothing refers to.

        A disk that is full or read-only, and a file that is damaged, do not keep the device from answering: see `view`.

        Raises:
            OperatorSetupError: it was written by a newer version.
        """
        with suppress(OSError):
            await asyncio.to_thread((self.folder / "payload").mkdir, parents=True, exist_ok=True)
        await self._writer.start()
        with suppress(OperatorSetupError):  # out of reach: `_reopened` comes back to it
            await self._take_stock()
            await sweep(self._disk, self._files)
        if self._writer.fault:
            self._flush_soon()

    async def stop(self) -> None:
        """Writes what was counted and closes."""
        self._flush()
        self._stopped = True
        if self._background:
            await asyncio.gather(*self._background, return_exceptions=True)
        await self._writer.stop()
        if self._memory is not None:
            await self._memory.writer.stop()
        self._disk_work.shutdown()

    # The account

    def arrived(self, task: str) -> None:
        """An input is here: ``received`` and ``pending`` rise."""
        self._accounts.arrived(task)

    def count_local(self, task: str, state: Literal["edge", "memory", "refused"], *, uncertified: bool = False) -> None:
        """An input that was never escalated ends: ``pending`` falls, ``state`` rises, and ``uncertified`` when it is so."""
        self._accounts.ended_here(task, {"received": 1, state: 1, "uncertified": int(uncertified)})
        self._flush_soon()

    def account(self, task: str = "") -> Account:
        """The account of one task, or of all."""
        return self._accounts.of(task)

    async def accounts_on_disk(self) -> dict[str, Account]:
        """The account of every task as the file has it, counted afresh: what a restart would find."""
        return await self._writer.run(OutboxStore.accounts)

    async def find(self, input_id: str) -> AnswerReport | None:
        """The report of an escalated input, as it stands; of a file that is out of reach nothing is known."""
        with suppress(OperatorSetupError):
            for shelf in self._shelves(input_id):
                if (report := await shelf.writer.run(lambda store: store.report(input_id))) is not None:
                    return report
        return None

    def remember(self, name: str, value: str) -> None:
        """Keeps a text over restarts, the newest under each name: with the next escalation that is kept, or the next flush."""
        self._notes[name] = value
        self._flush_soon()

    # What people see

    def view(self) -> OutboxView:
        """How it fares."""
        held, bounds = self._room.held, self._room.bounds
        return OutboxView(
            count=held.entries,
            bytes=held.bytes,
            max_count=bounds.max_count,
            max_bytes=bounds.max_bytes,
            max_age_s=bounds.max_age_s,
            free_bytes=self._room.free_bytes,
            min_free_bytes=bounds.min_free_bytes,
            fault=self._writer.fault,
            mended=self._writer.mended,
            damaged=[path.name for path in damaged_files(self.folder)],
            evictions={f"{bound}/{worth}": n for (bound, worth), n in sorted(self.evictions.items())},
        )

    async def page(self, *, after: int, limit: int, task: str = "", delivery: str = "", memory: bool = False) -> Page:
        """Open entries, the oldest first; those of tasks that gave durability up are apart (``memory``)."""
        if memory and self._memory is None:
            return Page(entries=[], totals=[], next=None)
        shelf = self._memory if memory and self._memory else self._disk
        return await shelf.writer.run(
            lambda store: store.look().page(after=after, limit=limit, task=task, delivery=delivery)
        )

    async def entry(self, id_: str) -> EntryDetail | None:
        """All that is known of one entry."""
        for shelf in self._shelves(id_):
            if (found := await shelf.writer.run(lambda store: store.look().entry(id_))) is not None:
                return found
        return None

    # What the uplink does

    def listen(self, *, on_closed: OnClosed, on_reopened: Callable[[], None]) -> None:
        """Names whom to tell of questions that make way or that a person drops, and of a file that is another than before."""
        self._on_closed, self._on_reopened = on_closed, on_reopened

    def envelope_of(self, entry: OutboxEntry) -> Escalation:
        """What of an entry goes on the wire, kept no longer than the outbox keeps anything."""
        envelope = envelope_of(entry)
        longest = self._room.bounds.max_age_s
        return envelope if envelope.keep_for_s <= longest else replace(envelope, keep_for_s=longest)

    def has_room(self, entry: OutboxEntry) -> bool:
        """Whether it can be kept without anything making way."""
        return self._need(entry) is None

    def put(
        self, entry: OutboxEntry, envelope: Escalation | None = None, *, kept: Callable[[], None] | None = None
    ) -> "asyncio.Future[None]":
        """Keeps an escalation; the future resolves when it is as durable as it asks.

        Args:
            entry: what is kept.
            envelope: `envelope_of` the entry, when it is at hand.
            kept: called when it is durable, whether or not anybody still waits for the future.

        Raises (from the future):
            RuleRefusalError: there is no room, and nothing held is worth less; nothing is kept or counted.
            OperatorSetupError: the disk cannot keep it; nothing is kept or counted.
        """
        need = self._need(entry)
        self._room.coming(_size(entry))
        return asyncio.shield(self._in_background(self._put(entry, envelope or self.envelope_of(entry), need, kept)))

    def offered(self, id_: str) -> None:
        """It was on the wire once more. Written with the next flush; the count is for people."""
        self._offers[id_] += 1
        self._flush_soon()

    def received(self, id_: str) -> None:
        """The cloud has stored it: its payload goes, with the next flush. Losing that costs one more offer."""
        self._receipts.add(id_)
        self._flush_soon()

    async def settle(self, id_: str, outcome: Outcome) -> Settled:
        """Ends a question once; `Settled.report` is the final report if this call set it. Durable when it returns."""
        settled = Settled(known=False)
        begun = self.watches.unsaved()
        for shelf in self._shelves(id_):
            on_settled = partial(self._on_settled, shelf, id_)
            work = partial(_settle, id_=id_, outcome=outcome, begun=begun)
            settled = await shelf.writer.run(work, done=on_settled)
            if settled.known:
                break
        return settled

    async def give_up(self, id_: str, why: str) -> Settled:
        """Ends a question as given up; whoever listens is told."""
        settled = await self.settle(id_, GivenUp(why))
        if settled.closed:
            self._on_closed(id_, settled)
        return settled

    async def expire(self) -> tuple[list[tuple[str, Settled]], float]:
        """Ends some of what is not worth asking any more; and when there will be more, in run time."""
        ended: list[tuple[str, Settled]] = []
        next_at = float("inf")
        for shelf in self._all_shelves():
            begun = self.watches.unsaved()
            some, at = await shelf.writer.run(partial(_expire, begun=begun), done=partial(self._on_expired, shelf))
            ended += some
            next_at = min(next_at, at)
        return ended, next_at

    async def next_open(self, limit: int) -> list[Waiting]:
        """The oldest questions to be delivered or answered that were not given out since `rewind`; empty: no more."""
        found: list[Waiting] = []
        for shelf in self._all_shelves():
            if len(found) < limit:
                found += await shelf.next_open(limit - len(found))
        return found

    async def next_spare(self, limit: int) -> list[Waiting]:
        """The next of what is kept to be learnt from and was never offered, round and round."""
        return [one for shelf in self._all_shelves() for one in await shelf.next_spare(limit)]

    def rewind(self) -> None:
        """`next_open` begins with the oldest again."""
        for shelf in self._all_shelves():
            shelf.rewind()

    async def open_rows(self) -> list[OpenRow]:
        """Every open question of the disk, oldest first, whole: for tests and small outboxes."""
        return await self._writer.run(OutboxStore.open_rows)

    async def load(self, id_: str) -> tuple[OpenRow, list[bytes | None]] | None:
        """One open question, with the bytes of its parts (None: in the payload folder, or gone after the receipt)."""
        for shelf in self._shelves(id_):
            if (found := await shelf.writer.run(lambda store: store.open_row(id_))) is not None:
                return found
        return None

    def open_blob(self, sha256: str) -> bytes | Path | None:
        """Payload above the inline limit, for whoever pulls it."""
        return self._files.open(sha256) or (self._memory.payloads.open(sha256) if self._memory else None)

    # Inside: where things are

    def _all_shelves(self) -> list[Shelf]:
        return [self._disk, self._memory] if self._memory is not None else [self._disk]

    def _shelves(self, id_: str) -> list[Shelf]:
        """Where an input of that id is, or may be."""
        return [self._memory] if self._memory is not None and id_ in self._in_memory else self._all_shelves()

    async def _shelf_for(self, entry: OutboxEntry) -> Shelf:
        if _goes_to_disk(entry):
            return self._disk
        if self._memory is None:
            shelf = Shelf(writer=MemoryWriter(clock=self._clock), payloads=PayloadMemory())
            await shelf.writer.start()
            self._memory = self._memory or shelf
        self._in_memory.add(entry.id)
        return self._memory

    def _need(self, entry: OutboxEntry) -> Need | None:
        return self._room.need(_size(entry), on_disk=_goes_to_disk(entry))

    # Inside: taking up what a file holds

    async def _take_stock(self) -> None:
        """The account and the sums, as the file has them: at the start, and when it is another file."""
        longest = self._room.bounds.max_age_s

        def look(store: OutboxStore) -> tuple[dict[str, Account], Sum, dict[str, str]]:
            store.waiting.shorten(longest)
            return store.accounts(), store.waiting.sum(), store.remembered()

        def take(found: tuple[dict[str, Account], Sum, dict[str, str]]) -> None:
            accounts, held, remembered = found
            memory: dict[str, Account] = {}
            if self._memory is not None:  # its jobs are done at once
                memory, more = self._memory.writer.run(lambda store: (store.accounts(), store.waiting.sum())).result()
                held = Sum(held.entries + more.entries, held.bytes + more.bytes)
            self._accounts.load(accounts, memory)
            self._room.load(held)
            self.remembered = self.remembered or remembered
            self.feed.wake()

        await self._writer.run(look, done=take)
        if self._taken:
            self.watches.mended()
        else:
            self._taken = True
            await self.watches.start()

    def _reopened(self) -> None:
        """The writer has opened another file than before."""

        async def take() -> None:
            with suppress(OperatorSetupError):  # it has gone again, and comes back here
                await self._take_stock()
                self._on_reopened()

        self._in_background(take())

    # Inside: putting

    async def _put(
        self, entry: OutboxEntry, envelope: Escalation, need: Need | None, kept: Callable[[], None] | None
    ) -> None:
        is_in, at_s = False, self._clock.now()
        try:
            shelf = await self._shelf_for(entry)
            row = NewRow.of(
                entry,
                envelope,
                [part.data if len(part.data) <= INLINE_BYTES else None for part in entry.parts],
                at_s=at_s,
            )
            if need is not None:
                await self._make_way(shelf, Standing(row.worth, False, row.gain, seq=1 << 62), need)
            if shelf is self._memory:
                await self._write_notes()
            large = {
                part.sha256: held.data
                for part, held in zip(envelope.parts, entry.parts, strict=True)
                if part.size > INLINE_BYTES
            }
            is_in = await self._write(shelf, row, large, kept)
        finally:
            if not is_in:
                self._in_memory.discard(entry.id)
                self._room.arrived(_size(entry), kept=False)

    async def _write(self, shelf: Shelf, row: NewRow, large: dict[str, bytes], kept: Callable[[], None] | None) -> bool:
        """Whether it is new here. Its large payload is there before its row is, and gone when that cannot be written."""
        on_put = partial(self._on_put, row, kept)
        if not large:
            return await shelf.writer.run(self._putting(row), done=on_put)
        loop = asyncio.get_running_loop()
        new = False
        try:
            await loop.run_in_executor(self._disk_work, shelf.hold, large)
            new = await shelf.writer.run(self._putting(row), done=on_put)
        finally:
            shelf.release(large)
            if not new:
                await shelf.drop_unreferenced(list(large))
        return new

    async def _make_way(self, own: Shelf, newcomer: Standing, need: Need) -> None:
        """Ends what is worth less than a new entry; where it is to lie first, then elsewhere.

        Raises:
            RuleRefusalError: nothing, or not enough, is worth less.
        """
        for shelf in sorted(self._all_shelves(), key=lambda one: one is not own):
            work = partial(_evict, newcomer=newcomer, need=need, begun=self.watches.unsaved())
            if await shelf.writer.run(work, done=partial(self._on_evicted, shelf, need)) is not None:
                return
        held = self._room.held
        raise RuleRefusalError(
            f"the outbox is full ({need.because}): it holds {held.entries} inputs and {held.bytes} bytes, all worth as much",
            reason="outbox_full",
            fix=f"reach the broker, or change [outbox] {need.because}",
        )

    async def _write_notes(self) -> None:
        """What is to be remembered outlives a restart, also where the input that goes with it does not."""
        if notes := dict(self._notes):
            with suppress(OperatorSetupError):  # logged where it happened; the next flush tries again
                await self._writer.run(lambda store: store.remember(notes))

    def _putting(self, row: NewRow) -> Callable[[OutboxStore], bool]:
        """The job of writing a row, and in the same transaction what is to be remembered."""
        notes = dict(self._notes)

        def put(store: OutboxStore) -> bool:
            store.remember(notes)
            return store.put(row)

        return put

    def _on_put(self, row: NewRow, kept: Callable[[], None] | None, new: bool) -> None:
        pending = {"pending": int(row.state == "pending")}
        self._accounts.kept(row.report.task, {**row.counts(), **pending} if new else {})
        if new:
            self._room.arrived(row.payload_bytes, kept=True)
            if kept is not None:
                kept()

    # Inside: ending

    def _on_settled(self, shelf: Shelf, id_: str, settled: Settled) -> None:
        if settled.closed:
            self._room.closed()
            self._receipts.discard(id_)
            self._in_memory.discard(id_)
            self._let_go(shelf, settled.freed)
        if settled.report is not None:
            self._accounts.settled(settled.report.task, settled.counts)
            self.feed.wake()
        if settled.audit is not None:
            self.watches.ended(settled.audit)

    def _on_expired(self, shelf: Shelf, found: tuple[list[tuple[str, Settled]], float]) -> None:
        for id_, settled in found[0]:
            self._on_settled(shelf, id_, settled)

    def _on_evicted(self, shelf: Shelf, need: Need, ended: Sequence[tuple[Held, Settled]] | None) -> None:
        for held, settled in ended or ():
            self._on_settled(shelf, held.id, settled)
            if not held.expired:
                self.evictions[need.because, held.standing.worth.name.lower()] += 1
            self._on_closed(held.id, settled)

    def _let_go(self, shelf: Shelf, freed: Freed) -> None:
        self._room.freed(freed.payload_bytes)
        for sha256 in freed.unused:
            self._disk_work.submit(shelf.payloads.drop, sha256)

    # Inside: what is written in a while

    def _flush_soon(self) -> None:
        if self._timer is None and not self._stopped:
            self._timer = asyncio.get_running_loop().call_later(self._flush_s, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flush_counts()
        receipts, self._receipts = self._receipts, set()
        for shelf in self._all_shelves():
            ids = [id_ for id_ in receipts if (id_ in self._in_memory) == (shelf is self._memory)]
            if ids:
                run = shelf.writer.run(partial(received, ids=ids), done=partial(self._let_go_all, shelf))
                run.add_done_callback(_look_at)
        if self._memory is not None:
            prune = partial(OutboxStore.prune, keep=self._keep_settled)
            self._memory.writer.run(prune).add_done_callback(_look_at)

    def _flush_counts(self) -> None:
        counts = self._accounts.take_unwritten()
        offers, self._offers = self._offers, Counter()
        notes, self._notes = self._notes, {}
        watches = self.watches.take_unwritten()
        if not (counts or offers or notes or watches or self._writer.fault):
            return

        def write(store: OutboxStore) -> list[Moved]:
            for task, values in counts.items():
                store.count(task, values)
            for id_, times in offers.items():
                store.offered(id_, times)
            store.remember(notes)
            store.prune(self._keep_settled)
            return write_watches(store, watches, now_ms())

        def written(moved: list[Moved]) -> None:
            self._accounts.written(counts)
            self.watches.written(watches, moved)

        def again_if_failed(done: "asyncio.Future[list[Moved]]") -> None:
            if not done.cancelled() and done.exception() is not None:
                self._accounts.not_written(counts)
                self._notes = {**notes, **self._notes}
                self.watches.not_written(watches)
                self._flush_soon()

        self._writer.run(write, done=written).add_done_callback(again_if_failed)

    def _let_go_all(self, shelf: Shelf, freed: list[Freed]) -> None:
        for one in freed:
            self._let_go(shelf, one)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(_look_at)
        return task


def _size(entry: OutboxEntry) -> int:
    return sum(len(part.data) for part in entry.parts)


def _goes_to_disk(entry: OutboxEntry) -> bool:
    """An audit that a restart forgets would count as an error."""
    return entry.durability == "disk" or entry.audit > 0


def _settle(store: OutboxStore, *, id_: str, outcome: Outcome, begun: Sequence[Watched]) -> Settled:
    """Settles, over watches that are sure to be there."""
    begin(store, begun)
    return store.settle(id_, outcome, now_ms=now_ms())


def _evict(
    store: OutboxStore, *, newcomer: Standing, need: Need, begun: Sequence[Watched]
) -> list[tuple[Held, Settled]] | None:
    begin(store, begun)
    return evicted(store, newcomer=newcomer, need=need, now_ms=now_ms())


def _expire(store: OutboxStore, *, begun: Sequence[Watched]) -> tuple[list[tuple[str, Settled]], float]:
    begin(store, begun)
    ended = store.expire(EXPIRED_AT_ONCE, now_ms=now_ms())
    return ended, store.waiting.next_expiry()


def _look_at(future: "asyncio.Future[Any]") -> None:
    """Its failure is logged where it happened, and does no harm."""
    if not future.cancelled():
        future.exception()
