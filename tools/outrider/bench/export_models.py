"""The models that ``outrider bench export`` exports, by task: trained here or kept, each with rows of its own. Exports none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from outrider.progress import Tell
from outrider_export.data import Tensors
from outrider_wire.errors import OperatorConfigError
from outrider_wire.manifest import ModelInput, Step

TEST_ROWS = 2_000


@dataclass(frozen=True, kw_only=True)
class Exportable:
    """One model in fp32, and the rows of three roles."""

    name: str
    model: nn.Module | bytes
    inputs: Sequence[ModelInput]
    tuning: Tensors
    """What chooses: how much stays in floating point, and what is within its tolerance."""
    calibration: Tensors
    """Ranges are found on these: one row of each group of the tuning rows."""
    support: Tensors
    """What the model knows; the tuning rows, where training rows are of another kind."""
    test: Tensors
    """What every figure is of."""
    risk: float
    """r*"""
    strata: Sequence[str] = ()
    """Of the test rows, where the task has kinds of input."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a task's models are come by."""

    make: Callable[[int, Path | None, Path, Tell], list[Exportable]]
    """(seed, folder of the data or None, folder to keep things in, tell) → its models."""
    data: str = ""
    """Name of its data; '' when a Python package carries them."""


def sources() -> Mapping[str, Source]:
    """Task → how its models are come by. Imports what trains them."""
    from outrider.bench import export_audio, export_tasks

    return {
        "easy-vqa": Source(make=export_tasks.easy_vqa),
        "mnist1d": Source(make=export_tasks.mnist1d),
        "fashion": Source(make=export_tasks.fashion, data="fashion"),
        "text": Source(make=export_tasks.text, data="text"),
        "digits": Source(make=export_audio.digits, data="digits"),
    }


def find_source(name: str) -> Source:
    """The source of that name.

    Raises:
        OperatorConfigError: there is none.
    """
    known = sources()
    if name not in known:
        raise OperatorConfigError(
            f"there is no task {name!r} to export models of", reason="unknown_task", fix=f"choose {', '.join(known)}"
        )
    return known[name]


def one_input(values: NDArray[np.generic], name: str = "input") -> list[ModelInput]:
    """The manifest's words for a tensor that the benchmark has prepared itself."""
    return [ModelInput(part=name, tensor=name, steps=[Step(op="channels_first")], shape=list(values.shape[1:]))]


def tensors(values: Mapping[str, NDArray[np.generic]], labels: NDArray[np.int64], groups: Sequence[str]) -> Tensors:
    """Rows that are prepared already: tensor → (n, …)."""
    places = np.arange(len(labels))
    return Tensors(values=values, index=dict.fromkeys(values, places), labels=labels, groups=list(groups))
