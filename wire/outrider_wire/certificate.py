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

**Rows of one group** hang together (questions about one picture, frames of one clip), groups do not. With one row a group
(`one_per_group`) the test is the exact one above. With several, it bets on whole groups (`outrider_wire.betting`): a group's
gain is Σ (r* − Lᵢ) over its accepted rows, whose mean is at most zero exactly if the risk of the accepted rows, each weighted
alike, is at least r*. Measured (demo task, 690 groups): four rows a group certify 41–44 % and something in every draw, one row
a group 22–30 % and nothing in 20–45 % of draws.

**The system.** `Gap` adds a second claim to each step: P(final answer wrong) − P(large model wrong) ≤ ε, from paired losses.
A step passes when both p-values are at most δ, so that both promises hold together with confidence 1 − δ (an
intersection–union test: what is rejected is "the risk *or* the gap is too large").

**Strata** (`strata_sequences`) are tested apart, each at its part of δ (`delta_parts`): the union bound.

**Which coverage comes first** decides much: too early, and there are too few rows to say anything; too late, and the risk is
there already. So tuning rows choose it (`best_start`): the coverage at which they themselves are the strongest evidence. Measured:
a fixed start at 30 % certified no draw of a task whose surest tenth alone is safe (`mnist1d`), one at 5 % costs coverage elsewhere.

The rows must never have been used to choose anything.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

from outrider_wire.betting import SPREAD, group_sums, p_value
from outrider_wire.errors import RuleRefusalError
from outrider_wire.groups import GROUP_ROWS, usable_rows

DEFAULT_COVERAGES = tuple(percent / 100 for percent in range(5, 101, 5))
LIKELY_START = 0.3
"""Coverage at which models worth certifying are usually the strongest evidence (`best_start`): what forecasts go by."""
START_ERRORS = 5
"""How many errors the first step should survive, where there are rows enough."""
_NEARLY = 0.9
"""Share of the strongest evidence, as −log p. Measured: of 0.6 to 1, this certifies most (demo task, three seeds)."""
_NO_EVIDENCE = 0.5
Method = Literal["fixed-sequence", "fixed-sequence-groups"]


class Tested(Struct, kw_only=True, frozen=True):
    """One step of the sequence."""

    threshold: float
    coverage: float
    """The coverage in advance that the threshold is the quantile of."""
    accepted: int
    errors: int
    p_value: float
    """Of all claims: the largest."""
    passed: bool


class Outcome(Struct, kw_only=True, frozen=True):
    """What may be promised: the last step that passed, or that nothing may."""

    threshold: float | None
    """None: nothing certifies, everything escalates; the counts are then of nothing accepted."""
    method: Method
    n: int
    """Certification rows."""
    groups: int
    """Independent groups of them."""
    rows_a_group: int = 1
    """How many rows a group could have had."""
    accepted: int
    errors: int
    coverage: float
    """accepted / n: of the certification rows."""
    risk_bound: float
    """Upper bound at δ for the step kept (Clopper–Pearson, or the betting test turned around): at most r*. The promise is r*;
    this shows how near it is. 1 where nothing is accepted."""
    tested: list[Tested]


class Gap(Struct, kw_only=True, frozen=True):
    """The claim that the system is wrong at most ``most`` more often than the large model alone."""

    most: float
    """ε"""
    kept: NDArray[np.int64]
    """(n,) what the device's own answer adds to the large model's errors: 1 (it is wrong, the large model right), 0 or −1."""
    sent: NDArray[np.int64]
    """(n,) the same of the answer that comes back when the row is escalated: all 0 unless a strategy joins both models."""


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
    """The fewest accepted rows, one a group, that certify ``risk`` at ``delta`` with that many errors among them."""
    low, high = errors, errors + 1
    while binomial_tail(errors, high, risk) > delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if binomial_tail(errors, middle, risk) <= delta else (middle, high)
    return high


