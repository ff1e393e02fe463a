"""The format of a delta: header, table of streams, instructions. Knows no compression, no files and no ONNX; believes no length.

::

    "ODLT" | version (1 byte) | base (16 bytes) | target (16 bytes) | base size | target size
    control: stored bytes | raw bytes | zstd frame
    the streams, one behind the other

Numbers are varints (LEB128, at most 64 bits). ``base`` and ``target`` are the first 16 bytes of the files' SHA-256: they name
them; what vouches for the target is the whole digest that the caller brings. The control holds, unpacked::

    streams: count, then for each: code | flavour | stored bytes | raw bytes | dictionary ranges: count, then begin and length
    instructions: count, then all kinds (a byte each), all lengths, all skips (zigzag), all first streams

An instruction makes ``length`` bytes of the target. Those that read the base go on where the last such one ended, after a
``skip``; `KINDS` says what each kind does. Kinds with planes read one stream a byte of the element, from the first named on.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from outrider_wire.errors import BundleDamagedError
from outrider_wire.limits import MODEL_BYTES

MAGIC = b"ODLT"
VERSION = 1
NAME_BYTES = 16
HEAD_BYTES = 128
"""The header and the lengths of the control never take more."""
CONTROL_BYTES = 2 * 1024 * 1024
STREAMS = 256
INSTRUCTIONS = 100_000
RANGES = 1024
DICTIONARY_BYTES = 8 * 1024 * 1024
"""Of the base, as the dictionary of one stream."""
OPEN_STREAMS = 64
OPEN_BZ2_STREAMS = 4
"""Streams that may be read at the same time; with a dictionary, one."""

Code = Literal["stored", "zstd", "bz2", "lzma"]
CODES: tuple[Code, ...] = ("stored", "zstd", "bz2", "lzma")


class Kind(NamedTuple):
    """What an instruction does."""

    name: str
    reads_base: bool
    width: int
    """Bytes an element; 0: no planes."""


KINDS: tuple[Kind, ...] = (
    Kind("copy", True, 0),
    Kind("literal", False, 0),
    *(Kind("xor", True, width) for width in (1, 2, 4, 8)),
    *(Kind("integer", True, width) for width in (1, 2, 4, 8)),
    *(Kind("float", True, width) for width in (2, 4, 8)),
    *(Kind("plain", False, width) for width in (1, 2, 4, 8)),
)
"""``copy`` takes the base's bytes, ``literal`` those of the first stream. The others take elements apart into byte planes:
``xor`` against the base, ``integer`` the difference to it, ``float`` the difference of the bit patterns in the order of the
numbers that they stand for, ``plain`` the elements themselves."""
COPY, LITERAL = 0, 1


def kind_of(name: str, width: int) -> int:
    """Number of a kind with planes."""
    return next(number for number, kind in enumerate(KINDS) if (kind.name, kind.width) == (name, width))


class Stream(NamedTuple):
    """Where a stream lies behind the control, and how it is coded."""

    code: Code
    flavour: int
    """A setting of the code."""
    stored: int
    raw: int
    dictionary: tuple[tuple[int, int], ...] = ()
    """Ranges of the base (begin, length) that the code starts with."""


class Instruction(NamedTuple):
    """How the next bytes of the target are made."""

    kind: int
    length: int
    skip: int = 0
    """Bytes between the end of what was last read of the base, and what this reads."""
    stream: int = 0


class Head(NamedTuple):
    """The first bytes of a delta."""

    base: bytes
    target: bytes
    base_size: int
    target_size: int
    control_stored: int
    control_raw: int
    length: int
    """Its own bytes."""


class Control(NamedTuple):
    """What is to be done."""

    streams: Sequence[Stream]
    instructions: Sequence[Instruction]


def damaged(what: str) -> BundleDamagedError:
    """The error of every delta that is not one."""
    return BundleDamagedError(f"the delta is damaged: {what}", reason="delta_damaged", fix="fetch the whole file")


def name_of(sha256: str) -> bytes:
    """What a header calls a file of that digest (hexadecimal)."""
    return bytes.fromhex(sha256)[:NAME_BYTES]


# --- writing


def encode_head(head: Head) -> bytes:
    """The bytes of a header; ``length`` is not looked at."""
    numbers = (head.base_size, head.target_size, head.control_stored, head.control_raw)
    return MAGIC + bytes([VERSION]) + head.base + head.target + b"".join(map(varint, numbers))


def encode_control(control: Control) -> bytes:
    """The bytes of a control, unpacked."""
    out = bytearray(varint(len(control.streams)))
    for stream in control.streams:
        out += bytes([CODES.index(stream.code), stream.flavour]) + varint(stream.stored) + varint(stream.raw)
        out += varint(len(stream.dictionary))
        for begin, length in stream.dictionary:
            out += varint(begin) + varint(length)
    out += varint(len(control.instructions))
    out += bytes(each.kind for each in control.instructions)
    for each in control.instructions:
        out += varint(each.length)
    for each in control.instructions:
        out += varint(each.skip << 1 if each.skip >= 0 else (-each.skip << 1) - 1)
    for each in control.instructions:
        out += varint(each.stream)
    return bytes(out)


def varint(number: int) -> bytes:
    """LEB128 of a number that is not negative."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


