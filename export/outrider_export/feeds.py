"""Prepared rows against what a model reads. Runs no model."""

from collections.abc import Sequence

import numpy as np

from outrider_engine.walk import TensorFact
from outrider_export.data import Tensors
from outrider_wire.errors import OperatorConfigError


def check_feeds(inputs: Sequence[TensorFact], rows: Tensors, *, whose: str) -> None:
    """Refuses rows that do not fit the model's inputs, which ranges and comparisons would otherwise be wrong by.

    Args:
        inputs: what the model reads.
        rows: what was prepared for it.
        whose: what the rows are for, as in "calibration".

    Raises:
        OperatorConfigError: names the tensor, what the model reads there, and what the rows have.
    """
    if not len(rows):
        raise _unfit(f"there are no {whose} rows", "bring labelled rows with --data")
    reads, have = sorted(fact.name for fact in inputs), sorted(rows.values)
    if reads != have:
        raise _unfit(
            f"the model reads {', '.join(reads) or 'nothing'}, and the {whose} rows were prepared as {', '.join(have)}",
            "prepare the very tensors that the model reads",
        )
    for fact in inputs:
        values = rows.values[fact.name]
        if str(values.dtype) != fact.dtype:
            raise _unfit(
                f"input {fact.name!r} is {fact.dtype}, and the {whose} rows are {values.dtype}",
                "let the model read what its preprocessing makes",
            )
        sizes, got = fact.shape[1:], values.shape[1:]
        if len(sizes) != len(got) or any(
            isinstance(size, int) and size != side for size, side in zip(sizes, got, strict=True)
        ):
            raise _unfit(
                f"input {fact.name!r} takes {_shape(sizes)}, and the {whose} rows are {_shape(got)}",
                "choose an architecture whose preprocessing makes that shape",
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise _unfit(
                f"the {whose} rows hold NaN or infinity in {fact.name!r}", "look for damaged values in the data"
            )


def _shape(sizes: Sequence[int | str | None]) -> str:
    return f"({', '.join(str(size) if size else '?' for size in sizes)})"


def _unfit(what: str, fix: str) -> OperatorConfigError:
    return OperatorConfigError(what, reason="calibration_mismatch", fix=fix)
