"""The demo's figures as values: what was measured, and the JSON line that other tools read. Measures nothing itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from outrider.demo.play import Tally


class Phase(Struct, kw_only=True, frozen=True):
    """One play of the test questions through the running system. Shares are of 1."""

    accuracy: float
    on_device_share: float
    """Inputs that the acceptance rule kept on the device."""
    kept_risk: float
    """Share of wrong answers among them, on these test questions."""
    certified_risk: float | None
    """r* of the certificate in force; None when nothing is certified."""
    certified_coverage: float
    """Coverage on the certification rows."""
    large_calls: float
    """Share of inputs that went to the large model, audits included."""
    bytes_up: float
    """Bytes an input that the devices sent, answered locally or not."""
    p50_ms_edge: float
    p95_ms_edge: float
    p50_ms_cloud: float
    p95_ms_cloud: float
    small_accuracy: float
    """The small model alone on the same questions."""
    kept_by_class: Mapping[str, tuple[int, int]]
    """True answer → (kept on the device, of these right)."""
    failed: int
    """Questions that got no answer at all."""


class Curve(Struct, kw_only=True, frozen=True):
    """Accuracy against share of large-model calls at every coverage of one small model's shunt."""

    calls: list[float]
    accuracy: list[float]


class Figures(Struct, kw_only=True, frozen=True):
    """Everything that the demo prints at its end."""

    seed: int
    seconds: float
    majority_accuracy: float
    large_accuracy: float
    before: Phase
    after: Phase | None
    """None when the promotion gate refused the candidate."""
    gate: str
    """The gate's verdict, in words."""
    foreign: Mapping[str, tuple[float, float | None]]
    """Kind of foreign picture → share kept on the device before and after."""
    update_bytes: int
    requests_refused_during_update: int
    answered_during_update: int
    curve_before: Curve
    curve_after: Curve | None

    def line(self) -> dict[str, Any]:
        """The stable keys, ready for JSON."""
        return {
            "small_accuracy": _round(self.before.small_accuracy),
            "large_accuracy": _round(self.large_accuracy),
            "majority_accuracy": _round(self.majority_accuracy),
            "before": _phase(self.before),
            "after": _phase(self.after) if self.after else None,
            "foreign_kept": {kind: [_round(share) for share in shares] for kind, shares in self.foreign.items()},
            "update_bytes": self.update_bytes,
            "requests_refused_during_update": self.requests_refused_during_update,
            "promoted": self.after is not None,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
        }


def measure(
    tally: Tally,
    *,
    certified_risk: float | None,
    certified_coverage: float,
    small_accuracy: float,
    bytes_up: int,
) -> Phase:
    """One phase's figures from what the callers were told, and what the agents counted."""
    reports = [(one, one.report) for one in tally.told if one.report is not None]
    kept = [(one, report) for one, report in reports if report.certified]
    by_class: dict[str, tuple[int, int]] = {}
    for one, _ in kept:
        count, right = by_class.get(one.item.question.answer, (0, 0))
        by_class[one.item.question.answer] = (count + 1, right + one.right)
    total = max(len(tally.told), 1)
    return Phase(
        accuracy=tally.accuracy,
        on_device_share=len(kept) / total,
        kept_risk=float(np.mean([not one.right for one, _ in kept])) if kept else 0.0,
        certified_risk=certified_risk,
        certified_coverage=certified_coverage,
        large_calls=sum(1 for _, report in reports if report.answered_by == "cloud" or report.audited) / total,
        bytes_up=bytes_up / total,
        p50_ms_edge=tally.latency_ms("edge", 0.50),
        p95_ms_edge=tally.latency_ms("edge", 0.95),
        p50_ms_cloud=tally.latency_ms("cloud", 0.50),
        p95_ms_cloud=tally.latency_ms("cloud", 0.95),
        small_accuracy=small_accuracy,
        kept_by_class=by_class,
        failed=tally.failed,
    )


def shunt_curve(scores: NDArray[np.float64], small_right: NDArray[np.bool_], large_right: NDArray[np.bool_]) -> Curve:
    """The plain shunt at every coverage: the most confident inputs stay, the large model answers the rest.

    All arrays are over the same rows; rows that the support gate refuses carry a score of −inf.
    """
    order = np.argsort(-scores, kind="stable")
    kept_right = np.concatenate([[0], np.cumsum(small_right[order])])
    asked_right = large_right.sum() - np.concatenate([[0], np.cumsum(large_right[order])])
    rows = len(scores)
    marks = np.unique(np.linspace(0, rows, 101).astype(int))
    return Curve(
        calls=[1.0 - float(mark) / rows for mark in marks],
        accuracy=[float(kept_right[mark] + asked_right[mark]) / rows for mark in marks],
    )


def _phase(phase: Phase) -> dict[str, float | None]:
    names: Sequence[str] = (
        "accuracy", "on_device_share", "certified_risk", "certified_coverage", "kept_risk", "large_calls", "bytes_up",
        "p50_ms_edge", "p95_ms_edge", "p50_ms_cloud", "p95_ms_cloud", "small_accuracy",
    )  # fmt: skip
    return {name: _round(getattr(phase, name)) for name in names}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
