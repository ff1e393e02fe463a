"""What a certification came to, in one form for tables of rows, bundles and audits: for tools and for people. Tests nothing."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from outrider_export.promises import Promise, verdict
from outrider_wire.calibration import Bin
from outrider_wire.certificate import Outcome, grouped_items_needed, upper_bound
from outrider_wire.errors import RuleRefusalError
from outrider_wire.manifest import LabelSource

INTERVAL = 0.95
"""Of the two-sided Clopper–Pearson intervals of what is only shown."""
_NONE_WRONG = 30
"""From this many rows on, not one error is worth a warning."""


class Kept(Struct, kw_only=True, frozen=True):
    """How right the kept answers of one kind are. Shown, not promised."""

    kind: str
    """``class``, ``stratum`` or ``group``."""
    name: str
    rows: int
    kept: int
    right: int
    low: float
    """Of the share that is right, with confidence `INTERVAL`."""
    high: float


class Step(Struct, kw_only=True, frozen=True):
    """One threshold that was tested."""

    stratum: str
    threshold: float
    coverage: float
    """Share of the tuning rows that it keeps."""
    accepted: int
    errors: int
    p_value: float
    passed: bool


class StratumRuling(Struct, kw_only=True, frozen=True):
    """What came of one stratum."""

    name: str
    n: int
    accepted: int
    errors: int
    threshold: float | None
    coverage: float
    risk_bound: float


class Ruling(Struct, kw_only=True, frozen=True):
    """The verdict. Its keys are read by other tools: they stay."""

    method: str
    risk: float
    """r*"""
    delta: float
    """δ that this use of the rows paid."""
    n: int
    """Certification rows that were used."""
    errors: int
    """Among what is kept."""
    threshold: float | None
    """None: nothing is kept, or each stratum has its own."""
    coverage: float
    """Share of the certification rows that is kept."""
    label_source: LabelSource
    valid: bool
    """Whether anything is certified."""
    reason: str
    """``certified``, ``not_certified``, ``too_few_rows``, or why the rows were refused."""
    accepted: int = 0
    groups: int = 0
    """Independent groups among the rows."""
    rows_a_group: int = 1
    risk_bound: float = 1.0
    """Upper bound of the risk of what is kept, at δ."""
    accuracy: float | None = None
    """Of the model on tuning rows."""
    strata: list[StratumRuling] = []
    tested: list[Step] = []
    kept: list[Kept] = []
    calibration_error: float | None = None
    """Expected calibration error of the certification rows, where scores are probabilities."""
    reliability: list[Bin] = []
    warnings: list[str] = []
    sentences: list[str] = []


def ruling(
    outcomes: Mapping[str, Outcome],
    promise: Promise,
    *,
    hopeless: Sequence[str] = (),
    n: int,
    accuracy: float | None = None,
    notes: Iterable[str] = (),
) -> Ruling:
    """The verdict over outcomes by stratum ('' where there are none).

    Args:
        outcomes: of the strata that were tested.
        promise: what was asked for.
        hopeless: strata that were not, because their tuning rows are no evidence at all.
        n: certification rows, of hopeless strata too.
        accuracy: of the model on tuning rows.
        notes: what else there is to say.
    """
    found = list(outcomes.values())
    certified = [each for each in found if each.threshold is not None]
    accepted = sum(each.accepted for each in found)
    only = outcomes.get("")
    valid = bool(certified)
    tested = any(each.tested for each in found)
    return Ruling(
        method=(certified or found)[0].method if found else "fixed-sequence",
        risk=promise.risk,
        delta=promise.delta,
        n=n,
        errors=sum(each.errors for each in found),
        threshold=only.threshold if only else None,
        coverage=accepted / n if n else 0.0,
        label_source=promise.label_source,
        valid=valid,
        reason="certified" if valid else "not_certified" if tested or hopeless else "too_few_rows",
        accepted=accepted,
        groups=sum(each.groups for each in found),
        rows_a_group=max((each.rows_a_group for each in found), default=1),
        risk_bound=max((each.risk_bound for each in certified), default=1.0),
        accuracy=accuracy,
        strata=[_of_stratum(name, each) for name, each in outcomes.items() if name],
        tested=[
            Step(
                stratum=name,
                threshold=step.threshold,
                coverage=step.coverage,
                accepted=step.accepted,
                errors=step.errors,
                p_value=step.p_value,
                passed=step.passed,
            )
            for name, each in outcomes.items()
            for step in each.tested
        ],
        sentences=[*_too_few(outcomes, promise), *verdict(outcomes, hopeless, promise), *notes],
    )


def refused(error: RuleRefusalError, promise: Promise, *, n: int = 0) -> Ruling:
    """The verdict over rows that may not certify anything."""
    return Ruling(
        method="fixed-sequence",
        risk=promise.risk,
        delta=promise.delta,
        n=n,
        errors=0,
        threshold=None,
        coverage=0.0,
        label_source=promise.label_source,
        valid=False,
        reason=error.reason,
        sentences=[f"refused: {error}"],
    )


def with_warnings(made: Ruling, right: NDArray[np.bool_]) -> Ruling:
    """With a word on what looks too good, of whether each row that was looked at is right."""
    if len(right) < _NONE_WRONG or not right.all():
        return made
    return replace(
        made,
        warnings=[
            *made.warnings,
            f"WARNING: not one of {len(right)} answers is wrong; make sure that the labels are not the model's own answers",
        ],
    )


def kept_by(
    kind: str, names: Sequence[str], kept: NDArray[np.bool_], right: NDArray[np.bool_], *, least: int = 0
) -> list[Kept]:
    """How right what is kept is, of names (n,), whether each row is kept and is right; the worst first.

    Names with fewer than ``least`` kept rows are left out.
    """
    every, number = np.unique(np.asarray(names, np.str_), return_inverse=True)
    rows, held, good = (np.bincount(number, weights=each) for each in (np.ones(len(names)), kept, kept & right))
    found = []
    for place in np.flatnonzero(held >= least).tolist():
        low, high = interval(int(good[place]), int(held[place]))
        found.append(
            Kept(
                kind=kind,
                name=str(every[place]),
                rows=int(rows[place]),
                kept=int(held[place]),
                right=int(good[place]),
                low=low,
                high=high,
            )
        )
    return sorted(found, key=lambda each: (each.high, each.low))


def interval(right: int, n: int) -> tuple[float, float]:
    """The two-sided Clopper–Pearson interval of a share, at `INTERVAL`; all of [0, 1] without rows."""
    if not n:
        return 0.0, 1.0
    tail = (1.0 - INTERVAL) / 2
    low, high = 1.0 - upper_bound(n - right, n, tail), upper_bound(right, n, tail)
    return max(0.0, low), min(1.0, high)


def _of_stratum(name: str, outcome: Outcome) -> StratumRuling:
    return StratumRuling(
        name=name,
        n=outcome.n,
        accepted=outcome.accepted,
        errors=outcome.errors,
        threshold=outcome.threshold,
        coverage=outcome.coverage,
        risk_bound=outcome.risk_bound,
    )


def _too_few(outcomes: Mapping[str, Outcome], promise: Promise) -> list[str]:
    if any(each.tested for each in outcomes.values()) or not outcomes:
        return []
    most = max(each.rows_a_group for each in outcomes.values())
    needed = grouped_items_needed(promise.risk, promise.delta, 0, most)
    n = max(each.n for each in outcomes.values())
    return [
        f"nothing can be certified at r* = {promise.risk:.3g} with {n} items: {needed} are needed, and more where one is wrong"
    ]
