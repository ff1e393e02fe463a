"""What is learnt of a link, played on links of known rate and delay: blocks fit it, and the queue we make stays short."""

import pytest

from outrider_wire.blobs import block_size
from outrider_wire.pace import LEAST_WINDOW, LONGEST_S, MOST_WINDOW, QUEUE_S, ROUTE_S, Allowance, LinkRate, Pace


def play(pace: Pace, *, rate: float, delay_s: float, seconds: float, begin: float = 0.0) -> tuple[float, float]:
    """Sends as much as the pace lets, over a link of ``rate`` bytes a second and a delay.

    Returns:
        Bytes a second that came, and the longest queue in seconds of the second half.
    """
    now, came, longest, free_at, flying = begin, 0, 0.0, begin, []
    while now < begin + seconds:
        size = block_size(0, pace.bytes_per_s) if pace.bytes_per_s else 2048
        while pace.has_room(size) and not pace.wait_s(now):
            pace.sent(size, now)
            free_at = max(free_at, now) + size / rate
            longest = max(longest, free_at - now) if now > begin + seconds / 2 else 0.0
            flying.append((free_at + delay_s, size))
        if not flying or (pace.wait_s(now) and now + pace.wait_s(now) < flying[0][0]):
            now += pace.wait_s(now)
            continue
        now, size = flying.pop(0)
        pace.arrived(size, now)
        came += size
    for at, size in flying:
        pace.arrived(size, at)
    return came / seconds, longest


@pytest.mark.parametrize("rate", [20e3, 200e3, 5e6])
@pytest.mark.parametrize("delay_s", [0.001, 0.05, 0.6])
def test_a_link_is_filled_and_the_queue_in_front_of_others_stays_short(rate: float, delay_s: float) -> None:
    pace = Pace()
    came, queue_s = play(pace, rate=rate, delay_s=delay_s, seconds=60)
    reached = min(rate, MOST_WINDOW / (delay_s + QUEUE_S))
    assert came > 0.75 * reached
    assert queue_s < QUEUE_S + 0.5  # and what of one block
    assert pace.bytes_per_s is not None
    assert 0.7 * came < pace.bytes_per_s < 1.3 * rate
    assert block_size(0, pace.bytes_per_s) == pytest.approx(min(65_536, rate / 4), rel=0.3)


def test_without_the_watch_on_delay_the_queue_would_grow() -> None:
    """The control: the same link, and a window that never yields."""
    pace = Pace()
    pace.arrived = lambda size, now: pace._settle(size) and None  # type: ignore[method-assign, func-returns-value]  # deaf
    pace.window = MOST_WINDOW
    assert play(pace, rate=20e3, delay_s=0.05, seconds=60)[1] > 10 * QUEUE_S


def test_a_link_that_becomes_slow_is_followed() -> None:
    pace = Pace()
    play(pace, rate=2e6, delay_s=0.02, seconds=10)
    _, queue_s = play(pace, rate=20e3, delay_s=0.02, seconds=60, begin=100)
    assert pace.bytes_per_s == pytest.approx(20e3, rel=0.3)
    assert queue_s < QUEUE_S + 0.5


def test_a_route_that_becomes_longer_is_learnt_in_time() -> None:
    pace = Pace()
    play(pace, rate=200e3, delay_s=0.01, seconds=10)
    came, _ = play(pace, rate=200e3, delay_s=1.0, seconds=60, begin=100)
    assert came < 0.2 * 200e3  # all of the delay is taken for a queue of our own
    play(pace, rate=200e3, delay_s=1.0, seconds=2 * ROUTE_S, begin=200)
    came, _ = play(pace, rate=200e3, delay_s=1.0, seconds=60, begin=300 + 2 * ROUTE_S)
    assert came > 0.5 * 200e3


def test_a_pause_teaches_nothing() -> None:
    rate = LinkRate()
    for pause in range(20):
        begin = pause * 1000.0
        rate.begins(begin)
        rate.arrived(10_000, begin + 0.1, last=True)
    assert rate.bytes_per_s == pytest.approx(100_000)


def test_one_odd_piece_does_not_change_the_picture() -> None:
    rate = LinkRate()
    for second in range(10):
        rate.begins(second)
        rate.arrived(10_000, second + 0.1, last=True)
    rate.begins(20.0)
    rate.arrived(10_000, 20.001, last=True)
    assert rate.bytes_per_s is not None
    assert 100_000 < rate.bytes_per_s < 3_000_000


def test_nothing_is_known_before_something_has_come() -> None:
    pace = Pace(bytes_per_s=5_000)
    assert pace.bytes_per_s is None
    pace.sent(100, 0.0)
    pace.arrived(100, 0.01)
    assert pace.bytes_per_s == 5_000  # the cap, where the link is faster


def test_the_cap_holds_over_all_that_is_sent() -> None:
    came, _ = play(Pace(bytes_per_s=10e3), rate=1e6, delay_s=0.01, seconds=60)
    assert came == pytest.approx(10e3, rel=0.1)


def test_what_is_lost_leaves_room_and_halves_the_window() -> None:
    pace = Pace()
    pace.window = 100_000
    pace.sent(90_000, 0.0)
    assert not pace.has_room(20_000)
    pace.lost(90_000)
    assert (pace.under_way, pace.window) == (0, 50_000)
    for _ in range(10):
        pace.sent(10, 1.0)
        pace.lost(10)
    assert pace.window == LEAST_WINDOW


def test_one_piece_may_always_go_and_strays_change_nothing() -> None:
    pace = Pace()
    assert pace.has_room(10 * MOST_WINDOW)
    pace.arrived(5, 0.0)
    pace.lost(5)
    assert (pace.under_way, pace.window) == (0, LEAST_WINDOW)


def test_no_more_is_under_way_than_the_link_carries_in_two_seconds() -> None:
    pace = Pace()
    for second in range(2000):  # a link whose delay never shows a queue
        pace.sent(1000, second * 0.05)
        pace.arrived(1000, second * 0.05 + 0.05)
    assert pace.bytes_per_s == pytest.approx(20_000)
    assert pace.window <= LONGEST_S * 20_000 * 1.01


def test_an_allowance_lets_a_burst_go_and_then_keeps_its_rate() -> None:
    allowance = Allowance(bytes_per_s=1000, burst=5000)
    assert allowance.take(5000, 10.0) == 0
    assert allowance.take(1000, 10.0) == 1.0
    assert allowance.take(1000, 10.0) == 2.0
    assert allowance.take(1000, 13.0) == 0  # what was waited for has come back
    assert allowance.take(5001, 1e6) == pytest.approx(0.001)  # it never holds more than the burst
