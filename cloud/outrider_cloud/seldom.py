"""Keeps hostile traffic from filling the log: so many lines of an event, then one now and again that says how many were left out.

``log.addFilter(Seldom())`` on the logger of a module whose events a peer can cause.
"""

import logging
import time
from collections.abc import Callable

from outrider_cloud.buckets import Buckets

_PER_S = 0.5
_BURST = 20.0


class Seldom(logging.Filter):
    """A filter with a bucket an event; an event is a record's message, before anything is put into it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._buckets = Buckets(per_s=_PER_S, burst=_BURST, names=256)
        self._left_out: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this one is written; the first after some that were not says how many, as ``left_out``."""
        event = str(record.msg)
        if self._buckets.take(event, self._clock()) > 0:
            self._left_out[event] = self._left_out.get(event, 0) + 1
            return False
        if left_out := self._left_out.pop(event, 0):
            record.left_out = left_out
        return True
