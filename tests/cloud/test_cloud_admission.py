"""Who is let in when there is too much: rates, room, fair shares, and when to come again. No clock, no broker."""

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider_cloud.buckets import Buckets
from outrider_cloud.intake.admission import Admission, Key, Limits, Shed
from outrider_cloud.seldom import Seldom


def admission(*, queue_max: int = 100, queue_max_bytes: int = 1000, **limits: float) -> Admission:
    return Admission(
        limits=Limits(**limits),  # type: ignore[arg-type]  # numbers of either kind
        tasks=frozenset({"t", "u"}),
        queue_max=queue_max,
        queue_max_bytes=queue_max_bytes,
        retry_after_s=2.0,
    )


def fill(made: Admission, device: str, count: int, *, task: str = "t", size: int = 0, now: float = 0.0) -> int:
    """Offers ``count`` questions; how many were let in."""
    entered = 0
    for k in range(count):
        if made.no_room(device, task, size) is None:
            made.enter(Key(task, device, f"{now}-{k}"), size, now)
            entered += 1
    return entered


def test_a_device_alone_may_fill_the_room_but_for_the_last_places() -> None:
    made = admission(queue_max=160)
    assert fill(made, "cam-1", 500) == 150
    assert made.no_room("cam-1", "t", 0) == Shed("queue_full")
    assert fill(made, "cam-2", 500) == 1, "who holds none has a place, and then its share is used up like the other's"
    assert fill(made, "cam-3", 1) + fill(made, "cam-4", 1) == 2


def test_as_the_room_fills_who_is_over_its_share_is_refused_first() -> None:
    made = admission(queue_max=120)
    assert fill(made, "flood", 70) == 70
    assert fill(made, "cam-1", 1) == 1
    assert made.no_room("flood", "t", 0) == Shed("over_share")
    assert fill(made, "cam-1", 30) == 30
    assert made.no_room("cam-1", "t", 0) is None


def test_shares_are_of_bytes_as_well() -> None:
    made = admission(queue_max_bytes=1000)
    assert fill(made, "flood", 9, size=100) == 9
    assert fill(made, "cam-1", 1, size=10) == 1
    assert made.no_room("flood", "t", 50) == Shed("over_share")
    assert made.no_room("cam-1", "t", 50) is None
    assert made.no_room("cam-2", "t", 500) == Shed("bytes_full")


def test_one_that_is_larger_than_the_room_is_taken_where_nothing_else_waits() -> None:
    assert admission(queue_max_bytes=10).no_room("cam-1", "t", 500) is None


def test_all_tasks_together_have_a_bound_of_their_own() -> None:
    made = admission(queue_max=100, inputs_max=64)
    assert fill(made, "cam-1", 40) == 40
    assert fill(made, "cam-2", 40, task="u") < 40
    assert made.depth("t") + made.depth("u") <= 64
    assert made.left("t") == 64 - made.depth("t") - made.depth("u")


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 400), st.booleans()), max_size=200), st.integers(1, 40))
def test_no_bound_is_ever_exceeded_and_the_books_balance(offers: list[tuple[int, int, bool]], most: int) -> None:
    made = admission(queue_max=most, queue_max_bytes=1000, inputs_max=2 * most)
    open_now: dict[Key, int] = {}
    for number, (who, size, leaves) in enumerate(offers):
        device, key = f"cam-{who}", Key("t", f"cam-{who}", str(number))
        if leaves and open_now:
            gone = next(iter(open_now))
            made.leave(gone, float(number))
            del open_now[gone]
        elif made.no_room(device, "t", size) is None:
            made.enter(key, size, float(number))
            open_now[key] = size
        assert made.depth("t") == len(open_now) <= most
        assert made.bytes("t") == sum(open_now.values())
        assert made.bytes("t") <= 1000 or len(open_now) == 1
    for key in open_now:
        made.leave(key, 1e3)
        made.leave(key, 1e3)
    assert (made.depth("t"), made.bytes("t"), made.left("t")) == (0, 0, most)


def test_rates_are_capped_by_device_and_by_task() -> None:
    made = admission(device_per_s=1, device_burst=3, task_per_s=1, task_burst=5)
    said = [made.too_often("cam-1", "t", 0.0) for _ in range(4)]
    assert said == [None, None, None, Shed("device_rate", 1.0)]
    assert [made.too_often("cam-2", "t", 0.0) for _ in range(3)] == [None, None, Shed("task_rate", 1.0)]
    assert made.too_often("cam-3", "elsewhere", 0.0) is None, "a task that is not served has no bucket to fill"
    assert made.too_often("cam-1", "t", 1.0) is None


def test_those_who_are_refused_get_places_in_line() -> None:
    buckets = Buckets(per_s=2.0, burst=1)
    assert buckets.take("a", 0.0) == 0
    waits = [buckets.take("a", 0.0) for _ in range(4)]
    assert waits == [0.5, 1.0, 1.5, 2.0]
    assert [buckets.take("a", wait) for wait in waits] == [0, 0, 0, 0]


def test_hostile_names_do_not_fill_the_memory() -> None:
    buckets = Buckets(per_s=1.0, burst=1, names=10)
    for k in range(1000):
        buckets.take(str(k), 0.0)
    assert len(buckets._buckets) == 10


def test_who_is_put_off_comes_later_the_older_the_queue_and_never_all_at_once() -> None:
    made, full = admission(), Shed("queue_full")
    assert made.retry_after_s(full, 0.0, 0.5) == 2.0
    fill(made, "cam-1", 50, now=0.0)
    waits = [made.retry_after_s(full, now, 0.5) for now in (0.0, 30.0, 60.0, 10_000.0)]
    assert waits == [2.0, 15.0, 30.0, 300.0]
    spread = [made.retry_after_s(full, 30.0, chance) for chance in (0.0, 0.5, 0.999)]
    assert spread == pytest.approx([0.75 * 15, 15, 1.25 * 15], rel=1e-3)
    assert made.retry_after_s(Shed("draining"), 60.0, 0.5) == 2.0
    assert made.retry_after_s(Shed("device_rate", 40.0), 60.0, 0.5) == 40.0


def test_who_is_put_off_comes_when_the_queue_will_have_drained() -> None:
    made, full = admission(queue_max=10_000), Shed("queue_full")
    fill(made, "cam-1", 900, now=100.0)
    for k in range(300):
        made.leave(Key("t", "cam-1", f"100.0-{k}"), 100.0 + (k + 1) / 10)
    assert made.retry_after_s(full, 130.0, 0.5) == pytest.approx(600 / 10, rel=0.05)


def test_a_log_says_how_many_lines_it_left_out() -> None:
    now, seldom = [0.0], Seldom(clock=lambda: now[0])

    def record() -> logging.LogRecord:
        return logging.LogRecord("outrider", logging.WARNING, "", 0, "message.dead", (), None)

    written = sum(seldom.filter(record()) for _ in range(1000))
    assert written == 20
    now[0] = 10.0
    again = record()
    assert seldom.filter(again) and again.__dict__["left_out"] == 980
    other = logging.LogRecord("outrider", logging.WARNING, "", 0, "reply.unsent", (), None)
    assert seldom.filter(other), "another event has room of its own"
