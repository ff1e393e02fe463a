"""A way to a PostgreSQL server that breaks at a COMMIT: before the server hears of it, or before anybody hears of what came of it."""

import socket
import threading
import time
from contextlib import suppress
from typing import Self

_COMMIT = b"COMMIT\0"
_PATIENCE_S = 0.3
"""How long the server gets for a commit of which nobody will hear."""


class CutConnection:
    """A relay on a port of its own."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.cut = 0
        """Commits that were cut off."""
        self._next: bool | None = None

    def __enter__(self) -> Self:
        threading.Thread(target=self._take, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def cut_at_commit(self, *, lets_through: bool) -> None:
        """The next COMMIT breaks its connection; whether the server gets it first."""
        self._next = lets_through

    def _take(self) -> None:
        with suppress(OSError):  # the listening socket is closed
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                threading.Thread(target=self._up, args=(near, far), daemon=True).start()
                threading.Thread(target=self._down, args=(far, near), daemon=True).start()

    def _up(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(65536):
                if self._next is not None and _COMMIT in data:
                    lets_through, self._next = self._next, None
                    self.cut += 1
                    near.shutdown(socket.SHUT_WR)
                    if lets_through:
                        far.sendall(data)
                        time.sleep(_PATIENCE_S)
                    break
                far.sendall(data)
        _close(near, far)

    def _down(self, far: socket.socket, near: socket.socket) -> None:
        with suppress(OSError):
            while data := far.recv(65536):
                near.sendall(data)
        _close(near, far)


def _close(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
