"""Who may use a link for blobs, when, and how much: the clock and the waiting around `outrider_wire.pace`. Knows no messages."""

import asyncio
from collections import OrderedDict

from outrider_wire.blobs import block_size
from outrider_wire.pace import FIRST_BLOCK, Allowance, Pace

TRANSFERS_AT_ONCE = 2
"""Pulls that share one link; the rest wait their turn."""
_KEPT = 1024


class Lane:
    """One link in one direction."""

    def __init__(self, *, bytes_per_s: float | None = None) -> None:
        self.pace = Pace(bytes_per_s=bytes_per_s)
        self.slots = asyncio.Semaphore(TRANSFERS_AT_ONCE)
        """Held by each transfer for as long as it lasts."""
        self.transfers = 0
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()

    def share(self, most_block: int) -> tuple[int, int]:
        """Block and window in bytes of one transfer among those that run now."""
        window = self.pace.window // max(1, self.transfers)
        rate = self.pace.bytes_per_s
        block = min(most_block, FIRST_BLOCK) if rate is None else min(most_block, block_size(0, rate))
        return max(1, min(block, max(window // 2, FIRST_BLOCK))), window

    async def cap(self) -> None:
        """Waits for as long as the cap asks."""
        if (wait_s := self.pace.wait_s(_now())) > 0:
            await asyncio.sleep(wait_s)

    async def enter(self, size: int) -> None:
        """Waits, in turn, until ``size`` bytes more may be under way; then they are."""
        async with self._turn:
            while not self.pace.has_room(size):
                self._room.clear()
                await self._room.wait()
            await self.cap()
            self.sent(size)

    def sent(self, size: int) -> None:
        """So many bytes are on their way."""
        self.pace.sent(size, _now())

    def arrived(self, size: int) -> None:
        """So many have come through."""
        self.pace.arrived(size, _now())
        self._room.set()

    def lost(self, size: int) -> None:
        """So many will not come."""
        if size:
            self.pace.lost(size)
            self._room.set()


class Lanes:
    """A lane a peer, made when it is first used; the least used are forgotten."""

    def __init__(self, *, bytes_per_s: float | None = None) -> None:
        self._bytes_per_s = bytes_per_s
        self._lanes: OrderedDict[str, Lane] = OrderedDict()

    def of(self, peer: str) -> Lane:
        """The lane of that peer."""
        lane = self._lanes.setdefault(peer, Lane(bytes_per_s=self._bytes_per_s))
        self._lanes.move_to_end(peer)
        if len(self._lanes) > _KEPT:
            idle = next((name for name, one in self._lanes.items() if not one.transfers and one is not lane), None)
            if idle is not None:
                del self._lanes[idle]
        return lane

    def forget(self, peer: str) -> None:
        """It has a new connection, perhaps over another link: what was learnt of the old one is let go."""
        self._lanes.pop(peer, None)


class Shares:
    """What each peer may have in a second, whatever it asks for; the least recent are forgotten."""

    def __init__(self, *, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._allowances: OrderedDict[str, Allowance] = OrderedDict()

    async def wait(self, peer: str, size: int) -> None:
        """Waits until the peer may have ``size`` bytes more; a burst of four seconds' worth may be had at once."""
        allowance = self._allowances.setdefault(
            peer, Allowance(bytes_per_s=self._bytes_per_s, burst=4 * self._bytes_per_s)
        )
        self._allowances.move_to_end(peer)
        if len(self._allowances) > _KEPT:
            self._allowances.popitem(last=False)
        if (wait_s := allowance.take(size, _now())) > 0:
            await asyncio.sleep(wait_s)


def _now() -> float:
    return asyncio.get_running_loop().time()
