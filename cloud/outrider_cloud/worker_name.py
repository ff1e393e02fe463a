"""Who this process is among the workers of one store: a name that stays the same over a restart, held by one process at a time."""

import fcntl
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from outrider_wire.errors import OperatorSetupError


def default_name(host: str | None = None) -> str:
    """The host's name within the grammar of names."""
    name = re.sub(r"[^a-z0-9]+", "-", (host or socket.gethostname()).lower()).strip("-")
    return name[:64] or "worker"


@contextmanager
def held(name: str, folder: Path) -> Iterator[None]:
    """Holds ``name`` while the block lasts; the system lets it go when the process dies, however it dies.

    Raises:
        OperatorSetupError: another process holds it.
    """
    with (folder / f"worker-{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OperatorSetupError(
                f"a worker named {name!r} already serves the data folder {folder}",
                reason="worker_runs_already",
                fix='stop it, or give this one another name: worker = "…"',
            ) from error
        yield
