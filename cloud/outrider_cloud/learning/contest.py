"""Two small models under the same rule, on the same rows: what each would keep, and what the system would answer. Pure arithmetic.

Certificates are not compared: each would spend certification rows. Both models get the threshold by one procedure, from tuning
and gate rows alone, so the comparison is fair and costs nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from outrider_cloud.learning.promotion import Behaviour
from outrider_wire.acceptance import supported_scores
from outrider_wire.certificate import DEFAULT_COVERAGES, thresholds_at
from outrider_wire.manifest import Acceptance

Combine = Callable[[Sequence[float], Sequence[float]], Sequence[float]]
"""(large distribution, small distribution) of one input → the answer's: the task's strategy."""


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
    """None: at no threshold is the measured risk small enough."""


def permissive_threshold(
    *, rule: Acceptance, tuning: Said, gate: Said, right: NDArray[np.bool_], risk: float
) -> float | None:
    """The most permissive of the thresholds fixed on tuning rows whose measured risk on gate rows is at most ``risk``."""
    scores = supported_scores(rule, gate.probabilities, gate.support)
    fixed = thresholds_at(supported_scores(rule, tuning.probabilities, tuning.support), DEFAULT_COVERAGES)
    fitting = [t for t in fixed if _risk(scores >= t, right) <= risk]
    return min(fitting) if fitting else None


def behaviour(
    *, rule: Acceptance, tuning: Said, gate: Said, large: NDArray[np.float64], labels: NDArray[np.int64], risk: float,
    combine: Combine,
) -> tuple[Behaviour, System]:  # fmt: skip
    """What one small model does on the gate rows (with ``large`` (n, k) and ``labels`` (n,)), and the figures of it."""
    right = gate.answers == labels
    threshold = permissive_threshold(rule=rule, tuning=tuning, gate=gate, right=right, risk=risk)
    scores = supported_scores(rule, gate.probabilities, gate.support)
    kept = scores >= threshold if threshold is not None else np.zeros(len(labels), np.bool_)
    both = zip(large.tolist(), gate.probabilities.tolist(), strict=True)
    asked = np.array([int(np.argmax(combine(*pair))) for pair in both])
    combined = np.where(kept, right, asked == labels)
    return Behaviour(accepted=kept, right=right, combined=combined), System(
        small_accuracy=float(right.mean()),
        accuracy=float(combined.mean()),
        coverage=float(kept.mean()),
        risk=_risk(kept, right),
        threshold=threshold,
    )


def _risk(kept: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
    return float((~right[kept]).mean()) if kept.any() else 0.0
