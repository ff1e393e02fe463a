"""The thresholds that a certificate tests, stratum by stratum, as tuning rows fix them. Knows no model; loads no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider_wire.certificate import DEFAULT_COVERAGES, best_start, thresholds_at


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """What will be tested; stratum '' where there are none."""

    hopeless: Sequence[str]
    """Strata whose tuning rows are at no coverage any evidence that their risk is small enough: they only escalate."""
    ladders: Mapping[str, Sequence[float]]
    """Stratum → the thresholds to test, the strictest first, one a coverage of its `coverages`."""
    coverages: Mapping[str, Sequence[float]]
    """Stratum → what its thresholds are quantiles at: from where its tuning rows are the strongest evidence."""
    rows: Mapping[str, int]
    """Stratum → tuning rows: δ is shared out over them."""


def sequences(
    scores: NDArray[np.float64],
    right: NDArray[np.bool_],
    *,
    groups: Sequence[str],
    strata: Sequence[str],
    coverages: Sequence[float],
    risk: float,
    caps: Mapping[str, float] | None = None,
) -> Sequences:
    """Of tuning rows: scores, whether they are right, groups and strata (n,), or () for all together.

    ``caps`` are the largest coverages to test, stratum by stratum; one that is missing is not tested. None: no caps.
    """
    names = np.asarray(strata or [""] * len(scores), np.str_)
    steps = ladders(scores, strata, coverages)
    starts: dict[str, int] = {}
    allowed = {name: [each for each in coverages if caps is None or each <= caps.get(name, 0.0)] for name in steps}
    for name, ladder in steps.items():
        own = np.flatnonzero(names == name).tolist()
        start = best_start(scores[own], right[own], ladder, risk, groups=[groups[row] for row in own])
        if start is not None and allowed[name]:
            starts[name] = min(start, len(allowed[name]) - 1)
    return Sequences(
        hopeless=[name for name in steps if name not in starts],
        ladders={name: steps[name][start : len(allowed[name])] for name, start in starts.items()},
        coverages={name: allowed[name][start:] for name, start in starts.items()},
        rows={name: int((names == name).sum()) for name in starts},
    )


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
