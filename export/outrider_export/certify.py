"""Calibration, acceptance rule and certificate of the very session that ships, on rows of their own roles. Trains nothing."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from outrider_engine.model import Model
from outrider_export.data import Table
from outrider_export.support import FALSE_ALARMS
from outrider_wire.acceptance import supported_scores
from outrider_wire.calibration import expected_calibration_error, fit_temperature, softmax
from outrider_wire.certificate import (
    DEFAULT_COVERAGES,
    START_ERRORS,
    Outcome,
    first_tested,
    fixed_sequence,
    items_needed,
    thresholds_at,
)
from outrider_wire.errors import RuleRefusalError
from outrider_wire.manifest import Acceptance, Calibration, Certificate
from outrider_wire.task import InputPart

LabelSource = Literal["ground_truth", "large_model"]
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What is asked for."""

    risk: float
    """r*"""
    delta: float
    """δ; smaller than the task's when the rows have been used before (`outrider_wire.certificate.reused_delta`)."""
    label_source: LabelSource = "ground_truth"


@dataclass(frozen=True, kw_only=True)
class Certified:
    """What came of it."""

    calibration: Calibration
    acceptance: Acceptance
    certificate: Certificate | None
    outcome: Outcome | None
    """The sequence of tests; None when there were no certification rows."""
    tuning_accuracy: float
    calibration_error: float
    """Expected calibration error of the tuning rows, calibrated."""
    support_false_alarm: float | None
    """Share of the certification rows that the support distance refuses."""
    sentences: list[str]
    """The above for a person: what is promised, or why nothing is and how many rows are needed."""


@dataclass(frozen=True)
class _Rows:
    logits: NDArray[np.float64]
    support: NDArray[np.float64] | None
    labels: NDArray[np.int64]
    groups: Sequence[str]


def calibrate_and_certify(
    *,
    model: Model,
    tuning: Table,
    certification: Table | None,
    promise: Promise,
    key: str,
    bounds: Sequence[InputPart] = (),
    support_fitted_here: bool = False,
    coverages: Sequence[float] = DEFAULT_COVERAGES,
) -> Certified:
    """Fits on the tuning rows, then certifies once on the certification rows; of both, one labelled row a group.

    Args:
        model: the bundle as it will ship, all but its calibration, rule and certificate.
        tuning: rows of the tuning role.
        certification: rows of the certification role, never used for any choice; None: no certificate is wanted.
        promise: risk, δ and whose labels the rows carry.
        key: chooses the row of each group.
        bounds: the task's parts.
        support_fitted_here: the support distance was fitted on these very tuning rows, so that its own unit is the threshold.
        coverages: shares of the tuning rows that the candidate thresholds keep.

    Raises:
        RuleRefusalError: a group is in both tables, or there are no labelled tuning rows.
    """
    tuned = _inferred(model, _usable(tuning, key), bounds)
    temperature = fit_temperature(tuned.logits, tuned.labels)
    probabilities = softmax(tuned.logits, temperature)
    rule = Acceptance(support_threshold=_support_threshold(tuned.support, fitted_here=support_fitted_here))
    scores = supported_scores(rule, probabilities, tuned.support)
    calibration = Calibration(temperature=temperature, n=len(tuned.labels))
    outcome, false_alarm, groups = None, None, []
    if certification is not None:
        check_disjoint(tuning, certification)
        held_out = _inferred(model, _usable(certification, key), bounds)
        groups = list(held_out.groups)
        fresh = softmax(held_out.logits, temperature)
        outcome = fixed_sequence(
            supported_scores(rule, fresh, held_out.support),
            fresh.argmax(1) == held_out.labels,
            thresholds_at(scores, coverages),
            promise.risk,
            promise.delta,
            coverages=coverages,
        )
        if held_out.support is not None and rule.support_threshold is not None:
            false_alarm = float((held_out.support > rule.support_threshold).mean())
        rule = msgspec.structs.replace(rule, threshold=outcome.threshold)
    return Certified(
        calibration=calibration,
        acceptance=rule,
        certificate=_certificate(
            model=model, calibration=calibration, rule=rule, outcome=outcome, promise=promise, groups=groups
        ),
        outcome=outcome,
        tuning_accuracy=float((probabilities.argmax(1) == tuned.labels).mean()),
        calibration_error=expected_calibration_error(probabilities, tuned.labels),
        support_false_alarm=false_alarm,
        sentences=_sentences(outcome, promise, false_alarm),
    )


def _usable(table: Table, key: str) -> Table:
    labelled = table.take(np.flatnonzero(table.labels >= 0))
    if not len(labelled):
        raise RuleRefusalError(
            "there are no labelled rows to calibrate or certify on", reason="no_rows", fix="label some rows"
        )
    return labelled.one_per_group(key)


