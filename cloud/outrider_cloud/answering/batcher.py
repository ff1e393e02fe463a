"""Who is asked next, and with whom: earliest deadline first. Pure: time is an argument.

An input whose application has stopped waiting gives way to those that can still be answered in time; one that nobody wants
any more (``keep_until``) expires.
"""

import heapq
import itertools
from typing import Generic, NamedTuple, Protocol, TypeVar


class Timed(Protocol):
    """What waits. Both times are in seconds of one monotonic clock."""

    answer_by: float
    """Until when the application waits; in the past when it does not."""
    keep_until: float
    """Until when the answer is worth having."""


T = TypeVar("T", bound=Timed)


class Batch(NamedTuple, Generic[T]):
    """What to ask now, and what it is too late for."""

    items: list[T]
    expired: list[T]


class DeadlineQueue(Generic[T]):
    """A heap of what waits. Whoever pushes bounds it."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, item: T, now: float) -> None:
        """Queues ``item`` by the deadline that it can still meet; equals in the order they came."""
        key = item.answer_by if item.answer_by > now else item.keep_until
        heapq.heappush(self._heap, (key, next(self._order), item))

    def take(self, most: int, now: float) -> Batch[T]:
        """The next batch of at most ``most``."""
        batch: Batch[T] = Batch([], [])
        while self._heap and len(batch.items) < most:
            key, _, item = heapq.heappop(self._heap)
            if item.keep_until <= now:
                batch.expired.append(item)
            elif key <= now:
                self.push(item, now)  # too late for its application: behind those that are not
            else:
                batch.items.append(item)
        return batch


def wait_for_more(*, queued: int, most: int, left_s: float, last_size: int) -> float:
    """Seconds to hold a batch back: none when it is full, has waited its time, or when inputs come one at a time."""
    if queued >= most or last_size < 2:
        return 0.0
    return max(0.0, left_s)
