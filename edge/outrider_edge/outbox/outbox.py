"""The outbox and the account: what was asked of the cloud and not yet answered, and how every input ended. Knows no network.

Escalated inputs are durable before anybody is told that they were accepted. Inputs answered here are counted in memory and
written at most `flush_s` later, each with its arrival and its end together: a kill loses the last second of those counts, and
the account adds up all the same.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from outrider_edge.outbox.accounts import Accounts
from outrider_edge.outbox.clock import RunClock, run_clock
from outrider_edge.outbox.outcomes import Outcome
from outrider_edge.outbox.payloads import PayloadFiles, PayloadMemory, Payloads
from outrider_edge.outbox.rows import Freed, NewRow, OpenRow, OutboxStore, Settled, is_spare
from outrider_edge.outbox.watch_desk import WatchDesk, begin, now_ms
from outrider_edge.outbox.watch_desk import write as write_watches
from outrider_edge.outbox.watching import Moved
from outrider_edge.outbox.writer import MemoryWriter, OutboxWriter, Writer
from outrider_edge.ports import OutboxEntry, Watched
from outrider_edge.uplink.escalations import envelope_of, fulls_of
from outrider_link.files import make_folder
from outrider_wire.errors import OperatorSetupError, RuleRefusalError
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.messages import Escalation
from outrider_wire.report import Account, AnswerReport

SPARE_SHARE = 0.5
"""Of the outbox, at most, for inputs that are kept only to be learnt from: they never crowd out what somebody waits for."""
AUDIT_RESERVE = 0.125
"""Audits may fill that much more than the bounds: a full outbox must not look like a broken promise."""


class _Shelf:
    """One place for entries: a file with its payload folder, or memory."""

    def __init__(self, *, writer: Writer, payloads: Payloads) -> None:
        self.writer = writer
        self.payloads = payloads


class Outbox:
    """The device's outbox. Everything but `open_blob` runs on one event loop; the file is touched by a thread of its own.

    Args:
        folder: where it lies; made when absent.
        max_count: open escalations, at most.
        max_bytes: payload bytes held, at most.
        keep_settled: ended escalations that can still be looked up by id.
        flush_s: how long a local count may wait for the disk.
    """

    def __init__(
        self,
        *,
        folder: Path,
        max_count: int = 100_000,
        max_bytes: int = 1 << 30,
        keep_settled: int = 10_000,
        flush_s: float = 1.0,
        clock: RunClock | None = None,
    ) -> None:
        self._folder = folder
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._keep_settled = keep_settled
        self._flush_s = flush_s
        self._clock = clock or run_clock()
        self._files = PayloadFiles(folder=folder / "payload")
        self._disk = _Shelf(writer=OutboxWriter(path=folder / "outbox.db", clock=self._clock), payloads=self._files)
        self._memory: _Shelf | None = None
        self._in_memory: set[str] = set()
        self._disk_work = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outbox-payload")
        self._open = 0
        self._bytes = 0
        self._accounts = Accounts()
        self.watches = WatchDesk(writer=self._disk.writer, flush_soon=self._flush_soon)
        self._offers: Counter[str] = Counter()
        self._receipts: set[str] = set()
        self._notes: dict[str, str] = {}
        self.remembered: dict[str, str] = {}
        """What `remember` was given before this start."""
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Opens it, takes up the account, and removes payload that nothing refers to.

        Raises:
            OperatorSetupError: it cannot be opened, is damaged, or is newer than this version.
        """
        await asyncio.to_thread(make_folder, self._folder / "payload")
        await self._disk.writer.start()
        accounts, rows, digests, self.remembered = await self._disk.writer.run(
            lambda store: (store.accounts(), store.open_rows(), store.payload_digests(), store.remembered())
        )
        self._accounts.load(accounts)
        await self.watches.start()
        self._open = len(rows)
        self._bytes = sum(row.payload_bytes for row in rows)
        await asyncio.to_thread(self._files.sweep, digests)

    async def stop(self) -> None:
        """Writes what was counted and closes."""
        self._flush()
        await self._disk.writer.stop()
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
        return await self._disk.writer.run(OutboxStore.accounts)

    async def find(self, input_id: str) -> AnswerReport | None:
        """The report of an escalated input, as it stands."""
        for shelf in self._shelves(input_id):
            if (report := await shelf.writer.run(lambda store: store.report(input_id))) is not None:
                return report
        return None

    def remember(self, name: str, value: str) -> None:
        """Keeps a text over restarts, the newest under each name: with the next escalation that is kept, or the next flush."""
        self._notes[name] = value
        self._flush_soon()

    # What the uplink does

    def put(
        self, entry: OutboxEntry, envelope: Escalation | None = None, *, kept: Callable[[], None] | None = None
    ) -> "asyncio.Future[None]":
        """Keeps an escalation; the future resolves when it is as durable as it asks. Whether there is room is told at once.

        Args:
            entry: what is kept.
            envelope: `envelope_of` the entry, when it is at hand.
            kept: called when it is durable, whether or not anybody still waits for the future.

        Raises:
            RuleRefusalError: the outbox is full; nothing is kept or counted.
        """
        size = sum(len(part.data) + (len(part.full.data) if part.full else 0) for part in entry.parts)
        if not self._has_room(size, share=_share_of(entry)):
            raise RuleRefusalError(
                f"the outbox is full: it holds {self._open} inputs and {self._bytes} bytes",
                reason="outbox_full",
                fix="reach the broker, or raise [outbox] max_count and max_bytes",
            )
        self._open += 1
        self._bytes += size
        written = asyncio.ensure_future(self._put(entry, envelope or envelope_of(entry), kept))
        written.add_done_callback(lambda future: self._undo_if_failed(future, entry.id, size))
        return asyncio.shield(written)

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

    async def open_rows(self) -> list[OpenRow]:
        """Every question that is still to be delivered or answered, oldest first: what a start has to take up."""
        return await self._disk.writer.run(OutboxStore.open_rows)

    async def load(self, id_: str) -> tuple[OpenRow, list[bytes | None]] | None:
        """One open question, with the bytes of its parts (None: in the payload folder, or gone after the receipt)."""
        return await self._shelves(id_)[0].writer.run(lambda store: store.open_row(id_))

    def open_blob(self, sha256: str) -> bytes | Path | None:
        """Payload above the inline limit, for whoever pulls it."""
        return self._files.open(sha256) or (self._memory.payloads.open(sha256) if self._memory else None)

    # Inside

    def _shelves(self, id_: str) -> list[_Shelf]:
        """Where an input of that id is, or may be."""
        if self._memory is None:
            return [self._disk]
        return [self._memory] if id_ in self._in_memory else [self._disk, self._memory]

    def _has_room(self, size: int, *, share: float) -> bool:
        return self._open < self._max_count * share and self._bytes + size <= self._max_bytes * share

    async def _shelf_for(self, entry: OutboxEntry) -> _Shelf:
        if entry.durability == "disk" or entry.audit > 0:  # an audit that a restart forgets would count as an error
            return self._disk
        if self._memory is None:
            shelf = _Shelf(writer=MemoryWriter(clock=self._clock), payloads=PayloadMemory())
            await shelf.writer.start()
            self._memory = self._memory or shelf
        self._in_memory.add(entry.id)
        return self._memory

    async def _put(self, entry: OutboxEntry, envelope: Escalation, kept: Callable[[], None] | None) -> None:
        at_s = self._clock.now()
        shelf = await self._shelf_for(entry)
        inline = [part.data if len(part.data) <= INLINE_BYTES else None for part in entry.parts]
        fulls = fulls_of(entry, envelope)
        row = NewRow.of(entry, envelope, inline, fulls=fulls, at_s=at_s)
        large = fulls | {
            part.sha256: held.data
            for part, held in zip(envelope.parts, entry.parts, strict=True)
            if part.size > INLINE_BYTES
        }
        on_put = partial(self._on_put, row, kept)
        if shelf is self._memory:
            await self._write_notes()
        if not large:
            await shelf.writer.run(self._putting(row), done=on_put)
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._disk_work, _hold, shelf.payloads, large)
            await shelf.writer.run(self._putting(row), done=on_put)
        finally:  # what a failed put leaves in the folder is swept at the next start: another row may refer to it
            await loop.run_in_executor(self._disk_work, _release, shelf.payloads, large)

    async def _write_notes(self) -> None:
        """What is to be remembered outlives a restart, also where the input that goes with it does not."""
        if notes := dict(self._notes):
            with suppress(OperatorSetupError):  # logged where it happened; the next flush tries again
                await self._disk.writer.run(lambda store: store.remember(notes))

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
        if not new:
            self._open -= 1
            self._bytes -= row.payload_bytes
        elif kept is not None:
            kept()

    def _undo_if_failed(self, written: "asyncio.Future[None]", id_: str, size: int) -> None:
        if written.cancelled() or written.exception() is not None:
            self._in_memory.discard(id_)
            self._open -= 1
            self._bytes -= size

    def _on_settled(self, shelf: _Shelf, id_: str, settled: Settled) -> None:
        if settled.closed:
            self._open -= 1
            self._receipts.discard(id_)
            self._in_memory.discard(id_)
            self._let_go(shelf, settled.freed)
        if settled.report is not None:
            self._accounts.settled(settled.report.task, settled.counts)
        if settled.audit is not None:
            self.watches.ended(settled.audit)

    def _let_go(self, shelf: _Shelf, freed: Freed) -> None:
        self._bytes -= freed.payload_bytes
        for sha256 in freed.unused:
            self._disk_work.submit(shelf.payloads.drop, sha256)

    def _flush_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._flush_s, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flush_counts()
        receipts, self._receipts = self._receipts, set()
        for shelf in filter(None, (self._disk, self._memory)):
            ids = [id_ for id_ in receipts if (id_ in self._in_memory) == (shelf is self._memory)]
            if ids:
                run = shelf.writer.run(partial(_receive, ids=ids), done=partial(self._let_go_all, shelf))
                run.add_done_callback(_look_at)
        if self._memory is not None:
            prune = partial(OutboxStore.prune, keep=self._keep_settled)
            self._memory.writer.run(prune).add_done_callback(_look_at)

    def _flush_counts(self) -> None:
        counts = self._accounts.take_unwritten()
        offers, self._offers = self._offers, Counter()
        notes, self._notes = self._notes, {}
        watches = self.watches.take_unwritten()
        if not (counts or offers or notes or watches):
            return

        def write(store: OutboxStore) -> list[Moved]:
            for task, values in counts.items():
                store.count(task, values)
            for id_, times in offers.items():
                store.offered(id_, times)
            store.remember(notes)
            store.prune(self._keep_settled)
            return write_watches(store, watches, now_ms())

        def again_if_failed(done: "asyncio.Future[list[Moved]]") -> None:
            if not done.cancelled() and done.exception() is not None:
                self._accounts.not_written(counts)
                self._notes = {**notes, **self._notes}
                self.watches.not_written(watches)
                self._flush_soon()

        self._disk.writer.run(write, done=partial(self.watches.written, watches)).add_done_callback(again_if_failed)

    def _let_go_all(self, shelf: _Shelf, freed: list[Freed]) -> None:
        for one in freed:
            self._let_go(shelf, one)


