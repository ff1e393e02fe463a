"""What befalls each device, by the seed. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

CUT, FULL, LOSSY, LOST = 0.3, 0.1, 0.25, 0.02
"""Shares of the fleet: whose power goes in the middle of an update, whose disk is full, whose link is bad, who never returns."""
STEPS = 240
"""An update makes about so many changes to a device's disk."""
Line = Literal["fair", "slow", "cuts"]


@dataclass(frozen=True, kw_only=True)
class Fate:
    """One device's."""

    cuts: tuple[int | None, ...] = ()
    """Of each order in turn: the step of its update at which the power goes."""
    full: tuple[int | None, ...] = ()
    """The same of the disk, which is freed after a while."""
    line: Line = "fair"
    lost: Literal["", "before", "within"] = ""
    """It goes out of reach for good: before the first rollout, or within its first update."""
    seed: int = field(default=0)


def fates_of(devices: Sequence[str], *, seed: int, orders: int = 8) -> dict[str, Fate]:
    """Each device's fate."""
    chance = random.Random(seed)  # noqa: S311 - faults, not secrets
    lost = chance.sample(list(devices), round(LOST * len(devices)))
    found = {}
    for device in devices:
        ill = chance.random()
        cuts = tuple(chance.randrange(STEPS) if chance.random() < CUT else None for _ in range(orders))
        full = tuple(chance.randrange(STEPS) if chance.random() < FULL else None for _ in range(orders))
        line: Line = "fair" if ill >= LOSSY else "slow" if ill < LOSSY / 2 else "cuts"
        when: Literal["", "before", "within"] = (
            "" if device not in lost else ("before", "within")[lost.index(device) % 2]
        )
        if when == "within":
            cuts = (chance.randrange(STEPS // 2), *cuts[1:])
        found[device] = Fate(cuts=cuts, full=full, line=line, lost=when, seed=chance.randrange(2**31))
    return found
