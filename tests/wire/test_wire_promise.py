"""The promise itself, by simulation: P(risk of what is accepted ≤ r*) ≥ 1 − δ; and rules that break it, so that the test can fail.

A world is a list of score levels, each with a share of the inputs and an error rate: the true risk at a threshold is a
sum and not an estimate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from outrider_wire.certificate import fixed_sequence, thresholds_at

RISK = 0.05
DRAWS = 500
Rule = Callable[[NDArray[np.float64], NDArray[np.bool_], list[float], float], float | None]


@dataclass(frozen=True)
class World:
    levels: NDArray[np.float64]
    shares: NDArray[np.float64]
    error_rates: NDArray[np.float64]

    def draw(self, rng: np.random.Generator, n: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        at = rng.choice(len(self.levels), n, p=self.shares)
        return self.levels[at], rng.random(n) >= self.error_rates[at]

    def risk_at(self, threshold: float) -> float:
        kept = self.levels >= threshold
        return float((self.shares * self.error_rates)[kept].sum() / self.shares[kept].sum())


def world(
    error_rates: Callable[[NDArray[np.float64]], NDArray[np.float64]], *, levels: int, foreign: float = 0.0
) -> World:
    """Scores even over [0, 1] at that many levels; a share of ``foreign`` inputs that support refuses, mostly wrong."""
    scores = np.linspace(0.0, 1.0, levels)
    shares = np.full(levels, (1.0 - foreign) / levels)
    rates = error_rates(scores)
    if foreign:
        scores, shares, rates = np.append(scores, -np.inf), np.append(shares, foreign), np.append(rates, 0.9)
    return World(scores, shares, rates)


def steep(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 % wrong among the surest, half among the least sure: 5 % of the surest 68 %."""
    return 0.01 + 0.5 * (1.0 - scores) ** 3


def barely_too_risky(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every threshold is a broken promise, by a hair: the hardest case of the first test."""
    return np.full_like(scores, RISK + 1e-6)


def surest_are_worst(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Risk falls with coverage and never below r*: no help from monotony."""
    return 0.0505 + 0.02 * (scores > 0.75)


def crosses_at_half(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fine down to the middle, then the promise breaks at once."""
    return np.where(scores >= 0.5, 0.03, 0.15)


WORLDS = {
    "continuous scores": world(steep, levels=20_000),
    "INT8-like ties": world(steep, levels=24),
    "ties and foreign inputs": world(steep, levels=24, foreign=0.2),
    "barely too risky": world(barely_too_risky, levels=500),
    "barely too risky, with ties": world(barely_too_risky, levels=16),
    "the surest are the worst": world(surest_are_worst, levels=500),
    "crosses at half": world(crosses_at_half, levels=500),
    "crosses at half, ties and foreign inputs": world(crosses_at_half, levels=30, foreign=0.1),
}


def violations(world: World, rule: Rule, *, delta: float, n: int, seed: int = 3) -> float:
    """Share of draws of tuning and certification rows in which what the rule accepts is riskier than r*."""
    rng = np.random.default_rng(seed)
    broken = 0
    for _ in range(DRAWS):
        thresholds = thresholds_at(world.draw(rng, 300)[0])
        threshold = rule(*world.draw(rng, n), thresholds, delta)
        broken += threshold is not None and world.risk_at(threshold) > RISK
    return broken / DRAWS


def certified(
    scores: NDArray[np.float64], correct: NDArray[np.bool_], thresholds: list[float], delta: float
) -> float | None:
    return fixed_sequence(scores, correct, thresholds, RISK, delta).threshold


def naive(
    scores: NDArray[np.float64], correct: NDArray[np.bool_], thresholds: list[float], delta: float
) -> float | None:
    """What everybody does: the lowest threshold whose empirical error is at most r*."""
    good = [t for t in thresholds if (~correct[scores >= t]).sum() <= RISK * (scores >= t).sum()]
    return good[-1] if good else None


def allowed(delta: float) -> float:
    """δ and two standard errors of the simulation."""
    return delta + 2 * float(np.sqrt(delta * (1 - delta) / DRAWS))


@pytest.mark.parametrize("n", [250, 700])
@pytest.mark.parametrize("delta", [0.05, 0.1])
@pytest.mark.parametrize("name", WORLDS)
def test_the_promise_is_kept(name: str, delta: float, n: int) -> None:
    assert violations(WORLDS[name], certified, delta=delta, n=n) <= allowed(delta)


@pytest.mark.parametrize("name", ["continuous scores", "INT8-like ties", "barely too risky", "crosses at half"])
def test_the_naive_rule_breaks_it(name: str) -> None:
    """The negative control: the same simulation convicts a rule that deserves it."""
    assert violations(WORLDS[name], naive, delta=0.1, n=700) > 2 * allowed(0.1)


def test_thresholds_chosen_on_the_certified_rows_after_peeking_break_it() -> None:
    """A second control: testing every threshold and keeping the lowest that passes, without stopping at a failure, costs more than δ."""

    def without_stopping(
        scores: NDArray[np.float64], correct: NDArray[np.bool_], thresholds: list[float], delta: float
    ) -> float | None:
        lone = [fixed_sequence(scores, correct, [t], RISK, delta, coverages=[1.0]).threshold for t in thresholds]
        return next((t for t in reversed(lone) if t is not None), None)

    assert violations(WORLDS["barely too risky"], without_stopping, delta=0.1, n=700) > allowed(0.1)


def test_what_is_safe_is_certified_most_of_the_time() -> None:
    """A rule that certifies nothing would keep every promise: two thirds are safe here, and nearly half is kept on average."""
    rng, kept = np.random.default_rng(5), []
    for _ in range(100):
        thresholds = thresholds_at(WORLDS["continuous scores"].draw(rng, 300)[0])
        kept.append(fixed_sequence(*WORLDS["continuous scores"].draw(rng, 700), thresholds, RISK, 0.05).coverage)
    assert np.mean(kept) > 0.4
    assert np.mean(np.array(kept) == 0.0) < 0.2
