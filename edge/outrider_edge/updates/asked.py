"""What a device is asked to look at: the newest of each kind, stops first. Bounded, whatever a broker sends."""

import asyncio
from typing import Literal, get_args

Kind = Literal["stop", "order", "refresh"]
"""In the order in which they are looked at."""


class Asked:
    """Filled and emptied on one event loop."""

    def __init__(self) -> None:
        self._newest: dict[Kind, bytes] = {}
        self._came = asyncio.Event()

    def put(self, kind: Kind, data: bytes = b"") -> None:
        """Something new: it takes the place of what waits of its kind."""
        self._newest[kind] = data
        self._came.set()

    def put_again(self, kind: Kind, data: bytes) -> None:
        """Something that was looked at before: what waits of its kind is newer."""
        self.put(kind, self._newest.get(kind, data))

    async def get(self) -> tuple[Kind, bytes]:
        """The next; waits for one."""
        await self._came.wait()
        kind: Kind = next(each for each in get_args(Kind) if each in self._newest)
        data = self._newest.pop(kind)
        if not self._newest:
            self._came.clear()
        return kind, data

    async def within(self, wait_s: float) -> bool:
        """Whether anything waits by then; returns as soon as it does."""
        try:
            async with asyncio.timeout(wait_s):
                await self._came.wait()
        except TimeoutError:
            return False
        return True
