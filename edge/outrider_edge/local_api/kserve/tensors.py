"""Tensors of the Open Inference Protocol as bytes, and back: JSON, and the binary extension. Pure; knows no tasks.

Of datatypes only what an input can be made of is read: BYTES, each element with its length before it (4 bytes, little-endian)
where it is binary, and FP32. A body that is not what its header says raises `CallerInputError`.
"""

import binascii
import struct
from base64 import b64decode
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple, NoReturn

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from outrider_edge.local_api.kserve.messages import Datatype, InferReply, InferRequest, ReplyTensor, RequestInput
from outrider_wire.decodable import decodable
from outrider_wire.errors import CallerInputError

HEADER = "Inference-Header-Content-Length"
"""How many of the body's bytes are JSON, where tensors follow it."""
_DECODER = msgspec.json.Decoder(InferRequest)
_ENCODER = msgspec.json.Encoder()


class Tensor(NamedTuple):
    """One input tensor."""

    name: str
    shape: tuple[int, ...]
    values: Sequence[bytes | str] | NDArray[np.float32]
    """Flat, in row-major order."""


class Output(NamedTuple):
    """One output tensor, before it is coded."""

    name: str
    datatype: Datatype
    shape: list[int]
    values: list[Any]
    """Flat, in row-major order: text for BYTES."""


def read_request(body: bytes, header: str | None) -> tuple[InferRequest, list[Tensor]]:
    """A whole body.

    Args:
        body: JSON, and the bytes of tensors behind it.
        header: the value of `HEADER`; None: all of it is JSON.

    Raises:
        CallerInputError: it is not such a request.
    """
    length = len(body) if header is None else _length(header, len(body))
    try:
        request = _DECODER.decode(body[:length])
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise _damaged(f"the JSON of the request does not parse: {error}") from error
    tail, at, tensors = memoryview(body)[length:], 0, []
    for entry in request.inputs:
        size = entry.parameters.binary_data_size
        tensors.append(_tensor(entry, None if size is None else bytes(tail[at : at + size])))
        at += size or 0
    if at != len(tail):
        raise _damaged(f"{len(tail)} bytes follow the JSON, and its tensors name {at}")
    return request, tensors


def write_reply(reply: InferReply, outputs: Sequence[Output], binary: Sequence[bool]) -> tuple[bytes, int | None]:
    """The body of ``reply`` with these outputs, and how many of its bytes are JSON; None: all.

    Args:
        reply: without outputs.
        outputs: the tensors.
        binary: of each, whether its bytes follow the JSON.
    """
    coded: list[ReplyTensor] = []
    tail: list[bytes] = []
    for output, is_binary in zip(outputs, binary, strict=True):
        tensor = ReplyTensor(name=output.name, datatype=output.datatype, shape=output.shape)
        if is_binary:
            tail.append(_packed(output))
            tensor = replace(tensor, parameters={"binary_data_size": len(tail[-1])})
        else:
            tensor = replace(tensor, data=output.values)
        coded.append(tensor)
    head = _ENCODER.encode(replace(reply, outputs=coded))
    return b"".join([head, *tail]), len(head) if tail else None


def _length(header: str, whole: int) -> int:
    if not header.isascii() or not header.isdigit() or len(header) > 12 or int(header) > whole:
        raise _damaged(f"{HEADER} is {header[:32]!r}, and the body has {whole} bytes")
    return int(header)


def _tensor(entry: RequestInput, data: bytes | None) -> Tensor:
    if (data is None) == (entry.data is None):
        _refuse(entry, "has its values neither in data nor behind the JSON, or in both")
    values = _values(entry, data)
    if len(values) != prod(entry.shape):
        _refuse(entry, f"has {len(values)} values, and its shape {entry.shape} asks for {prod(entry.shape)}")
    return Tensor(entry.name, tuple(entry.shape), values)


def _values(entry: RequestInput, data: bytes | None) -> Sequence[bytes | str] | NDArray[np.float32]:
    match entry.datatype:
        case "BYTES":
            return _texts(entry) if data is None else list(_elements(entry, data))
        case "FP32":
            return _floats(entry) if data is None else _packed_floats(entry, data)
        case other:
            _refuse(
                entry, f"is of datatype {other[:16]!r}", reason="wrong_datatype", fix="send BYTES, or FP32 for series"
            )


def _texts(entry: RequestInput) -> list[bytes | str]:
    texts = list(_flat(entry.data))
    if not all(isinstance(text, str) for text in texts):
        _refuse(entry, "is BYTES, and holds something else than strings")
    if entry.parameters.content_type == "str":
        return texts
    try:
        return [b64decode(text, validate=True) for text in texts]
    except (binascii.Error, ValueError) as error:
        _refuse(entry, f"is not base64: {error}")


def _elements(entry: RequestInput, data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            _refuse(entry, "ends within the length of an element")
        [size] = struct.unpack_from("<I", data, at)
        at += 4 + size
        if at > len(data):
            _refuse(entry, "ends within an element")
        yield data[at - size : at]


def _floats(entry: RequestInput) -> NDArray[np.float32]:
    try:
        numbers = msgspec.convert(list(_flat(entry.data)), decodable(list[float]))
    except (msgspec.MsgspecError, OverflowError, ValueError) as error:
        _refuse(entry, f"is FP32, and holds something else than numbers: {error}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which no model takes
        return np.asarray(numbers, dtype="<f4")


def _packed_floats(entry: RequestInput, data: bytes) -> NDArray[np.float32]:
    if len(data) % 4:
        _refuse(entry, f"has {len(data)} bytes, which is no number of FP32")
    return np.frombuffer(data, dtype="<f4")


def _flat(data: object) -> Iterator[Any]:
    """The leaves of nested lists, in order."""
    waiting = [data]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(reversed(item))
        else:
            yield item


def _packed(output: Output) -> bytes:
    match output.datatype:
        case "FP32":
            return np.asarray(output.values, dtype="<f4").tobytes()
        case "BOOL":
            return bytes(map(bool, output.values))
        case "BYTES":
            texts = [text.encode() for text in output.values]
            return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _refuse(entry: RequestInput, what: str, *, reason: str = "damaged_tensor", fix: str = "") -> NoReturn:
    raise CallerInputError(f"input {entry.name[:64]!r} {what}", reason=reason, fix=fix, part=entry.name[:64])


def _damaged(what: str) -> CallerInputError:
    return CallerInputError(what, reason="damaged_body", fix="see docs/kserve.md for how a request is written")