def _inferred(model: Model, table: Table, bounds: Sequence[InputPart]) -> _Rows:
    tensors = table.tensors(model.manifest.inputs, bounds)
    rows = [
        {name: tensors.values[name][tensors.index[name][row]] for name in tensors.values} for row in range(len(table))
    ]
    found = [each for start in range(0, len(rows), _BATCH) for each in model.infer(rows[start : start + _BATCH])]
    # An input of which the model read nothing has infinite support distance, also where the model exports none.
    distances = np.asarray([np.nan if each.support is None else each.support for each in found], np.float64)
    support = None if np.isnan(distances).all() else np.where(np.isnan(distances), 0.0, distances)
    return _Rows(np.stack([each.logits for each in found]).astype(np.float64), support, table.labels, table.groups)


def _support_threshold(support: NDArray[np.float64] | None, *, fitted_here: bool) -> float | None:
    known = support[np.isfinite(support)] if support is not None else np.zeros(0)
    if not known.any():
        return None
    return 1.0 if fitted_here else float(np.quantile(known, 1 - FALSE_ALARMS))


def check_disjoint(tuning: Table, certification: Table) -> None:
    """Refuses rows to certify on that a choice was made on.

    Raises:
        RuleRefusalError: a group is in both tables.
    """
    shared = set(tuning.groups) & set(certification.groups)
    if shared:
        raise RuleRefusalError(
            f"{len(shared)} group(s) are in both the tuning and the certification rows, {min(shared)!r} among them",
            reason="roles_overlap",
            fix="give every group one role",
        )


def _certificate(
    *,
    model: Model,
    calibration: Calibration,
    rule: Acceptance,
    outcome: Outcome | None,
    promise: Promise,
    groups: Sequence[str],
) -> Certificate | None:
    if outcome is None or outcome.threshold is None:
        return None
    manifest = msgspec.structs.replace(model.manifest, calibration=calibration, acceptance=rule)
    return Certificate(
        method="fixed-sequence",
        risk=promise.risk,
        delta=promise.delta,
        n=outcome.n,
        accepted=outcome.accepted,
        errors=outcome.errors,
        coverage=outcome.coverage,
        risk_bound=outcome.risk_bound,
        label_source=promise.label_source,
        data_digest=hashlib.sha256("\n".join(sorted(groups)).encode()).hexdigest(),
        provider=model.variant.provider,
        precision=model.variant.precision,
        binding=manifest.binding(model.variant),
    )


def rows_needed(risk: float, delta: float) -> int:
    """Certification rows that make a certificate likely: the first test then survives a few errors."""
    return int(np.ceil(items_needed(risk, delta, START_ERRORS) / DEFAULT_COVERAGES[0] - 1e-9))


def forecast(n: int, risk: float, delta: float) -> str:
    """What ``n`` certification rows, one a group, can certify: one sentence, before any of them is looked at."""
    asked = f"an error of at most {risk:.3g} with confidence {1 - delta:.3g}"
    first = first_tested(DEFAULT_COVERAGES, n, risk, delta)
    if first == len(DEFAULT_COVERAGES):
        return (
            f"{n} certification rows cannot certify {asked}: it takes {items_needed(risk, delta)} accepted rows without "
            f"a single error, and about {rows_needed(risk, delta)} rows to be likely to succeed"
        )
    share = DEFAULT_COVERAGES[first]
    kept = int(share * n)
    allowed = next((e for e in range(kept) if items_needed(risk, delta, e + 1) > kept), 0)
    return (
        f"{n} certification rows can certify {asked} if, among the most confident {share:.0%} of them ({kept}), at most "
        f"{allowed} are wrong"
    )


def _sentences(outcome: Outcome | None, promise: Promise, false_alarm: float | None) -> list[str]:
    said = [_verdict(outcome, promise)]
    if false_alarm is not None:
        said.append(
            f"{false_alarm:.1%} of the certification rows are refused as unlike what the model knows "
            f"({FALSE_ALARMS:.0%} aimed at)"
        )
    return said


def _verdict(outcome: Outcome | None, promise: Promise) -> str:
    if outcome is None:
        return "no certificate: there were no certification rows; everything escalates"
    if outcome.threshold is not None:
        whose = "the truth" if promise.label_source == "ground_truth" else "the large model"
        return (
            f"certified: what it answers itself ({outcome.coverage:.1%} of {outcome.n} rows) differs from {whose} at most "
            f"{promise.risk:.3g} of the time, with confidence {1 - promise.delta:.3g} ({outcome.errors} errors in "
            f"{outcome.accepted}, bound {outcome.risk_bound:.2%})"
        )
    if not outcome.tested:
        return f"no certificate: {forecast(outcome.n, promise.risk, promise.delta)}; everything escalates"
    first = outcome.tested[0]
    return (
        f"no certificate: of the most confident {first.coverage:.0%} of {outcome.n} certification rows {first.errors} in "
        f"{first.accepted} were wrong, too many for {promise.risk:.3g} at confidence {1 - promise.delta:.3g}; everything "
        f"escalates until the model is better or there are more than {rows_needed(promise.risk, promise.delta)} rows"
    )
