"""Which threshold may be promised: fixed-sequence testing of the acceptance rule (Learn-then-Test, arXiv 2110.01052).

Wanted: P(risk of what is accepted at the chosen threshold ≤ r*) ≥ 1 − δ over draws of the certification rows. Knows
scores and errors, and neither models nor bundles.

**The test.** Of n(t) rows accepted at a threshold t that was fixed beforehand, e(t) ~ Bin(n(t), risk(t)) are wrong.
"risk(t) > r*" is rejected when P(Bin(n(t), r*) ≤ e(t)) ≤ δ, which is: when the Clopper–Pearson bound is at most r*.

**The sequence.** Thresholds are tested from the strictest down; the first failure ends it, the last success is kept. A
wrong promise needs the *first* threshold whose risk exceeds r* to be rejected, which happens with probability ≤ δ: no
correction for the number of thresholds, and no assumption that risk grows with coverage. It holds because the order is
fixed without the certification rows: the thresholds are quantiles of *tuning* scores at coverages fixed in advance.

**Where it starts.** A first step too small to survive one unlucky error ends the sequence although the risk is fine
(measured: starts at 70 and 120 rows failed at a true risk of 1–2 %). So early coverages are skipped. Is that valid?

- Skipping by coverage × N, N the number of certification rows, is exactly valid: it looks at neither the scores nor
  the errors of these rows, so that it fixes the sequence in advance. This is what `first_tested` does.
- Skipping by the *realised* n(t) is not, strictly. It does not look at errors, but it makes the first threshold tested
  depend on n(t₁), n(t₂), …, and given *all* of these, e(t₂) is no longer Bin(n(t₂), risk(t₂)): where the most confident
  rows are riskier than the next ones, few of them means fewer errors. Under monotone risk it errs on the safe side, yet
  nothing is gained by assuming that. A step that was not skipped and holds too few rows (fewer than
  ``items_needed(risk, delta)``) cannot pass even without an error: it fails, and the sequence ends.

The rows must be independent, one a group (`one_per_group`), and never have been used to choose anything.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

from outrider_wire.errors import RuleRefusalError
from outrider_wire.roles import fraction_of

DEFAULT_COVERAGES = tuple(percent / 100 for percent in range(30, 101, 5))
START_ERRORS = 5
"""How many errors the first step should survive, where there are rows enough."""


class Tested(Struct, kw_only=True, frozen=True):
    """One step of the sequence."""

    threshold: float
    coverage: float
    """The coverage in advance that the threshold is the quantile of."""
    accepted: int
    errors: int
    p_value: float
    passed: bool


class Outcome(Struct, kw_only=True, frozen=True):
    """What may be promised: the last step that passed, or that nothing may."""

    threshold: float | None
    """None: nothing certifies, everything escalates; the counts are then of nothing accepted."""
    n: int
    """Certification rows."""
    accepted: int
    errors: int
    coverage: float
    """accepted / n: of the certification rows."""
    risk_bound: float
    """Clopper–Pearson bound at δ for the step kept: at most r*. The promise is r*; this shows how near it is."""
    tested: list[Tested]


def binomial_tail(errors: int, n: int, risk: float) -> float:
    """P(Bin(n, risk) ≤ errors), exact to about ten digits."""
    if errors < 0:
        return 0.0
    if errors >= n or risk <= 0.0:
        return 1.0
    if risk >= 1.0:
        return 0.0
    counts = np.arange(1, errors + 1)
    ratios = np.log((n - counts + 1) / counts) + (math.log(risk) - math.log1p(-risk))
    logs = np.concatenate(([0.0], np.cumsum(ratios))) + n * math.log1p(-risk)
    top = float(logs.max())
    return min(1.0, math.exp(top) * float(np.exp(logs - top).sum()))


def upper_bound(errors: int, n: int, delta: float) -> float:
    """The risk that is exceeded with confidence ≤ delta given ``errors`` of ``n`` (Clopper & Pearson 1934); 1 without rows."""
    if errors >= n:
        return 1.0
    low, high = errors / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if binomial_tail(errors, n, middle) <= delta else (middle, high)
    return high


def items_needed(risk: float, delta: float, errors: int = 0) -> int:
    """The fewest accepted rows that certify ``risk`` at ``delta`` with that many errors among them."""
    low, high = errors, errors + 1
    while binomial_tail(errors, high, risk) > delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if binomial_tail(errors, middle, risk) <= delta else (middle, high)
    return high


def thresholds_at(tuning_scores: ArrayLike, coverages: Sequence[float] = DEFAULT_COVERAGES) -> list[float]:
    """The score that the share ``coverage`` of the tuning rows reaches, one a coverage, never rising with coverage.

    Scores of −inf and NaN are rows that the rule refuses by support: they count in the share, and never become a
    threshold (the lowest real score does, once a coverage asks for more than there is).

    Raises:
        RuleRefusalError: no row has a real score.
    """
    values = np.asarray(tuning_scores, np.float64)
    real = np.sort(values[np.isfinite(values)])[::-1]
    if not len(real):
        raise RuleRefusalError(
            "no tuning row is one that the model knows", reason="no_rows", fix="bring tuning rows from the device"
        )
    ranks = [math.ceil(coverage * len(values) - 1e-9) for coverage in coverages]
    return [float(real[min(max(rank, 1), len(real)) - 1]) for rank in ranks]


def starting_errors(n: int, risk: float, delta: float) -> int:
    """How many errors the first step is to survive: `START_ERRORS`, or fewer while that would take over a third of ``n`` rows.

    A third is measured: with 300 to 700 rows, larger starts certify nothing more often, and smaller ones are never better by much.
    """
    return next((e for e in range(START_ERRORS, 0, -1) if 3 * items_needed(risk, delta, e) <= n), 0)


def first_tested(coverages: Sequence[float], n: int, risk: float, delta: float) -> int:
    """Index of the first coverage that is tested on ``n`` rows; ``len(coverages)`` when they are too few for any."""
    needed = items_needed(risk, delta, starting_errors(n, risk, delta))
    return next((i for i, coverage in enumerate(coverages) if coverage * n + 1e-9 >= needed), len(coverages))


def fixed_sequence(
    scores: ArrayLike,
    correct: ArrayLike,
    thresholds: Sequence[float],
    risk: float,
    delta: float,
    *,
    coverages: Sequence[float] = DEFAULT_COVERAGES,
) -> Outcome:
    """The certificate's figures for ``scores`` (n,) and ``correct`` (n,) of the certification rows.

    Args:
        scores: of the whole rule: −inf (or NaN) for a row that it refuses by support.
        correct: whether the answer to each row is right.
        thresholds: `thresholds_at` of the tuning scores at ``coverages``.
        risk: r*.
        delta: δ of this test; see `reused_delta` when the rows have been used before.
        coverages: what the thresholds are quantiles at, fixed in advance, rising.

    Raises:
        ValueError: thresholds and coverages do not belong together, or are out of order.
    """
    values, right = np.asarray(scores, np.float64), np.asarray(correct, np.bool_)
    _check_order(thresholds, coverages)
    tested: list[Tested] = []
    start = first_tested(coverages, len(values), risk, delta)
    for threshold, coverage in list(zip(thresholds, coverages, strict=True))[start:]:
        kept = values >= threshold
        accepted, errors = int(kept.sum()), int((kept & ~right).sum())
        p_value = binomial_tail(errors, accepted, risk) if accepted else 1.0
        tested.append(
            Tested(
                threshold=float(threshold),
                coverage=float(coverage),
                accepted=accepted,
                errors=errors,
                p_value=p_value,
                passed=p_value <= delta,
            )
        )
        if p_value > delta:
            break
    return _outcome(tested, len(values), delta)


def _outcome(tested: list[Tested], n: int, delta: float) -> Outcome:
    last = next((step for step in reversed(tested) if step.passed), None)
    accepted, errors = (last.accepted, last.errors) if last else (0, 0)
    return Outcome(
        threshold=last.threshold if last else None,
        n=n,
        accepted=accepted,
        errors=errors,
        coverage=accepted / n if n else 0.0,
        risk_bound=upper_bound(errors, accepted, delta),
        tested=tested,
    )


def _check_order(thresholds: Sequence[float], coverages: Sequence[float]) -> None:
    if len(thresholds) != len(coverages):
        raise ValueError(f"{len(thresholds)} thresholds for {len(coverages)} coverages: pass those they were taken at")
    if not np.isfinite(np.asarray(thresholds, np.float64)).all():
        raise ValueError("a threshold is not a finite number")
    if any(later > earlier for earlier, later in itertools.pairwise(thresholds)):
        raise ValueError("thresholds must not rise: the sequence is tested from the strictest down")


def reused_delta(delta: float, k: int) -> float:
    """δ of the ``k``-th use of the same certification rows (k from 1): the parts of all uses sum to δ."""
    if k < 1:
        raise ValueError("uses are counted from 1")
    return delta * 6.0 / (math.pi * k) ** 2


def one_per_group(groups: Sequence[str], key: str) -> NDArray[np.int64]:
    """Indices, rising, of one row of each group, drawn by a keyed hash: rows of one group are not independent."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    drawn = [rows[int(fraction_of(group, key, "one-per-group") * len(rows))] for group, rows in members.items()]
    return np.sort(np.asarray(drawn, np.int64))
