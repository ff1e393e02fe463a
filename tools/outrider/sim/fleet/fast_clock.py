"""A calendar that runs fast: ``python -m outrider.sim.fleet.fast_clock BASE SPEED COMMAND…`` runs ``outrider COMMAND…`` by it.

Only the time of day is another, that plans, orders and soaks are told in; durations (timeouts, retries) stay real, as they are of links
and disks that are real too.
"""

import sys
import time
from dataclasses import dataclass

_REAL = time.time


@dataclass(frozen=True, kw_only=True)
class FastClock:
    """UTC that runs ``speed`` times as fast since ``base_s``; every process with the same two shows the same time."""

    base_s: float
    speed: float

    def now_s(self) -> float:
        """UTC in seconds."""
        return self.base_s + self.speed * (_REAL() - self.base_s)

    def now_ms(self) -> int:
        """UTC in milliseconds."""
        return round(1000 * self.now_s())

    def real_s(self, seconds: float) -> float:
        """How long so many of its seconds take."""
        return seconds / self.speed


def main() -> None:
    """Replaces the time of day, before anything else is imported that may keep it, then is the command line."""
    clock = FastClock(base_s=float(sys.argv[1]), speed=float(sys.argv[2]))
    time.time = clock.now_s
    time.time_ns = lambda: round(1e9 * clock.now_s())
    sys.argv[1:3] = []
    from outrider.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
