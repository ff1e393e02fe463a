"""The one place that reads the clock of the wall. Durations never come from here: they are the event loop's own time."""

import time


def now_ms() -> int:
    """UTC milliseconds since 1970."""
    return time.time_ns() // 1_000_000