# --- reading


def decode_head(data: bytes) -> Head:
    """The header at the beginning of ``data``, the first `HEAD_BYTES` of a delta.

    Raises:
        BundleDamagedError: it is none, is of another version, or says a size that no file may have.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise damaged("it does not begin as one")
    cursor = _Cursor(data, len(MAGIC))
    if (version := cursor.byte()) != VERSION:
        raise damaged(f"it is of version {version}, and {VERSION} is read here")
    base, target = cursor.take(NAME_BYTES), cursor.take(NAME_BYTES)
    base_size, target_size = cursor.number(MODEL_BYTES), cursor.number(MODEL_BYTES)
    stored, raw = cursor.number(CONTROL_BYTES), cursor.number(CONTROL_BYTES)
    return Head(base, target, base_size, target_size, stored, raw, cursor.at)


def decode_control(data: bytes, head: Head) -> Control:
    """The control of a delta with that header, from its unpacked bytes: all of it within the base, the target and the bounds.

    Raises:
        BundleDamagedError: it is not.
    """
    cursor = _Cursor(data, 0)
    streams = [_stream(cursor, head) for _ in range(cursor.number(STREAMS))]
    count = cursor.number(INSTRUCTIONS)
    kinds = cursor.take(count)
    lengths = [cursor.number(head.target_size) for _ in range(count)]
    skips = [_unzigzag(cursor.number(2 * MODEL_BYTES)) for _ in range(count)]
    firsts = [cursor.number(STREAMS) for _ in range(count)]
    if cursor.at != len(data):
        raise damaged("its control is longer than what it says")
    instructions = [Instruction(*each) for each in zip(kinds, lengths, skips, firsts, strict=True)]
    _check(streams, instructions, head)
    return Control(streams, instructions)


def _stream(cursor: "_Cursor", head: Head) -> Stream:
    code, flavour = cursor.byte(), cursor.byte()
    if code >= len(CODES):
        raise damaged("a stream is of an unknown code")
    stored, raw = cursor.number(MODEL_BYTES), cursor.number(MODEL_BYTES)
    ranges = tuple((cursor.number(head.base_size), cursor.number(head.base_size)) for _ in range(cursor.number(RANGES)))
    if any(begin + length > head.base_size for begin, length in ranges):
        raise damaged("a dictionary lies outside the base")
    if sum(length for _, length in ranges) > DICTIONARY_BYTES or (ranges and CODES[code] != "zstd"):
        raise damaged("a dictionary is larger than any, or of no use")
    return Stream(CODES[code], flavour, stored, raw, ranges)


def _check(streams: Sequence[Stream], instructions: Sequence[Instruction], head: Head) -> None:
    """That the instructions make just the target, of bytes that are there."""
    made, at = 0, 0
    needed = [0] * len(streams)
    for each in instructions:
        if each.kind >= len(KINDS) or each.length == 0:
            raise damaged("an instruction is unknown, or makes nothing")
        kind = KINDS[each.kind]
        made += each.length
        if kind.reads_base:
            at += each.skip
            if at < 0 or at + each.length > head.base_size:
                raise damaged("an instruction reads outside the base")
            at += each.length
        elif each.skip:
            raise damaged("an instruction that reads no base skips in it")
        if each.kind == COPY:
            if each.stream:
                raise damaged("a copy names a stream")
            continue
        width = max(kind.width, 1)
        if each.length % width or each.stream + width > len(streams):
            raise damaged("an instruction does not fit its streams")
        for number in range(each.stream, each.stream + width):
            needed[number] += each.length // width
    if made != head.target_size:
        raise damaged(f"it makes {made} bytes, and says {head.target_size}")
    if needed != [stream.raw for stream in streams]:
        raise damaged("a stream holds more or fewer bytes than are needed of it")


class _Cursor:
    """Reads on in a buffer."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def byte(self) -> int:
        return self.take(1)[0]

    def take(self, length: int) -> bytes:
        if self.at + length > len(self._data):
            raise damaged("it ends early")
        self.at += length
        return self._data[self.at - length : self.at]

    def number(self, most: int) -> int:
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise damaged("a number has more than 64 bits")
        if result > most:
            raise damaged(f"it says {result} where at most {most} can be")
        return result


def _unzigzag(number: int) -> int:
    return number >> 1 if number & 1 == 0 else -(number + 1 >> 1)
