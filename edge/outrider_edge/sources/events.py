"""What is told of sources: events, each with one id through ``new``, ``update`` and ``end``, and the log that readers follow.

The log is in memory: it says what happens now. What an answer came to is durable elsewhere (the outbox, the sinks).
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from outrider_wire.report import AnswerReport

KEPT = 1_000
"""Events that a reader may be behind, or may have missed while it was away."""

Told = Literal["new", "update", "end"]
Why = Literal["motion", "scene", "frame", "message", "file"]
EndedBy = Literal["", "still", "longest", "answered", "lost", "stopped"]


class Trouble(Struct, kw_only=True, frozen=True):
    """Why there is no answer."""

    reason: str
    what: str


class SourceEvent(Struct, kw_only=True, frozen=True):
    """Something that happened before a source, as it stands when this is said."""

    id: str
    """Of the event: the same from ``new`` to ``end``. It is the group of its input, too."""
    type: Told
    source: str
    task: str
    device: str
    why: Why
    """``motion``, ``scene``: as the gate says; ``frame``, ``message``, ``file``: one input is one event."""
    at_ms: int
    """When this is said; UTC by this device's clock."""
    began_ms: int
    lasted_ms: int
    """Until now, by the monotonic clock."""
    origin: str = ""
    """The file, or the topic."""
    share: float = 0.0
    """The largest share of the picture that has differed so far."""
    frames: int = 0
    """That were looked at."""
    answer: AnswerReport | None = None
    """As it stands: the device's own, then the final one. None: the model has not been asked yet, or `trouble` says why not."""
    trouble: Trouble | None = None
    ended_by: EndedBy = ""
    """Of an ``end``: nothing moves any more, it took too long, it was one input, the camera is gone, the agent stops."""


class Numbered(NamedTuple):
    """An event and its number in the log, from 1."""

    number: int
    event: SourceEvent


class EventLog:
    """The last events of all sources, on one event loop."""

    def __init__(self) -> None:
        self._kept: deque[Numbered] = deque(maxlen=KEPT)
        self.last = 0
        """Number of the last event; 0: there was none."""
        self._woken = asyncio.Event()

    def tell(self, event: SourceEvent) -> None:
        """One more event. Cheap, and waits for no reader."""
        self.last += 1
        self._kept.append(Numbered(self.last, event))
        self.wake()

    def wake(self) -> None:
        """There is something new, or nobody should wait any longer."""
        self._woken.set()
        self._woken = asyncio.Event()

    def after(self, number: int) -> tuple[int, Sequence[Numbered]]:
        """How many events after ``number`` are forgotten, and those that are not."""
        found = [each for each in self._kept if each.number > number]
        first = found[0].number if found else self.last + 1
        return max(0, first - 1 - number), found

    @property
    def mark(self) -> asyncio.Event:
        """What to give `wait`, taken before one looks."""
        return self._woken

    async def wait(self, mark: asyncio.Event, timeout_s: float) -> None:
        """Until there is something new since that mark, at most that long."""
        try:
            async with asyncio.timeout(timeout_s):
                await mark.wait()
        except TimeoutError:
            return
