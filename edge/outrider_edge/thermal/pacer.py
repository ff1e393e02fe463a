"""Lets models run for a share of the time. Knows no temperature and no model; changes no answer, only when it is computed.

Slowed, inputs take turns, one at a time and in their order, and after each the chip rests: for as long as the run took, times
1/duty − 1. Who cannot have a turn within its deadline is told so, and counted like every input that was refused.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from outrider_wire.errors import UndecidedError

T = TypeVar("T")

MOST_WAITING = 64
"""More are turned away at once: behind so many there is no turn in time."""
LEAST_PATIENCE_S = 1.0
"""An input with a shorter deadline waits this long: late is better than never, where nobody else can answer."""


class Pacer:
    """Turns on one event loop. ``now`` gives seconds."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self.duty = 1.0
        """Share of the time that models may run."""
        self.waited = 0
        """Inputs that had to wait for their turn, since the start."""
        self.turned_away = 0
        """Inputs that got none."""
        self._now = now
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._free_at = 0.0

    @property
    def slowed(self) -> bool:
        """Whether inputs take turns."""
        return self.duty < 1.0

    async def run(self, work: Callable[[], Awaitable[T]], *, patience_s: float) -> T:
        """What ``work`` gives, when its turn comes; at once at full duty.

        Raises:
            UndecidedError: no turn came in time.
        """
        if not self.slowed:
            return await work()
        await self._take(max(patience_s, LEAST_PATIENCE_S))
        began = self._now()
        try:
            return await work()
        finally:
            ended = self._now()
            self._free_at = ended + (ended - began) * (1.0 / self.duty - 1.0)
            self._turn.release()

    async def _take(self, patience_s: float) -> None:
        if self._waiting >= MOST_WAITING:
            raise self._away()
        self._waiting += 1
        self.waited += self._turn.locked() or self._free_at > self._now()
        try:
            async with asyncio.timeout(patience_s):
                await self._turn.acquire()
                try:
                    await asyncio.sleep(self._free_at - self._now())
                except BaseException:  # cancelled, or out of time: the turn is the next one's
                    self._turn.release()
                    raise
        except TimeoutError:
            raise self._away() from None
        finally:
            self._waiting -= 1

    def _away(self) -> UndecidedError:
        self.turned_away += 1
        return UndecidedError(
            "the device is too hot to take more: it slows down before its chip does",
            reason="device_hot",
            fix="ask less often, or cool it",
        )
