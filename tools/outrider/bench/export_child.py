"""One ONNX file timed in a process of its own: what a device that holds only this model would see.

Run as ``python -m outrider.bench.export_child MODEL ROWS.npz``; prints one line of JSON. Imports neither torch nor onnx.
"""

import resource
import sys
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from outrider_engine.session import OrtSession, load_runtime
from outrider_export.latency import timed


class Seen(Struct, kw_only=True, frozen=True):
    """What the process saw."""

    p50_ms: float
    p95_ms: float
    resident_mb: float
    """What the model added to the process, in MB of 2^20 bytes."""


def main(arguments: list[str]) -> int:
    """Prints what it saw."""
    model, rows = map(Path, arguments)
    stored = np.load(rows, allow_pickle=False)
    feeds = [
        {name: stored[name][row : row + 1] for name in stored.files} for row in range(len(stored[stored.files[0]]))
    ]
    load_runtime()
    before = _resident_mb()
    session = OrtSession(model.read_bytes())
    p50, p95 = timed(session, feeds)
    seen = Seen(p50_ms=p50, p95_ms=p95, resident_mb=round(max(0.0, _resident_mb() - before), 2))
    sys.stdout.write(msgspec.json.encode(seen).decode() + "\n")
    return 0


def _resident_mb() -> float:
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
