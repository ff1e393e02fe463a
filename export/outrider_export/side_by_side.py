"""Several models on the same rows in one table: size, latency, accuracy, and what each would keep. Trains and certifies nothing."""

import time
from collections.abc import Sequence
from statistics import median

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from outrider_engine.model import Model
from outrider_export.asking import ask, examples
from outrider_export.data import Table
from outrider_export.ladders import ladders
from outrider_wire.calibration import calibrated, fit_temperature
from outrider_wire.certificate import DEFAULT_COVERAGES, binomial_tail
from outrider_wire.manifest import Calibration
from outrider_wire.task import Task

_TIMED = 60
_WARM = 5


class Side(Struct, kw_only=True, frozen=True):
    """One model at one precision."""

    name: str
    bytes: int
    """Of its ONNX file."""
    p50_ms: float
    """Median of one inference of one row, preparation left out, on one thread."""
    accuracy: float
    """On the test rows."""
    coverage: float
    """Share of the test rows whose probability reaches the lowest threshold at which tuning rows show the task's risk to be kept."""
    coverage_risk: float
    """Share of these that are wrong."""


COLUMNS = ("model", "size", "one input", "right", "could keep", "of these wrong")


def cells(sides: Sequence[Side]) -> list[tuple[str, ...]]:
    """The table for a person, under `COLUMNS`."""
    return [
        (
            each.name,
            f"{each.bytes / 1e3:,.0f} kB",
            f"{each.p50_ms:.3f} ms",
            f"{each.accuracy:.1%}",
            f"{each.coverage:.1%}",
            f"{each.coverage_risk:.1%}",
        )
        for each in sides
    ]


def side(name: str, model: Model, *, tuning: Table, test: Table, task: Task) -> Side:
    """Measures one model. What it could keep is an estimate that every model gets alike, and no certificate."""
    said = {}
    for role, table in (("tuning", tuning), ("test", test)):
        tensors = table.tensors(model.manifest.inputs, task.inputs, encoders=model.encoders)
        said[role] = ask(model, tensors)
        rows = examples(tensors, _TIMED)
    calibration = Calibration(temperature=fit_temperature(said["tuning"].logits, tuning.labels))
    sure = {role: calibrated(each.logits, calibration).max(axis=1) for role, each in said.items()}
    threshold = _threshold(sure["tuning"], said["tuning"].answers == tuning.labels, task)
    kept = sure["test"] >= threshold
    right = said["test"].answers == test.labels
    file = model.manifest.file(model.variant.file)
    return Side(
        name=name,
        bytes=file.size if file else 0,
        p50_ms=_median_ms(model, rows),
        accuracy=float(right.mean()),
        coverage=float(kept.mean()),
        coverage_risk=float((~right[kept]).mean()) if kept.any() else 0.0,
    )


def _threshold(scores: NDArray[np.float64], right: NDArray[np.bool_], task: Task) -> float:
    """The lowest of the usual thresholds at which the tuning rows reject, at the task's δ, that the risk is too large; ∞ without one."""
    fitting = [
        threshold
        for threshold in ladders(scores, (), DEFAULT_COVERAGES)[""]
        if binomial_tail(
            int((~right[scores >= threshold]).sum()), int((scores >= threshold).sum()), task.policy.target_risk
        )
        <= task.delta
    ]
    return min(fitting, default=np.inf)


def _median_ms(model: Model, rows: Sequence[dict[str, NDArray[np.generic]]]) -> float:
    taken = []
    for row in rows:
        began = time.perf_counter()
        model.infer([row])
        taken.append(1e3 * (time.perf_counter() - began))
    return round(median(taken[_WARM:] or taken), 4)
