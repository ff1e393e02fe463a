"""The clock that leases are kept by: the machine's run time and the boot it belongs to. Knows no wall clock.

Every worker of one store runs on one machine (the store is a file), and a machine's monotonic clock is the same in all of its
processes, so that a wall clock which jumps neither ends a living worker's lease nor prolongs a dead one's. After a reboot all
workers are gone: a lease of another boot is void.
"""

import time
from pathlib import Path
from typing import NamedTuple

_BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


class Lease(NamedTuple):
    """A claim's term, in milliseconds of the run time of ``boot``."""

    boot: str
    now_ms: int
    until_ms: int


def boot_id() -> str:
    """Which boot this is; '' where the system names none: then a lease may outlast a reboot by its own length."""
    try:
        return _BOOT_ID_FILE.read_text().strip()[:64]
    except OSError:
        return ""


_BOOT = boot_id()


def lease(length_s: float) -> Lease:
    """A lease that begins now."""
    now_ms = time.monotonic_ns() // 1_000_000
    return Lease(boot=_BOOT, now_ms=now_ms, until_ms=now_ms + round(length_s * 1000))
