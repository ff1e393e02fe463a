"""What a benchmark task comes down to: plain arrays of what both models said of the same rows. Knows no model and no strategy."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outrider_wire.groups import one_per_group

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one data role."""

    small: Floats
    """(n, k) logits of the small model."""
    large: Floats
    """(n, k) probabilities of the large model, of what the device would send."""
    labels: Ints
    """(n,)"""
    groups: NDArray[np.str_]
    """(n,) Rows of one group are not independent."""
    payload_bytes: Ints
    """(n,) What a large-model call sends."""
    embedding: Floats
    """(n, d) The small model's last features."""
    glance: Floats
    """(n, f) What a router may look at before the small model runs: a coarse view of the input itself."""
    support: Floats | None = None
    """(n,) Distance from what the small model knows; None: the task has no such distance."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Ints) -> "Rows":
        """These rows, in this order."""
        kept: dict[str, Any] = {name: array[rows] for name, array in _flat("", self).items()}
        return Rows(**kept)

    def one_per_group(self, key: str) -> "Rows":
        """One row of every group, chosen by the keyed hash."""
        return self.take(one_per_group([str(group) for group in self.groups], key))


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What the small model said of inputs that no sensor of the device ever took."""

    small: Floats
    """(n, k) logits."""
    support: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One task, one seed."""

    tuning: Rows
    certification: Rows
    test: Rows
    majority: float
    """Share of the test rows that one gets right without looking: the commonest answer (to that question)."""
    foreign: Mapping[str, Foreign]
    """Kind → inputs of it; empty where the modality has none."""


def save(measured: Measured, file: Path) -> None:
    """Writes the arrays, whole or not at all."""
    arrays: dict[str, NDArray[Any]] = {"majority": np.asarray(measured.majority)}
    for role in ("tuning", "certification", "test"):
        arrays |= _flat(f"{role}/", getattr(measured, role))
    for kind, said in measured.foreign.items():
        arrays |= _flat(f"foreign/{kind}/", said)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(file.stem + ".part.npz")
    np.savez_compressed(draft, **arrays)  # type: ignore[arg-type]  # numpy types its keywords as one flag
    draft.replace(file)


def load(file: Path) -> Measured:
    """Reads what `save` wrote; runs no code that a file could bring."""
    with np.load(file, allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    kinds = dict.fromkeys(name.split("/")[1] for name in arrays if name.startswith("foreign/"))
    return Measured(
        tuning=Rows(**_under("tuning/", arrays)),
        certification=Rows(**_under("certification/", arrays)),
        test=Rows(**_under("test/", arrays)),
        majority=float(arrays["majority"]),
        foreign={kind: Foreign(**_under(f"foreign/{kind}/", arrays)) for kind in kinds},
    )


def _flat(prefix: str, value: Rows | Foreign) -> dict[str, NDArray[Any]]:
    found = {field.name: getattr(value, field.name) for field in fields(value)}
    return {prefix + name: array for name, array in found.items() if array is not None}


def _under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
