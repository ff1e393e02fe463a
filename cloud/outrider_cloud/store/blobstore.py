"""Files by their SHA-256 under one folder: parts too large for the database, and the files of releases.

A file appears under its name only when it is whole, right and on the disk. Knows nothing of who may read it.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from outrider_link.files import fsync_dir, move_durably, write_durably
from outrider_wire.errors import CallerInputError
from outrider_wire.limits import BLOB_BYTES


class BlobStore:
    """The folder ``root``; two levels, so that no directory grows without bound."""

    def __init__(self, *, root: Path) -> None:
        self._root = root

    def path(self, sha256: str) -> Path:
        """Where a blob lies, or will; its folder exists afterwards."""
        path = self._root / sha256[:2] / sha256
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            fsync_dir(self._root)
        return path

    def find(self, sha256: str) -> Path | None:
        """The file of a blob; None when it is not here."""
        path = self._root / sha256[:2] / sha256
        return path if path.is_file() else None

    def all(self) -> list[Path]:
        """Every file that is whole."""
        return [path for path in self._root.glob("??/*") if not path.name.startswith(".")]

    def read(self, sha256: str) -> bytes | None:
        """The bytes of a blob; None when it is not here."""
        path = self.find(sha256)
        return path.read_bytes() if path else None

    async def load(self, sha256: str) -> bytes | None:
        """The same beside the event loop."""
        return await asyncio.to_thread(self.read, sha256)

    def put(self, data: bytes) -> str:
        """Stores bytes; their SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        if self.find(sha256) is None:
            write_durably(self.path(sha256), data)
        return sha256

    async def receive(self, sha256: str, chunks: AsyncIterator[bytes], *, limit: int = BLOB_BYTES) -> int:
        """Stores what a stream brings, if it is the blob of that digest; its size in bytes.

        Raises:
            CallerInputError: it is longer than ``limit``, or has another digest.
        """
        path = self.path(sha256)
        temporary = path.with_name(f".{sha256}.{secrets.token_hex(4)}")
        digest, size = hashlib.sha256(), 0
        try:
            with temporary.open("wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > limit:
                        raise CallerInputError(
                            f"the blob has more than {limit} bytes", reason="too_large", fix="send a smaller file"
                        )
                    await asyncio.to_thread(_take_in, chunk, digest, file)
            if digest.hexdigest() != sha256:
                raise CallerInputError(
                    f"the bytes sent have the digest {digest.hexdigest()}, not {sha256}",
                    reason="digest_mismatch",
                    fix="send the file that the digest was taken of",
                )
            await asyncio.to_thread(move_durably, temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return size


def _take_in(chunk: bytes, digest: "hashlib._Hash", file: BinaryIO) -> None:
    digest.update(chunk)
    file.write(chunk)
