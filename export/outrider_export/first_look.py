"""The first load of an ONNX file that comes from elsewhere: a limited child process does it, and may die of it.

The walk over its bytes tells what a file holds, not what it computes: four bytes of a constant's shape can ask for 16 GiB as the
runtime folds them. Knows how to start and judge the child; what it does is in `outrider_export.first_look_child`.
"""

import subprocess
import sys
from collections.abc import Sequence

from outrider_engine.selftest import judge
from outrider_engine.walk import ModelFacts, walk
from outrider_wire.errors import BundleUnsafeError, OperatorSetupError

CHILD = (sys.executable, "-P", "-m", "outrider_export.first_look_child")
LEAST_MB = 2048
"""Address space of the child, ONNX Runtime's own and a small model's; a large model gets `TIMES` its size on top."""
TIMES = 6


def first_look(data: bytes, *, timeout_s: float = 120.0, command: Sequence[str] = CHILD) -> ModelFacts:
    """Walks an ONNX file, then loads it and runs it once on zeros in a child with bounded memory and time.

    Raises:
        BundleDamagedError: it is no ONNX file.
        BundleUnsafeError: it holds what no device would load, or the child did not survive it.
        OperatorSetupError: the child cannot be started.
    """
    facts = walk(data)
    memory_mb = LEAST_MB + TIMES * (len(data) >> 20)
    try:
        child = subprocess.run(
            [*command, str(memory_mb), str(round(timeout_s))],
            input=data,
            stdout=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _unsafe(f"its first run takes more than {timeout_s:g} s", "timeout") from error
    except OSError as error:
        raise OperatorSetupError(f"the first look cannot be started: {error}", reason="no_child") from error
    report = judge(child.returncode, child.stdout)
    if report.ok:
        return facts
    if report.reason == "out_of_memory":
        raise _unsafe(f"it computes more than {memory_mb} MB hold", "out_of_memory")
    raise _unsafe(report.detail, report.reason)


def _unsafe(what: str, reason: str) -> BundleUnsafeError:
    return BundleUnsafeError(
        f"the ONNX file is refused: {what}", reason=reason, fix="run it in ONNX Runtime yourself, and export it again"
    )
