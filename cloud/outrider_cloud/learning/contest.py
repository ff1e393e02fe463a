"""Two small models under the same rule, on the same rows: what each would keep, and what the system would answer. Pure arithmetic.

Certificates are not compared: each would spend certification rows. Both models get a threshold by one procedure, from tuning
and gate rows alone. For the candidate it is also the most permissive one that its certificate may come to, so that what ships
is what was judged, or stricter.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from outrider_cloud.learning.promotion import Behaviour, Flags, Margins, check_answers
from outrider_export.asking import Said
from outrider_wire.acceptance import supported_scores
from outrider_wire.certificate import DEFAULT_COVERAGES, thresholds_at
from outrider_wire.manifest import Acceptance

Combine = Callable[[Sequence[float], Sequence[float]], Sequence[float]]
"""(large distribution, small distribution) of one input → the answer's: the task's strategy."""


class Contender(Struct, kw_only=True, frozen=True):
    """One small model: its acceptance rule (whose own threshold does not count), and what it says of tuning and gate rows."""

    rule: Acceptance
    tuning: Said
    """Of one row a group: what certification takes its thresholds from."""
    gate: Said

    @property
    def scores(self) -> NDArray[np.float64]:
        """(n,) of the gate rows; −inf where the rule refuses whatever its threshold."""
        return supported_scores(self.rule, self.gate.probabilities, self.gate.support)

    @property
    def thresholds(self) -> list[float]:
        """Of `DEFAULT_COVERAGES`, fixed on tuning rows: the strictest first."""
        return thresholds_at(supported_scores(self.rule, self.tuning.probabilities, self.tuning.support))


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
    """Kept on the device, at `threshold`."""
    risk: float
    """Share of what is kept that is wrong."""
    threshold: float | None
    """None: at no threshold is the risk small enough, and everything escalates."""
    most: float
    """Share of the tuning rows that the threshold was fixed at; 0 without one."""


class Played(Struct, kw_only=True, frozen=True):
    """What one model does at one threshold."""

    behaviour: Behaviour
    system: System


def play_deployed(contender: Contender, rows: GateRows) -> Played:
    """At the most permissive of its thresholds whose measured risk on gate rows is at most r*."""
    return next(_fitting(contender, rows))


def play_candidate(contender: Contender, rows: GateRows, *, deployed: Behaviour, margins: Margins) -> Played:
    """At the most permissive of its thresholds by the same rule at which, besides, the system's answers get no worse.

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
    """At every threshold whose measured risk is at most r*, the most permissive first; everything escalated where there is none."""
    right, scores = contender.gate.answers == rows.labels, contender.scores
    both = zip(rows.large.tolist(), contender.gate.probabilities.tolist(), strict=True)
    asked_right = np.array([int(np.argmax(rows.combine(*pair))) for pair in both]) == rows.labels
    found = False
    for threshold, most in reversed(list(zip(contender.thresholds, DEFAULT_COVERAGES, strict=True))):
        played = _played(scores >= threshold, right, asked_right, threshold, most)
        if played.system.risk <= rows.risk:
            found = True
            yield played
    if not found:
        yield _played(np.zeros(len(right), np.bool_), right, asked_right, None, 0.0)


def _played(kept: Flags, right: Flags, asked_right: Flags, threshold: float | None, most: float) -> Played:
    combined = np.where(kept, right, asked_right)
    return Played(
        behaviour=Behaviour(accepted=kept, right=right, combined=combined),
        system=System(
            small_accuracy=float(right.mean()),
            accuracy=float(combined.mean()),
            coverage=float(kept.mean()),
            risk=float((~right[kept]).mean()) if kept.any() else 0.0,
            threshold=threshold,
            most=most,
        ),
    )
