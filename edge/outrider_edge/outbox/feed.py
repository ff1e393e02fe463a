"""What ended, for an application that reads along, or was away and comes back. Keeps nothing: the rows are the record.

A cursor names the last report that a reader has: its number on the disk and, of tasks that gave durability up, in memory, as
``12.5``. The second one is worth nothing after a restart of the agent.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from outrider_edge.outbox.looking import Ended
from outrider_edge.outbox.rows import OutboxStore
from outrider_edge.outbox.shelf import Shelf
from outrider_wire.errors import CallerInputError
from outrider_wire.report import AnswerReport

AT_ONCE = 100


class Cursor(NamedTuple):
    """Where a reader is, by shelf."""

    disk: int = 0
    memory: int = 0

    def __str__(self) -> str:
        return f"{self.disk}.{self.memory}"


def parse_cursor(text: str) -> Cursor:
    """A cursor that was given before.

    Raises:
        CallerInputError: it is none.
    """
    numbers = text.split(".")
    if len(numbers) != 2 or not all(n.isascii() and n.isdigit() and len(n) < 19 for n in numbers):
        raise CallerInputError(
            f"{text[:32]!r} is no cursor", reason="invalid_cursor", fix="give the id of an event, or none"
        )
    return Cursor(*map(int, numbers))


class EndedFeed:
    """The inputs that somebody waited for, in the order in which they ended.

    Args:
        shelves: the disk's, then memory's where there is one.
    """

    def __init__(self, *, shelves: Callable[[], Sequence[Shelf]]) -> None:
        self._shelves = shelves
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something has ended, or nobody should wait any longer."""
        self._woken.set()
        self._woken = asyncio.Event()

    @property
    def mark(self) -> asyncio.Event:
        """What to give `wait`, taken before one looks."""
        return self._woken

    async def wait(self, mark: asyncio.Event, timeout_s: float) -> None:
        """Until something has ended since that mark, at most that long."""
        try:
            async with asyncio.timeout(timeout_s):
                await mark.wait()
        except TimeoutError:
            return

    async def end(self) -> Cursor:
        """After everything that has ended."""
        return Cursor(*[await shelf.writer.run(lambda store: store.look().last_ended()) for shelf in self._shelves()])

    async def after(self, cursor: Cursor) -> list[tuple[Cursor, AnswerReport]]:
        """Some of what has ended since, each with the cursor of a reader that has it; empty: nothing."""
        found: list[tuple[Cursor, AnswerReport]] = []
        for place, shelf in enumerate(self._shelves()):
            for number, report in await shelf.writer.run(_after(cursor[place])):
                cursor = cursor._replace(**{Cursor._fields[place]: number})
                found.append((cursor, report))
        return found


def _after(number: int) -> Callable[[OutboxStore], list[Ended]]:
    return lambda store: store.look().ended(number, AT_ONCE)