def grouped_items_needed(risk: float, delta: float, errors: int = 0, rows_a_group: int = GROUP_ROWS) -> int:
    """`items_needed` where each group has that many rows, all of them accepted, and each error is in a group of its own."""
    if rows_a_group == 1:
        return items_needed(risk, delta, errors)

    def passes(groups: int) -> bool:
        wrong = np.arange(groups) < errors
        return p_value(risk - wrong / rows_a_group, 1 - risk) <= delta

    low, high = errors, errors + 1
    while not passes(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high * rows_a_group


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


def starting_errors(n: int, risk: float, delta: float, rows_a_group: int = 1) -> int:
    """How many errors the first step is to survive: `START_ERRORS`, or fewer while that would take over a third of ``n`` rows.

    A third is measured: with 300 to 700 rows, larger starts certify nothing more often, and smaller ones are never better by much.
    """
    fits = (e for e in range(START_ERRORS, 0, -1) if 3 * grouped_items_needed(risk, delta, e, rows_a_group) <= n)
    return next(fits, 0)


def first_tested(coverages: Sequence[float], n: int, risk: float, delta: float, rows_a_group: int = 1) -> int:
    """Index of the first coverage that is tested on ``n`` rows; ``len(coverages)`` when they are too few for any."""
    needed = grouped_items_needed(risk, delta, starting_errors(n, risk, delta, rows_a_group), rows_a_group)
    return next((i for i, coverage in enumerate(coverages) if coverage * n + 1e-9 >= needed), len(coverages))


def best_start(
    tuning_scores: ArrayLike,
    correct: ArrayLike,
    thresholds: Sequence[float],
    risk: float,
    *,
    groups: Sequence[str] | None = None,
) -> int | None:
    """Index of the first threshold at which tuning rows are nearly the strongest evidence that the risk is below ``risk``.

    None where they are none at any threshold (p > ½): there is no hope to certify such rows. Evidence is −log p, and *nearly*
    `_NEARLY` of the strongest: where it is flat, an early start leaves more to fall back on. It looks at tuning rows only, so
    that it fixes the sequence in advance: what comes before it is not tested. Arguments as `fixed_sequence`.
    """
    rows = _Rows.of(tuning_scores, correct, groups, None)
    p_values = [rows.risk_p_value(rows.scores >= threshold, risk) for threshold in thresholds]
    if min(p_values) > _NO_EVIDENCE:
        return None
    evidence = [-math.log(max(p, 1e-300)) for p in p_values]
    return next(place for place, each in enumerate(evidence) if each >= _NEARLY * max(evidence))


def can_test(groups: Sequence[str], risk: float, delta: float, coverages: Sequence[float]) -> bool:
    """Whether certification rows of these groups (one name a row) are enough to test one of ``coverages``."""
    n, most = usable_rows(groups)
    return first_tested(coverages, n, risk, delta, most) < len(coverages)


def fixed_sequence(
    scores: ArrayLike,
    correct: ArrayLike,
    thresholds: Sequence[float],
    risk: float,
    delta: float,
    *,
    coverages: Sequence[float] = DEFAULT_COVERAGES,
    groups: Sequence[str] | None = None,
    gap: Gap | None = None,
) -> Outcome:
    """The certificate's figures for ``scores`` (n,) and ``correct`` (n,) of the certification rows.

    Args:
        scores: of the whole rule: −inf (or NaN) for a row that it refuses by support.
        correct: whether the answer to each row is right.
        thresholds: `thresholds_at` of the tuning scores at ``coverages``.
        risk: r*.
        delta: δ of this test; see `reused_delta` when the rows have been used before.
        coverages: what the thresholds are quantiles at, fixed in advance, rising.
        groups: of the rows, where several may be of one group; None: each is its own.
        gap: the second claim, where there is one.

    Raises:
        ValueError: thresholds and coverages do not belong together, or are out of order.
    """
    _check_order(thresholds, coverages)
    rows = _Rows.of(scores, correct, groups, gap)
    tested: list[Tested] = []
    start = first_tested(coverages, len(rows.scores), risk, delta, rows.most)
    for threshold, coverage in list(zip(thresholds, coverages, strict=True))[start:]:
        kept = rows.scores >= threshold
        p = max(rows.risk_p_value(kept, risk), rows.gap_p_value(kept))
        tested.append(
            Tested(
                threshold=float(threshold),
                coverage=float(coverage),
                accepted=int(kept.sum()),
                errors=int((kept & rows.wrong).sum()),
                p_value=p,
                passed=p <= delta,
            )
        )
        if p > delta:
            break
    return rows.outcome(tested, delta)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Certification rows, and the tests of one set of them."""

    scores: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    group: NDArray[np.int64]
    """(n,) number of each row's group."""
    most: int
    """Rows that a group can have."""
    gap: Gap | None

    @classmethod
    def of(cls, scores: ArrayLike, correct: ArrayLike, groups: Sequence[str] | None, gap: Gap | None) -> "_Rows":
        values = np.asarray(scores, np.float64)
        own = range(len(values)) if groups is None else groups
        _, number = np.unique(np.asarray(list(own)), return_inverse=True)
        return cls(
            scores=values,
            wrong=~np.asarray(correct, np.bool_),
            group=number.astype(np.int64),
            most=_most(np.bincount(number)),
            gap=gap,
        )

    def risk_p_value(self, kept: NDArray[np.bool_], risk: float) -> float:
        if not kept.any():
            return 1.0
        if self.most == 1:
            return binomial_tail(int((kept & self.wrong).sum()), int(kept.sum()), risk)
        gains = group_sums(np.where(kept, risk - self.wrong, 0.0), self.group, self.most)
        return p_value(gains, 1 - risk)

    def gap_p_value(self, kept: NDArray[np.bool_]) -> float:
        if self.gap is None:
            return 0.0
        gains = self.gap.most - np.where(kept, self.gap.kept, self.gap.sent)
        return p_value(group_sums(gains, self.group, self.most), 1 - self.gap.most, SPREAD)

    def outcome(self, tested: list[Tested], delta: float) -> Outcome:
        last = next((step for step in reversed(tested) if step.passed), None)
        accepted, errors = (last.accepted, last.errors) if last else (0, 0)
        n = len(self.scores)
        return Outcome(
            threshold=last.threshold if last else None,
            method="fixed-sequence" if self.most == 1 else "fixed-sequence-groups",
            n=n,
            groups=int(self.group.max(initial=-1)) + 1,
            rows_a_group=self.most,
            accepted=accepted,
            errors=errors,
            coverage=accepted / n if n else 0.0,
            risk_bound=self._bound(last, delta),
            tested=tested,
        )

    def _bound(self, step: Tested | None, delta: float) -> float:
        if step is None or self.most == 1:
            return upper_bound(step.errors, step.accepted, delta) if step else 1.0
        kept = self.scores >= step.threshold
        low, high = step.errors / step.accepted, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if self.risk_p_value(kept, middle) <= delta else (middle, high)
        return high


def _most(sizes: NDArray[np.int64]) -> int:
    """A constant wherever it can be one: a bet that knew the sizes drawn would not be fixed in advance."""
    largest = int(sizes.max(initial=1))
    return 1 if largest == 1 else max(largest, GROUP_ROWS)


def strata_sequences(
    scores: ArrayLike,
    correct: ArrayLike,
    *,
    strata: Sequence[str],
    thresholds: Mapping[str, Sequence[float]],
    risk: float,
    deltas: Mapping[str, float],
    coverages: Mapping[str, Sequence[float]],
    groups: Sequence[str] | None = None,
    gap: Gap | None = None,
) -> dict[str, Outcome]:
    """`fixed_sequence` of each stratum's own rows, at its own thresholds and its own part of δ.

    Args:
        strata: (n,) the stratum of each row, known before its answer.
        thresholds: stratum → `thresholds_at` of its tuning rows.
        coverages: stratum → what these are quantiles at.
        deltas: stratum → its part of δ (`delta_parts`); a stratum that is missing here is not certified.
    """
    values, right, names = np.asarray(scores, np.float64), np.asarray(correct, np.bool_), np.asarray(strata, np.str_)
    found = {}
    for name, delta in deltas.items():
        rows = np.flatnonzero(names == name).tolist()
        found[name] = fixed_sequence(
            values[rows],
            right[rows],
            thresholds[name],
            risk,
            delta,
            coverages=coverages[name],
            groups=[groups[row] for row in rows] if groups is not None else None,
            gap=Gap(most=gap.most, kept=gap.kept[rows], sent=gap.sent[rows]) if gap else None,
        )
    return found


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


def delta_parts(delta: float, rows: Mapping[str, int]) -> dict[str, float]:
    """δ shared out over strata by their number of tuning rows: who has most rows has most to gain."""
    total = sum(rows.values())
    return {name: delta * count / total for name, count in rows.items()}
