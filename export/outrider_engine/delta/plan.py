"""Which bytes of the target are made how: the smallest way for every tensor, and the bytes between them. Packs nothing finally.

Candidates of a tensor: the base's bytes as they are; a difference in byte planes against the tensor of that name (or, where the
name is new, against one of the same shape and type that nobody else claims); runs that did not change copied and only the rest
taken apart (sparse rows, adapters); its own byte planes; its bytes, packed with the base as dictionary. Sizes are estimates:
entropy of the planes and a quick packing, whichever is less.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from outrider_engine.delta.form import DICTIONARY_BYTES, INSTRUCTIONS, RANGES
from outrider_engine.delta.layout import Tensor, tensors_of
from outrider_engine.delta.planes import split

RUN_BYTES, GAP_RUN_BYTES = 256, 8
"""Unchanged bytes in a row, in a tensor and between tensors, that are worth an instruction of their own."""
MOST_RUNS = 20_000
"""Instructions that unchanged runs may take, over all tensors."""
_LIKE = 0.5
"""Share of equal bytes from which on two gaps are compared byte by byte."""


class Piece(NamedTuple):
    """Some bytes of the target."""

    kind: str
    """``copy``, ``literal``, or one with planes."""
    width: int
    begin: int
    length: int
    base: int = 0
    """Where it reads the base."""


class Plan(NamedTuple):
    """The whole target in order."""

    pieces: list[Piece]
    rest: list[tuple[int, int]]
    """Ranges of the base (begin, length) that literals may resemble; empty: any."""


def plan(base: memoryview, target: memoryview) -> Plan:
    """How to make ``target`` of ``base``."""
    theirs, ours = tensors_of(base), tensors_of(target)
    planner = _Planner(base, target, _matched(theirs, ours), theirs)
    pieces = list(_joined(planner.pieces(ours)))
    if len(pieces) > INSTRUCTIONS // 2:
        return Plan([Piece("literal", 0, 0, len(target))], [])
    return Plan(pieces, planner.rest(theirs) if ours else [])


def _matched(theirs: Sequence[Tensor], ours: Sequence[Tensor]) -> dict[int, Tensor]:
    """The base's tensor for a target's (by where it begins): of its name if that fits, else of its kind, in order."""
    named = {tensor.name: tensor for tensor in theirs}
    found: dict[int, Tensor] = {}
    for tensor in ours:
        old = named.get(tensor.name)
        if old is not None and old.kin == tensor.kin and old.length == tensor.length:
            found[tensor.begin] = old
    taken = {old.begin for old in found.values()}
    free: dict[object, list[Tensor]] = defaultdict(list)
    for old in theirs:
        if old.begin not in taken:
            free[old.kin, old.length].append(old)
    for tensor in ours:
        if tensor.begin not in found and (same := free[tensor.kin, tensor.length]):
            found[tensor.begin] = same.pop(0)
    return found


class _Planner:
    def __init__(self, base: memoryview, target: memoryview, old: dict[int, Tensor], theirs: Sequence[Tensor]) -> None:
        self.base, self.target, self.old = base, target, old
        self.before = dict(zip((each.begin for each in theirs), [0, *(each.end for each in theirs)], strict=False))
        """Where a base tensor begins → where the gap in front of it does."""
        self.runs = 0

    def pieces(self, ours: Sequence[Tensor]) -> Iterator[Piece]:
        at, behind = 0, 0
        for tensor in ours:
            old = self.old.get(tensor.begin)
            ends = old.begin if old is not None else None
            yield from self.gap(at, tensor.begin, behind, ends)
            yield from self.tensor(tensor, old)
            at, behind = tensor.end, old.end if old is not None else behind
        yield from self.gap(at, len(self.target), behind, len(self.base))

    def rest(self, theirs: Sequence[Tensor]) -> list[tuple[int, int]]:
        """What no tensor of the target was compared with, up to the size of a dictionary; the gaps first."""
        used = {old.begin for old in self.old.values()}
        ends = [0, *(each.end for each in theirs)]
        begins = [*(each.begin for each in theirs), len(self.base)]
        gaps = [(end, begin - end) for end, begin in zip(ends, begins, strict=True) if begin > end]
        free = [(each.begin, each.length) for each in theirs if each.begin not in used]
        room, found = DICTIONARY_BYTES, []
        for begin, length in [*gaps, *free][:RANGES]:
            found.append((begin, min(length, room)))
            room -= found[-1][1]
            if not room:
                break
        return found

    def gap(self, begin: int, end: int, behind: int, ends: int | None) -> Iterator[Piece]:
        """The bytes between tensors, against the base's gap that ends, or begins, at the same place."""
        length = end - begin
        if not length:
            return
        mine = np.frombuffer(self.target[begin:end], np.uint8)
        best, most = -1, _LIKE
        for start in (behind, ends - length if ends is not None else -1):
            if 0 <= start <= len(self.base) - length:
                same = float((np.frombuffer(self.base[start : start + length], np.uint8) == mine).mean())
                if same > most:
                    best, most = start, same
        if best < 0:
            yield Piece("literal", 0, begin, length)
            return
        yield from self.by_runs(Piece("literal", 0, begin, length, best), 1, GAP_RUN_BYTES)

    def tensor(self, tensor: Tensor, old: Tensor | None) -> Iterator[Piece]:
        mine = self.target[tensor.begin : tensor.end]
        theirs = self.base[old.begin : old.end] if old is not None else None
        if old is not None and mine == theirs:
            yield Piece("copy", 0, tensor.begin, tensor.length, old.begin)
            return
        kinds = ["plain"] if theirs is None else ["plain", tensor.form, "xor"]
        costs = {kind: _planes_cost(split(kind, tensor.width, theirs or mine, mine)) for kind in kinds}
        costs["literal"] = _bytes_cost(mine, theirs)
        kind = min(costs, key=lambda each: costs[each])
        whole = Piece(
            kind, 0 if kind == "literal" else tensor.width, tensor.begin, tensor.length, old.begin if old else 0
        )
        if old is None or kind in ("plain", "literal"):
            yield whole
        else:
            yield from self.by_runs(whole, tensor.width, RUN_BYTES)

    def by_runs(self, whole: Piece, width: int, least: int) -> Iterator[Piece]:
        """A piece that reads the base, cut where it has long runs of the base's own elements: those are copied."""
        begin, length, base = whole.begin, whole.length, whole.base
        words = np.dtype(f"u{width}")
        changed = np.frombuffer(self.target[begin : begin + length], words) != np.frombuffer(
            self.base[base : base + length], words
        )
        at = 0
        for start, end in _runs(changed, max(least // width, 1)):
            if self.runs >= MOST_RUNS:
                break
            self.runs += 1
            yield from _cut(whole, at, start * width)
            yield Piece("copy", 0, begin + start * width, (end - start) * width, base + start * width)
            at = end * width
        yield from _cut(whole, at, length)


def _cut(whole: Piece, begin: int, end: int) -> Iterator[Piece]:
    if end > begin:
        yield whole._replace(begin=whole.begin + begin, length=end - begin, base=whole.base + begin)


def _runs(changed: NDArray[np.bool_], least: int) -> list[tuple[int, int]]:
    """Where at least so many elements in a row did not change."""
    edges = np.flatnonzero(np.diff(np.concatenate(([True], changed, [True])).view(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    long = ends - starts >= least
    return list(zip(starts[long].tolist(), ends[long].tolist(), strict=True))


def _joined(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Neighbours of one kind that read on in the base are one."""
    last: Piece | None = None
    for piece in pieces:
        if last is not None and _goes_on(last, piece):
            last = last._replace(length=last.length + piece.length)
            continue
        if last is not None:
            yield last
        last = piece
    if last is not None:
        yield last


def _goes_on(last: Piece, piece: Piece) -> bool:
    same = (last.kind, last.width) == (piece.kind, piece.width)
    return same and (piece.kind in ("literal", "plain") or last.base + last.length == piece.base)


def _planes_cost(planes: Sequence[bytes]) -> float:
    return sum(min(_entropy(plane), len(_QUICK.compress(plane))) for plane in planes)


def _entropy(plane: bytes) -> float:
    """Bytes that an ideal code without any context would take, its table included."""
    counts = np.bincount(np.frombuffer(plane, np.uint8), minlength=256)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / len(plane))).sum() / 8 + 0.6 * len(counts))


def _bytes_cost(mine: memoryview, theirs: memoryview | None) -> float:
    if theirs is None or len(theirs) > DICTIONARY_BYTES:
        return len(_QUICK.compress(mine))
    shape = zstandard.ZstdCompressionDict(bytes(theirs), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return len(zstandard.ZstdCompressor(level=3, dict_data=shape).compress(mine))


_QUICK = zstandard.ZstdCompressor(level=3)
