"""One task and seed, calibrated: what every strategy is given. Fits on tuning rows alone; knows no strategy."""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider.bench.gate.rows import Floats, Foreign, Measured, Rows
from outrider_wire.calibration import fit_temperature, softmax

SUPPORT_QUANTILE = 0.99
"""Share of the tuning rows that count as known, as in a shipped bundle."""
_FLOOR = 1e-12


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Rows with calibrated distributions."""

    rows: Rows
    small: Floats
    """(n, k)"""
    large: Floats
    """(n, k)"""
    known: NDArray[np.bool_]
    """(n,) Whether the support gate lets the row pass."""

    @functools.cached_property
    def small_right(self) -> NDArray[np.bool_]:
        """(n,)"""
        return np.asarray(self.small.argmax(1) == self.rows.labels, np.bool_)

    @functools.cached_property
    def large_right(self) -> NDArray[np.bool_]:
        """(n,)"""
        return np.asarray(self.large.argmax(1) == self.rows.labels, np.bool_)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One seed of one task."""

    seed: int
    tuning: Seen
    certification: Seen
    """One row a group."""
    test: Seen
    small_temperature: float
    support_threshold: float | None


def make_case(measured: Measured, seed: int) -> Case:
    """Temperatures of both models and the support threshold, from the tuning rows."""
    tuning = measured.tuning
    cool = fit_temperature(tuning.small, tuning.labels)
    theirs = fit_temperature(_logs(tuning.large), tuning.labels)
    bound = None if tuning.support is None else float(np.quantile(tuning.support, SUPPORT_QUANTILE))

    def seen(rows: Rows) -> Seen:
        return Seen(
            rows=rows,
            small=softmax(rows.small, cool),
            large=softmax(_logs(rows.large), theirs),
            known=passes(rows, bound),
        )

    return Case(
        seed=seed,
        tuning=seen(tuning),
        certification=seen(measured.certification.one_per_group(f"bench-{seed}")),
        test=seen(measured.test),
        small_temperature=cool,
        support_threshold=bound,
    )


def passes(rows: Rows | Foreign, bound: float | None) -> NDArray[np.bool_]:
    """(n,) Whether each row's support distance is within the bound; all pass where there is no distance."""
    if bound is None or rows.support is None:
        return np.ones(len(rows.small), np.bool_)
    return np.asarray(rows.support <= bound, np.bool_)


def _logs(probabilities: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(probabilities, _FLOOR)), np.float64)
