"""Parts that devices have put before they offered what refers to them: each device's own, few, and not for long.

Whoever takes an input takes its parts out of here; what nothing refers to is swept. Knows no messages and no HTTP.
"""

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from outrider_cloud.store.blobstore import BlobStore
from outrider_wire.errors import CallerInputError, RuleRefusalError

KEPT_S = 3600.0
MOST_FILES = 256
AT_ONCE = 8
"""Of one device, and so the files that it can hold open."""


class Uploads:
    """The folder ``folder``, shared by the workers of one machine.

    Args:
        quota_bytes: what one device may have lying here.
        most_bytes: of one part; the largest that a task of this cloud takes.
    """

    def __init__(self, *, folder: Path, quota_bytes: int, most_bytes: int) -> None:
        self._folder = folder
        self._quota_bytes = quota_bytes
        self._most_bytes = most_bytes
        self._coming: Counter[str] = Counter()
        self._open: Counter[str] = Counter()

    async def receive(self, device: str, sha256: str, size: int, chunks: AsyncIterator[bytes]) -> bool:
        """Stores what a device puts, if it is the blob of that digest and size; False when it lies here already.

        Raises:
            CallerInputError: it is too large, of another size, or has another digest.
            RuleRefusalError: the device has too much lying here.
        """
        if size > self._most_bytes:
            raise CallerInputError(
                f"a part may have {self._most_bytes} bytes", reason="too_large", fix="send a smaller part"
            )
        store = self._store(device)
        if store.find(sha256) is not None:
            return False
        with self._admitted(device, size, await asyncio.to_thread(_held, self._folder / device)):
            await store.receive(sha256, chunks, limit=size)
        return True

    @contextmanager
    def _admitted(self, device: str, size: int, lying: tuple[int, int]) -> Iterator[None]:
        """Room for ``size`` bytes more, beside the bytes and files that lie here."""
        held, files = lying
        if held + self._coming[device] + size > self._quota_bytes or files >= MOST_FILES:
            raise RuleRefusalError(
                f"device {device!r} has put {held} bytes that no input refers to",
                reason="quota_exceeded",
                fix="offer the inputs that they belong to, or wait until they are swept",
            )
        if self._open[device] >= AT_ONCE:
            raise RuleRefusalError(
                f"device {device!r} puts {AT_ONCE} parts already", reason="busy", fix="put fewer at once"
            )
        self._coming[device] += size
        self._open[device] += 1
        try:
            yield
        finally:
            self._coming[device] -= size
            self._open[device] -= 1
            if not self._open[device]:
                del self._open[device], self._coming[device]

    def find(self, device: str, sha256: str) -> Path | None:
        """What that device has put; None when it is not here."""
        return self._store(device).find(sha256)

    def of(self, device: str) -> list[Path]:
        """All that a device has put and no input has taken."""
        return [file for file in (self._folder / device).rglob("*") if file.is_file()]

    def forget(self, device: str) -> None:
        """Deletes it, with the folder that bears the device's name. Blocks."""
        shutil.rmtree(self._folder / device, ignore_errors=True)

    def tidy(self, before_s: float) -> None:
        """Deletes what has lain here since before ``before_s`` (Unix time): nothing refers to it. Blocks."""
        for file in self._folder.rglob("*"):
            with contextlib.suppress(OSError):  # another worker may be tidying too
                if file.is_file() and file.stat().st_mtime < before_s:
                    file.unlink()
        for folder in sorted(self._folder.rglob("*"), reverse=True):
            with contextlib.suppress(OSError):  # most are not empty
                folder.rmdir()

    def _store(self, device: str) -> BlobStore:
        return BlobStore(root=self._folder / device)


def _held(folder: Path) -> tuple[int, int]:
    """Bytes and files below a folder."""
    sizes = []
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # taken meanwhile
            if file.is_file():
                sizes.append(file.stat().st_size)
    return sum(sizes), len(sizes)
