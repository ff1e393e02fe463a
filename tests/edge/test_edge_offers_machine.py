"""The book of offers under any order of events, repeated and lying replies included: no question is lost, none is asked twice at once."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from outrider_edge.uplink.offers import _SPARE_ENTRIES, OfferBook, Question

IDS = st.integers(0, 12).map(str)


class Book(RuleBasedStateMachine):
    """``open`` is what the book should hold, by id; ``flying`` what is being published."""

    def __init__(self) -> None:
        super().__init__()
        self.book = OfferBook(receipt_timer_s=5.0, ask_again_s=60.0)
        self.now = 0.0
        self.open: dict[str, Question] = {}
        self.flying: set[str] = set()

    @rule(seconds=st.sampled_from([0.0, 0.5, 5.0, 61.0, 1_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(id_=IDS, received=st.booleans())
    def add(self, id_: str, received: bool) -> None:
        if id_ in self.open:
            return
        question = Question(id=id_, due_at=self.now, received=received)
        self.book.add(question)
        self.open[id_] = question

    @rule(limit=st.integers(0, 4))
    def take_due(self, limit: int) -> None:
        taken = self.book.take_due(self.now, limit)
        assert len(taken) <= limit
        for question in taken:
            assert question.id in self.open and question.id not in self.flying, "asked twice at once, or after its end"
            assert question.due_at <= self.now
            self.flying.add(question.id)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), sent=st.booleans())
    def published(self, data: st.DataObject, sent: bool) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.flying)))
        self.book.offered(id_, self.now, sent=sent)
        self.flying.discard(id_)

    @rule(id_=IDS, times=st.integers(1, 200))
    def receipts(self, id_: str, times: int) -> None:
        for _ in range(times):
            self.book.received(id_, self.now)

    @rule(id_=IDS, times=st.integers(1, 200), wait_s=st.sampled_from([0.0, 3.0, 86_400.0]))
    def busy(self, id_: str, times: int, wait_s: float) -> None:
        for _ in range(times):
            self.book.busy(id_, self.now, wait_s)

    @rule()
    def connected(self) -> None:
        self.book.connected(self.now)
        self.flying.clear()

    @rule()
    def heard(self) -> None:
        self.book.heard(self.now)

    @rule(id_=IDS)
    def answered(self, id_: str) -> None:
        self.book.remove(id_)
        self.open.pop(id_, None)
        self.flying.discard(id_)

    @rule(most=st.integers(0, 4))
    def park(self, most: int) -> None:
        before = {id_ for id_, question in self.open.items() if question.received and question.due_at > self.now}
        parked = self.book.park(self.now, most)
        gone = {id_ for id_ in self.open if id_ not in self.book}
        assert len(gone) == parked <= most
        assert gone <= before - self.flying, "only what the cloud has stored, and nothing that is being asked"
        for id_ in gone:
            del self.open[id_]

    @rule()
    def many_come_and_go(self) -> None:
        """A device that is answered all day long."""
        for number in range(300):
            self.book.add(Question(id=f"n{number}", due_at=self.now))
            self.book.remove(f"n{number}")

    @invariant()
    def it_holds_what_is_open(self) -> None:
        assert len(self.book) == len(self.open)
        assert all(id_ in self.book for id_ in self.open)

    @invariant()
    def no_question_is_forgotten(self) -> None:
        due = set(self.book._by_due)
        for question in self.open.values():
            assert question.in_flight or (question.due_at, question.id) in due

    @invariant()
    def memory_is_bounded_by_what_is_open(self) -> None:
        assert len(self.book._by_due) <= 2 * len(self.open) + _SPARE_ENTRIES + 1


TestBook = Book.TestCase
TestBook.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
