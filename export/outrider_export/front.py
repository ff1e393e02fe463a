"""Which of several variants is the best for a purpose, and which are worth choosing at all. A pure rule; measures nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

Objective = Literal["latency", "size", "coverage"]
SAME_LATENCY = 1.1
"""Latencies within this factor of the least are the same: a second run on a busy machine would order them otherwise."""


class Candidate(Struct, kw_only=True, frozen=True):
    """One variant as tuning rows and this machine show it."""

    name: str
    bytes: int
    p50_ms: float
    """Median of one row at a time, on one thread."""
    coverage: float
    """Share of the rows that can be kept with at most r* of them wrong."""
    agreement: float
    """Share of the answers that are fp32's."""
    accuracy: float


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other is at least as good as in size, latency, coverage and agreement, and better than in one; in their order."""
    return [each for each in candidates if not any(_beats(other, each) for other in candidates)]


def pick(candidates: Sequence[Candidate], objective: Objective) -> Candidate:
    """The best of the front for ``objective``; of several alike, the one that is better at the rest, and then the first.

    Size and coverage are the same in every run, and so is what they pick; latency counts as the same within `SAME_LATENCY`.
    """
    found = pareto_front(candidates)
    least_ms = min(each.p50_ms for each in found)
    fast = [each for each in found if each.p50_ms <= least_ms * SAME_LATENCY]
    if objective == "latency":
        return min(fast, key=lambda each: (each.bytes, -each.coverage, -each.agreement))
    return min(found, key=_ORDERS[objective])


_ORDERS: Mapping[Objective, Callable[[Candidate], tuple[float, ...]]] = {
    "size": lambda each: (each.bytes, -each.coverage, -each.agreement),
    "coverage": lambda each: (-each.coverage, each.bytes, -each.agreement),
}


def _beats(one: Candidate, other: Candidate) -> bool:
    mine, theirs = _merits(one), _merits(other)
    return all(a >= b for a, b in zip(mine, theirs, strict=True)) and mine != theirs


def _merits(each: Candidate) -> tuple[float, ...]:
    return (-each.bytes, -each.p50_ms, each.coverage, each.agreement)
