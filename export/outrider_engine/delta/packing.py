"""Chooses how each stream of a delta is packed: as small as can be, as long as a device can unpack all of them fast enough.

zstd is unpacked faster than a file is written. bzip2 and LZMA are not, but where nearly every byte is zero they save a third of
what zstd takes: they are used where they save most, until the time is up.
"""

from collections.abc import Sequence
from typing import NamedTuple

from outrider_engine.delta.codes import BEST_LEVEL, pack
from outrider_engine.delta.form import OPEN_BZ2_STREAMS, Code, Stream

APPLY_BYTES_PER_S = 75e6
"""How fast the target is to be rebuilt on one core of a server."""
_REST_S = 8e-9
"""A byte of the target, beside unpacking: read, joined, hashed, written."""
_FREE_S = 0.25
"""So long may unpacking take in any case."""
_PROBED_BYTES = 2 * 1024 * 1024
"""A stream that is longer is packed every way in pieces only."""
_PIECES, _PIECE_BYTES = 3, 256 * 1024
_WORTH = 0.995
"""What takes longer to pack must be smaller than this share."""
_RANGE_BYTES = 6
"""What a range of a dictionary takes, about."""


class Raw(NamedTuple):
    """A stream before it is packed."""

    data: bytearray
    dictionary: tuple[tuple[int, int], ...]
    """Ranges of the base (begin, length) that it may resemble."""


class _Way(NamedTuple):
    """One way to pack a stream."""

    code: Code
    flavour: int
    level: int
    stored_s: float
    raw_s: float
    """Seconds to unpack a stored byte and a raw one, measured on one core of a server."""

    def seconds(self, raw: int, stored: float) -> float:
        return self.raw_s * raw + self.stored_s * stored


_FAST = (_Way("stored", 0, 0, 0.0, 0.1e-9), _Way("zstd", 0, 3, 0.0, 0.6e-9), _Way("zstd", 0, BEST_LEVEL, 0.0, 0.6e-9))
"""In the order of what packing takes."""
_SLOW = (_Way("bz2", 0, 0, 360e-9, 3e-9), _Way("lzma", 0, 0, 57e-9, 2e-9), _Way("lzma", 3, 0, 57e-9, 2e-9))


class _Choice(NamedTuple):
    """A slow way that would save something."""

    number: int
    way: _Way
    saved: float
    seconds: float


def pack_all(raws: Sequence[Raw], *, base: bytes, target_size: int) -> list[tuple[Stream, bytes]]:
    """Each stream's row and its stored bytes."""
    left_s = max(_FREE_S, target_size / APPLY_BYTES_PER_S - target_size * _REST_S)
    ways: list[_Way] = []
    choices: list[_Choice] = []
    for number, raw in enumerate(raws):
        sizes = _sizes(bytes(raw.data))
        way = _fast(sizes, worth=_WORTH if len(raw.data) > _PROBED_BYTES else 1.0)
        ways.append(way)
        for slow in _SLOW:
            if sizes[slow] < sizes[way]:
                seconds = slow.seconds(len(raw.data), sizes[slow])
                choices.append(_Choice(number, slow, sizes[way] - sizes[slow], seconds))
    changed: dict[int, Code] = {}
    for choice in sorted(choices, key=lambda each: each.saved, reverse=True):
        full = choice.way.code == "bz2" and list(changed.values()).count("bz2") >= OPEN_BZ2_STREAMS
        if choice.number not in changed and choice.seconds <= left_s and not full:
            ways[choice.number], changed[choice.number] = choice.way, choice.way.code
            left_s -= choice.seconds
    return [_packed(raw, way, base) for raw, way in zip(raws, ways, strict=True)]


def _sizes(data: bytes) -> dict[_Way, float]:
    """What each way makes of a stream, or is likely to."""
    if len(data) <= _PROBED_BYTES:
        return {way: float(len(_pack(way, data))) for way in (*_FAST, *_SLOW)}
    begins = [place * (len(data) - _PIECE_BYTES) // (_PIECES - 1) for place in range(_PIECES)]
    pieces = [data[begin : begin + _PIECE_BYTES] for begin in begins]
    share = len(data) / (_PIECES * _PIECE_BYTES)
    return {way: share * sum(len(_pack(way, piece)) for piece in pieces) for way in (*_FAST, *_SLOW)}


def _fast(sizes: dict[_Way, float], *, worth: float) -> _Way:
    best = _FAST[0]
    for way in _FAST[1:]:
        if sizes[way] < worth * sizes[best]:
            best = way
    return best


def _pack(way: _Way, data: bytes) -> bytes:
    return pack(way.code, data, flavour=way.flavour, level=way.level)


def _packed(raw: Raw, way: _Way, base: bytes) -> tuple[Stream, bytes]:
    data = bytes(raw.data)
    best, code, flavour = _pack(way, data), way.code, way.flavour
    ranges: tuple[tuple[int, int], ...] = ()
    if raw.dictionary:
        shape = b"".join(base[begin : begin + length] for begin, length in raw.dictionary)
        packed = pack("zstd", data, dictionary=shape)
        if len(packed) + _RANGE_BYTES * len(raw.dictionary) < len(best):
            best, code, flavour, ranges = packed, "zstd", 0, raw.dictionary
    if len(best) > len(data):  # a guess from pieces was wrong
        best, code, flavour, ranges = data, "stored", 0, ()
    return Stream(code, flavour, len(best), len(data), ranges), best
