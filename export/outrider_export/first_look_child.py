"""The first load of an ONNX file, from inside the limited child: load, load optimised, run once on zeros, say so in a line of JSON.

Run as ``python -m outrider_export.first_look_child MEMORY_MB CPU_S`` with the file on standard input. Imports neither torch nor onnx.
"""

import resource
import sys

import msgspec
import numpy as np

from outrider_engine.selftest import SelfTestReport
from outrider_engine.session import OrtSession
from outrider_wire.errors import OutriderError


def main(arguments: list[str]) -> int:
    """Prints the report; the exit status is 0 whatever it says."""
    memory_mb, cpu_s = map(int, arguments)
    for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, cpu_s), (resource.RLIMIT_AS, memory_mb << 20)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    report = examine(sys.stdin.buffer.read())
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0


def examine(data: bytes) -> SelfTestReport:
    """Without optimisation first: what it would fold stays small until it runs."""
    try:
        OrtSession(data, optimise=False)
        session = OrtSession(data)
        session.run(
            {
                fact.name: np.zeros([size if isinstance(size, int) else 1 for size in fact.shape], fact.dtype)
                for fact in session.inputs
            }
        )
    except OutriderError as error:
        return SelfTestReport(ok=False, reason=error.reason, detail=error.what)
    except MemoryError:
        return SelfTestReport(ok=False, reason="out_of_memory", detail="it asks for more memory than it may have")
    except (TypeError, ValueError) as error:
        return SelfTestReport(ok=False, reason="model_failed", detail=f"its inputs cannot be made: {error}")
    return SelfTestReport(ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
