"""A model asked about many prepared rows in batches. Prepares nothing and judges nothing."""

from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from outrider_engine.model import Model
from outrider_export.data import Tensors

_BATCH = 128


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

    def take(self, rows: NDArray[np.int64]) -> "Said":
        """Of these rows."""
        support = self.support[rows] if self.support is not None else None
        return Said(probabilities=self.probabilities[rows], support=support)


def ask(model: Model, tensors: Tensors) -> Said:
    """What the model says of every row of ``tensors``, which were prepared for it.

    Raises:
        BundleMismatchError: the model fails on them.
    """
    if not len(tensors):
        return Said(probabilities=np.zeros((0, len(model.labels))), support=None)
    rows = examples(tensors)
    found = [each for start in range(0, len(rows), _BATCH) for each in model.infer(rows[start : start + _BATCH])]
    support = [each.support for each in found]
    # A model without a support output still gives an infinite distance where it could read nothing of a part.
    known = any(each is not None for each in support)
    return Said(
        probabilities=np.stack([each.probabilities for each in found]),
        support=np.array([0.0 if each is None else each for each in support]) if known else None,
    )


def examples(tensors: Tensors, most: int | None = None) -> list[dict[str, NDArray[Any]]]:
    """The first ``most`` rows (None: all), each as `outrider_engine.model.Model.infer` takes it."""
    return [
        {name: values[tensors.index[name][row]] for name, values in tensors.values.items()}
        for row in range(len(tensors) if most is None else min(most, len(tensors)))
    ]
