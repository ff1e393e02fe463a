"""Variants measured against each other: size, latency here, and what tuning rows let each keep. Picks none."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from outrider_engine.session import OrtSession
from outrider_export.asking import Said
from outrider_export.choices import choose, recalibrated
from outrider_export.data import Progress
from outrider_export.front import Candidate
from outrider_export.latency import timed
from outrider_export.variants import Arrays, Variants
from outrider_wire.calibration import softmax
from outrider_wire.certificate import DEFAULT_COVERAGES
from outrider_wire.errors import RuleRefusalError
from outrider_wire.manifest import Outputs

_ROWS = 50


def measure_candidates(
    variants: Variants, *, risk: float, strata: Sequence[str] = (), support_fitted_here: bool = False, tell: Progress
) -> list[Candidate]:
    """Every variant, in their order. Nothing here looks at a certification row.

    Args:
        variants: as made.
        risk: r*.
        strata: of the tuning rows, or ().
        support_fitted_here: the support distance was fitted on the tuning rows.
        tell: told each variant.
    """
    rows = [variants.tuning.batch(slice(row, row + 1)) for row in range(min(_ROWS, len(variants.tuning)))]
    labels, groups = variants.tuning.labels, variants.tuning.groups
    found = []
    for done, each in enumerate(variants.variants):
        tell(f"measuring {each.name}", done / len(variants.variants))
        data = variants.files[each.file]
        said = said_of(variants.said[each.name], variants.outputs, strata)
        found.append(
            Candidate(
                name=each.name,
                bytes=len(data),
                p50_ms=timed(OrtSession(data), rows).p50_ms,
                coverage=coverage_kept(said, labels, groups, risk=risk, support_fitted_here=support_fitted_here),
                agreement=each.parity["agreement"],
                accuracy=each.parity["accuracy"],
            )
        )
    return found


def said_of(outputs: Arrays, names: Outputs, strata: Sequence[str] = ()) -> Said:
    """A model's raw outputs of rows, as the rules look at them; not calibrated yet."""
    logits = outputs[names.logits].astype(np.float64)
    return Said(
        logits=logits,
        probabilities=softmax(logits),
        support=outputs[names.support].reshape(-1).astype(np.float64) if names.support else None,
        deferral=outputs[names.deferral].reshape(-1).astype(np.float64) if names.deferral else None,
        strata=list(strata),
    )


def coverage_kept(
    said: Said, labels: NDArray[np.int64], groups: Sequence[str], *, risk: float, support_fitted_here: bool
) -> float:
    """Share of the labelled rows that the best score, calibrated on them, lets keep with at most ``risk`` wrong, stratum by stratum.

    What the rows themselves show, without the confidence that a certificate adds: for comparing variants, not for promising.
    0 where there are no labelled rows.
    """
    known = np.flatnonzero(labels >= 0)
    own = said.take(known)
    try:
        choices = choose(
            own,
            labels[known],
            groups=[groups[row] for row in known.tolist()],
            risk=risk,
            coverages=DEFAULT_COVERAGES,
            support_fitted_here=support_fitted_here,
        )
    except RuleRefusalError:
        return 0.0
    right = recalibrated(own, choices.calibration).probabilities.argmax(1) == labels[known]
    names = np.asarray(own.strata or [""] * len(known), np.str_)
    kept = 0.0
    for name in np.unique(names):
        mine = names == name
        kept += coverage_at(choices.scores[mine], right[mine], risk) * float(mine.mean())
    return round(kept, 4)


def coverage_at(scores: NDArray[np.float64], right: NDArray[np.bool_], risk: float) -> float:
    """The largest share of rows, the surest first, of which at most ``risk`` are wrong; rows of one score go together.

    Coverage at a risk: Geifman & El-Yaniv 2017, arXiv 1705.08500.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    wrong = np.cumsum(~right[order])
    counts = np.arange(1, len(order) + 1)
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    within = np.flatnonzero((wrong <= risk * counts) & last_of_tie & np.isfinite(ranked))
    return float(counts[within[-1]] / len(order)) if len(within) else 0.0
