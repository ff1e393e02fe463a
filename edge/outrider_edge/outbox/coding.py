"""How what a row holds is written and read. Knows MessagePack and the structs, no SQL."""

from typing import TypeVar

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
