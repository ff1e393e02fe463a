"""The steps of numeric series: decode, window, flatten. Rows of `outrider_wire.step_table`; `Fit` makes the window."""

from dataclasses import replace
from math import prod
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from outrider_wire.errors import CallerInputError
from outrider_wire.step import Flow, Function, StepOp

_LITTLE = np.dtype("<f4")


class DecodeSeries(StepOp, kw_only=True, frozen=True):
    """Float32 numbers, little-endian, row after row → series (rows, channels)."""

    takes = frozenset({"raw"})
    channels: Annotated[int, Meta(ge=1, le=4096)] = 1

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """How many rows there are stays open."""
        part, channels = flow.part, self.channels

        def decode(data: bytes | str) -> NDArray[np.float32]:
            if isinstance(data, str) or not data or len(data) % (4 * channels):
                raise CallerInputError(
                    f"part {part!r} is no series of {channels} float32 number(s) a row",
                    reason="wrong_series",
                    fix="send the numbers row after row, 4 bytes each, little-endian",
                    part=part,
                )
            return np.frombuffer(data, _LITTLE).astype(np.float32).reshape(-1, channels)

        return decode, replace(flow, kind="series", shape=(None, channels))


class Flatten(StepOp, kw_only=True, frozen=True):
    """Series (rows, channels) → series (rows × channels,)."""

    takes = frozenset({"series"})

    def compile(self, flow: Flow) -> tuple[Function, Flow]:
        """Open while the number of rows is."""
        sides = [side for side in flow.shape if side is not None]
        size = prod(sides) if len(sides) == len(flow.shape) else None
        return lambda series: series.reshape(-1), replace(flow, shape=(size,))
