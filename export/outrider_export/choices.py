"""What tuning rows choose: calibration, the support threshold, the score, and the thresholds that a certificate may test.

Certifies nothing. Everything chosen here is chosen before a certification row is looked at.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from outrider_export.asking import Said
from outrider_export.ladders import sequences
from outrider_export.promises import FALSE_ALARMS
from outrider_wire.acceptance import Signals, supported_scores
from outrider_wire.calibration import (
    calibrated,
    expected_calibration_error,
    fit_temperature,
    fit_vector,
    log_losses,
)
from outrider_wire.certificate import thresholds_at
from outrider_wire.manifest import Acceptance, Calibration
from outrider_wire.roles import fraction_of
from outrider_wire.scores import SCORES, ScoreName, area_under_risk_coverage

Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]
FOLDS = 5
ROWS_AN_UNKNOWN = 5
VECTOR_LABELS = 64
"""With more labels vector scaling is not tried: its unknowns grow with them, and its cost with their square."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """All that is fixed in advance."""

    calibration: Calibration
    rule: Acceptance
    """Without thresholds on its score."""
    hopeless: Sequence[str]
    """Strata whose tuning rows are at no coverage any evidence that their risk is small enough: they only escalate."""
    ladders: Mapping[str, Sequence[float]]
    """Stratum ('' where the task has none) → the thresholds to test, the strictest first, one a coverage of its `coverages`."""
    coverages: Mapping[str, Sequence[float]]
    """Stratum → what its thresholds are quantiles at: from where its tuning rows are the strongest evidence."""
    rows: Mapping[str, int]
    """Stratum → tuning rows: δ is shared out over them."""
    areas: Mapping[ScoreName, float]
    """Area under the risk–coverage curve of each score."""
    accuracy: float
    calibration_error: float
    scores: NDArray[np.float64]
    """(n,) of the tuning rows, by the chosen score; −inf where support refuses."""

    @property
    def steps(self) -> int:
        """How many rules there are to come to: in every stratum one of its thresholds, or none."""
        return math.prod(len(ladder) + 1 for ladder in self.ladders.values())

    def threshold_at(self, coverage: float) -> float:
        """What that share of all tuning rows reaches."""
        return thresholds_at(self.scores, [coverage])[0]


class Kept(NamedTuple):
    """The parts of a rule that stay as they are while its thresholds are set anew."""

    calibration: Calibration
    rule: Acceptance


def choose_calibration(logits: NDArray[np.float64], labels: Labels, groups: Sequence[str] | None = None) -> Calibration:
    """A temperature; or vector scaling where it predicts left-out groups better by more than one standard error.

    Better is a lower negative log-likelihood over five folds of the groups. Vector scaling has two unknowns a label: with
    fewer than `ROWS_AN_UNKNOWN` rows for each, or more than `VECTOR_LABELS` labels, it is not tried.
    """
    plain = Calibration(temperature=fit_temperature(logits, labels), n=len(labels))
    names = [str(row) for row in range(len(labels))] if groups is None else groups
    unknowns = 2 * logits.shape[1]
    if unknowns > 2 * VECTOR_LABELS or len(labels) < ROWS_AN_UNKNOWN * unknowns or len(set(names)) < FOLDS:
        return plain
    _, number = np.unique(np.asarray(names), return_inverse=True)
    fold = np.asarray([int(fraction_of(name, "calibration", "fold") * FOLDS) for name in names])
    gains = np.zeros(len(labels))
    for out in range(FOLDS):
        rest, left = fold != out, fold == out
        if not left.any() or not rest.any():
            return plain
        alone = Calibration(temperature=fit_temperature(logits[rest], labels[rest]))
        gains[left] = log_losses(calibrated(logits[left], alone), labels[left]) - log_losses(
            calibrated(logits[left], fit_vector(logits[rest], labels[rest])), labels[left]
        )
    by_group = np.bincount(number, gains) / np.bincount(number)
    error = float(by_group.std(ddof=1)) / np.sqrt(len(by_group))
    return fit_vector(logits, labels) if float(by_group.mean()) > error else plain


def choose(
    said: Said,
    labels: Labels,
    *,
    groups: Sequence[str],
    risk: float,
    coverages: Sequence[float],
    caps: Mapping[str, float] | None = None,
    support_fitted_here: bool,
    kept: Kept | None = None,
) -> Choices:
    """Chooses on what the model says of tuning rows, whose labels and groups are (n,); ``risk`` is r*.

    Args:
        said: of the tuning rows.
        labels: theirs.
        groups: theirs.
        risk: r*.
        coverages: what the thresholds are quantiles at.
        support_fitted_here: the support distance was fitted on these very rows.
        kept: what is not to be chosen again.

    Raises:
        RuleRefusalError: there are no rows, or none that the model knows.
    """
    calibration = kept.calibration if kept else choose_calibration(said.logits, labels, groups)
    rows = recalibrated(said, calibration)
    right = rows.probabilities.argmax(1) == labels
    limit = kept.rule.support_threshold if kept else _support_threshold(said.support, fitted_here=support_fitted_here)
    plain = Acceptance(support_threshold=limit)
    areas = measure_scores(plain, rows, right)
    rule = msgspec.structs.replace(plain, score=kept.rule.score if kept else min(areas, key=lambda name: areas[name]))
    scores = supported_scores(rule, rows)
    found = sequences(scores, right, groups=groups, strata=rows.strata, coverages=coverages, caps=caps, risk=risk)
    return Choices(
        calibration=calibration,
        rule=rule,
        hopeless=found.hopeless,
        ladders=found.ladders,
        coverages=found.coverages,
        rows=found.rows,
        areas=areas,
        accuracy=float(right.mean()),
        calibration_error=expected_calibration_error(rows.probabilities, labels),
        scores=scores,
    )


def recalibrated(said: Said, calibration: Calibration) -> Signals:
    """What the model says, under another calibration than its bundle's."""
    return said.signals._replace(probabilities=calibrated(said.logits, calibration))


def measure_scores(rule: Acceptance, rows: Signals, right: Flags) -> dict[ScoreName, float]:
    """Area under the risk–coverage curve of every score that the model gives, behind the support gate; less is better."""
    names: list[ScoreName] = list(SCORES)
    if rows.deferral is not None:
        names.append("deferral")
    by_name = {name: supported_scores(msgspec.structs.replace(rule, score=name), rows) for name in names}
    return {name: area_under_risk_coverage(scores, right) for name, scores in by_name.items()}


def _support_threshold(support: NDArray[np.float64] | None, *, fitted_here: bool) -> float | None:
    known = support[np.isfinite(support)] if support is not None else np.zeros(0)
    if not known.any():
        return None
    return 1.0 if fitted_here else float(np.quantile(known, 1 - FALSE_ALARMS))
