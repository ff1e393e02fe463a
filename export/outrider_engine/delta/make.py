"""Makes a delta of two files in memory. What it makes, `outrider_engine.delta.apply` reads."""

import hashlib
from collections.abc import Iterator

from outrider_engine.delta.codes import pack
from outrider_engine.delta.form import (
    COPY,
    DICTIONARY_BYTES,
    LITERAL,
    Control,
    Head,
    Instruction,
    encode_control,
    encode_head,
    kind_of,
    name_of,
)
from outrider_engine.delta.packing import Raw, pack_all
from outrider_engine.delta.plan import Piece, Plan, plan
from outrider_engine.delta.planes import split
from outrider_wire.errors import BundleUnsafeError
from outrider_wire.limits import MODEL_BYTES

LITERAL_BYTES = 4 * 1024 * 1024
"""Of one stream of literals, so that each has a dictionary near it."""


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
    packed = pack_all(raws, base=base, target_size=len(target))
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


def _taken_apart(base: bytes, target: bytes, found: Plan) -> tuple[list[Raw], list[Instruction]]:
    raws: list[Raw] = []
    first: dict[int, int] = {}
    instructions: list[Instruction] = []
    at = 0
    for piece in _short(found.pieces):
        kind = (
            COPY if piece.kind == "copy" else LITERAL if piece.kind == "literal" else kind_of(piece.kind, piece.width)
        )
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
            raws += [Raw(bytearray(), dictionary) for _ in range(max(piece.width, 1))]
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
