"""A certificate out of audits alone: betting against "the risk is above r*" (Waudby-Smith & Ramdas, arXiv 2010.09686).

For a threshold fixed beforehand, ``K_n = ∏ (1 + b (r* − L_i))`` over its audits is, while the risk is above r*, a supermartingale
that starts at 1; so it ever reaches m/δ with probability at most δ/m (Ville). One may look after every audit and stop at
the first success; of m thresholds, all that reach m/δ hold together. Bets are a mixture, which keeps all of this.

The audits must be a uniform sample of the inputs that the threshold accepts (the sampling probability may change over
time, never with the input), and one whose answer never came counts as an error. Knows scores and losses, no store.
"""

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

from outrider_wire.errors import RuleRefusalError

STAKES = (0.3, 0.6, 0.9)
"""Shares of the largest bet, 1/(1 − r*), at which one error would take everything."""
_GUESSED_ROWS = 20
"""Before errors are seen, the risk is taken for half of r*, as if that many audits had shown it."""


class Tried(Struct, kw_only=True, frozen=True):
    """How far the evidence for one threshold has come."""

    threshold: float
    audits: int
    """Of inputs that it accepts."""
    errors: int
    capital: float
    """The largest so far; ``m/δ`` is wanted."""
    certified: bool
    expected: int | None
    """Audits of accepted inputs that it takes in expectation at the risk seen so far; None: at that risk it never will."""


class FromAudits(Struct, kw_only=True, frozen=True):
    """What the audits can promise."""

    risk: float
    delta: float
    wanted: float
    """m/δ: the capital that certifies."""
    n: int
    """Audits, accepted or not."""
    threshold: float | None
    """The loosest certified; None: none is, yet."""
    tried: list[Tried]

    @property
    def nearest(self) -> Tried:
        """The certified one or, while there is none, the one that needs the fewest more audits."""
        certified = [tried for tried in self.tried if tried.threshold == self.threshold]
        return certified[0] if certified else min(self.tried, key=lambda tried: _missing(tried, self.n))

    @property
    def progress(self) -> str:
        """In words: ``212 of 400``."""
        best = self.nearest
        if best.expected is None:
            return f"{best.audits} audits, and at the risk seen so far ({best.errors} errors) no number of them will do"
        return f"{best.audits} of {best.expected}"


def certify_from_audits(
    scores: ArrayLike, losses: ArrayLike, thresholds: Sequence[float], *, risk: float, delta: float
) -> FromAudits:
    """What ``losses`` (n,) in {0, 1} of audits with ``scores`` (n,), in the order in which they ended, certify.

    Args:
        scores: of the whole rule: −inf (or NaN) for an audited input that the rule refuses by support.
        losses: 1 where the device's answer was wrong, or where no answer came.
        thresholds: fixed without these audits.
        risk: r*.
        delta: δ over all thresholds.

    Raises:
        RuleRefusalError: there is no threshold to try.
    """
    if not len(thresholds):
        raise RuleRefusalError("there is no threshold to certify", reason="no_thresholds", fix="name at least one")
    values, wrong = np.asarray(scores, np.float64), np.asarray(losses, np.float64)
    if not np.isin(wrong, (0.0, 1.0)).all():
        raise ValueError("a loss is neither 0 nor 1")
    wanted = len(thresholds) / delta
    tried = [_tried(t, wrong[np.isfinite(values) & (values >= t)], risk, wanted) for t in thresholds]
    return FromAudits(
        risk=risk,
        delta=delta,
        wanted=wanted,
        n=len(values),
        threshold=min((one.threshold for one in tried if one.certified), default=None),
        tried=tried,
    )


def log_capitals(losses: NDArray[np.float64], risk: float) -> NDArray[np.float64]:
    """The logarithm of the capital after each of ``losses`` (…, n), before any of them left out."""
    stakes = np.asarray(STAKES)[:, None] / (1.0 - risk)
    paths = np.cumsum(np.log1p(stakes * (risk - losses[..., None, :])), axis=-1)
    return np.asarray(np.logaddexp.reduce(paths, axis=-2) - math.log(len(STAKES)), np.float64)


def _tried(threshold: float, losses: NDArray[np.float64], risk: float, wanted: float) -> Tried:
    logs = np.concatenate(([0.0], log_capitals(losses, risk)))
    errors, best = int(losses.sum()), float(logs.max())
    certified = best >= math.log(wanted)
    return Tried(
        threshold=float(threshold),
        audits=len(losses),
        errors=errors,
        capital=math.exp(min(best, 700.0)),
        certified=certified,
        expected=len(losses) if certified else _expected(len(losses), errors, float(logs[-1]), risk, wanted),
    )


def _expected(n: int, errors: int, now: float, risk: float, wanted: float) -> int | None:
    seen = (errors + _GUESSED_ROWS * risk / 2) / (n + _GUESSED_ROWS)
    bets = [stake / (1.0 - risk) for stake in STAKES]
    growth = max((1 - seen) * math.log1p(b * risk) + seen * math.log1p(b * (risk - 1)) for b in bets)
    if growth <= 0:
        return None
    missing = (math.log(wanted) + math.log(len(STAKES)) * (n == 0) - now) / growth
    return n + max(1, math.ceil(missing))


def _missing(tried: Tried, n: int) -> float:
    """Audits of all inputs that are still missing."""
    if tried.expected is None:
        return math.inf
    return (tried.expected - tried.audits) * (n + 1) / (tried.audits + 1)
