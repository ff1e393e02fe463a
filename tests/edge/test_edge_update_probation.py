"""When a new model is kept and when it is rolled back; how often chance alone rolls one back, and that a bad one is."""

import math
import random
from typing import Any

import pytest

from outrider_edge.config import UpdateSettings
from outrider_edge.updates.events import Healthy, Tripped
from outrider_edge.updates.jobs import UpdateTerms
from outrider_edge.updates.probation import ProbationTerms, Seen, disagrees, verdict

TERMS = ProbationTerms(answers=100, least_s=10.0, most_s=600.0)
FINE: dict[str, Any] = {
    "run_s": 20.0,
    "answers": 150,
    "compared": 40,
    "agreed": 38,
    "timed": 150,
    "p95_ms": 5.0,
    "p95_before_ms": 4.0,
    "rss_mb": 300.0,
    "rss_before_mb": 200.0,
    "headroom_c": 12.0,
    "headroom_before_c": 14.0,
}


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({}, True),
        ({"answers": 97}, False),
        ({"run_s": 9.0}, False),
        ({"answers": 0, "run_s": 600.0}, True),
        ({"contact": False}, False),
    ],
)
def test_it_ends_well_after_enough_answers_or_time_and_a_word_with_the_cloud(
    changed: dict[str, Any], kept: bool
) -> None:
    assert verdict(Seen(**(FINE | changed)), TERMS) == (Healthy() if kept else None)


@pytest.mark.parametrize(
    ("every_s", "ends_s"), [(1.0, 1800.0), (9.0, 1800.0), (60.0, 10_722.0), (600.0, 50_541.0), (0.0, 86_400.0)]
)
def test_a_device_that_answers_seldom_is_watched_for_longer_but_not_for_ever(every_s: float, ends_s: float) -> None:
    """The shipped terms: 200 answers and half an hour, whichever is later; then fewer and fewer; after a day none."""
    run_s = 0.0
    while verdict(Seen(run_s=run_s, answers=int(run_s / every_s) if every_s else 0), ProbationTerms()) is None:
        run_s += 1.0
    assert run_s == pytest.approx(ends_s, rel=0.02)


def test_a_short_probation_ends_when_it_says_whatever_the_least() -> None:
    terms = ProbationTerms(most_s=5.0)
    assert verdict(Seen(run_s=4.9, answers=10**6), terms) is None
    assert verdict(Seen(run_s=5.0), terms) == Healthy()


def test_what_ships_is_what_the_configuration_says() -> None:
    shipped, settings = UpdateTerms().probation, UpdateSettings()
    assert (shipped.answers, shipped.least_s, shipped.most_s) == (200, 1800.0, 86_400.0)
    assert (settings.probation_answers, settings.probation_least_s, settings.probation_s) == (200, 1800.0, 86_400.0)
    assert (ProbationTerms().answers, ProbationTerms().least_s, ProbationTerms().most_s) == (200, 1800.0, 86_400.0)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"failures": 1}, "live_failure"),
        ({"compared": 200, "agreed": 20}, "live_disagreement"),
        ({"alarm": True}, "live_risk"),
        ({"p95_ms": 40.0}, "live_latency"),
        ({"rss_mb": 800.0}, "live_memory"),
        ({"headroom_c": -1.0}, "live_heat"),
    ],
)
def test_each_monitor_rolls_back_with_its_reason_even_when_enough_was_answered(
    changed: dict[str, Any], code: str
) -> None:
    found = verdict(Seen(**(FINE | changed)), TERMS)
    assert isinstance(found, Tripped)
    assert found.code == code and found.reason


@pytest.mark.parametrize(
    "changed",
    [
        {"p95_ms": 40.0, "timed": 10},
        {"p95_ms": 40.0, "p95_before_ms": 0.0},
        {"rss_mb": 800.0, "rss_before_mb": 0.0},
        {"headroom_c": -1.0, "headroom_before_c": -2.0},
        {"headroom_c": -1.0, "headroom_before_c": None},
        {"compared": 3, "agreed": 0},
    ],
    ids=["few", "no p95 before", "no memory before", "hot before", "blind before", "three inputs"],
)
def test_what_cannot_be_compared_trips_nothing(changed: dict[str, Any]) -> None:
    assert not isinstance(verdict(Seen(**(FINE | changed)), TERMS), Tripped)


def ever(share: float, least: float, inputs: int, luck: random.Random, false_alarm: float) -> bool:
    agreed = 0
    for number in range(1, inputs + 1):
        agreed += luck.random() < share
        if disagrees(agreed, number, least, false_alarm):
            return True
    return False


def test_chance_alone_rolls_back_no_more_often_than_permitted_at_any_look() -> None:
    luck, runs = random.Random(7), 600
    tripped = sum(ever(0.5, 0.5, 300, luck, 0.05) for _ in range(runs))
    assert tripped <= 0.05 * runs + 3 * math.sqrt(0.05 * runs)


def test_a_model_that_says_something_else_is_found_within_its_probation() -> None:
    luck = random.Random(7)
    assert sum(ever(0.1, 0.5, 100, luck, 1e-3) for _ in range(100)) == 100
    assert sum(ever(0.9, 0.5, 100, luck, 1e-3) for _ in range(100)) == 0


def test_the_negative_control_one_threshold_for_every_look_would_be_wrong() -> None:
    """Without its correction for looking again and again, chance alone would roll back far more often."""
    luck, runs = random.Random(7), 300

    def naive(inputs: int) -> bool:
        agreed = 0
        for number in range(1, inputs + 1):
            agreed += luck.random() < 0.5
            share = agreed / number
            if number >= 5 and share < 0.5 - math.sqrt(math.log(1 / 0.05) / (2 * number)):
                return True
        return False

    assert sum(naive(300) for _ in range(runs)) > 0.1 * runs
