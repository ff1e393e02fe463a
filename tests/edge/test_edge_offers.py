"""When a question is put on the wire again."""

import pytest

from outrider_edge.uplink.offers import MAX_TIMER_S, OfferBook, Question

ID = "an-id"


@pytest.fixture
def book() -> OfferBook:
    book = OfferBook(receipt_timer_s=5.0, ask_again_s=60.0)
    book.add(Question(id=ID, due_at=0.0))
    return book


def offer(book: OfferBook, now: float) -> bool:
    """Whether it was due; then it is offered."""
    if not book.take_due(now, 10):
        return False
    book.offered(ID, now, sent=True)
    return True


def times(book: OfferBook, until: float, step: float = 0.5) -> list[float]:
    return [now for now in (step * tick for tick in range(int(until / step))) if offer(book, now)]


def test_without_a_receipt_it_is_offered_again_ever_more_slowly(book: OfferBook) -> None:
    assert times(book, 120) == [0, 5, 15, 35, 65, 95]
    assert MAX_TIMER_S == 30


def test_with_a_receipt_it_is_asked_after_once_a_minute(book: OfferBook) -> None:
    assert offer(book, 0)
    book.received(ID, 1)
    assert times(book, 200) == [61, 121, 181]


def test_a_new_connection_makes_everything_due_at_once(book: OfferBook) -> None:
    assert offer(book, 0)
    book.received(ID, 1)
    book.connected(2)
    assert offer(book, 2)


def test_a_busy_cloud_is_left_alone_as_long_as_it_asked(book: OfferBook) -> None:
    assert offer(book, 0)
    book.busy(ID, 1, 17)
    assert times(book, 20)[0] == 18


def test_a_reply_that_overtakes_the_acknowledgement_of_the_offer_is_heeded(book: OfferBook) -> None:
    book.take_due(0, 10)
    book.busy(ID, 1, 40)
    book.offered(ID, 1.1, sent=True)
    assert times(book, 50)[0] == 41


def test_the_first_word_after_a_silence_makes_what_waits_due(book: OfferBook) -> None:
    book.heard(0)
    assert times(book, 20) == [0, 5, 15]
    book.heard(20)
    assert offer(book, 20)


def test_words_without_a_silence_before_them_do_not(book: OfferBook) -> None:
    book.heard(0)
    assert times(book, 20) == [0, 5, 15]
    for now in range(1, 25):
        book.heard(float(now))
    assert not offer(book, 24)


def test_it_is_in_flight_only_once(book: OfferBook) -> None:
    assert [question.id for question in book.take_due(0, 10)] == [ID]
    book.connected(1)
    book.take_due(1, 10)
    assert book.take_due(1, 10) == []


def test_what_is_done_with_is_never_offered_again(book: OfferBook) -> None:
    book.remove(ID)
    assert not offer(book, 1_001)


def test_the_next_moment_is_the_earliest(book: OfferBook) -> None:
    assert book.next_at() == 0
    assert OfferBook().next_at() == float("inf")


def test_only_what_the_cloud_has_stored_is_parked_and_the_longest_stored_goes_first() -> None:
    book = OfferBook()
    for number in range(4):
        book.add(Question(id=str(number), due_at=0.0))
    for number in (2, 0, 3):
        book.received(str(number), 1.0)
    assert book.park(2.0, 2) == 2
    assert ["2" in book, "0" in book, "3" in book, "1" in book] == [False, False, True, True]
    assert book.park(2.0, 5) == 1
    assert len(book) == 1


def test_moments_that_were_overtaken_do_not_pile_up(book: OfferBook) -> None:
    for now in range(10_000):
        book.connected(float(now))
    assert len(book._by_due) < 100


def test_a_person_makes_one_or_all_due_now() -> None:
    book = OfferBook()
    for number in range(3):
        book.add(Question(id=str(number), due_at=100.0))
    book.hurry(1.0, "1")
    assert [question.id for question in book.take_due(1.0, 10)] == ["1"]
    book.hurry(2.0)
    assert [question.id for question in book.take_due(2.0, 10)] == ["0", "2"]


def test_no_more_are_taken_than_asked_for() -> None:
    book = OfferBook()
    for number in range(5):
        book.add(Question(id=str(number), due_at=float(number)))
    assert [question.id for question in book.take_due(10, 3)] == ["0", "1", "2"]
    assert [question.id for question in book.take_due(10, 3)] == ["3", "4"]
