"""More questions than the book holds: which are at hand, which wait, and that each has its turn."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from edge_entries import HandClock, HandLine, make_answer, make_entry, new_id, until
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from outrider_edge.outbox.outbox import Outbox
from outrider_edge.outbox.waiting import Waiting
from outrider_edge.uplink.backlog import Backlog
from outrider_edge.uplink.offering import Offering
from outrider_edge.uplink.offers import OfferBook, Question
from outrider_wire.messages import Receipt
from outrider_wire.report import AnswerReport

WINDOW = 8


class Windowed:
    """An offering with a small window."""

    def __init__(self, folder: Path) -> None:
        self.hand, self.line, self.finals = HandClock(), HandLine(), list[AnswerReport]()
        self.outbox = Outbox(folder=folder, clock=self.hand.clock, flush_s=0.02)
        self.done = set[str]()

    async def start(self) -> None:
        await self.outbox.start()
        self.offering = Offering(outbox=self.outbox, line=self.line, clock=self.hand.clock, window=WINDOW)

        async def on_final(report: AnswerReport) -> None:
            self.finals.append(report)

        self.offering.listen(on_final)
        await self.offering.start()

    async def stop(self) -> None:
        await self.offering.stop()
        await self.outbox.stop()

    async def ask(self, durability: str = "disk") -> str:
        entry = make_entry(durability=durability)
        self.outbox.arrived("colours")
        await self.offering.escalate(entry)
        return entry.id

    def offered(self) -> set[str]:
        return {offer.id for offer in self.line.offers}


async def test_an_outage_of_many_windows_is_drained_in_order_and_never_all_in_memory(tmp_path: Path) -> None:
    bench = Windowed(tmp_path)
    await bench.start()
    bench.line.connected = False
    ids = [await bench.ask("memory" if number % 10 == 9 else "disk") for number in range(100)]
    assert len(bench.offering._book) <= 2 * WINDOW
    bench.line.connected = True
    bench.offering.connected()
    most, order = 0, list[str]()
    while len(order) < 100:
        await until(lambda: bench.offered() - bench.done)
        most = max(most, len(bench.offering._book))
        new = [offer.id for offer in bench.line.offers if offer.id not in order]
        order += list(dict.fromkeys(new))
        for id_ in new:
            bench.done.add(id_)
            await bench.offering.on_answer(make_answer(id_))
    assert most <= 2 * WINDOW
    assert sorted(order) == sorted(ids)
    assert len(bench.finals) == 100
    assert bench.outbox.account().cloud == 100
    await bench.stop()


async def test_what_the_cloud_has_stored_gives_its_place_up_and_is_asked_after_in_the_next_round(
    tmp_path: Path,
) -> None:
    bench = Windowed(tmp_path)
    await bench.start()
    bench.line.connected = False
    ids = [await bench.ask() for _ in range(60)]
    bench.line.connected = True
    bench.offering.connected()
    stored: set[str] = set()
    while stored != set(ids):  # receipts, and never an answer
        await until(lambda: bench.offered() - stored)
        for id_ in bench.offered() - stored:
            bench.offering.on_receipt(Receipt(id=id_))
            stored.add(id_)
    assert len(bench.offering._book) <= 2 * WINDOW
    await bench.offering.on_answer(make_answer(ids[0]))  # parked long ago, and joined all the same
    assert [report.id for report in bench.finals] == ids[:1]
    await asyncio.sleep(0.1)
    bench.line.offers.clear()
    bench.hand.now += 61
    bench.offering.on_receipt(Receipt(id=new_id()))
    asked: set[str] = set()
    while asked != set(ids[1:]):
        await until(lambda: bench.offered() - asked)
        for id_ in bench.offered() - asked:
            asked.add(id_)
        await asyncio.sleep(0.02)
    assert all(offer.parts[0].inline is None for offer in bench.line.offers)
    await bench.stop()


async def test_what_has_just_been_asked_does_not_wait_behind_an_outage(tmp_path: Path) -> None:
    bench = Windowed(tmp_path)
    await bench.start()
    bench.line.connected = False
    for _ in range(WINDOW):
        await bench.ask()
    bench.line.connected = True
    fresh = await bench.ask()
    await until(lambda: fresh in bench.offered())
    await bench.stop()


async def test_what_waits_in_the_file_expires_there(tmp_path: Path) -> None:
    bench = Windowed(tmp_path)
    await bench.start()
    bench.line.connected = False
    for _ in range(300):
        await bench.ask()
    bench.hand.now += 3_601
    bench.offering.on_receipt(Receipt(id=new_id()))
    await until(lambda: len(bench.finals) == 300)
    assert bench.outbox.account().expired == 300
    assert len(bench.offering._book) == 0
    await bench.stop()


async def test_a_person_can_have_one_or_all_offered_now(tmp_path: Path) -> None:
    bench = Windowed(tmp_path)
    await bench.start()
    ids = [await bench.ask() for _ in range(3)]
    await until(lambda: len(bench.line.offers) == 3)
    await asyncio.sleep(0.05)
    assert await bench.offering.retry(ids[1]) == 1
    await until(lambda: len(bench.line.offers) == 4)
    assert bench.line.offers[-1].id == ids[1]
    await asyncio.sleep(0.05)
    assert await bench.offering.retry() == 3
    await until(lambda: len(bench.line.offers) == 7)
    await bench.stop()


async def test_what_makes_way_leaves_the_book_and_its_caller_is_told(tmp_path: Path) -> None:
    bench = Windowed(tmp_path)
    bench.outbox._room.bounds = bench.outbox._room.bounds._replace(max_count=2)
    await bench.start()
    first, second, third = [await bench.ask() for _ in range(3)]
    await until(lambda: bench.finals)
    assert [(report.id, report.state) for report in bench.finals] == [(first, "expired")]
    assert [id_ in bench.offering for id_ in (first, second, third)] == [False, True, True]
    await bench.offering.on_answer(make_answer(first))
    assert bench.offering.counts["repeated"] == 1
    await bench.stop()


def done(work: Coroutine[Any, Any, None]) -> None:
    """Runs what never has to wait."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


