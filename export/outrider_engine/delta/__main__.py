"""``python -m outrider_engine.delta BASE TARGET OUT``: makes a delta at low priority, in a process that can be killed.

Exit code 0: OUT holds it; 3: it is not worth having.
"""

import os
import sys
from pathlib import Path

from outrider_engine.delta.beside import worth_sending

NOT_WORTH = 3


def main() -> int:
    """Runs it."""
    base, target, out = map(Path, sys.argv[1:])
    os.nice(10)
    delta = worth_sending(base, target)
    if delta is None:
        return NOT_WORTH
    out.write_bytes(delta)
    return 0


if __name__ == "__main__":
    sys.exit(main())
