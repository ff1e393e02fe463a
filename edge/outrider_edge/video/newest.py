"""The newest frame of a camera, for whoever is slower than it. Safe between the thread that reads and the one that takes."""

import threading
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Counts(NamedTuple):
    """Frames since the start."""

    read: int = 0
    paced: int = 0
    """Passed over because they came faster than anybody wants them."""
    dropped: int = 0
    """Replaced by a newer one before they were taken."""


class Taken(NamedTuple, Generic[T]):
    """A frame, as it was taken."""

    frame: T
    at_s: float
    counts: Counts


class Newest(Generic[T]):
    """One place: what comes replaces what nobody has taken.

    Args:
        max_fps: no more frames a second are let in.
    """

    def __init__(self, *, max_fps: float) -> None:
        self._every_s = 1.0 / max_fps
        self._due_s = float("-inf")
        self._counts = Counts()
        self._waiting: tuple[T, float] | None = None
        self._end: Exception | None = None
        self._changed = threading.Condition()

    @property
    def counts(self) -> Counts:
        """As they stand."""
        with self._changed:
            return self._counts

    def offer(self, frame: T, at_s: float) -> None:
        """A frame was read at ``at_s``."""
        with self._changed:
            read = self._counts._replace(read=self._counts.read + 1)
            if at_s < self._due_s:
                self._counts = read._replace(paced=read.paced + 1)
                return
            # The next one is due a period later, not after this one came: else 25 a second, of which 10 are wanted, give 8.
            self._due_s = max(self._due_s, at_s - self._every_s) + self._every_s
            self._counts = read._replace(dropped=read.dropped + (self._waiting is not None))
            self._waiting = frame, at_s
            self._changed.notify_all()

    def end(self, why: Exception) -> None:
        """No frame will come any more: whoever takes gets the last one, then ``why``."""
        with self._changed:
            self._end = why
            self._changed.notify_all()

    def take(self) -> Taken[T]:
        """The newest frame that was not taken, once there is one; or what `end` was given."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._end is not None)
            if self._waiting is None:
                raise self._end or AssertionError("woken by neither")
            (frame, at_s), self._waiting = self._waiting, None
            return Taken(frame, at_s, self._counts)
