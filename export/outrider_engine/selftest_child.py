"""The self-test of a bundle, from inside the limited child: look, load, run, compare, say so in one line of JSON.

Run as ``python -m outrider_engine.selftest_child DIR MEMORY_MB CPU_S [VARIANT]``. Imports neither torch nor onnx.
"""

import os
import resource
import statistics
import sys
import time
from pathlib import Path

import msgspec

from outrider_engine.bundle import open_bundle
from outrider_engine.confining import end_with_parent, without_network
from outrider_engine.golden import check_golden
from outrider_engine.model import Model, load_model
from outrider_engine.providers import CPU
from outrider_engine.selftest import SelfTestReport
from outrider_wire.errors import OutriderError

NICE = 10
_TIMED_RUNS = 9


def main(arguments: list[str]) -> int:
    """Prints the report; the exit status is 0 whatever it says."""
    root, memory_mb, cpu_s, *variant = arguments
    _limit(int(memory_mb), int(cpu_s))
    report = examine(Path(root), variant[0] if variant else "")
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0


def examine(root: Path, variant: str = "") -> SelfTestReport:
    """First look without optimisation (constants are not folded, so that a small file stays small), then the real load."""
    try:
        bundle = open_bundle(root)
        chosen = bundle.variant(variant or None)
        load_model(bundle, variant=chosen.name, providers=(CPU,), optimise=False)
        if chosen.provider != CPU:
            _lift_memory_limit()
        model = load_model(bundle, variant=chosen.name)
        faults = check_golden(model)
        ms = 0.0 if faults else _median_ms(model)
    except OutriderError as error:
        return SelfTestReport(ok=False, reason=error.reason, detail=str(error), rss_mb=_peak_mb())
    except MemoryError:
        return SelfTestReport(ok=False, reason="out_of_memory", detail="it asks for more memory than it may have")
    reason = "bad_golden" if faults else ""
    return SelfTestReport(ok=not faults, reason=reason, detail="; ".join(faults)[:2000], ms=ms, rss_mb=_peak_mb())


def _median_ms(model: Model) -> float:
    taken = []
    for _ in range(_TIMED_RUNS):
        began = time.perf_counter()
        model.dry_run()
        taken.append(time.perf_counter() - began)
    return round(statistics.median(taken) * 1e3, 3)


def _limit(memory_mb: int, cpu_s: int) -> None:
    end_with_parent()
    without_network()
    os.nice(NICE)
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_CPU, cpu_s)
    _set_limit(resource.RLIMIT_AS, memory_mb << 20)


def _set_limit(kind: int, wanted: int) -> None:
    """Lowers the soft limit; the hard one stays, so that it can be lifted for a provider that needs it."""
    hard = resource.getrlimit(kind)[1]
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (soft, hard))


def _lift_memory_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # Linux; ru_maxrss would begin with what the parent had resident when it forked
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return round(int(peak.split()[1]) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
