"""A model asked about many prepared rows in batches. Prepares nothing and judges nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from outrider_engine.model import Model
from outrider_export.data import Table, Tensors
from outrider_wire.acceptance import Signals
from outrider_wire.task import InputPart

_BATCH = 128


class Said(Struct, kw_only=True, frozen=True):
    """What a model says of rows."""

    logits: NDArray[np.float64]
    """(n, k)"""
    probabilities: NDArray[np.float64]
    """(n, k), calibrated."""
    support: NDArray[np.float64] | None
    """(n,) distance from what it knows; None: it exports none."""
    deferral: NDArray[np.float64] | None = None
    """(n,) its learned score; None: it exports none."""
    strata: Sequence[str] = ()
    """(n,) the stratum of each row; empty where its rule has none."""

    @property
    def answers(self) -> NDArray[np.int64]:
        """(n,) index of the label that it gives."""
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)

    @property
    def signals(self) -> Signals:
        """As an acceptance rule looks at it."""
        return Signals(self.logits, self.probabilities, self.support, self.deferral, self.strata)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Said":
        """Of these rows."""
        places = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return Said(
            logits=self.logits[places],
            probabilities=self.probabilities[places],
            support=self.support[places] if self.support is not None else None,
            deferral=self.deferral[places] if self.deferral is not None else None,
            strata=[self.strata[place] for place in places] if self.strata else (),
        )


def ask(model: Model, tensors: Tensors, strata: Sequence[str] = ()) -> Said:
    """What the model says of every row of ``tensors``, which were prepared for it.

    Args:
        model: the bundle.
        tensors: the rows.
        strata: of the rows (`outrider_export.data.Table.strata`), where the model's rule has any.

    Raises:
        BundleMismatchError: the model fails on them.
    """
    if not len(tensors):
        nothing = np.zeros((0, len(model.labels)))
        return Said(logits=nothing, probabilities=nothing, support=None)
    rows = examples(tensors)
    found = [each for start in range(0, len(rows), _BATCH) for each in model.infer(rows[start : start + _BATCH])]
    support = [each.support for each in found]
    # A model without a support output still gives an infinite distance where it could read nothing of a part.
    known = any(each is not None for each in support)
    deferral = [each.deferral for each in found if each.deferral is not None]
    return Said(
        logits=np.stack([each.logits for each in found]).astype(np.float64),
        probabilities=np.stack([each.probabilities for each in found]),
        support=np.array([0.0 if each is None else each for each in support]) if known else None,
        deferral=np.array(deferral) if len(deferral) == len(found) else None,
        strata=strata,
    )


def ask_rows(model: Model, table: Table, bounds: Sequence[InputPart] = ()) -> Said:
    """`ask` about the rows of a table, prepared for the model, each with the stratum that the model's rule puts it in."""
    strata = table.strata(model.manifest.acceptance.strata)
    return ask(model, table.tensors(model.manifest.inputs, bounds, encoders=model.encoders), strata)


def examples(tensors: Tensors, most: int | None = None) -> list[dict[str, NDArray[Any]]]:
    """The first ``most`` rows (None: all), each as `outrider_engine.model.Model.infer` takes it."""
    return [
        {name: values[tensors.index[name][row]] for name, values in tensors.values.items()}
        for row in range(len(tensors) if most is None else min(most, len(tensors)))
    ]