def _share_of(entry: OutboxEntry) -> float:
    """How much of the outbox's bounds may be full for this entry to find room."""
    if is_spare(entry.state, entry.audit):
        return SPARE_SHARE
    return 1 + AUDIT_RESERVE if entry.audit > 0 else 1.0


def _settle(store: OutboxStore, *, id_: str, outcome: Outcome, begun: Sequence[Watched]) -> Settled:
    """Settles, over watches that are sure to be there."""
    begin(store, begun)
    return store.settle(id_, outcome, now_ms=now_ms())


def _hold(payloads: Payloads, large: dict[str, bytes]) -> None:
    try:
        for sha256, data in large.items():
            payloads.hold(sha256, data)
    except OSError as error:
        raise OperatorSetupError(
            f"the outbox cannot keep a payload: {error}", reason="outbox_unwritable", fix="free the disk, or repair it"
        ) from error


def _release(payloads: Payloads, large: dict[str, bytes]) -> None:
    for sha256 in large:
        payloads.release(sha256)


def _receive(store: OutboxStore, ids: list[str]) -> list[Freed]:
    return [freed for id_ in ids if (freed := store.received(id_)) is not None]


def _look_at(future: "asyncio.Future[Any]") -> None:
    """Its failure is logged where it happened, and does no harm."""
    if not future.cancelled():
        future.exception()
