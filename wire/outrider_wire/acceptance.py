"""The acceptance rule: what may stay on the device. Knows no costs, no links and no deadlines: these never widen it.

The rule has one definition here, on rows; `judge` is the same rule on one of them. A support distance that is not a
finite number refuses, whether or not the rule has a threshold for it.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

from outrider_wire.manifest import Acceptance

Why = Literal["accepted", "low_confidence", "unsupported", "no_certificate"]


class Verdict(Struct, kw_only=True, frozen=True):
    """What the rule says of one input."""

    accepted: bool
    why: Why
    score: float
    """In [0, 1]; 0 where the probabilities are not numbers."""


def scores(probabilities: ArrayLike) -> NDArray[np.float64]:
    """The largest probability of each row: (n,) from (n, k). NaN where a row holds one."""
    return np.asarray(np.asarray(probabilities, np.float64).max(axis=1), np.float64)


def supported_scores(rule: Acceptance, probabilities: ArrayLike, support: ArrayLike | None) -> NDArray[np.float64]:
    """`scores`, with −inf for each row that the rule refuses whatever its threshold: unsupported, or not a number.

    These are the scores to take thresholds from and to certify: then the certificate is one of the whole rule.
    """
    plain = scores(probabilities)
    known = np.isfinite(plain)
    if support is not None:
        distance = np.asarray(support, np.float64)
        known &= np.isfinite(distance)
        if rule.support_threshold is not None:
            known &= distance <= rule.support_threshold
    elif rule.support_threshold is not None:
        known[:] = False
    return np.where(known, plain, -np.inf)


def accepted(rule: Acceptance, probabilities: ArrayLike, support: ArrayLike | None) -> NDArray[np.bool_]:
    """Which rows stay on the device: (n,) from probabilities (n, k) and support (n,)."""
    kept = supported_scores(rule, probabilities, support)
    if rule.threshold is None:
        return np.zeros(len(kept), np.bool_)
    return np.asarray(np.isfinite(kept) & (kept >= rule.threshold), np.bool_)


def judge(rule: Acceptance, probabilities: Sequence[float] | NDArray[np.float64], support: float | None) -> Verdict:
    """What the rule says of one input, of its probabilities (k,) and its support distance."""
    row = np.asarray(probabilities, np.float64)
    score = float(row.max()) if row.size else 0.0
    shown = score if np.isfinite(score) else 0.0
    if rule.threshold is None:
        return Verdict(accepted=False, why="no_certificate", score=shown)
    if not _supported(rule, support):
        return Verdict(accepted=False, why="unsupported", score=shown)
    if not row.size or not np.isfinite(score) or not score >= rule.threshold:
        return Verdict(accepted=False, why="low_confidence", score=shown)
    return Verdict(accepted=True, why="accepted", score=shown)


def _supported(rule: Acceptance, support: float | None) -> bool:
    if support is None:
        return rule.support_threshold is None
    return bool(np.isfinite(support)) and (rule.support_threshold is None or support <= rule.support_threshold)
