"""Models asked about many rows: each distinct part prepared once, sessions fed in batches, two models timed side by side."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from outrider_cloud.learning.contest import Said
from outrider_engine.model import Model
from outrider_export.data import Table, Tensors
from outrider_wire.manifest import ModelInput
from outrider_wire.task import InputPart

_BATCH = 128


class Rows:
    """A table, and what the declared steps made of it for each model that has asked."""

    def __init__(self, *, table: Table, bounds: Sequence[InputPart]) -> None:
        self.table = table
        self._bounds = bounds
        self._prepared: dict[bytes, Tensors] = {}

    def __len__(self) -> int:
        return len(self.table)

    def tensors(self, inputs: Sequence[ModelInput]) -> Tensors:
        """Prepared for a model that reads ``inputs``; models that read the same share it."""
        key = msgspec.json.encode(inputs, order="deterministic")
        if key not in self._prepared:
            self._prepared[key] = self.table.tensors(inputs, self._bounds)
        return self._prepared[key]

    def ask(self, model: Model) -> Said:
        """What the model says of every row."""
        return ask(model, self.tensors(model.manifest.inputs))


def ask(model: Model, tensors: Tensors) -> Said:
    """What the model says of every row of ``tensors``, which were prepared for it."""
    if not len(tensors):
        return Said(probabilities=np.zeros((0, len(model.labels))), support=None)
    rows = _examples(tensors, len(tensors))
    found = [each for start in range(0, len(rows), _BATCH) for each in model.infer(rows[start : start + _BATCH])]
    support = [each.support for each in found]
    # A model without a support output still gives an infinite distance where it could read nothing of a part.
    known = any(each is not None for each in support)
    return Said(
        probabilities=np.stack([each.probabilities for each in found]),
        support=np.array([0.0 if each is None else each for each in support]) if known else None,
    )


def times(one: Model, other: Model, rows: Rows, *, repeats: int = 100) -> tuple[float, float]:
    """Median milliseconds of one inference of each, asked in turns so that whatever slows the machine slows both."""
    sides = [(model, _examples(rows.tensors(model.manifest.inputs), repeats)) for model in (one, other)]
    taken: list[list[float]] = [[], []]
    for place in range(min(repeats, len(rows))):
        for side, (model, examples) in enumerate(sides):
            started = time.perf_counter()
            model.infer([examples[place]])
            taken[side].append(1e3 * (time.perf_counter() - started))
    return float(np.median(taken[0])), float(np.median(taken[1]))


def _examples(tensors: Tensors, most: int) -> list[dict[str, NDArray[Any]]]:
    return [
        {name: values[tensors.index[name][row]] for name, values in tensors.values.items()}
        for row in range(min(most, len(tensors)))
    ]
