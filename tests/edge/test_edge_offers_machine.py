"""The book of offers under any order of events, repeated and lying replies included: no question is lost, none is asked twice at once."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from outrider_edge.uplink.offers import _SPARE_ENTRIES, OfferBook, Question

IDS = st.integers(0, 12).map(str)


class Book(RuleBasedStateMachine):
    """``open`` is what the book should hold, by id, with its expiry; ``flying`` what is being published."""

    def __init__(self) -> None:
        super().__init__()
        self.book = OfferBook(receipt_timer_s=5.0, ask_again_s=60.0)
        self.now = 0.0
        self.open: dict[str, Question] = {}
        self.flying: set[str] = set()

    @rule(seconds=st.sampled_from([0.0, 0.5, 5.0, 61.0, 1_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(id_=IDS, keep_s=st.sampled_from([0.0, 10.0, 86_400.0]), spare=st.booleans())
    def add(self, id_: str, keep_s: float, spare: bool) -> None:
        if id_ in self.open:
            return
        due_at = float("inf") if spare else self.now
        question = Question(id=id_, expires_at=self.now + keep_s, due_at=due_at, spare=spare)
        self.book.add(question)
        self.open[id_] = question

    @rule(limit=st.integers(0, 4))
    def take_due(self, limit: int) -> None:
        taken = self.book.take_due(self.now, limit)
        assert len(taken) <= limit
        for question in taken:
            assert question.id in self.open and question.id not in self.flying, "asked twice at once, or after its end"
            assert question.due_at <= self.now and not question.spare
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

    @rule()
    def expire(self) -> None:
        over = sorted(id_ for id_, question in self.open.items() if question.expires_at <= self.now)
        assert sorted(self.book.take_expired(self.now)) == over, "what is over leaves once, and nothing else does"
        for id_ in over:
            del self.open[id_]
            self.flying.discard(id_)

    @rule(keep_s=st.sampled_from([86_400.0]))
    def many_come_and_go(self, keep_s: float) -> None:
        """A device that is answered all day long."""
        for number in range(300):
            self.book.add(Question(id=f"n{number}", expires_at=self.now + keep_s, due_at=self.now))
            self.book.remove(f"n{number}")

    @invariant()
    def it_holds_what_is_open(self) -> None:
        assert len(self.book) == len(self.open)
        assert all(id_ in self.book for id_ in self.open)

    @invariant()
    def no_question_is_forgotten(self) -> None:
        due, expiry = set(self.book._by_due), set(self.book._by_expiry)
        for question in self.open.values():
            assert (question.expires_at, question.id) in expiry
            assert question.in_flight or question.spare or (question.due_at, question.id) in due

    @invariant()
    def memory_is_bounded_by_what_is_open(self) -> None:
        for heap in (self.book._by_due, self.book._by_expiry):
            assert len(heap) <= 2 * len(self.open) + _SPARE_ENTRIES + 1


TestBook = Book.TestCase
TestBook.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
