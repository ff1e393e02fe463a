"""Messages to bytes and back. Hostile bytes raise `PeerMessageError` or `PeerVersionError`, never anything else.

A message's content type decides its coding; an absent one means MessagePack (https://msgpack.org), map-encoded.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from outrider_wire.errors import PeerMessageError, PeerVersionError
from outrider_wire.limits import MESSAGE_BYTES, SERVED_VERSIONS
from outrider_wire.messages import Message

MSGPACK = "application/msgpack"
JSON = "application/json"


HELLOS = frozenset({"presence", "refusal"})
"""Messages that are read whatever their version: by them two peers that speak no common one find out. Their fields only ever grow."""


class _Head(msgspec.Struct):
    v: int = 0
    type: str = ""


class _Decoder(Protocol):
    def decode(self, data: bytes, /) -> Any: ...


_MSGPACK_ENCODER = msgspec.msgpack.Encoder()
_JSON_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[str, tuple[_Decoder, _Decoder]] = {
    MSGPACK: (msgspec.msgpack.Decoder(Message), msgspec.msgpack.Decoder(_Head)),
    JSON: (msgspec.json.Decoder(Message), msgspec.json.Decoder(_Head)),
}


def common_version(theirs: Sequence[int], ours: Sequence[int] = SERVED_VERSIONS) -> int | None:
    """The newest wire version that both sides speak; None: there is none."""
    return max(set(theirs) & set(ours), default=None)


def encode(message: Message, content_type: str = MSGPACK) -> bytes:
    """The bytes of a message in the given coding."""
    encoder = _JSON_ENCODER if content_type == JSON else _MSGPACK_ENCODER
    return encoder.encode(message)


def decode(
    data: bytes, content_type: str = MSGPACK, *, limit: int = MESSAGE_BYTES, served: Sequence[int] = SERVED_VERSIONS
) -> Message:
    """The message in ``data``.

    Raises:
        PeerVersionError: it is of a wire version not in ``served`` (judged before the rest of it is), and none of `HELLOS`.
        PeerMessageError: it is longer than ``limit`` bytes, of an unknown coding, or is not a message within its bounds.
    """
    if len(data) > limit:
        raise PeerMessageError(
            f"the message has {len(data)} bytes, more than the {limit} that are read", reason="too_large"
        )
    if (decoders := _DECODERS.get(content_type or MSGPACK)) is None:
        raise PeerMessageError(
            f"unknown content type {content_type[:64]!r}",
            reason="unknown_content_type",
            fix=f"send {MSGPACK} or {JSON}",
        )
    whole, head = decoders
    try:
        said = head.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise PeerMessageError(f"the message does not parse: {error}", reason="unparsable") from error
    if said.v and said.v not in served and said.type not in HELLOS:
        raise PeerVersionError(
            f"wire version {said.v} is not served here",
            reason="unsupported_version",
            fix=f"speak one of {', '.join(map(str, served))}",
        )
    try:
        message: Message = whole.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise PeerMessageError(f"the message does not parse: {error}", reason="unparsable") from error
    return message
