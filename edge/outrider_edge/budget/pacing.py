"""Which refused inputs are worth one limit's budget, now. Pure: time is an argument, in seconds of run time.

An online knapsack with an adaptive threshold on gain per cost (the bid price of Zhou, Chakrabarty & Lukose 2008, WINE; learnt
as it goes as in Balseiro, Lu & Mirrokni, arXiv 2011.10124). Two parts:

- **A token bucket** holds what may be spent: it fills at limit / window, holds at most `BURST` of the limit, and is drawn by
  what is sent. How full it is, f, sets the pace: the bucket's own rate × f / (1 − f), which is that rate when it is half full,
  everything when it is full (it would run over), and nothing when it is empty.
- **A history** of the refused inputs, sent or not: their cost by gain, in bins, older ones fading with `FADE` of the window. It
  knows how much cost a second arrives, and the gain above which just that pace's share of it lies. In the bin at the
  threshold the right share is let through, one in so many.

So a burst of hard inputs raises the threshold, a quiet night lowers it, and where all gains are equal they are sent evenly.
"""

import math
from typing import NamedTuple

from msgspec import Struct

BURST = 0.25
"""Of the limit, at most, in one go."""
FADE = 0.25
"""Of the window: after that long a refused input counts 1/e in the history."""
BINS = 100
_OVERFULL = 0.99
_RESCALE = 1e9


class PaceState(Struct, kw_only=True):
    """All that a pace remembers."""

    level: float
    """In the bucket."""
    filled_at: float
    began_at: float
    scale_at: float
    """When a new input's weight was 1."""
    cost_by_gain: list[float]
    """By bin of gain per cost, each input's cost times its weight: newer ones weigh more."""
    cost: float = 0.0
    """Their sum."""
    inputs: float = 0.0
    """The weights' sum."""
    carried: float = 1.0
    """Of the share to let through in the bin at the threshold, what is owed: the first one, at the start."""


class Judged(NamedTuple):
    """Whether a limit lets an input through, and what it asks for."""

    passes: bool
    threshold: float
    """Gain per cost, the cost in units of the average input's."""


class Pace:
    """One limit's.

    Args:
        limit: of whatever is counted, in a window.
        length_s: the window's.
        now: run time.
        level: what the bucket holds at first, at most: half of what it can, so that a start is no burst.
        state: what a pace of the same limit remembers.
    """

    def __init__(
        self, *, limit: float, length_s: float, now: float, level: float, state: PaceState | None = None
    ) -> None:
        self._rate = limit / length_s
        self._most = BURST * limit
        self._fade_s = FADE * length_s
        first = max(0.0, min(level, self._most / 2))
        self.state = state or PaceState(
            level=first, filled_at=now, began_at=now, scale_at=now, cost_by_gain=[0.0] * BINS
        )

    def fullness(self, now: float) -> float:
        """0 … 1; below 0 when a dear input has overdrawn it."""
        self._fill(now)
        return self.state.level / self._most if self._most else 0.0

    def judge(self, now: float, gain: float, cost: float) -> Judged:
        """Whether an input of that gain (0 … 1) and cost is among those worth sending; it joins the history either way."""
        fullness = self.fullness(now)
        state = self.state
        weight = self._weight(now)
        state.inputs += weight
        state.cost += cost * weight
        average = state.cost / state.inputs
        bin_ = _bin_of(gain * average / cost if cost else gain)
        state.cost_by_gain[bin_] += cost * weight
        if fullness >= _OVERFULL:
            return Judged(True, 0.0)
        if fullness <= 0.0 or (state.level < cost <= self._most):
            return Judged(False, 1.0)
        share = self._rate * fullness / (1.0 - fullness) / self._demand(now, weight)
        edge, through = _cut(state.cost_by_gain, share * state.cost)
        if bin_ != edge:
            return Judged(bin_ > edge, edge / BINS * 2)
        state.carried += through
        passes = state.carried >= 1.0
        state.carried -= float(passes)
        return Judged(passes, edge / BINS * 2)

    def draw(self, now: float, cost: float) -> None:
        """Takes a cost out of the bucket."""
        self._fill(now)
        self.state.level = min(self._most, self.state.level - cost)

    def _fill(self, now: float) -> None:
        state = self.state
        state.level = min(self._most, state.level + self._rate * max(0.0, now - state.filled_at))
        state.filled_at = max(now, state.filled_at)

    def _weight(self, now: float) -> float:
        """Of an input that comes now. Instead of fading every bin, new inputs weigh more; now and then all is scaled down."""
        state = self.state
        weight = math.exp(min((now - state.scale_at) / self._fade_s, 600.0))
        if weight > _RESCALE:
            state.cost_by_gain = [cost / weight for cost in state.cost_by_gain]
            state.cost, state.inputs = sum(state.cost_by_gain), state.inputs / weight
            state.scale_at, weight = now, 1.0
        return weight

    def _demand(self, now: float, weight: float) -> float:
        """Cost a second that arrives, of the refused inputs that have not faded."""
        known_s = max(1.0, self._fade_s * (1.0 - math.exp((self.state.began_at - now) / self._fade_s)))
        return max(self.state.cost / weight / known_s, 1e-12)


def _bin_of(worth: float) -> int:
    """Worth of 0 … 2 in equal bins: an input of average cost has at most 1, a cheap one more."""
    return min(BINS - 1, int(worth * BINS / 2))


def _cut(cost_by_gain: list[float], left: float) -> tuple[int, float]:
    """The bin at the threshold, and the share of it to let through, so that just ``left`` of the cost lies above."""
    for number in range(BINS - 1, -1, -1):
        held = cost_by_gain[number]
        if held and held >= left:
            return number, left / held
        left -= held
    return 0, 1.0
