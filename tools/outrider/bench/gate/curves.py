"""The arithmetic of a benchmark of gates: accuracy against what is spent, and how sure a mean over seeds is. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from outrider.bench.gate.rows import Floats

_EQUAL = 1e-12
_DRAWS = 10_000


@dataclass(frozen=True)
class Curve:
    """Accuracy when the least sure rows are sent, one after the other."""

    spent: Floats
    """(n + 1,) rising from 0 to 1: share of the calls (or bytes, or money) that sending every row would cost."""
    accuracy: Floats
    """(n + 1,)"""


def deferral_curve(
    scores: ArrayLike, kept_right: ArrayLike, asked_right: ArrayLike, costs: ArrayLike | None = None
) -> Curve:
    """The curve of one ranking of n rows.

    Args:
        scores: (n,) how willingly a row is kept; the lowest is sent first. −inf: sent before any other.
        kept_right: (n,) whether the answer to a kept row is right.
        asked_right: (n,) whether the answer to a sent row is.
        costs: (n,) of sending each row, positive; None: one each.
    """
    kept, asked = np.asarray(kept_right, np.float64), np.asarray(asked_right, np.float64)
    order = np.argsort(np.asarray(scores, np.float64), kind="stable")
    cost = np.ones(len(order)) if costs is None else np.asarray(costs, np.float64)
    spent = np.concatenate([[0.0], np.cumsum(cost[order])])
    gained = np.concatenate([[0.0], np.cumsum((asked - kept)[order])])
    return Curve(spent / spent[-1], (kept.sum() + gained) / len(order))


def area(curve: Curve) -> float:
    """Mean accuracy over all shares spent, 0 to 1 (trapezoids)."""
    between = (curve.accuracy[1:] + curve.accuracy[:-1]) / 2
    return float((between * np.diff(curve.spent)).sum())


def spent_to_match(curve: Curve, accuracy: float) -> float | None:
    """The least share spent at which the curve is as accurate as that; None: nowhere."""
    reached = np.flatnonzero(curve.accuracy >= accuracy - _EQUAL)
    return float(curve.spent[reached[0]]) if len(reached) else None


def accuracy_at(curve: Curve, spent: ArrayLike) -> Floats:
    """Accuracy at these shares spent, between rows by straight lines."""
    return np.asarray(np.interp(np.asarray(spent, np.float64), curve.spent, curve.accuracy), np.float64)


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean over seeds; None unless every seed has a value: a mean over those that succeeded flatters."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def interval(values: Sequence[float | None], *, seed: int = 0) -> tuple[float, float] | None:
    """The 95 % interval of the mean over seeds, by percentile bootstrap (Efron 1979); None without a mean, or with one seed.

    It says how the mean moves with the seed (deal, captures, training), which is all that a seed changes. With five seeds it
    is somewhat too narrow, as such intervals are.
    """
    if len(values) < 2 or mean_of(values) is None:
        return None
    known = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(known), (_DRAWS, len(known)))
    low, high = np.quantile(known[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)
