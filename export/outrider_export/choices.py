"""What tuning rows choose: calibration, the support threshold, the score, and the thresholds that a certificate may test.

Certifies nothing. Everything chosen here is chosen before a certification row is looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from outrider_export.asking import Said
from outrider_export.support import FALSE_ALARMS
from outrider_wire.acceptance import Signals, supported_scores
from outrider_wire.calibration import calibrated, expected_calibration_error, fit_temperature
from outrider_wire.certificate import DEFAULT_COVERAGES, best_start, thresholds_at
from outrider_wire.manifest import Acceptance, Calibration
from outrider_wire.scores import SCORES, ScoreName, area_under_risk_coverage

Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]


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
        """How many thresholds there are to choose from."""
        return max(1, sum(map(len, self.ladders.values())))

    def threshold_at(self, coverage: float) -> float:
        """What that share of all tuning rows reaches."""
        return thresholds_at(self.scores, [coverage])[0]


def choose(
    said: Said,
    labels: Labels,
    *,
    groups: Sequence[str],
    risk: float,
    coverages: Sequence[float],
    support_fitted_here: bool,
) -> Choices:
    """Chooses on what the model says of tuning rows, whose labels and groups are (n,); ``risk`` is r*.

    Raises:
        RuleRefusalError: there are no rows, or none that the model knows.
    """
    calibration = Calibration(temperature=fit_temperature(said.logits, labels), n=len(labels))
    rows = recalibrated(said, calibration)
    right = rows.probabilities.argmax(1) == labels
    plain = Acceptance(support_threshold=_support_threshold(said.support, fitted_here=support_fitted_here))
    areas = measure_scores(plain, rows, right)
    rule = msgspec.structs.replace(plain, score=min(areas, key=lambda name: areas[name]))
    scores = supported_scores(rule, rows)
    names = np.asarray(rows.strata or [""] * len(scores), np.str_)
    steps = ladders(scores, rows.strata, coverages)
    starts: dict[str, int] = {}
    for name, ladder in steps.items():
        own = np.flatnonzero(names == name).tolist()
        start = best_start(scores[own], right[own], ladder, risk, groups=[groups[row] for row in own])
        if start is not None:
            starts[name] = start
    return Choices(
        calibration=calibration,
        rule=rule,
        hopeless=[name for name in steps if name not in starts],
        ladders={name: steps[name][start:] for name, start in starts.items()},
        coverages={name: coverages[start:] for name, start in starts.items()},
        rows={name: int((names == name).sum()) for name in starts},
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


def ladders(
    scores: NDArray[np.float64], strata: Sequence[str], coverages: Sequence[float] = DEFAULT_COVERAGES
) -> dict[str, list[float]]:
    """Stratum → thresholds at each coverage of its own rows, of scores (n,) and strata (n,), or () for all together under ''.

    A stratum without a row that the model knows has none.
    """
    if not strata:
        return {"": thresholds_at(scores, coverages)}
    names = np.asarray(strata, np.str_)
    own = {name: scores[names == name] for name in dict.fromkeys(strata)}
    return {name: thresholds_at(rows, coverages) for name, rows in own.items() if np.isfinite(rows).any()}
