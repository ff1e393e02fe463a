"""Where a pulled blob goes: memory, or a file that grows as ``.part`` and is renamed once verified. Knows no messages."""

import asyncio
import contextlib
import hashlib
import os
from io import BufferedRandom
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from outrider_link.files import move_durably, sha256_file


class Sink(Protocol):
    """Takes a blob's bytes in order, inside ``with``."""

    length: int
    """Bytes it has: where a pull goes on."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def append(self, data: bytes) -> None:
        """Takes the next bytes."""

    async def finish(self, sha256: str) -> bool:
        """Whether all it has is what was asked for; if not, it is empty again."""


class MemorySink:
    """Collects a blob in memory."""

    def __init__(self) -> None:
        self.length = 0
        self._pieces: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def append(self, data: bytes) -> None:
        """Takes the next bytes."""
        if data:
            self._pieces.append(data)
            self.length += len(data)

    async def finish(self, sha256: str) -> bool:
        """Whether all it has is what was asked for; if not, it is empty again."""
        if hashlib.sha256(self.content()).hexdigest() == sha256:
            return True
        self._pieces, self.length = [], 0
        return False

    def content(self) -> bytes:
        """All it has."""
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""


def sweep_parts(folder: Path, *, before_s: float, most: int) -> None:
    """Deletes what was begun in ``folder`` and not touched since ``before_s`` (Unix time), and of the rest all but the newest ``most``."""
    touched: list[tuple[float, Path]] = []
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a pull that ends well renames its file
            touched.append((file.stat().st_mtime, file))
    for place, (at, file) in enumerate(sorted(touched, reverse=True)):
        if at < before_s or place >= most:
            file.unlink(missing_ok=True)


class FileSink:
    """Collects a blob in ``<to>.part``, from where an earlier one left off; `finish` makes it ``to``, durably."""

    def __init__(self, *, to: Path, size: int) -> None:
        self.length = 0
        self._to = to
        self._size = size
        self._part = to.with_name(f"{to.name}.part")
        self._file: BufferedRandom | None = None

    async def is_there(self, sha256: str) -> bool:
        """Whether the finished file is there already."""
        if not self._to.is_file() or self._to.stat().st_size != self._size:
            return False
        return await asyncio.to_thread(sha256_file, self._to) == sha256

    def __enter__(self) -> Self:
        """Opens the part file; one longer than the blob cannot be a beginning of it and is emptied."""
        self._to.parent.mkdir(parents=True, exist_ok=True)
        self._part.touch()
        self._file = self._part.open("r+b")
        self.length = self._file.seek(0, os.SEEK_END)
        if self.length > self._size:
            self._empty()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self.length == 0:
            self._part.unlink(missing_ok=True)

    def append(self, data: bytes) -> None:
        """Takes the next bytes."""
        if data and self._file is not None:
            self._file.write(data)
            self.length += len(data)

    async def finish(self, sha256: str) -> bool:
        """Whether all it has is what was asked for: then it is ``to``, durably. If not, it is empty again."""
        if self._file is None:
            return False
        self._file.flush()
        if await asyncio.to_thread(sha256_file, self._part) != sha256:
            self._empty()
            return False
        await asyncio.to_thread(move_durably, self._part, self._to)
        return True

    def _empty(self) -> None:
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self.length = 0
