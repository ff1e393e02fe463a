"""Makes a delta of two files in memory. Slow where that saves bytes; what it makes, `outrider_engine.delta.apply` reads.

Streams that bzip2 or LZMA pack better than zstd are packed so as long as the device can unpack all of it fast enough.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from outrider_engine.delta.codes import pack
from outrider_engine.delta.form import (
    COPY,
    DICTIONARY_BYTES,
    LITERAL,
    Code,
    Control,
    Head,
    Instruction,
    Stream,
    encode_control,
    encode_head,
    kind_of,
    name_of,
)
from outrider_engine.delta.plan import Piece, Plan, plan
from outrider_engine.delta.planes import split
from outrider_wire.errors import BundleUnsafeError
from outrider_wire.limits import MODEL_BYTES

LITERAL_BYTES = 4 * 1024 * 1024
"""Of one stream of literals, so that each has a dictionary near it."""
APPLY_BYTES_PER_S = 60e6
"""How fast a delta is to be applied on one core."""
_FREE_S = 0.25
"""So long may unpacking take in any case."""
_COST_S = 8e-9
"""A byte of the target, beside unpacking: read, joined, hashed, written."""


class _Way(NamedTuple):
    """One way to pack a stream."""

    code: Code
    flavour: int
    stored_s: float
    raw_s: float
    """Seconds to unpack a stored byte and a raw one, measured on one core of a server."""


_PLAIN_WAY = _Way("zstd", 0, 0.0, 1e-9)
_SLOW_WAYS = (_Way("bz2", 0, 60e-9, 4e-9), _Way("lzma", 0, 90e-9, 4e-9), _Way("lzma", 3, 90e-9, 4e-9))


def make_delta(base: bytes, target: bytes) -> bytes:
    """What makes ``target`` of ``base``: between two ONNX files tensor by tensor, between others as zstd's patch-from.

    The same two files give the same delta with the same libraries. It may be larger than ``target``: whoever sends it compares.

    Raises:
        BundleUnsafeError: a file is larger than any that a bundle may hold.
    """
    if max(len(base), len(target)) > MODEL_BYTES:
        raise BundleUnsafeError(f"a file has more than {MODEL_BYTES} bytes", reason="model_too_large")
    found = plan(memoryview(base), memoryview(target))
    raws, instructions = _taken_apart(base, target, found)
    packed = _Packing(base, len(target)).all(raws)
    control = encode_control(Control([stream for stream, _ in packed], instructions))
    stored = pack("zstd", control)
    head = Head(
        base=name_of(hashlib.sha256(base).hexdigest()),
        target=name_of(hashlib.sha256(target).hexdigest()),
        base_size=len(base),
        target_size=len(target),
        control_stored=len(stored),
        control_raw=len(control),
        length=0,
    )
    return b"".join([encode_head(head), stored, *(data for _, data in packed)])


class _Raw(NamedTuple):
    """A stream before it is packed."""

    data: bytearray
    dictionary: tuple[tuple[int, int], ...]


def _taken_apart(base: bytes, target: bytes, found: Plan) -> tuple[list[_Raw], list[Instruction]]:
    raws: list[_Raw] = []
    first: dict[int, int] = {}
    instructions: list[Instruction] = []
    at = 0
    for piece in _short(found.pieces):
        kind = COPY if piece.kind == "copy" else LITERAL if piece.kind == "literal" else kind_of(piece.kind, piece.width)
        skip = 0
        if piece.kind not in ("literal", "plain"):
            skip, at = piece.base - at, piece.base + piece.length
        mine = memoryview(target)[piece.begin : piece.begin + piece.length]
        if kind == COPY:
            instructions.append(Instruction(kind, piece.length, skip))
            continue
        full = kind == LITERAL and LITERAL in first and len(raws[first[LITERAL]].data) + piece.length > LITERAL_BYTES
        if kind not in first or full:
            first[kind] = len(raws)
            dictionary = _dictionary(found, piece, len(base), len(target)) if kind == LITERAL else ()
            raws += [_Raw(bytearray(), dictionary) for _ in range(max(piece.width, 1))]
        theirs = memoryview(base)[piece.base : piece.base + piece.length]
        planes = [bytes(mine)] if kind == LITERAL else split(piece.kind, piece.width, theirs, mine)
        for number, plane in enumerate(planes, first[kind]):
            raws[number].data.extend(plane)
        instructions.append(Instruction(kind, piece.length, skip, first[kind]))
    return raws, instructions


def _short(pieces: list[Piece]) -> Iterator[Piece]:
    """Literals no longer than a stream of them."""
    for piece in pieces:
        if piece.kind != "literal":
            yield piece
            continue
        for begin in range(0, piece.length, LITERAL_BYTES):
            yield piece._replace(begin=piece.begin + begin, length=min(LITERAL_BYTES, piece.length - begin))


def _dictionary(found: Plan, piece: Piece, base: int, target: int) -> tuple[tuple[int, int], ...]:
    """What of the base a literal is likely to repeat: all of it where it fits, else what tensors left over, or what lies alike."""
    if base <= DICTIONARY_BYTES:
        return ((0, base),) if base else ()
    if found.rest:
        return tuple(found.rest)
    middle = (piece.begin + piece.length // 2) * base // target
    begin = min(max(0, middle - DICTIONARY_BYTES // 2), base - DICTIONARY_BYTES)
    return ((begin, DICTIONARY_BYTES),)


class _Packing:
    """Packs streams within the time that a device may take to unpack them."""

    def __init__(self, base: bytes, target_size: int) -> None:
        self._base = base
        self._left_s = max(_FREE_S, target_size / APPLY_BYTES_PER_S - target_size * _COST_S)

    def all(self, raws: list[_Raw]) -> list[tuple[Stream, bytes]]:
        """Each stream's row and its stored bytes."""
        return [self._one(raw) for raw in raws]

    def _one(self, raw: _Raw) -> tuple[Stream, bytes]:
        data = bytes(raw.data)
        best, way, ranges = data, _Way("stored", 0, 0.0, 0.0), ()
        plain = pack("zstd", data)
        if len(plain) < len(best):
            best, way = plain, _PLAIN_WAY
        for other in _SLOW_WAYS:
            if not self._affordable(other, len(data), len(best)):
                continue
            packed = pack(other.code, data, flavour=other.flavour)
            if len(packed) < len(best) and self._affordable(other, len(data), len(packed)):
                best, way = packed, other
        if raw.dictionary:
            shape = b"".join(self._base[begin : begin + length] for begin, length in raw.dictionary)
            packed = pack("zstd", data, dictionary=shape)
            if len(packed) < len(best):
                best, way, ranges = packed, _PLAIN_WAY, raw.dictionary
        self._left_s -= _seconds(way, len(data), len(best))
        return Stream(way.code, way.flavour, len(best), len(data), ranges), best

    def _affordable(self, way: _Way, raw: int, stored: int) -> bool:
        return _seconds(way, raw, stored) <= self._left_s


def _seconds(way: _Way, raw: int, stored: int) -> float:
    return way.raw_s * raw + way.stored_s * stored
