"""The acceptance rule: what may stay on the device. Knows no costs, no links and no deadlines: these never widen it.

The rule has one definition here, on rows; `judge` is the same rule on one of them. A support distance that is not a
finite number refuses, whether or not the rule has a threshold for it.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from outrider_wire.manifest import Acceptance
from outrider_wire.scores import score_of, score_of_one

Why = Literal["accepted", "low_confidence", "unsupported", "no_certificate"]
Floats = NDArray[np.float64]


class Signals(NamedTuple):
    """What a model says of rows, as far as the rule looks at it."""

    logits: Floats
    """(n, k)"""
    probabilities: Floats
    """(n, k) calibrated"""
    support: Floats | None = None
    """(n,) distance from what the model knows"""
    deferral: Floats | None = None
    """(n,) the learned score"""
    strata: Sequence[str] = ()
    """(n,) the stratum of each row; empty where the rule has none"""


class Verdict(Struct, kw_only=True, frozen=True):
    """What the rule says of one input."""

    accepted: bool
    why: Why
    score: float
    """By the rule's own score; 0 where it is not a number."""
    threshold: float | None = None
    """What the score was held against; None: inputs like this one are never kept."""
    stratum: str = ""
    supported: bool = True
    """Whether the input is like what the model knows, whatever the threshold."""


def supported_scores(rule: Acceptance, rows: Signals) -> Floats:
    """(n,) the rule's score, −inf for each row that it refuses whatever its threshold: unsupported, or not a number.

    These are the scores to take thresholds from and to certify: then the certificate is one of the whole rule.
    """
    plain = score_of(rule.score, rows.logits, rows.probabilities, rows.deferral)
    known = np.isfinite(plain)
    if rows.support is not None:
        distance = np.asarray(rows.support, np.float64)
        known &= np.isfinite(distance)
        if rule.support_threshold is not None:
            known &= distance <= rule.support_threshold
    elif rule.support_threshold is not None:
        known[:] = False
    return np.where(known, plain, -np.inf)


def thresholds(rule: Acceptance, rows: Signals) -> Floats:
    """(n,) what each row's score is held against; +inf where nothing is enough."""
    n = len(rows.probabilities)
    own = [rule.threshold_of(stratum) for stratum in rows.strata] if rule.strata else [rule.threshold] * n
    return np.asarray([np.inf if each is None else each for each in own], np.float64)


def accepted(rule: Acceptance, rows: Signals) -> NDArray[np.bool_]:
    """(n,) which rows stay on the device."""
    kept = supported_scores(rule, rows)
    return np.asarray(np.isfinite(kept) & (kept >= thresholds(rule, rows)), np.bool_)


def judge(
    rule: Acceptance,
    *,
    logits: Floats,
    probabilities: Floats,
    support: float | None = None,
    deferral: float | None = None,
    stratum: str = "",
) -> Verdict:
    """What the rule says of one input, of its logits and probabilities (k,), its support distance and its stratum."""
    score = score_of_one(rule.score, logits, probabilities, deferral) if len(probabilities) else math.nan
    threshold, supported = rule.threshold_of(stratum), _supported(rule, support)
    why: Why = "accepted"
    if threshold is None:
        why = "no_certificate"
    elif not supported:
        why = "unsupported"
    elif not math.isfinite(score) or score < threshold:
        why = "low_confidence"
    shown = score if math.isfinite(score) else 0.0
    return Verdict(
        accepted=why == "accepted",
        why=why,
        score=shown,
        threshold=threshold,
        stratum=stratum,
        supported=supported,
    )


def _supported(rule: Acceptance, support: float | None) -> bool:
    if support is None:
        return rule.support_threshold is None
    return math.isfinite(support) and (rule.support_threshold is None or support <= rule.support_threshold)
