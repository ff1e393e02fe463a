"""Rows put to several models: each distinct part prepared once, and two models timed side by side. Judges nothing."""

import time
from collections.abc import Sequence

import msgspec
import numpy as np

from outrider_engine.model import Model
from outrider_export.asking import Said, ask, examples
from outrider_export.data import Table, Tensors
from outrider_wire.task import InputPart


class Rows:
    """A table, and what the declared steps made of it for each model that has asked."""

    def __init__(self, *, table: Table, bounds: Sequence[InputPart]) -> None:
        self.table = table
        self._bounds = bounds
        self._prepared: dict[bytes, Tensors] = {}

    def __len__(self) -> int:
        return len(self.table)

    def tensors(self, model: Model) -> Tensors:
        """Prepared for a model; models that read the same share it."""
        inputs = model.manifest.inputs
        key = msgspec.json.encode(inputs, order="deterministic")
        if key not in self._prepared:
            self._prepared[key] = self.table.tensors(inputs, self._bounds, encoders=model.encoders)
        return self._prepared[key]

    def ask(self, model: Model) -> Said:
        """What the model says of every row."""
        strata = self.table.strata(model.manifest.acceptance.strata)
        return ask(model, self.tensors(model), strata)


def times(one: Model, other: Model, rows: Rows, *, repeats: int = 100) -> tuple[float, float]:
    """Median milliseconds of one inference of each, asked in turns so that whatever slows the machine slows both."""
    sides = [(model, examples(rows.tensors(model), repeats)) for model in (one, other)]
    taken: list[list[float]] = [[], []]
    for place in range(min(repeats, len(rows))):
        for side, (model, asked) in enumerate(sides):
            started = time.perf_counter()
            model.infer([asked[place]])
            taken[side].append(1e3 * (time.perf_counter() - started))
    return float(np.median(taken[0])), float(np.median(taken[1]))
