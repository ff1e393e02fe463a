"""What so many labels can be expected to certify, before anything is trained: a seeded simulation. Knows no model and no data.

The world is a calibrated model: ranked from surest to least sure, the row at share u of the stream is wrong with probability
(1 − accuracy) · 3.6 · u^2.6. The exponent was fitted to what models right 88 % of the time certified with an earlier ladder (every
5 % from 15 % up; r* 5 %, δ 10 %: 46 % of 400 rows kept, nothing in 11 % of draws; 64 % of 2,000). Real models differ: a
poorly calibrated one, or rows that are not alike, keep less.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from outrider_wire.certificate import (
    DEFAULT_COVERAGES,
    best_start,
    binomial_tail,
    first_tested,
    fixed_sequence,
    thresholds_at,
)
from outrider_wire.groups import rows_a_group

EXPONENT = 2.6
DRAWS = 300
GROUP_DRAWS = 80
"""With several rows a group each draw costs about fifty times as much."""
ALIKE = 0.3
"""Share of a group's rows that are right or wrong together, where they are equally sure."""
TUNING_SHARE = 3 / 7
"""Tuning rows for each certification row."""
_MOST_WRONG = 0.95
_ORACLE_ROWS = 10_001

Floats = NDArray[np.float64]
Told = Callable[[float], None]


class Expected(Struct, kw_only=True, frozen=True):
    """What so many certification rows come to."""

    n: int
    """Certification rows; tuning rows (`TUNING_SHARE` of them) are not among them."""
    groups: int
    coverage: float
    """Mean share that is certified to be kept, draws that certify nothing included."""
    nothing: float
    """Share of draws that certify nothing."""


