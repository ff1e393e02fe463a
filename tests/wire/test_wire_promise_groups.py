"""The promise where rows hang together, where strata are certified apart, and where the system is promised too; by simulation.

A world of groups: each has a difficulty of its own that all of its rows share, so that treating rows as independent
counts the same evidence several times. The true risk at a threshold is known from a million rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from numpy.typing import NDArray

from outrider_wire.certificate import (
    DEFAULT_COVERAGES,
    Gap,
    can_test,
    delta_parts,
    fixed_sequence,
    strata_sequences,
    thresholds_at,
)
from outrider_wire.groups import GROUP_ROWS, one_per_group, rows_a_group, some_per_group

RISK, DELTA, DRAWS = 0.05, 0.1, 400
COVERAGES = DEFAULT_COVERAGES[5:]
ALLOWED = DELTA + 2 * (DELTA * (1 - DELTA) / DRAWS) ** 0.5


@dataclass(frozen=True)
class Rows:
    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    groups: list[str]


@dataclass(frozen=True)
class Groups:
    """Groups of ``size`` rows; a share ``bad`` of the groups is wrong throughout, unseen by the score."""

    size: int
    bad: float
    slope: float

    def draw(self, rng: np.random.Generator, n: int) -> Rows:
        group = np.repeat(np.arange(n), self.size)
        scores = rng.random(n * self.size)
        rate = np.where((rng.random(n) < self.bad)[group], 0.95, self.slope * (1 - scores) ** 2)
        return Rows(scores, rng.random(len(scores)) >= rate, [f"g{k}" for k in group])

    @cached_property
    def known(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Negated scores, rising, and the risk down to each."""
        rows = self.draw(np.random.default_rng(99), 400_000 // self.size)
        order = np.argsort(-rows.scores)
        return -rows.scores[order], np.cumsum(~rows.right[order]) / np.arange(1, len(order) + 1)

    def risk_at(self, threshold: float) -> float:
        scores, risks = self.known
        return float(risks[np.searchsorted(scores, -threshold, side="right") - 1])


WORLDS = {
    "four alike": Groups(4, 0.04, 0.2),
    "barely too risky at the start": Groups(4, 0.05, 0.35),
    "eight alike": Groups(8, 0.045, 0.1),
    "hardly alike": Groups(4, 0.0, 0.4),
}


def whole(rows: Rows, thresholds: list[float]) -> float | None:
    own = some_per_group(rows.groups, "k", rows_a_group(rows.groups))
    groups = [rows.groups[row] for row in own.tolist()]
    found = fixed_sequence(
        rows.scores[own], rows.right[own], thresholds, RISK, DELTA, coverages=COVERAGES, groups=groups
    )
    return found.threshold


def as_if_independent(rows: Rows, thresholds: list[float]) -> float | None:
    return fixed_sequence(rows.scores, rows.right, thresholds, RISK, DELTA, coverages=COVERAGES).threshold


def violations(world: Groups, rule: Callable[[Rows, list[float]], float | None], n: int = 150) -> float:
    rng, broken = np.random.default_rng(3), 0
    for _ in range(DRAWS):
        threshold = rule(world.draw(rng, n), thresholds_at(world.draw(rng, 100).scores, COVERAGES))
        broken += threshold is not None and world.risk_at(threshold) > RISK
    return broken / DRAWS


@pytest.mark.parametrize("name", WORLDS)
def test_whole_groups_keep_the_promise(name: str) -> None:
    assert violations(WORLDS[name], whole) <= ALLOWED


def test_frames_taken_for_independent_rows_break_it() -> None:
    """The negative control: the same worlds, and every row counted as evidence of its own."""
    assert violations(WORLDS["eight alike"], as_if_independent) > 1.5 * ALLOWED


def test_whole_groups_certify_more_than_one_row_of_each() -> None:
    rng, world, kept = np.random.default_rng(5), Groups(4, 0.005, 0.25), {"whole": [], "one": []}
    for _ in range(60):
        rows, thresholds = world.draw(rng, 500), thresholds_at(world.draw(rng, 200).scores)
        one = one_per_group(rows.groups, "k")
        kept["whole"].append(
            fixed_sequence(rows.scores, rows.right, thresholds, RISK, DELTA, groups=rows.groups).coverage
        )
        kept["one"].append(fixed_sequence(rows.scores[one], rows.right[one], thresholds, RISK, DELTA).coverage)
    assert np.mean(kept["whole"]) > np.mean(kept["one"]) + 0.03


def test_strata_keep_all_their_promises_together() -> None:
    rng, broken = np.random.default_rng(7), 0
    worlds = {"easy": Groups(1, 0.0, 0.1), "edge": Groups(1, 0.0, 0.16), "hard": Groups(1, 0.0, 0.6)}
    deltas = delta_parts(DELTA, {"easy": 300, "edge": 200, "hard": 100})
    for _ in range(DRAWS):
        drawn = {name: world.draw(rng, 300) for name, world in worlds.items()}
        outcomes = strata_sequences(
            np.concatenate([rows.scores for rows in drawn.values()]),
            np.concatenate([rows.right for rows in drawn.values()]),
            strata=[name for name, rows in drawn.items() for _ in rows.groups],
            thresholds={name: thresholds_at(world.draw(rng, 150).scores) for name, world in worlds.items()},
            risk=RISK,
            deltas=deltas,
            coverages=dict.fromkeys(worlds, DEFAULT_COVERAGES),
        )
        assert set(outcomes) == set(worlds)
        broken += any(
            outcome.threshold is not None and worlds[name].risk_at(outcome.threshold) > RISK
            for name, outcome in outcomes.items()
        )
    assert broken / DRAWS <= ALLOWED


def test_a_stratum_s_own_rows_and_threshold_decide_over_it() -> None:
    scores, right = np.tile(np.linspace(1, 0.001, 400), 2), np.repeat([True, False], 400)
    thresholds = thresholds_at(scores[:400])
    found = strata_sequences(
        scores,
        right,
        strata=["good"] * 400 + ["bad"] * 400,
        thresholds={"good": thresholds, "bad": thresholds},
        risk=RISK,
        deltas={"good": 0.05, "bad": 0.05},
        coverages=dict.fromkeys(["good", "bad"], DEFAULT_COVERAGES),
    )
    assert (found["good"].coverage, found["good"].n, found["bad"].threshold) == (1.0, 400, None)


EPSILON = 0.02


def system_draw(rng: np.random.Generator, n: int) -> tuple[Rows, Gap]:
    """A small model that is within its risk, and a large one that is right where the small one errs: keeping costs accuracy."""
    scores = rng.random(n)
    wrong = rng.random(n) < 0.045 * (scores < 0.9)
    large_wrong = rng.random(n) < 0.004
    kept = wrong.astype(np.int64) - large_wrong
    rows = Rows(scores, ~wrong, [str(k) for k in range(n)])
    return rows, Gap(most=EPSILON, kept=kept, sent=np.zeros(n, np.int64))


def true_gap(threshold: float) -> float:
    """Errors that keeping adds: 4.5 % of what is kept below 0.9, less the large model's own."""
    return 0.045 * max(0.0, 0.9 - threshold) - 0.004 * (1 - threshold)


@pytest.mark.parametrize("with_gap", [True, False])
def test_the_system_s_gap_is_kept_where_it_is_promised_and_only_there(with_gap: bool) -> None:
    """Without the second claim the sequence runs on to where the gap is broken: the control."""
    rng, broken, certified = np.random.default_rng(11), 0, 0
    for _ in range(DRAWS):
        rows, gap = system_draw(rng, 1200)
        outcome = fixed_sequence(
            rows.scores, rows.right, thresholds_at(rng.random(300)), RISK, DELTA, gap=gap if with_gap else None
        )
        certified += outcome.threshold is not None
        broken += outcome.threshold is not None and true_gap(outcome.threshold) > EPSILON
    assert certified > 0.5 * DRAWS
    assert (broken / DRAWS <= ALLOWED) == with_gap


def test_how_many_rows_a_group_certify_depends_on_the_groups_alone() -> None:
    singles, fours = [str(k) for k in range(300)], [str(k // 4) for k in range(1200)]
    assert (rows_a_group(singles), rows_a_group(fours), rows_a_group([])) == (1, GROUP_ROWS, 1)
    assert rows_a_group(singles + ["0"] * 50) == 1


def test_whether_rows_can_be_tested_counts_groups_and_not_rows() -> None:
    assert can_test([str(k) for k in range(59)], RISK, 0.05, DEFAULT_COVERAGES)
    assert not can_test([str(k) for k in range(58)], RISK, 0.05, DEFAULT_COVERAGES)
    assert not can_test([str(k % 15) for k in range(6000)], RISK, 0.05, DEFAULT_COVERAGES)
