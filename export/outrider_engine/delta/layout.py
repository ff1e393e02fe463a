"""Where the tensors of an ONNX file lie in its bytes. What it does not know stays between them; judges nothing.

Known: initialisers of the main graph and the tensors of its nodes' attributes, each with its values in one field of bytes (raw data,
or packed floats). Integers that protobuf packs as varints have no fixed width and stay between the tensors, as do subgraphs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from outrider_engine.protobuf import Reader, UnreadableError, messages, numbers, single, text

LEAST_BYTES = 4
"""Tensors of fewer bytes stay between the others."""
_FIELDS = 1_000_000
_RAW, _FLOAT_DATA, _DOUBLE_DATA = 9, 4, 10

_FORMS: dict[int, tuple[str, int]] = {
    1: ("float", 4), 2: ("integer", 1), 3: ("integer", 1), 4: ("integer", 2), 5: ("integer", 2), 6: ("integer", 4),
    7: ("integer", 8), 9: ("integer", 1), 10: ("float", 2), 11: ("float", 8), 12: ("integer", 4), 13: ("integer", 8),
    16: ("float", 2), 17: ("integer", 1), 18: ("integer", 1), 19: ("integer", 1), 20: ("integer", 1),
}  # fmt: skip
"""TensorProto.DataType: how its values differ, and bytes an element. Others, packed ones too, are taken as bytes."""


class Tensor(NamedTuple):
    """The values of one tensor in a file."""

    name: str
    begin: int
    length: int
    form: str
    """``float`` or ``integer``: what a small change of it is small in."""
    width: int
    """Bytes an element."""
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """Behind its last byte."""
        return self.begin + self.length

    @property
    def kin(self) -> tuple[str, int, tuple[int, ...]]:
        """What two tensors share between which a difference makes sense."""
        return self.form, self.width, self.shape


def tensors_of(data: bytes | memoryview) -> list[Tensor]:
    """The tensors of an ONNX file in the order of their bytes; none when it is not readable as one."""
    view = memoryview(data)
    if not view:
        return []
    try:
        found = sorted(_found(view), key=lambda tensor: tensor.begin)
    except UnreadableError:
        return []
    ends = [0, *(tensor.end for tensor in found)]
    return [tensor for tensor, end in zip(found, ends, strict=False) if tensor.begin >= end]


def _found(whole: memoryview) -> Iterator[Tensor]:
    reader = Reader(fields=_FIELDS)
    graph = single(reader.collect(whole, (7,))[7])
    if graph is None:
        return
    parts = reader.collect(graph, (1, 5))
    for tensor in messages(parts[5]):
        yield from _tensor(reader, whole, tensor, "")
    for node in messages(parts[1]):
        inner = reader.collect(node, (2, 5))
        for attribute in messages(inner[5]):
            held = reader.collect(attribute, (1, 5))
            if (constant := single(held[5])) is not None:
                makes = text(messages(inner[2])[0]) if inner[2] else ""
                yield from _tensor(reader, whole, constant, f"{makes}/{text(single(held[1]))}/")


def _tensor(reader: Reader, whole: memoryview, view: memoryview, within: str) -> Iterator[Tensor]:
    found = reader.collect(view, (1, 2, _FLOAT_DATA, 8, _RAW, _DOUBLE_DATA))
    values = found[_RAW] or found[_FLOAT_DATA] or found[_DOUBLE_DATA]
    if len(values) != 1 or isinstance(values[0], int) or len(values[0]) < LEAST_BYTES:
        return
    kind = (numbers(found[2]) or [0])[-1]
    if found[_RAW]:
        form, width = _FORMS.get(kind, ("integer", 1))
    else:
        form, width = "float", 4 if found[_FLOAT_DATA] else 8
    length = len(values[0])
    if length % width:
        form, width = "integer", 1
    yield Tensor(
        name=within + text(single(found[8])),
        begin=_offset(values[0], whole),
        length=length,
        form=form,
        width=width,
        shape=tuple(numbers(found[1])),
    )


def _offset(part: memoryview, whole: memoryview) -> int:
    """Where a slice begins in what it was cut from; both are not empty."""
    begins = (np.frombuffer(view, np.uint8).__array_interface__["data"][0] for view in (part, whole))
    return int(next(begins) - next(begins))
