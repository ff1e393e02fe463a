"""Ends a process whose memory has run out at once, as a kill would: its event loop may have lost what it had in hand by then.

A task whose wake-up finds no memory is never run again, and nobody is told. What was accepted stands in the store or is offered
again, so that the next start goes on; who starts it again is the service manager's affair. Knows no service, and no event loop.
"""

import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

EVERY_S = 0.25
PROBE_BYTES = 1 << 20
"""Less than this is no memory to work with."""
_LAST_WORDS = b"process.starved: Cannot allocate memory; the process ends, to be started again\n"
EXIT_CODE = 71
"""EX_OSERR of sysexits.h: an error of the operating system's."""


def has_memory() -> bool:
    """Whether the system gives this process a little more memory."""
    try:
        mmap.mmap(-1, PROBE_BYTES).close()
    except (OSError, MemoryError):
        return False
    return True


def end_at_once() -> NoReturn:
    """Without a word to anybody else, and without any more memory."""
    with suppress(OSError):
        os.write(2, _LAST_WORDS)
    os._exit(EXIT_CODE)


@contextmanager
def ended_when_starved(end: Callable[[], object] = end_at_once) -> Iterator[None]:
    """Inside the block a thread looks four times a second."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(EVERY_S):
            if not has_memory():
                end()
                return

    threading.Thread(target=look, name="memory", daemon=True).start()
    try:
        yield
    finally:
        over.set()
