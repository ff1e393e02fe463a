"""Payload above the inline limit, by digest: files that outlive a power cut, or memory. Knows no rows and counts no inputs."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from outrider_link.files import write_durably


class Payloads(Protocol):
    """Where large payload lies. `hold` and `release` bracket the commit of the rows that refer to it."""

    def hold(self, sha256: str, data: bytes) -> None:
        """Keeps the bytes, as durably as this place does; `drop` spares them until `release`."""

    def release(self, sha256: str) -> None:
        """The rows are committed (or never will be)."""

    def drop(self, sha256: str) -> None:
        """No row refers to it any more."""

    def open(self, sha256: str) -> bytes | Path | None:
        """The bytes, or the file that holds them; None when they are not here."""


class _Holds:
    """How many hold a digest. Safe to use from several threads."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def release(self, sha256: str) -> None:
        with self._lock:
            self._held[sha256] -= 1
            if self._held[sha256] <= 0:
                del self._held[sha256]


class PayloadFiles(_Holds):
    """One file a digest in one folder. Safe to use from several threads."""

    def __init__(self, *, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def hold(self, sha256: str, data: bytes) -> None:
        with self._lock:
            self._held[sha256] += 1
        path = self._folder / sha256
        if not path.exists():
            write_durably(path, data)

    def drop(self, sha256: str) -> None:
        with self._lock:
            if sha256 not in self._held:
                (self._folder / sha256).unlink(missing_ok=True)

    def open(self, sha256: str) -> Path | None:
        path = self._folder / sha256
        return path if path.is_file() else None

    def names(self) -> Iterator[str]:
        """What lies in the folder, half-written files included."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                yield entry.name


class PayloadMemory(_Holds):
    """The same for entries that need not survive a restart."""

    def __init__(self) -> None:
        super().__init__()
        self._data: dict[str, bytes] = {}

    def hold(self, sha256: str, data: bytes) -> None:
        with self._lock:
            self._held[sha256] += 1
            self._data[sha256] = data

    def drop(self, sha256: str) -> None:
        with self._lock:
            if sha256 not in self._held:
                self._data.pop(sha256, None)

    def open(self, sha256: str) -> bytes | None:
        return self._data.get(sha256)
