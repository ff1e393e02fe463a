"""Processor time of a process and all its children, from ``/proc``. Knows nothing of what they do."""

import os
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def tree_cpu_s(pid: int) -> float | None:
    """Seconds of processor time, user and system, that the processes of the tree under ``pid`` have used; None without ``/proc``."""
    spent, children = _processes()
    if pid not in spent:
        return None
    total, waiting = 0.0, [pid]
    while waiting:
        one = waiting.pop()
        total += spent[one]
        waiting += children.get(one, [])
    return total


def _processes() -> tuple[dict[int, float], dict[int, list[int]]]:
    """Seconds by process, and the children of each."""
    spent: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:  # it has just ended
            continue
        pid, fields = int(name.split()[0]), rest.split()
        spent[pid] = (int(fields[11]) + int(fields[12])) * _TICK_S
        children.setdefault(int(fields[1]), []).append(pid)
    return spent, children
