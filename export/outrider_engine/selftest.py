"""The self-test of a bundle that is not trusted yet, seen from outside: a limited child process looks, and may die of it.

Knows how to start, stop and judge the child; what it does is in `outrider_engine.selftest_child`. A bundle can make ONNX
Runtime allocate without bound, loop for ever or crash, at load or at run time, and no walk of its bytes can tell.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from outrider_wire.decodable import decodable

CHILD = (sys.executable, "-P", "-m", "outrider_engine.selftest_child")


class SelfTestReport(Struct, kw_only=True, frozen=True):
    """What came of a self-test. A bundle with ``ok`` false must not be installed."""

    ok: bool
    reason: str = ""
    """``out_of_memory``, ``timeout``, ``crashed``, ``bad_golden``, or the reason of the error that the bundle raised.

    ``no_child`` and ``interrupted`` say nothing of the bundle: no child could be started, or somebody ended it.
    """
    detail: str = ""
    """The same for a person."""
    ms: float = 0.0
    """Median milliseconds of one inference on one thread."""
    rss_mb: float = 0.0
    """Most memory that the child had resident, in MB of 2^20 bytes."""


def run_selftest(
    bundle_dir: Path,
    *,
    variant: str = "",
    timeout_s: float = 60.0,
    memory_mb: int = 1024,
    command: Sequence[str] = CHILD,
) -> SelfTestReport:
    """Loads and runs a bundle in a child process; never raises for a bad bundle. Blocks up to ``timeout_s``.

    ``variant`` is the one that will run; '': the first. The child is niced and has one thread, at most ``memory_mb`` of address space
    (``RLIMIT_AS``) and ``timeout_s`` of processor time. A variant for another provider than the CPU's gets its first look
    on the CPU under the limit; then the limit is lifted, because CUDA maps more address space than any machine has.
    """
    arguments = [*command, str(bundle_dir), str(memory_mb), str(max(1, round(timeout_s))), variant]
    try:
        child = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=timeout_s,
            env=child_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return SelfTestReport(ok=False, reason="timeout", detail=f"the self-test took more than {timeout_s:g} s")
    except OSError as error:
        return SelfTestReport(ok=False, reason="no_child", detail=f"the self-test cannot be started: {error}")
    return judge(child.returncode, child.stdout)


def judge(returncode: int, stdout: bytes) -> SelfTestReport:
    """The report of a child that has ended, from its exit status (negative: the signal) and its last line."""
    if returncode < 0:
        name = signal.Signals(-returncode).name
        reason = "interrupted" if -returncode in _FROM_OUTSIDE else _SIGNALS.get(-returncode, "crashed")
        return SelfTestReport(ok=False, reason=reason, detail=f"the self-test was ended by {name}")
    try:
        report = msgspec.json.decode(stdout.strip().rpartition(b"\n")[2], type=decodable(SelfTestReport))
    except msgspec.MsgspecError:
        return SelfTestReport(
            ok=False, reason="crashed", detail=f"the self-test ended with status {returncode} and no report"
        )
    if report.ok and returncode:
        return SelfTestReport(ok=False, reason="crashed", detail=f"the self-test ended with status {returncode}")
    return report


_SIGNALS: dict[int, str] = {signal.SIGXCPU: "timeout", signal.SIGKILL: "out_of_memory"}
"""SIGKILL comes from the kernel's out-of-memory killer: our own, at the timeout, is judged before."""
_FROM_OUTSIDE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Of a supervisor that stops the agent and all its children at once, or a terminal; no bundle makes a process send them to itself."""


def child_environment() -> dict[str, str]:
    """Ours, with one thread everywhere, and the same import path."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }
