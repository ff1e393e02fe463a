"""Run time and the boot that it belongs to. Knows no wall clock: devices boot in 1970.

An age that must survive a restart is kept as boot id + run time; what passes while the machine is off is not counted.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, kw_only=True)
class RunClock:
    """Seconds since this machine booted, suspended time included where the system counts it, and which boot that is."""

    boot_id: str
    now: Callable[[], float]


def run_clock() -> RunClock:
    """This machine's clock. Where the system names no boot, every process is a boot of its own."""
    try:
        return RunClock(boot_id=_BOOT_ID_FILE.read_text().strip()[:64], now=_since_boot)
    except OSError:
        return RunClock(boot_id=str(uuid.uuid4()), now=time.monotonic)


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
