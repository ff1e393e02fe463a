"""Answers by embedding: the nearest one, among those whose other parts are equal. Pure: time is an argument; knows no model.

Kept in memory only: what is here is gone with the process, and with the model whose embeddings these are.
"""

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Unit = NDArray[np.float32]
"""(d,) of length 1."""


class Remembered(NamedTuple):
    """What the large model said of one input."""

    label: str
    confidence: float
    probabilities: Mapping[str, float]
    large_model: str
    strategy: str
    at_s: float
    """Run time at which it came."""


class Hit(NamedTuple):
    """A remembered answer that may be given again."""

    entry: int
    answer: Remembered
    distance: float
    """1 − cosine of the two embeddings."""


class Answers:
    """A bounded number of answers, each for a bounded time.

    Args:
        max_entries: the oldest makes room.
        keep_for_s: no answer is given again when it is older.
        max_distance: nor when no embedding is at least this near.
    """

    def __init__(self, *, max_entries: int, keep_for_s: float, max_distance: float) -> None:
        self._max_entries = max_entries
        self._keep_for_s = keep_for_s
        self._max_distance = max_distance
        self._entries: OrderedDict[int, tuple[bytes, Remembered]] = OrderedDict()
        self._shelves: dict[bytes, _Shelf] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, now: float, others: bytes, embedding: Unit) -> Hit | None:
        """The nearest answer within reach. One product of a matrix and a vector over those with the same ``others``."""
        self._let_old_go(now)
        if (shelf := self._shelves.get(others)) is None:
            return None
        entry, cosine = shelf.nearest(embedding)
        distance = max(0.0, 1.0 - cosine)
        return Hit(entry, self._entries[entry][1], distance) if distance <= self._max_distance else None

    def add(self, others: bytes, embedding: Unit, answer: Remembered) -> None:
        """Remembers one more."""
        self._let_old_go(answer.at_s)
        while len(self._entries) >= self._max_entries:
            self.remove(next(iter(self._entries)))
        entry = next(self._numbers)
        self._entries[entry] = (others, answer)
        self._shelves.setdefault(others, _Shelf(len(embedding))).add(entry, embedding)

    def remove(self, entry: int) -> None:
        """Forgets one, if it is still there."""
        if (found := self._entries.pop(entry, None)) is None:
            return
        shelf = self._shelves[found[0]]
        shelf.remove(entry)
        if not shelf.entries:
            del self._shelves[found[0]]

    def clear(self) -> None:
        """Forgets all."""
        self._entries.clear()
        self._shelves.clear()

    def _let_old_go(self, now: float) -> None:
        while self._entries:
            entry, (_, answer) = next(iter(self._entries.items()))
            if now - answer.at_s <= self._keep_for_s:
                return
            self.remove(entry)


class _Shelf:
    """The embeddings of entries whose other parts are equal, one a row."""

    def __init__(self, width: int) -> None:
        self.entries: list[int] = []
        self._place: dict[int, int] = {}
        self._rows = np.empty((8, width), np.float32)

    def nearest(self, embedding: Unit) -> tuple[int, float]:
        cosines = self._rows[: len(self.entries)] @ embedding
        best = int(cosines.argmax())
        return self.entries[best], float(cosines[best])

    def add(self, entry: int, embedding: Unit) -> None:
        place = len(self.entries)
        if place == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[place] = embedding
        self.entries.append(entry)
        self._place[entry] = place

    def remove(self, entry: int) -> None:
        place, last = self._place.pop(entry), self.entries.pop()
        if last != entry:
            self._rows[place] = self._rows[len(self.entries)]
            self.entries[place], self._place[last] = last, place


def unit(embedding: NDArray[np.floating] | None) -> Unit | None:
    """The embedding (d,) at length 1; None where it has none: absent, zero, or not finite."""
    if embedding is None:
        return None
    plain = np.asarray(embedding, np.float32)
    length = float(np.sqrt(plain @ plain))
    return plain / np.float32(length) if np.isfinite(length) and length > 0 else None


def digest_of_others(parts: Mapping[str, bytes | str], embedded: Sequence[str]) -> bytes:
    """A digest of every part that the embedding does not stand for."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(parts.keys() - set(embedded)):
        value = parts[name]
        data = value.encode() if isinstance(value, str) else value
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.digest()
