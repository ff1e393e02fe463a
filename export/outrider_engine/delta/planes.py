"""What is left between two tensors, taken apart into byte planes, and back. Pure arithmetic on bytes, little-endian.

Weights that moved a little differ in their low bytes, so that the planes of the high bytes are nearly empty and pack well.
``float`` first maps bit patterns to integers in the order of the numbers (negative ones mirrored), so that a small step is a small
difference also across a change of exponent or sign. Differences wrap around, and are folded so that small ones of either sign
have empty high bytes.
"""

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.unsignedinteger]
_UNSIGNED: dict[int, type[np.unsignedinteger]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def split(kind: str, width: int, base: bytes | memoryview, target: bytes | memoryview) -> list[bytes]:
    """The byte planes, lowest first, of what makes ``target`` of ``base`` (unused by ``plain``; else of the same length)."""
    words = np.frombuffer(target, _UNSIGNED[width])
    if kind != "plain":
        words = _difference(kind, width, np.frombuffer(base, _UNSIGNED[width]), words)
    octets = np.ascontiguousarray(words).view(np.uint8)
    return [octets[plane::width].tobytes() for plane in range(width)]


def join(kind: str, width: int, base: bytes, planes: list[bytes]) -> bytes:
    """The target again, of the base and the planes."""
    words = np.empty(len(planes[0]), _UNSIGNED[width])
    octets = words.view(np.uint8)
    for number, plane in enumerate(planes):
        octets[number::width] = np.frombuffer(plane, np.uint8)
    if kind != "plain":
        words = _undone(kind, width, np.frombuffer(base, _UNSIGNED[width]), words)
    return words.tobytes()


def _difference(kind: str, width: int, base: Words, target: Words) -> Words:
    if kind == "xor":
        return base ^ target
    if kind == "float":
        return _folded(_ordered(target, width) - _ordered(base, width), width)
    return _folded(target - base, width) if width > 1 else target - base


def _undone(kind: str, width: int, base: Words, left: Words) -> Words:
    if kind == "xor":
        return base ^ left
    if kind == "float":
        return _unordered(_ordered(base, width) + _unfolded(left, width), width)
    return base + (_unfolded(left, width) if width > 1 else left)


def _ordered(words: Words, width: int) -> Words:
    """Bit patterns of floats → unsigned integers in the same order."""
    negative = _all_ones_where_high(words, width)
    return words ^ (negative | _high(width))


def _unordered(words: Words, width: int) -> Words:
    negative = ~_all_ones_where_high(words, width)
    return words ^ (negative | _high(width))


def _folded(words: Words, width: int) -> Words:
    """0, −1, 1, −2, … → 0, 1, 2, 3, …"""
    return (words << _one(width)) ^ _all_ones_where_high(words, width)


def _unfolded(words: Words, width: int) -> Words:
    minus: Words = ~(words & _one(width)) + _one(width)
    return (words >> _one(width)) ^ minus


def _all_ones_where_high(words: Words, width: int) -> Words:
    """All bits set where the highest one is, else none."""
    signed: NDArray[np.signedinteger] = words.view(np.dtype(f"i{width}"))
    spread: Words = (signed >> (8 * width - 1)).view(_UNSIGNED[width])
    return spread


def _high(width: int) -> np.unsignedinteger:
    return _UNSIGNED[width](1 << (8 * width - 1))


def _one(width: int) -> np.unsignedinteger:
    return _UNSIGNED[width](1)
