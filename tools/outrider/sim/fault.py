"""What a fault is: a name, what is done to whom, how it is undone."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from outrider.sim.world import World

Cause = Callable[[World, random.Random], AbstractContextManager[None]]
"""Entering it causes the fault, at a moment and to a victim that chance names; leaving it undoes what can be undone."""
Need = Literal["disks", "moved_clock", "mosquitto", "patient"]
"""``patient``: a second device whose escalations are worth having much longer."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One row of the table."""

    name: str
    what: str
    """What is done, and to whom."""
    undone: str
    cause: Cause
    rounds: int = 2
    """Where nobody says how many."""
    hold_s: float = 0.0
    """How long it lasts."""
    inputs: int = 8
    """Asked around each round: half before it begins, half while it lasts."""
    large_bytes: int = 100_000
    """Of each input that is too large for one message."""
    large_every: int = 5
    """Of so many inputs one is."""
    felt_by: str = ""
    """``device``, ``cloud``, or both words: whose log must show it; '': a fault that leaves no trace there."""
    felt_as: str = ""
    """What the log shows, as a regular expression: a fault that nobody felt has proven nothing."""
    needs: frozenset[Need] = frozenset()
    settle_s: float = 60.0
    """How long afterwards every input must have its end."""
