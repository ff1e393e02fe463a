"""A process whose clocks are ahead: ``python -m outrider.sim.moved_clock FILE COMMAND…`` runs ``outrider COMMAND…`` in it.

``FILE`` holds the seconds, and may change while it runs. All of Python's clocks move together, as if the time had passed; what
sleeps wakes at its own next event. As faketime does, from outside: nothing in the program knows of it.
"""

import mmap
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_FORMAT = "d"
_MOVED = (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)


def write_ahead(file: Path, seconds: float) -> None:
    """Says how far ahead the clocks of every process with that file are; made when absent, changed in place."""
    with file.open("r+b" if file.exists() else "w+b") as opened:
        opened.write(struct.pack(_FORMAT, seconds))


def _move(file: Path) -> None:
    """Replaces the clocks of this process; before anything else is imported that may keep one of them."""
    with file.open("rb") as opened:
        view = mmap.mmap(opened.fileno(), struct.calcsize(_FORMAT), access=mmap.ACCESS_READ)
    real = {name: getattr(time, name) for name in ("time", "monotonic", "time_ns", "monotonic_ns", "clock_gettime")}

    def ahead_s() -> float:
        return float(struct.unpack(_FORMAT, view[:])[0])

    def seconds(name: str) -> Callable[[], float]:
        return lambda: real[name]() + ahead_s()

    def nanoseconds(name: str) -> Callable[[], int]:
        return lambda: real[name]() + round(ahead_s() * 1e9)

    def of_clock(clock: int) -> float:
        return float(real["clock_gettime"](clock)) + (ahead_s() if clock in _MOVED else 0.0)

    moved: dict[str, Callable[..., Any]] = {
        "time": seconds("time"),
        "monotonic": seconds("monotonic"),
        "time_ns": nanoseconds("time_ns"),
        "monotonic_ns": nanoseconds("monotonic_ns"),
        "clock_gettime": of_clock,
    }
    for name, clock in moved.items():
        setattr(time, name, clock)


def main() -> None:
    """Moves the clocks, then is the command line."""
    _move(Path(sys.argv[1]))
    sys.argv[1:2] = []
    from outrider.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
