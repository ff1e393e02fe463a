"""What this machine is, as far as a device profile speaks of it. Reads Linux's own files; changes nothing."""

import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from outrider_wire.profile import Profile

_COMPATIBLE = Path("/proc/device-tree/compatible")
_MEMORY = Path("/proc/meminfo")
_MEMORY_SHARE = 0.75
"""Of what a board is sold with, at least this is Linux's: firmware and GPU keep the rest."""


class Machine(NamedTuple):
    """What was found."""

    arch: str
    memory_mb: int
    """0: not known."""
    compatible: frozenset[str] = frozenset()
    """The device tree's names of the board and its chip; empty on a PC."""


def this_machine(*, compatible: Path = _COMPATIBLE, memory: Path = _MEMORY) -> Machine:
    """The one that this runs on."""
    return Machine(arch=platform.machine(), memory_mb=_memory_mb(memory), compatible=_compatible(compatible))


def _compatible(path: Path) -> frozenset[str]:
    try:
        names = path.read_bytes().decode("ascii", "replace").split("\0")
    except OSError:
        return frozenset()
    return frozenset(name for name in names if name)


def _memory_mb(path: Path) -> int:
    try:
        for line in path.read_text("ascii", "replace").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) // 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


def misfits(profile: Profile, machine: Machine) -> list[str]:
    """What of the profile is not so on that machine, each in a clause; [] when it fits."""
    hardware, found = profile.hardware, []
    if hardware.arch != machine.arch:
        found.append(f"it is for {hardware.arch}, and this is {machine.arch}")
    if hardware.compatible and not machine.compatible & set(hardware.compatible):
        board = next(iter(sorted(machine.compatible)), "a machine without a device tree")
        found.append(f"it is for {hardware.compatible[0]}, and this is {board}")
    if hardware.memory_mb and machine.memory_mb and machine.memory_mb < hardware.memory_mb * _MEMORY_SHARE:
        found.append(f"it counts on {hardware.memory_mb} MB of memory, and there are {machine.memory_mb}")
    return found


def best_fit(profiles: Iterable[Profile], machine: Machine) -> Profile | None:
    """The profile made for that machine: one that names its board, else one of its architecture that names none."""
    fitting = [profile for profile in profiles if not misfits(profile, machine)]
    return max(fitting, key=lambda profile: bool(profile.hardware.compatible), default=None)


def power_mode() -> str:
    """The name of a Jetson's power mode; '' where there is none. Runs ``nvpmodel -q``."""
    try:
        done = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return power_mode_in(done.stdout)


def power_mode_in(said: str) -> str:
    """The mode's name in what ``nvpmodel -q`` prints: ``NV Power Mode: 15W``."""
    lines = (line.partition("NV Power Mode:") for line in said.splitlines())
    return next((after.strip() for _, found, after in lines if found), "")
