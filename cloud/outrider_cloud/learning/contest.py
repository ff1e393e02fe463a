"""Two small models on the same rows: what each would keep, and what the system would answer. Pure arithmetic.

The deployed model is judged as it runs, by its certified thresholds: an update must not make the answers worse that people get
today. The candidate has no certificate yet, for that would spend certification rows: it gets a threshold from tuning and gate
rows alone, which is also the most permissive one that its certificate may come to, so that what ships is what was judged, or
stricter.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from outrider_cloud.learning.promotion import Behaviour, Flags, Margins, check_answers
from outrider_export.asking import Said
from outrider_export.ladders import ladders
from outrider_wire.acceptance import accepted, supported_scores
from outrider_wire.certificate import DEFAULT_COVERAGES
from outrider_wire.manifest import Acceptance
from outrider_wire.strata import OTHER

Combine = Callable[[Sequence[float], Sequence[float]], Sequence[float]]
"""(large distribution, small distribution) of one input → the answer's: the task's strategy."""


class Contender(Struct, kw_only=True, frozen=True):
    """One small model: its acceptance rule (of a candidate, without thresholds), and what it says of tuning and gate rows."""

    rule: Acceptance
    tuning: Said
    """Of the rows that certification takes its thresholds from."""
    gate: Said

    @property
    def scores(self) -> NDArray[np.float64]:
        """(n,) of the gate rows; −inf where the rule refuses whatever its threshold."""
        return supported_scores(self.rule, self.gate.signals)

    @property
    def ladders(self) -> dict[str, list[float]]:
        """Stratum ('' without any) → thresholds of `DEFAULT_COVERAGES`, fixed on its tuning rows: the strictest first."""
        return ladders(supported_scores(self.rule, self.tuning.signals), self.tuning.strata)


class GateRows(Struct, kw_only=True, frozen=True):
    """What is known of the gate rows."""

    labels: NDArray[np.int64]
    """(n,)"""
    classes: Sequence[str]
    """(n,) the same in words."""
    groups: Sequence[str]
    """(n,)"""
    large: NDArray[np.float64]
    """(n, k) what the large model says."""
    risk: float
    """r*"""
    combine: Combine


class System(Struct, kw_only=True, frozen=True):
    """One small model in the system, in figures. Shares are of the gate rows."""

    small_accuracy: float
    accuracy: float
    """Of the system's answers."""
    coverage: float
    """Kept on the device, at `thresholds`."""
    risk: float
    """Share of what is kept that is wrong."""
    thresholds: dict[str, float]
    """Stratum ('' without any) → what its score is held against; one that is missing escalates, and without any everything does."""
    caps: dict[str, float] = {}
    """Stratum → the share of its tuning rows that a candidate's threshold was fixed at: its certificate may come to no more."""

    @property
    def most(self) -> float:
        """The largest of these; 0 without one."""
        return max(self.caps.values(), default=0.0)


class Played(Struct, kw_only=True, frozen=True):
    """What one model does at one threshold."""

    behaviour: Behaviour
    system: System


def play_deployed(contender: Contender, rows: GateRows) -> Played:
    """As it runs: by its own rule, thresholds and all. A rule that certifies nothing sends everything."""
    right, asked_right = _outcomes(contender, rows)
    rule = contender.rule
    thresholds = {each.name: each.threshold for each in rule.strata} | {OTHER if rule.strata else "": rule.threshold}
    return _played(
        accepted(rule, contender.gate.signals),
        right,
        asked_right,
        {name: threshold for name, threshold in thresholds.items() if threshold is not None},
    )


def play_candidate(contender: Contender, rows: GateRows, *, deployed: Behaviour, margins: Margins) -> Played:
    """At the most permissive of its thresholds whose risk on gate rows is at most r* and at which the system answers no worse.

    A bound on the error of what is kept lets a model that keeps more give up what the large model would have had right, and
    collect its errors in one class; a stricter threshold sends these to the large model. So neither the combined accuracy
    nor a class may fall by more than the gate allows. Where no threshold is strict enough, the first is returned, to be
    refused by.
    """
    played = list(_fitting(contender, rows))
    for each in played:
        checks = check_answers(deployed, each.behaviour, classes=rows.classes, groups=rows.groups, margins=margins)
        if all(check.passed for check in checks):
            return each
    return played[0]


def _fitting(contender: Contender, rows: GateRows) -> Iterator[Played]:
    """Thresholds whose measured risk is at most r* in every stratum, the most permissive first; everything escalated at the end.

    One step down caps the coverage of every stratum: each takes the most permissive of its thresholds under the cap.
    """
    (right, asked_right), scores = _outcomes(contender, rows), contender.scores
    names = np.asarray(contender.gate.strata or [""] * len(right), np.str_)
    fitting = {
        name: [
            (threshold, most)
            for threshold, most in zip(ladder, DEFAULT_COVERAGES, strict=True)
            if _risk((names == name) & (scores >= threshold), right) <= rows.risk
        ]
        for name, ladder in contender.ladders.items()
    }
    before: dict[str, float] | None = None
    for cap in (*reversed(DEFAULT_COVERAGES), 0.0):
        under = {name: [step for step in steps if step[1] <= cap + 1e-9] for name, steps in fitting.items()}
        chosen = {name: steps[-1] for name, steps in under.items() if steps}
        thresholds = {name: threshold for name, (threshold, _) in chosen.items()}
        if thresholds != before and (thresholds or before is None):
            before = thresholds
            held_against = np.array([thresholds.get(name, np.inf) for name in names.tolist()])
            caps = {name: most for name, (_, most) in chosen.items()}
            yield _played(scores >= held_against, right, asked_right, thresholds, caps)


def _outcomes(contender: Contender, rows: GateRows) -> tuple[Flags, Flags]:
    """(n,) whether its own answer is right, and whether the one that comes back would be."""
    both = zip(rows.large.tolist(), contender.gate.probabilities.tolist(), strict=True)
    asked = np.array([int(np.argmax(rows.combine(*pair))) for pair in both])
    return contender.gate.answers == rows.labels, asked == rows.labels


def _risk(kept: Flags, right: Flags) -> float:
    return float((~right[kept]).mean()) if kept.any() else 0.0


def _played(
    kept: Flags,
    right: Flags,
    asked_right: Flags,
    thresholds: dict[str, float],
    caps: dict[str, float] | None = None,
) -> Played:
    combined = np.where(kept, right, asked_right)
    return Played(
        behaviour=Behaviour(accepted=kept, right=right, combined=combined),
        system=System(
            small_accuracy=float(right.mean()),
            accuracy=float(combined.mean()),
            coverage=float(kept.mean()),
            risk=float((~right[kept]).mean()) if kept.any() else 0.0,
            thresholds=thresholds,
            caps=caps or {},
        ),
    )
