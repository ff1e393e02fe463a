"""How Python itself is set while the agent serves, and as it was before once it has ended. Knows no part of the agent."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TURN_S = 0.0005
"""How long another thread may keep the event loop waiting for the interpreter. Python's own 5 ms are ten answers: measured while a
model is loaded beside it, the slowest tenth of the answers took 12 to 22 ms with them, and 0.8 with this."""

_found: list[float] = []
"""Python's own turn, once for each agent that serves in this process: they may end in any order, and the last one puts it back."""


@contextmanager
def set_for_serving() -> Iterator[None]:
    """Threads take short turns, and what is there now is never again searched for garbage: that takes as long as fifty answers."""
    _found.append(_found[0] if _found else sys.getswitchinterval())
    sys.setswitchinterval(TURN_S)
    gc.freeze()
    try:
        yield
    finally:
        before = _found.pop()
        if not _found:
            gc.unfreeze()
            sys.setswitchinterval(before)
