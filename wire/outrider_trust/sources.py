"""Where signed metadata comes from: one seam for a broker, HTTP, a folder or a USB stick. Verifies nothing: all of it is hostile.

A path is relative to a repository's folder: ``metadata/timestamp.json``, ``metadata/3.easy-vqa.json``,
``targets/easy-vqa/plans/{sha256}.{rollout}.json``.
"""

import os
import re
import stat
from pathlib import Path
from typing import Protocol

from outrider_wire.errors import PeerError, TrustRefusedError, UnreachableError
from outrider_wire.names import END

PATH_BYTES = 256
_PATH = re.compile(rf"[a-z0-9_][a-z0-9._-]*(/[a-z0-9_][a-z0-9._-]*)*{END}")


class NotHereError(PeerError):
    """Whoever answers does not have that file, which is normal: a newer root is asked for until there is none."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path[:PATH_BYTES]!r} is not there", reason="metadata_missing")


class MetadataSource(Protocol):
    """Serves the files of a repository. Real: `DirectorySource`, and those of the uplink and of HTTP."""

    def fetch(self, path: str, most: int) -> bytes:
        """The file of that path.

        Args:
            path: see `checked_path`.
            most: bytes that will be taken; more need not be sent.

        Raises:
            NotHereError: there is none.
            UnreachableError: nobody answers now.
        """
        ...


def checked_path(path: str) -> str:
    """A path that can lead nowhere else: ``[a-z0-9._/-]``, no part of it empty or with a leading dot or dash.

    Raises:
        TrustRefusedError: ``metadata_path``.
    """
    if len(path) > PATH_BYTES or not _PATH.match(path):
        raise TrustRefusedError(f"{path[:PATH_BYTES]!r} is not a path of a repository", reason="metadata_path")
    return path


class DirectorySource:
    """A repository in a folder: on a USB stick, or what `outrider ota` works on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fetch(self, path: str, most: int) -> bytes:
        """The file; one byte more than ``most`` at the most, so that what is too long is seen to be."""
        if not self._folder.is_dir():
            raise UnreachableError(f"there is no folder {self._folder}", reason="source_gone", fix="is it mounted?")
        try:
            with open(self._folder / checked_path(path), "rb", opener=_without_waiting) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise NotHereError(path)
                return file.read(most + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotHereError(path) from error
        except OSError as error:
            raise UnreachableError(
                f"{path} cannot be read from {self._folder}: {error}", reason="source_unreadable"
            ) from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe that somebody put there would never answer
