"""The outbox and the account: what was asked of the cloud and not yet answered, and how every input ended. Knows no network.

Escalated inputs are durable before anybody is told that they were accepted. Inputs answered here are counted in memory and
written at most `flush_s` later, each with its arrival and its end together: a kill loses the last second of those counts, and
the account adds up all the same.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from outrider_edge.outbox.accounts import Accounts
from outrider_edge.outbox.clock import RunClock, run_clock
from outrider_edge.outbox.feed import EndedFeed
from outrider_edge.outbox.mending import damaged_files
from outrider_edge.outbox.outcomes import GivenUp, Outcome
from outrider_edge.outbox.payloads import PayloadFiles
from outrider_edge.outbox.policy import Bounds
from outrider_edge.outbox.putting import Kept, Putting, age_of, size_of
from outrider_edge.outbox.room import Room
from outrider_edge.outbox.rows import Freed, NewRow, OpenRow, OutboxStore, Settled
from outrider_edge.outbox.shelf import Shelf, received, sweep
from outrider_edge.outbox.shelves import Shelves
from outrider_edge.outbox.view import OutboxView
from outrider_edge.outbox.waiting import Sum
from outrider_edge.outbox.watch_desk import WatchDesk, begin, now_ms
from outrider_edge.outbox.watch_desk import write as write_watches
from outrider_edge.outbox.watching import Moved
from outrider_edge.outbox.writer import OutboxWriter
from outrider_edge.ports import OutboxEntry, Watched
from outrider_edge.uplink.escalations import envelope_of
from outrider_link.files import make_folder
from outrider_wire.errors import OperatorSetupError
from outrider_wire.messages import Escalation
from outrider_wire.report import Account, AnswerReport

DEFAULT_BOUNDS = Bounds(max_count=100_000, max_bytes=1 << 30, max_age_s=365 * 86_400, min_free_bytes=0)
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
        bounds: Bounds = DEFAULT_BOUNDS,
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
        self._disk_work = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox-payload")
        self._room = Room(bounds=bounds, folder=folder, now=self._clock.now)
        self._accounts = Accounts()
        self.shelves = Shelves(disk=Shelf(writer=self._writer, payloads=self._files), clock=self._clock)
        self.watches = WatchDesk(writer=self._writer, flush_soon=self._flush_soon)
        self.feed = EndedFeed(shelves=self.shelves.all)
        self._putting = Putting(
            shelves=self.shelves,
            room=self._room,
            watches=self.watches,
            disk_work=self._disk_work,
            notes=lambda: self._notes,
            on_put=self._on_put,
            on_evicted=self._on_evicted,
        )
        self._on_closed: OnClosed = lambda _id, _settled: None
        self._on_reopened: Callable[[], None] = lambda: None
        self._taken = self._stopped = False
        self._offers: Counter[str] = Counter()
        self._receipts: set[str] = set()
        self._notes: dict[str, str] = {}
        self._background: set[asyncio.Future[Any]] = set()
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
            await asyncio.to_thread(make_folder, self.folder / "payload")
        await self._writer.start()
        with suppress(OperatorSetupError):  # out of reach: `_reopened` comes back to it
            await self._take_stock()
            await sweep(self.shelves.disk, self._files, self._disk_work)
        if self._writer.fault:
            self._flush_soon()

    async def stop(self) -> None:
        """Writes what was counted and closes."""
        self._flush()
        self._stopped = True
        with suppress(OperatorSetupError):
            await self._writer.run(lambda _store: None)  # by then what was flushed is in the background
        while self._background:
            await asyncio.gather(*self._background, return_exceptions=True)
        await self.shelves.stop()
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
        return await self.shelves.report(input_id)

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
            evictions={f"{bound}/{worth}": n for (bound, worth), n in sorted(self._putting.evictions.items())},
        )

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
        return self._putting.need(entry) is None

    def put(
        self, entry: OutboxEntry, envelope: Escalation | None = None, *, kept: Kept | None = None
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
        need = self._putting.need(entry)
        self._room.coming(size_of(entry))
        at_s = self._clock.now() - age_of(entry)  # in this order: it is never younger than its caller knows
        put = self._putting.put(entry, envelope or self.envelope_of(entry), need, at_s, kept)
        return asyncio.shield(self._in_background(put))

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
        for shelf in self.shelves.of(id_):
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
        for shelf in self.shelves.all():
            begun = self.watches.unsaved()
            some, at = await shelf.writer.run(partial(_expire, begun=begun), done=partial(self._on_expired, shelf))
            ended += some
            next_at = min(next_at, at)
        return ended, next_at

    async def open_rows(self) -> list[OpenRow]:
        """Every open question of the disk, oldest first, whole: for tests and small outboxes."""
        return await self._writer.run(OutboxStore.open_rows)

    async def load(self, id_: str) -> tuple[OpenRow, list[bytes | None]] | None:
        """As `Shelves.load`."""
        return await self.shelves.load(id_)

    def open_blob(self, sha256: str) -> bytes | Path | None:
        """Payload above the inline limit, for whoever pulls it."""
        return self.shelves.open_blob(sha256)

    # Inside: taking up what a file holds

    async def _take_stock(self) -> None:
        """The account and the sums, as the file has them: at the start, and when it is another file."""
        longest = self._room.bounds.max_age_s

        def look(store: OutboxStore) -> tuple[dict[str, Account], Sum, dict[str, str]]:
            return store.accounts(), store.waiting.sum(), store.remembered()

        def take(found: tuple[dict[str, Account], Sum, dict[str, str]]) -> None:
            accounts, held, remembered = found
            memory: dict[str, Account] = {}
            if self.shelves.memory is not None:  # its jobs are done at once
                memory, more = self.shelves.memory.writer.run(
                    lambda store: (store.accounts(), store.waiting.sum())
                ).result()
                held = Sum(held.entries + more.entries, held.bytes + more.bytes)
            self._accounts.load(accounts, memory)
            self._room.load(held)
            self.remembered = self.remembered or remembered
            self.feed.wake()

        await self._writer.run(look, done=take)
        self._writer.run(lambda store: store.waiting.shorten(longest)).add_done_callback(_look_at)
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

    # Inside: what happens to an input

    def _on_put(self, row: NewRow, is_new: bool) -> None:
        pending = {"pending": int(row.state == "pending")}
        self._accounts.kept(row.report.task, {**row.counts(), **pending} if is_new else {})

    def _on_evicted(self, shelf: Shelf, id_: str, settled: Settled) -> None:
        self._on_settled(shelf, id_, settled)
        self._on_closed(id_, settled)

    def _on_settled(self, shelf: Shelf, id_: str, settled: Settled) -> None:
        if settled.closed:
            self._room.closed()
            self._receipts.discard(id_)
            self.shelves.forget(id_)
            self._let_go(shelf, settled.freed)
        if settled.report is not None:
            self._accounts.settled(settled.report.task, settled.counts)
            self.feed.wake()
        if settled.audit is not None:
            self.watches.ended(settled.audit)

    def _on_expired(self, shelf: Shelf, found: tuple[list[tuple[str, Settled]], float]) -> None:
        for id_, settled in found[0]:
            self._on_settled(shelf, id_, settled)

    def _let_go(self, shelf: Shelf, freed: Freed) -> None:
        self._room.freed(freed.payload_bytes)
        if freed.unused:  # unless an entry of the same bytes has come since
            self._in_background(shelf.drop_unreferenced(freed.unused, self._disk_work))

    # Inside: what is written in a while

    def _flush_soon(self) -> None:
        if self._timer is None and not self._stopped:
            self._timer = asyncio.get_running_loop().call_later(self._flush_s, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        offers, self._offers = self._offers, Counter()
        self._flush_counts({id_: n for id_, n in offers.items() if self.shelves.is_on(self.shelves.disk, id_)})
        receipts, self._receipts = self._receipts, set()
        for shelf in self.shelves.all():
            ids = [id_ for id_ in receipts if self.shelves.is_on(shelf, id_)]
            if ids:
                run = shelf.writer.run(partial(received, ids=ids), done=partial(self._let_go_all, shelf))
                run.add_done_callback(_look_at)
        if self.shelves.memory is not None:
            work = partial(_tidy_memory, offers=offers, keep=self._keep_settled)
            self.shelves.memory.writer.run(work).add_done_callback(_look_at)

    def _flush_counts(self, offers: Mapping[str, int]) -> None:
        counts = self._accounts.take_unwritten()
        notes, self._notes = self._notes, {}
        watches = self.watches.take_unwritten()
        if not (counts or offers or notes or watches or self._writer.fault):
            return

        def write(store: OutboxStore) -> list[Moved]:
            for task, values in counts.items():
                store.count(task, values)
            _write_offers(store, offers)
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


def _settle(store: OutboxStore, *, id_: str, outcome: Outcome, begun: Sequence[Watched]) -> Settled:
    """Settles, over watches that are sure to be there."""
    begin(store, begun)
    return store.settle(id_, outcome, now_ms=now_ms())


def _expire(store: OutboxStore, *, begun: Sequence[Watched]) -> tuple[list[tuple[str, Settled]], float]:
    begin(store, begun)
    ended = store.expire(EXPIRED_AT_ONCE, now_ms=now_ms())
    return ended, store.waiting.next_expiry()


def _write_offers(store: OutboxStore, offers: Mapping[str, int]) -> None:
    for id_, times in offers.items():
        store.offered(id_, times)


def _tidy_memory(store: OutboxStore, *, offers: Mapping[str, int], keep: int) -> None:
    """What a flush does there; of entries that lie elsewhere it changes nothing."""
    _write_offers(store, offers)
    store.prune(keep)


def _look_at(future: "asyncio.Future[Any]") -> None:
    """Its failure is logged where it happened, and does no harm."""
    if not future.cancelled():
        future.exception()
