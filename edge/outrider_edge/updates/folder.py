"""Releases from a folder that a person has brought: a USB stick, a mounted share. Everything in it is hostile until its digest says not.

Wherever in the folder a file lies, it is found by its size and digest; links are not followed.
"""

import asyncio
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path

from outrider_engine.delta.beside import find_delta
from outrider_link.files import fsync_dir
from outrider_wire.errors import BundleDamagedError, PeerError

MOST_FILES = 20_000
MOST_DEEP = 6
_PIECE = 1 << 20


class FolderSource:
    """`outrider_edge.updates.fetching.ReleaseSource` over a folder, with the deltas in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[int, list[Path]] | None = None

    async def pull_manifest(self, *, sha256: str, size: int) -> bytes:
        """As `outrider_edge.updates.fetching.ReleaseSource`."""
        return await asyncio.to_thread(self._read, sha256, size)

    async def pull_file(self, *, sha256: str, size: int, to: Path) -> Path:
        """As `outrider_edge.updates.fetching.ReleaseSource`."""
        await asyncio.to_thread(self._copy, sha256, size, to)
        return to

    async def pull_delta(self, *, sha256: str, size: int, bases: Sequence[str], to: Path) -> str | None:
        """As `outrider_edge.updates.deltas.DeltaSource`: of the deltas beside the releases."""
        return await asyncio.to_thread(self._copy_delta, sha256, size, bases, to)

    def plans(self) -> list[tuple[str, str]]:
        """(task, rollout) of every plan that lies in it, as a repository names them."""
        found = self._folder.glob("targets/*/plans/*.*.json"), self._folder.glob("targets/*/auto/plans/*.*.json")
        return sorted(
            {
                (path.relative_to(self._folder).parts[1], path.name.split(".", 1)[1].removesuffix(".json"))
                for paths in found
                for path in paths
            }
        )

    def _read(self, sha256: str, size: int) -> bytes:
        for path in self._candidates(size):
            with _opened(path) as file:
                data = file.read(size + 1)
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
        raise _missing(sha256)

    def _copy(self, sha256: str, size: int, to: Path) -> None:
        for path in self._candidates(size):
            with _opened(path) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    continue
                file.seek(0)
                part, digest = to.with_name(to.name + ".part"), hashlib.sha256()
                with part.open("wb") as out:
                    while piece := file.read(_PIECE):
                        digest.update(piece)
                        out.write(piece)
                    out.flush()
                    os.fsync(out.fileno())
            if digest.hexdigest() != sha256:
                raise BundleDamagedError("a file changed while it was copied", reason="digest_mismatch")
            part.replace(to)
            fsync_dir(to.parent)
            return
        raise _missing(sha256)

    def _copy_delta(self, sha256: str, size: int, bases: Sequence[str], to: Path) -> str | None:
        found = find_delta(self._folder, bases=bases, target=sha256)
        if found is None:
            return None
        base, path = found
        with _opened(path) as file, to.open("wb") as out:
            if os.fstat(file.fileno()).st_size >= size:  # not worth having
                return None
            shutil.copyfileobj(file, out, _PIECE)
        return base

    def _candidates(self, size: int) -> list[Path]:
        if self._sizes is None:
            self._sizes = {}
            for number, (path, found) in enumerate(_files(self._folder, MOST_DEEP)):
                if number >= MOST_FILES:
                    break
                self._sizes.setdefault(found, []).append(path)
        return self._sizes.get(size, [])


def _files(folder: Path, deep: int) -> Iterator[tuple[Path, int]]:
    """Every regular file below a folder, with its size."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False) and deep:
                yield from _files(Path(entry.path), deep - 1)
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path), entry.stat(follow_symlinks=False).st_size


def _opened(path: Path) -> BufferedReader:
    file = open(path, "rb", opener=_without_following)  # noqa: SIM115 - only open() takes an opener; who calls closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise PeerError(f"{path.name} is no file", reason="blob_gone")
    return file


def _without_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _missing(sha256: str) -> PeerError:
    return PeerError(f"no file with digest {sha256[:12]}… is in the folder", reason="blob_gone", fix="bring all of it")
