"""Two small models under the same rule, on the same rows: what each would keep, and what the system would answer. Pure arithmetic.

Certificates are not compared: each would spend certification rows. Instead the certificate's own procedure is played on gate
rows, for both models, so that each is judged near the threshold that it would ship with.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from outrider_cloud.learning.promotion import Behaviour
from outrider_wire.acceptance import supported_scores
from outrider_wire.certificate import fixed_sequence, one_per_group, thresholds_at
from outrider_wire.manifest import Acceptance

Combine = Callable[[Sequence[float], Sequence[float]], Sequence[float]]
"""(large distribution, small distribution) of one input → the answer's: the task's strategy."""
Method = Literal["fixed-sequence", "measured"]


class Said(Struct, kw_only=True, frozen=True):
    """What a model says of rows."""

    probabilities: NDArray[np.float64]
    """(n, k), calibrated."""
    support: NDArray[np.float64] | None
    """(n,) distance from what it knows; None: it exports none."""

    @property
    def answers(self) -> NDArray[np.int64]:
        """(n,) index of the label that it gives."""
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)


class Contender(Struct, kw_only=True, frozen=True):
    """One small model: its acceptance rule (without a threshold of its own), and what it says of tuning and gate rows."""

    rule: Acceptance
    tuning: Said
    gate: Said

    @property
    def scores(self) -> NDArray[np.float64]:
        """(n,) of the gate rows; −inf where the rule refuses whatever its threshold."""
        return supported_scores(self.rule, self.gate.probabilities, self.gate.support)

    @property
    def thresholds(self) -> list[float]:
        """Fixed on tuning rows, the strictest first."""
        return thresholds_at(supported_scores(self.rule, self.tuning.probabilities, self.tuning.support))


class GateRows(Struct, kw_only=True, frozen=True):
    """What is known of the gate rows."""

    labels: NDArray[np.int64]
    """(n,)"""
    groups: Sequence[str]
    large: NDArray[np.float64]
    """(n, k) what the large model says."""


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
    """None: at no threshold is the risk small enough."""


def comparable_thresholds(
    contenders: Sequence[Contender], rows: GateRows, *, risk: float, delta: float
) -> tuple[list[float | None], Method]:
    """A threshold for each contender, all by one procedure.

    ``fixed-sequence``: what the certificate's test gives on one gate row a group. Where it gives one of them nothing (few
    rows, a weak model), ``measured``: the most permissive threshold whose measured risk is at most ``risk``. Measured risk
    alone would compare at the very edge of the promise, where no certificate lets a model work.
    """
    tested = [_certifiable(each, rows, risk, delta) for each in contenders]
    if all(threshold is not None for threshold in tested):
        return tested, "fixed-sequence"
    return [_permissive(each, rows, risk) for each in contenders], "measured"


def _certifiable(contender: Contender, rows: GateRows, risk: float, delta: float) -> float | None:
    drawn = one_per_group(rows.groups, "gate")
    right = contender.gate.answers == rows.labels
    return fixed_sequence(contender.scores[drawn], right[drawn], contender.thresholds, risk, delta).threshold


def _permissive(contender: Contender, rows: GateRows, risk: float) -> float | None:
    scores, right = contender.scores, contender.gate.answers == rows.labels
    fitting = [threshold for threshold in contender.thresholds if _risk(scores >= threshold, right) <= risk]
    return min(fitting) if fitting else None


def behaviour(
    contender: Contender, rows: GateRows, *, threshold: float | None, combine: Combine
) -> tuple[Behaviour, System]:
    """What a model does on the gate rows at that threshold (None: escalate everything), and the figures of it."""
    right = contender.gate.answers == rows.labels
    kept = contender.scores >= threshold if threshold is not None else np.zeros(len(right), np.bool_)
    both = zip(rows.large.tolist(), contender.gate.probabilities.tolist(), strict=True)
    asked = np.array([int(np.argmax(combine(*pair))) for pair in both])
    combined = np.where(kept, right, asked == rows.labels)
    return Behaviour(accepted=kept, right=right, combined=combined), System(
        small_accuracy=float(right.mean()),
        accuracy=float(combined.mean()),
        coverage=float(kept.mean()),
        risk=_risk(kept, right),
        threshold=threshold,
    )


def _risk(kept: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
    return float((~right[kept]).mean()) if kept.any() else 0.0