class FileOfQuestions:
    """`outrider_edge.outbox.shelves.Shelves`, as the backlog sees it: open questions in their order."""

    def __init__(self) -> None:
        self.open: dict[str, Waiting] = {}
        self._after = 0

    async def next_open(self, limit: int) -> list[Waiting]:
        """As `Shelves.next_open`."""
        if limit <= 0:
            return []
        found = [one for one in self.open.values() if one.seq > self._after][:limit]
        self._after = found[-1].seq if found else self._after
        return found

    def passed(self, seq: int) -> None:
        """As `outrider_edge.outbox.shelf.Shelf.passed`."""
        self._after = max(self._after, seq)

    def rewind(self) -> None:
        """As `Shelves.rewind`."""
        self._after = 0


async def test_a_burst_that_takes_the_room_before_the_taking_up_begins_leaves_the_rest_behind() -> None:
    file, book = FileOfQuestions(), OfferBook()
    backlog = Backlog(shelves=file, book=book, window=4, ask_again_s=60.0)  # type: ignore[arg-type]  # a shelf of the test
    file.open = {f"q{seq}": Waiting(seq, f"q{seq}", False, 0, 1e9) for seq in range(1, 10)}
    assert backlog.wants(0.0)
    for number in range(6):
        backlog.arrived(Question(id=f"new{number}", due_at=0.0))
    await backlog.take_up(0.0)
    backlog.taken_up()
    assert not backlog.is_level
    for number in range(6):
        book.remove(f"new{number}")
    assert backlog.wants(0.0)
    await backlog.take_up(0.0)
    assert "q1" in book


async def test_bursts_of_questions_and_of_answers_leave_none_waiting_for_ever(tmp_path: Path) -> None:
    bench = Windowed(tmp_path)
    await bench.start()
    bench.line.connected = False
    ids = [await bench.ask() for _ in range(40)]
    bench.line.connected = True
    bench.offering.connected()
    for size in (5, 14, 9, 11, 7, 13):
        ids += await asyncio.gather(*(bench.ask() for _ in range(size)))
        await answer_all(bench)
    while len(bench.done) < len(ids):
        await until(lambda: bench.offered() - bench.done)
        await answer_all(bench)
    assert bench.done == set(ids)
    assert bench.outbox.account().cloud == len(ids)
    await bench.stop()


async def answer_all(bench: Windowed) -> None:
    """Everything that is on the wire, in one turn of the loop."""
    new = bench.offered() - bench.done
    bench.done |= new
    await asyncio.gather(*(bench.offering.on_answer(make_answer(id_)) for id_ in new))


class BacklogMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order, no open question is lost, and memory stays bounded."""

    @initialize()
    def begin(self) -> None:
        self.file, self.book, self.now, self.seq = FileOfQuestions(), OfferBook(), 0.0, 0
        self.backlog = Backlog(shelves=self.file, book=self.book, window=4, ask_again_s=60.0)  # type: ignore[arg-type]  # a shelf of the test
        self.backlog.rewind(self.now)

    @rule(many=st.integers(1, 12))
    def put(self, many: int) -> None:
        for _ in range(many):
            self.seq += 1
            id_ = f"q{self.seq}"
            self.file.open[id_] = Waiting(self.seq, id_, False, 0, 1e9)
            self.backlog.arrived(Question(id=id_, due_at=self.now))
            if self.backlog.is_level:
                self.file.passed(self.seq)

    @rule(meanwhile=st.integers(0, 12))
    def take_up(self, meanwhile: int = 0) -> None:
        """``meanwhile`` questions become durable in the turn of the loop between the look and the taking up."""
        if self.backlog.wants(self.now):
            self.put(meanwhile)
            done(self.backlog.take_up(self.now))
            self.backlog.taken_up()

    @precondition(lambda self: len(self.book) > 0)
    @rule(pick=st.integers(0, 100))
    def receipt(self, pick: int) -> None:
        id_ = sorted(self.book._open)[pick % len(self.book)]
        self.file.open[id_] = self.file.open[id_]._replace(received=True)
        self.book.received(id_, self.now)

    @precondition(lambda self: len(self.file.open) > 0)
    @rule(pick=st.integers(0, 100))
    def end(self, pick: int) -> None:
        id_ = sorted(self.file.open)[pick % len(self.file.open)]
        del self.file.open[id_]
        self.book.remove(id_)

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def restart(self) -> None:
        """The book is empty, the file is as it was."""
        self.book = OfferBook()
        self.backlog = Backlog(shelves=self.file, book=self.book, window=4, ask_again_s=60.0)  # type: ignore[arg-type]  # a shelf of the test
        self.backlog.rewind(self.now)

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "book"):
            assert len(self.book) <= 8
            assert set(self.book._open) <= set(self.file.open)

    def teardown(self) -> None:
        """From here on every question has its turn, though nothing that the cloud has stored is ever answered."""
        if not hasattr(self, "book"):
            return
        waiting = {id_ for id_, one in self.file.open.items()}
        for _ in range(20 * (len(waiting) + 1)):
            self.take_up()
            for id_ in list(self.book._open):
                waiting.discard(id_)
                self.file.open[id_] = self.file.open[id_]._replace(received=True)
                self.book.received(id_, self.now)
            self.now += 10.0
        assert not waiting


TestBacklog = BacklogMachine.TestCase
TestBacklog.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