def expected(
    n: int,
    *,
    risk: float,
    delta: float,
    accuracy: float,
    rows_of_a_group: int = 1,
    draws: int | None = None,
    seed: int = 0,
    coverages: Sequence[float] = DEFAULT_COVERAGES,
    start: int | None = None,
    told: Told = lambda share: None,
) -> Expected:
    """The mean of many draws of tuning and certification rows.

    Args:
        n: certification rows.
        risk: r*.
        delta: δ.
        accuracy: of the model on all rows.
        rows_of_a_group: rows that hang together.
        draws: how many; None: as many as take a second or so.
        seed: the same seed gives the same figures.
        coverages: what is tested, rising.
        start: index of the first of them; None: as tuning rows choose (`outrider_wire.certificate.best_start`).
        told: told the share done.
    """
    count = draws or (DRAWS if rows_of_a_group == 1 else GROUP_DRAWS)
    rng = np.random.default_rng([seed, n, rows_of_a_group])
    draw = _Draw(n=n, risk=risk, delta=delta, coverages=coverages, start=start, rate=_error_rate(accuracy))
    kept = []
    for done in range(count):
        kept.append(draw.rows(rng) if rows_of_a_group == 1 else draw.groups(rng, rows_of_a_group))
        told((done + 1) / count)
    found = np.asarray(kept)
    return Expected(
        n=n,
        groups=-(-n // rows_of_a_group),
        coverage=float(found.mean()),
        nothing=float((found == 0.0).mean()),
    )


def around(
    n: int,
    *,
    risk: float,
    delta: float,
    accuracy: float,
    rows_of_a_group: int = 1,
    seed: int = 0,
    told: Told = lambda share: None,
) -> list[Expected]:
    """`expected` of half of ``n``, ``n``, twice and four times ``n``: what more labels would buy."""
    sizes = [max(1, n // 2), n, 2 * n, 4 * n]
    found: list[Expected] = []
    for size in sizes:
        done = len(found)
        found.append(
            expected(
                size,
                risk=risk,
                delta=delta,
                accuracy=accuracy,
                rows_of_a_group=rows_of_a_group,
                seed=seed,
                told=lambda share, done=done: told((done + share) / len(sizes)),  # type: ignore[misc]  # a lambda's default has no type
            )
        )
    return found


def at_best(*, risk: float, accuracy: float) -> float:
    """The coverage at which the simulated model's true risk is r*: what no number of labels goes beyond."""
    shares = np.linspace(0.0, 1.0, _ORACLE_ROWS)[1:]
    risks = np.cumsum(_error_rate(accuracy)(shares)) / np.arange(1, _ORACLE_ROWS)
    within = np.flatnonzero(risks <= risk)
    return float(shares[within[-1]]) if len(within) else 0.0


def _error_rate(accuracy: float) -> Callable[[Floats], Floats]:
    """Share of the stream, surest first → how often that row is wrong; its mean is 1 − accuracy."""
    shares = np.linspace(0.0, 1.0, 2_001)
    low, high = 0.0, 100.0
    for _ in range(50):  # where a poor model's rate is cut off at the top, the scale makes up for it
        scale = (low + high) / 2
        mean = float(np.minimum(scale * shares**EXPONENT, _MOST_WRONG).mean())
        low, high = (scale, high) if mean < 1.0 - accuracy else (low, scale)
    return lambda u: np.minimum(high * u**EXPONENT, _MOST_WRONG)


class _Draw:
    """One draw at a time, of rows that are ranks: 0 is the surest."""

    def __init__(
        self,
        *,
        n: int,
        risk: float,
        delta: float,
        coverages: Sequence[float],
        start: int | None,
        rate: Callable[[Floats], Floats],
    ) -> None:
        self._n, self._risk, self._delta, self._rate = n, risk, delta, rate
        self._coverages = list(coverages)
        self._start = start
        self._tail = lru_cache(maxsize=None)(binomial_tail)

    def rows(self, rng: np.random.Generator) -> float:
        """Coverage certified with each row a group of its own."""
        tuning, wrong = self._alone(rng, self._tuning(self._n))
        start, limits = self._begun(-tuning, ~wrong, None)
        ranks, wrong = self._alone(rng, self._n)
        if self._start is None:
            start += first_tested(self._coverages[start:], self._n, self._risk, self._delta)
        errors = np.concatenate(([0], np.cumsum(wrong)))
        kept = 0.0
        for accepted in np.searchsorted(ranks, limits[start:], side="right").tolist():
            if not accepted or self._tail(int(errors[accepted]), accepted, self._risk) > self._delta:
                break
            kept = accepted / self._n
        return kept

    def groups(self, rng: np.random.Generator, size: int) -> float:
        """Coverage certified with ``size`` rows a group, some of which err together; as many of each certify as the rule takes."""
        count = max(1, self._n // size)
        most = min(size, rows_a_group([str(group) for group in range(count) for _ in range(size)]))
        tuning = self._together(rng, max(1, self._tuning(count * most) // most), most)
        start, limits = self._begun(*tuning)
        scores, right, names = self._together(rng, count, most)
        return fixed_sequence(
            scores,
            right,
            (-limits[start:]).tolist(),
            self._risk,
            self._delta,
            coverages=self._coverages[start:],
            groups=names,
        ).coverage

    def _tuning(self, n: int) -> int:
        return max(20, round(n * TUNING_SHARE))

    def _alone(self, rng: np.random.Generator, n: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Ranks, the surest first, and whether each row is wrong."""
        ranks = np.sort(rng.random(n))
        return ranks, rng.random(n) < self._rate(ranks)

    def _together(self, rng: np.random.Generator, count: int, most: int) -> tuple[Floats, NDArray[np.bool_], list[str]]:
        """Scores, whether each row is right, and the name of its group."""
        ranks = rng.random((count, most))
        alike = rng.random((count, most)) < ALIKE
        luck = np.where(alike, rng.random((count, 1)), rng.random((count, most)))
        right = (luck >= self._rate(ranks)).ravel()
        return -ranks.ravel(), right, [str(group) for group in range(count) for _ in range(most)]

    def _begun(self, scores: Floats, right: NDArray[np.bool_], names: list[str] | None) -> tuple[int, Floats]:
        """Where the sequence begins (past the end: nowhere), and the rank at each coverage, as tuning rows fix them."""
        thresholds = thresholds_at(scores, self._coverages)
        start = self._start
        if start is None:
            start = best_start(scores, right, thresholds, self._risk, groups=names)
        return len(self._coverages) if start is None else start, -np.asarray(thresholds)
