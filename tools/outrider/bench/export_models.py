"""What ``outrider bench export`` exports: a model in fp32 with rows of its own. Makes none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from outrider_export.data import Tensors
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


def one_input(values: NDArray[np.generic], name: str = "input") -> list[ModelInput]:
    """The manifest's words for a tensor that the benchmark has prepared itself."""
    return [ModelInput(part=name, tensor=name, steps=[Step(op="channels_first")], shape=list(values.shape[1:]))]


def tensors(values: Mapping[str, NDArray[np.generic]], labels: NDArray[np.int64], groups: Sequence[str]) -> Tensors:
    """Rows that are prepared already: tensor → (n, …)."""
    places = np.arange(len(labels))
    return Tensors(values=values, index=dict.fromkeys(values, places), labels=labels, groups=list(groups))
