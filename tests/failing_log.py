"""A log that cannot be written: what a process meets in its own supervisors once it has no memory left."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Failed:
    """The events that were not written."""

    events: list[str] = field(default_factory=list)


class _Full(logging.Handler):
    def __init__(self, failed: Failed) -> None:
        super().__init__(logging.WARNING)
        self._failed = failed

    def emit(self, record: logging.LogRecord) -> None:
        self._failed.events.append(str(record.msg))
        raise MemoryError


@contextmanager
def no_memory_for_the_log_of(name: str) -> Iterator[Failed]:
    """Inside the block every warning and error of that logger raises `MemoryError` where it is said."""
    failed = Failed()
    handler = _Full(failed)
    logging.getLogger(name).addHandler(handler)
    try:
        yield failed
    finally:
        logging.getLogger(name).removeHandler(handler)
