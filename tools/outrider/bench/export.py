"""Every variant of every model, measured: size, latency, memory, agreement, accuracy, and what it keeps. Trains nothing itself."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from outrider.bench.export_child import Seen
from outrider.bench.export_models import Exportable
from outrider.bench.export_sources import find_source
from outrider.bench.gate.kept import Shelf
from outrider.bench.gate.tasks.table import find_task
from outrider.progress import Tell
from outrider_engine.model import scales_by_batch
from outrider_engine.session import OrtSession
from outrider_export.branches import WEIGHTED
from outrider_export.candidates import coverage_kept, said_of
from outrider_export.parity import parity, run_rows
from outrider_export.recipes import RECIPES
from outrider_export.variants import make_variants
from outrider_wire.decodable import decodable
from outrider_wire.errors import OperatorSetupError
from outrider_wire.manifest import LeftInFloat

AIM_SHARE, AIM_AGREEMENT, AIM_BYTES = 0.30, 0.99, 1_000_000
"""INT8 of a model of at least a megabyte: at most this share of fp32's size, at least this share of its answers."""
_TIMED_ROWS = 32


class Figures(Struct, kw_only=True, frozen=True):
    """One variant of one model, on test rows that chose nothing."""

    bytes: int
    p50_ms: float
    """One row at a time, one thread, a process of its own."""
    p95_ms: float
    resident_mb: float
    agreement: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    calibration_error: float
    coverage: float
    """Kept at the task's r*, on the test rows themselves."""
    ships: bool
    """Whether it is within its tolerance on tuning rows."""
    float_layers: int
    """Operators with weights that were left in floating point, those of the support distance among them."""


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """What is measured."""

    tasks: Sequence[str]
    seed: int
    folder: Path
    """Where things are kept."""
    data: Mapping[str, Path] = field(default_factory=dict)
    """The person's own copies of tasks' data."""
    fetch: bool = False
    variants: Sequence[str] = tuple(RECIPES)
    """The first is what the others are compared with."""


def measure(plan: ExportPlan, tell: Tell) -> dict[str, dict[str, Figures]]:
    """Model → variant → figures.

    Raises:
        OperatorSetupError: a task's data are not here.
        OperatorConfigError: there is no such task.
    """
    found: dict[str, dict[str, Figures]] = {}
    for name in plan.tasks:
        source = find_source(name)
        for each in source.make(plan.seed, _data_of(plan, name, source.data), plan.folder, tell):
            found[each.name] = measured(each, plan.variants, tell)
    return found


def aims(found: Mapping[str, Mapping[str, Figures]]) -> list[str]:
    """One sentence a model: whether the best INT8 of those that ship is where it should be, or that it is too small to gain."""
    said = []
    for model, variants in found.items():
        plain = variants.get("fp32")
        if plain is None:
            continue
        eights = {name: one for name, one in variants.items() if name.startswith("int8") and one.ships}
        if not eights:
            said.append(
                f"{model}: no INT8 variant is within its tolerance{'' if plain.bytes < AIM_BYTES else ': MISSED'}"
            )
            continue
        name, best = max(eights.items(), key=lambda item: (item[1].agreement >= AIM_AGREEMENT, -item[1].bytes))
        share = best.bytes / plain.bytes
        figures = (
            f"{model}: {name} has {share:.1%} of fp32's {plain.bytes:,} bytes and {best.agreement:.2%} of its answers"
        )
        if plain.bytes < AIM_BYTES:
            said.append(f"{figures} (below a megabyte: no aim)")
        else:
            met = share <= AIM_SHARE and best.agreement >= AIM_AGREEMENT
            said.append(f"{figures}: {'met' if met else 'MISSED'}")
    return said


def _data_of(plan: ExportPlan, name: str, data: str) -> Path | None:
    if not data or name in plan.data:
        return plan.data.get(name)
    if data == "digits":
        return None
    task, shelf = find_task(name), Shelf(folder=plan.folder)
    if plan.fetch:
        shelf.fetch(task)
    return shelf.data_of(task)


def measured(each: Exportable, names: Sequence[str], tell: Tell) -> dict[str, Figures]:
    """Variant → figures of one model; the first of ``names`` is what the others are compared with."""
    tell(f"{each.name}: exporting", 0.0)
    made = make_variants(
        each.model,
        each.inputs,
        tuning=each.tuning,
        calibration=each.calibration,
        support=each.support,
        precisions=names,
        forced=names,
    )
    found: dict[str, Figures] = {}
    reference = run_rows(OrtSession(made.files[made.variants[0].file]), each.test)
    for done, variant in enumerate(made.variants):
        tell(f"{each.name}: {variant.name}", done / len(made.variants))
        data = made.files[variant.file]
        said = run_rows(OrtSession(data), each.test, apart=scales_by_batch(data))
        figures = parity(reference, said, each.test.labels, made.outputs, groups=each.test.groups)
        kept = coverage_kept(
            said_of(said, made.outputs, each.strata),
            each.test.labels,
            each.test.groups,
            risk=each.risk,
            support_fitted_here=False,
        )
        seen = _seen(data, each)
        found[variant.name] = Figures(
            bytes=len(data),
            p50_ms=seen.p50_ms,
            p95_ms=seen.p95_ms,
            resident_mb=seen.resident_mb,
            agreement=figures["agreement"],
            accuracy=figures["accuracy"],
            accuracy_low=figures["accuracy_low"],
            accuracy_high=figures["accuracy_high"],
            calibration_error=figures["calibration_error"],
            coverage=kept,
            ships=not variant.forced,
            float_layers=sum(_weighted(left) for left in variant.left_in_float),
        )
    return found


def _weighted(left: LeftInFloat) -> int:
    """Operators with weights in it."""
    return sum(count for operator, count in left.operators.items() if operator in WEIGHTED)


def _seen(data: bytes, each: Exportable) -> Seen:
    with tempfile.TemporaryDirectory() as folder:
        model, rows = Path(folder) / "model.onnx", Path(folder) / "rows.npz"
        model.write_bytes(data)
        np.savez(rows, **each.test.batch(slice(0, _TIMED_ROWS)))  # type: ignore[arg-type]  # its flags share the keywords
        ran = subprocess.run(
            [sys.executable, "-m", "outrider.bench.export_child", str(model), str(rows)],
            capture_output=True,
            check=False,
        )
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").strip().splitlines()
        raise OperatorSetupError(
            f"{each.name} cannot be timed: {said[-1] if said else ran.returncode}", reason="child_failed"
        )
    return msgspec.json.decode(ran.stdout, type=decodable(Seen))
