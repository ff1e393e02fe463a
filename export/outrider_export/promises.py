"""What is promised, what rows can promise, and both in words. Looks at no row's content."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from outrider_wire.certificate import (
    DEFAULT_COVERAGES,
    LIKELY_START,
    START_ERRORS,
    Outcome,
    first_tested,
    grouped_items_needed,
    items_needed,
)
from outrider_wire.manifest import LabelSource

FALSE_ALARMS = 0.01
"""Share of known inputs that may count as unknown."""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What is asked for."""

    risk: float
    """r*"""
    delta: float
    """δ; smaller than the task's when the rows have been used before (`outrider_wire.certificate.reused_delta`)."""
    label_source: LabelSource = "ground_truth"
    gap: float | None = None
    """ε: how much more often than the large model alone the system may be wrong; None: not asked."""


def rows_needed(risk: float, delta: float) -> int:
    """Certification rows, one a group, that make a certificate likely: the first test then survives a few errors."""
    return int(np.ceil(items_needed(risk, delta, START_ERRORS) / LIKELY_START - 1e-9))


def forecast(n: int, risk: float, delta: float, *, rows_a_group: int = 1) -> str:
    """What ``n`` certification rows can certify: one sentence, before any of them is looked at.

    Args:
        n: rows, at most ``rows_a_group`` of each group.
        risk: r*.
        delta: δ.
        rows_a_group: how many rows of a group certify (`outrider_wire.certificate.rows_a_group`).
    """
    asked = f"an error of at most {risk:.3g} with confidence {1 - delta:.3g}"
    first = first_tested(DEFAULT_COVERAGES, n, risk, delta, rows_a_group)
    if first == len(DEFAULT_COVERAGES):
        likely = "" if rows_a_group > 1 else f", and about {rows_needed(risk, delta)} rows to be likely to succeed"
        return (
            f"{n} certification rows cannot certify {asked}: it takes "
            f"{grouped_items_needed(risk, delta, 0, rows_a_group)} accepted rows without a single error{likely}"
        )
    share = DEFAULT_COVERAGES[first]
    kept = int(share * n)
    allowed = next((e for e in range(kept) if grouped_items_needed(risk, delta, e + 1, rows_a_group) > kept), 0)
    return (
        f"{n} certification rows can certify {asked} if, among the most confident {share:.0%} of them ({kept}), at most "
        f"{allowed} are wrong"
    )


NO_ROWS = "no certificate: there were no certification rows; everything escalates"


def verdict(
    outcomes: Mapping[str, Outcome], hopeless: Sequence[str], promise: Promise, *, gap: bool = False
) -> list[str]:
    """What was certified, or why nothing was; one sentence a stratum.

    Args:
        outcomes: stratum ('' without any) → its tests.
        hopeless: strata that were not tested, because their tuning rows are no evidence at all.
        promise: what was asked for.
        gap: whether its gap may be claimed.
    """
    whose = "the truth" if promise.label_source == "ground_truth" else "the large model"
    said = [_of_one(name, outcome, promise, whose) for name, outcome in outcomes.items()]
    said += [
        f"{name + ': ' if name else ''}no certificate: even the surest tuning rows were wrong too often for {promise.risk:.3g}, so that "
        f"no certification row was used on {'it' if name else 'them'}; {'it' if name else 'everything'} escalates"
        for name in hopeless
    ]
    if gap and any(outcome.threshold is not None for outcome in outcomes.values()):
        said.append(
            f"certified with it: the system is wrong at most {promise.gap:.3g} more often than the large model alone"
        )
    return said


def _of_one(name: str, outcome: Outcome, promise: Promise, whose: str) -> str:
    which = f"{name}: " if name else ""
    kind = "it" if name else "everything"
    if outcome.threshold is not None:
        return (
            f"{which}certified: what it answers itself ({outcome.coverage:.1%} of {outcome.n} rows) differs from {whose} at most "
            f"{promise.risk:.3g} of the time, with confidence {1 - promise.delta:.3g} ({outcome.errors} errors in "
            f"{outcome.accepted}, bound {outcome.risk_bound:.2%})"
        )
    if not outcome.tested:
        return f"{which}no certificate: {_too_few(outcome, promise)}; {kind} escalates"
    first = outcome.tested[0]
    return (
        f"{which}no certificate: of the most confident {first.coverage:.0%} of {outcome.n} certification rows {first.errors} in "
        f"{first.accepted} were wrong, too many for {promise.risk:.3g} at confidence {1 - promise.delta:.3g}; {kind} "
        f"escalates until the model is better{_more_rows(outcome, promise)}"
    )


def _too_few(outcome: Outcome, promise: Promise) -> str:
    return forecast(outcome.n, promise.risk, promise.delta, rows_a_group=outcome.rows_a_group)


def _more_rows(outcome: Outcome, promise: Promise) -> str:
    needed = rows_needed(promise.risk, promise.delta)
    return f" or there are more than {needed} rows" if outcome.method == "fixed-sequence" and outcome.n < needed else ""


def strata_sentences(names: Sequence[str]) -> str:
    """What certifying apart means, for whoever names strata."""
    return f"{', '.join(names)} and what none of them matches are certified apart, δ shared out over them"
