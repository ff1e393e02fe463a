"""The protobuf wire format, read without a schema and without copying. Knows no ONNX.

Source: https://protobuf.dev/programming-guides/encoding/. Groups (wire types 3 and 4) are refused: nothing read here has them.
"""

from collections.abc import Collection, Iterator

Value = int | memoryview
"""A varint as an unsigned 64-bit number; anything else as its bytes."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}


class UnreadableError(ValueError):
    """The bytes are not protobuf, or have more fields than are read."""


class Reader:
    """Reads messages under one budget of fields, so that a file of tiny fields cannot keep the caller busy."""

    def __init__(self, *, fields: int) -> None:
        self._left = fields

    def fields(self, message: memoryview) -> Iterator[tuple[int, Value]]:
        """Every field of one message as (number, value), in the order of the bytes.

        Raises:
            UnreadableError: truncated, malformed, or over the budget.
        """
        at, end = 0, len(message)
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise UnreadableError("it has more fields than are read")
            key, at = _varint(message, at)
            number, kind = key >> 3, key & 7
            if number == 0:
                raise UnreadableError("a field has number 0")
            if kind == _VARINT:
                value, at = _varint(message, at)
                yield number, value
                continue
            if kind == _BYTES:
                length, at = _varint(message, at)
            elif (length := _FIXED.get(kind, -1)) < 0:
                raise UnreadableError(f"a field has wire type {kind}")
            if length > end - at:
                raise UnreadableError("it ends in the middle of a field")
            yield number, message[at : at + length]
            at += length

    def collect(self, message: memoryview, wanted: Collection[int]) -> dict[int, list[Value]]:
        """The values of the wanted fields, by number; every wanted number has an entry."""
        found: dict[int, list[Value]] = {number: [] for number in wanted}
        for number, value in self.fields(message):
            if number in found:
                found[number].append(value)
        return found


def numbers(values: list[Value]) -> list[int]:
    """A repeated integer field, packed or not."""
    out: list[int] = []
    for value in values:
        if isinstance(value, int):
            out.append(value)
            continue
        at = 0
        while at < len(value):
            number, at = _varint(value, at)
            out.append(number)
    return out


def messages(values: list[Value]) -> list[memoryview]:
    """A repeated message, string or bytes field."""
    views = [value for value in values if not isinstance(value, int)]
    if len(views) != len(values):
        raise UnreadableError("a number stands where a message belongs")
    return views


def single(values: list[Value]) -> memoryview | None:
    """A message or string field that stands at most once.

    Parsers merge the messages (and take the last string) of one that stands twice, so that what was checked is not what
    would run: refused.
    """
    if len(values) > 1:
        raise UnreadableError("a field that stands once stands twice")
    return messages(values)[0] if values else None


def text(value: memoryview | None) -> str:
    """A string field; '' where it is absent."""
    try:
        return str(value, "utf-8") if value is not None else ""
    except UnicodeDecodeError as error:
        raise UnreadableError("a name is not UTF-8") from error


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    result = shift = 0
    try:
        while True:
            byte = message[at]
            at += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result & 0xFFFF_FFFF_FFFF_FFFF, at
            shift += 7
            if shift > 63:
                raise UnreadableError("a number is longer than 64 bits")
    except IndexError as error:
        raise UnreadableError("it ends in the middle of a number") from error
