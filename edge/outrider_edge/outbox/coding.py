"""How what a row holds is written and read. Knows MessagePack and the structs, no SQL."""

import math
from typing import Any, TypeVar

import msgspec

from outrider_wire.messages import Escalation
from outrider_wire.report import AnswerReport

T = TypeVar("T")

REPORT = msgspec.msgpack.Decoder(AnswerReport)
ENVELOPE = msgspec.msgpack.Decoder(Escalation)
ENCODER = msgspec.msgpack.Encoder()


class RowDamagedError(Exception):
    """A row of this device's own file does not parse: the disk has changed what was written."""


def decoded(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    """What a column holds.

    Raises:
        RowDamagedError: it does not parse.
    """
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError) as error:
        raise RowDamagedError(str(error)) from error


def seconds(text: str) -> float:
    """A time that is kept as text.

    Raises:
        RowDamagedError: it is none.
    """
    try:
        value = float(text)
    except (ValueError, TypeError) as error:
        raise RowDamagedError(str(error)) from error
    if not math.isfinite(value):
        raise RowDamagedError(f"{text} is no time")
    return value


def whole(value: Any) -> int:
    """A count; SQLite keeps anything in a column of numbers.

    Raises:
        RowDamagedError: it is none.
    """
    if not isinstance(value, int):
        raise RowDamagedError(f"{value!r} is no count")
    return value
