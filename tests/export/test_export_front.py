"""Which variant is picked: the rule on made-up figures, and the figures it is given on real ones."""

import numpy as np
import pytest

from outrider_export.candidates import coverage_at
from outrider_export.front import Candidate, pareto_front, pick


def candidate(name: str, size: int, ms: float, coverage: float, agreement: float = 0.99) -> Candidate:
    return Candidate(name=name, bytes=size, p50_ms=ms, coverage=coverage, agreement=agreement, accuracy=0.8)


PLAIN = candidate("fp32", 400, 0.20, 0.60, 1.0)
SMALL = candidate("small", 90, 0.30, 0.50)
FAST = candidate("fast", 110, 0.10, 0.55)
BEATEN = candidate("beaten", 120, 0.11, 0.55)
EVERY = [PLAIN, SMALL, FAST, BEATEN]


def test_what_another_beats_in_everything_is_not_on_the_front() -> None:
    assert [each.name for each in pareto_front(EVERY)] == ["fp32", "small", "fast"]


def test_two_alike_are_both_on_the_front() -> None:
    twin = candidate("twin", 90, 0.30, 0.50)
    assert len(pareto_front([SMALL, twin])) == 2


@pytest.mark.parametrize(("objective", "name"), [("latency", "fast"), ("size", "small"), ("coverage", "fp32")])
def test_each_objective_picks_its_own(objective, name) -> None:
    assert pick(EVERY, objective).name == name


def test_latencies_that_a_second_run_would_order_otherwise_are_alike() -> None:
    one, other = candidate("one", 200, 0.100, 0.5), candidate("other", 100, 0.109, 0.5)
    later = candidate("other", 100, 0.120, 0.5)
    assert pick([one, other], "latency").name == "other"
    assert pick([one, later], "latency").name == "one"


def test_latency_has_no_say_in_what_size_and_coverage_pick() -> None:
    slow = [
        Candidate(**{**{key: getattr(each, key) for key in each.__struct_fields__}, "p50_ms": 9.0}) for each in EVERY
    ]
    for objective in ("size", "coverage"):
        assert pick(slow, objective).name == pick(EVERY, objective).name


def test_coverage_at_a_risk_is_the_one_counted_by_hand() -> None:
    right = np.array([True, True, True, False, True, True, False, False])
    scores = np.arange(8, 0, -1.0)
    assert coverage_at(scores, right, 0.0) == 3 / 8
    assert coverage_at(scores, right, 0.2) == 6 / 8  # one wrong of six
    assert coverage_at(scores, ~right, 0.0) == 0.0


def test_rows_of_one_score_are_kept_or_refused_together() -> None:
    right = np.array([True, True, False])
    assert coverage_at(np.array([0.9, 0.5, 0.5]), right, 0.1) == pytest.approx(1 / 3)
    assert coverage_at(np.array([np.inf, -np.inf, -np.inf]), ~right, 1.0) == 0.0
