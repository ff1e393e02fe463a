"""What was spent in the last hour and the last day, at every moment. Pure: time is an argument, in seconds of run time.

A window is kept in `SLOTS` slots. A slot is let go when all of it is older than the window, so that what is counted is what
was spent in the window and at most one slot's length before it: a limit kept by this count holds in *every* window.
"""

from collections.abc import Mapping
from typing import NamedTuple

HOUR_S = 3_600.0
DAY_S = 86_400.0
SLOTS = 60
MICRO = 1_000_000
"""Money is counted in millionths, so that sums are exact."""


class Spend(NamedTuple):
    """What escalations cost. Whole numbers."""

    escalations: int = 0
    bytes: int = 0
    micros: int = 0

    def plus(self, other: "Spend") -> "Spend":
        """The sum."""
        return Spend(self.escalations + other.escalations, self.bytes + other.bytes, self.micros + other.micros)

    def less(self, other: "Spend") -> "Spend":
        """The difference."""
        return Spend(self.escalations - other.escalations, self.bytes - other.bytes, self.micros - other.micros)


class Window:
    """What was spent in the last ``length_s`` seconds."""

    def __init__(self, length_s: float, slots: Mapping[int, Spend] | None = None) -> None:
        self.length_s = length_s
        self._slot_s = length_s / SLOTS
        self._slots = dict(slots or {})
        self._swept: int | None = None
        self._sum = Spend()
        for spend in self._slots.values():
            self._sum = self._sum.plus(spend)

    @property
    def slots(self) -> dict[int, Spend]:
        """By number: slot k is of the run time from k to k + 1 slot lengths."""
        return dict(self._slots)

    def spent(self, now: float) -> Spend:
        """What still counts."""
        newest = int(now // self._slot_s)
        if newest != self._swept:
            self._swept = newest
            for number in [number for number in self._slots if number < newest - SLOTS]:
                self._sum = self._sum.less(self._slots.pop(number))
        return self._sum

    def add(self, now: float, spend: Spend) -> None:
        """Counts it as spent now."""
        number = int(now // self._slot_s)
        self._slots[number] = self._slots.get(number, Spend()).plus(spend)
        self._sum = self._sum.plus(spend)

    def moved(self, seconds: float) -> "Window":
        """The same on a clock that is ``seconds`` ahead, rounded so that nothing is let go earlier."""
        by = -int(-seconds // self._slot_s)
        return Window(self.length_s, {number + by: spend for number, spend in self._slots.items()})
