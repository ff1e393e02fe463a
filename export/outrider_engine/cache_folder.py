"""A folder that only this user can write, for what was computed here and can be computed again. Knows no models.

What lies in it is loaded as code (an optimised graph, an engine), so that the folder is refused when anybody else could have
written there; each file is under a seal (`outrider_engine.sealed`), and one that is damaged or foreign counts as absent.
"""

import contextlib
import logging
import os
import stat
from pathlib import Path

from outrider_engine.sealed import Facts, seal, unseal
from outrider_link.files import make_folder, write_durably
from outrider_wire.errors import BundleError, OperatorSetupError

log = logging.getLogger(__name__)

MAX_FILES = 64
"""More than this are pruned, the longest unused first."""
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
MAX_BYTES = 4 << 30
"""Of one file."""


class CacheFolder:
    """Sealed files under one folder. Everything here blocks.

    Args:
        folder: made with mode 0700 when it is not there.
        max_bytes: of all files together: the longest unused make room, and what does not fit at all is not kept. None: no bound.

    Raises:
        OperatorSetupError: it cannot be made, is a link, is another user's, or others have rights on it or may replace it
            (``cache_untrusted``).
    """

    def __init__(self, folder: Path, *, max_bytes: int | None = None) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        try:
            make_folder(folder.parent)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            found, above = folder.lstat(), folder.parent.stat()
        except OSError as error:
            raise _untrusted(folder, f"it cannot be made: {error.strerror}") from error
        if not stat.S_ISDIR(found.st_mode):
            raise _untrusted(folder, "it is no folder")
        if found.st_uid != os.geteuid():
            raise _untrusted(folder, f"it belongs to user {found.st_uid}")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise _untrusted(folder, f"others have rights on it (mode {stat.S_IMODE(found.st_mode):04o})")
        if above.st_mode & _OTHERS_MAY_WRITE and not above.st_mode & stat.S_ISVTX:
            raise _untrusted(
                folder, f"others may replace it: {folder.parent} has mode {stat.S_IMODE(above.st_mode):04o}"
            )

    def load(self, name: str, facts: Facts) -> tuple[bytes, str]:
        """What was stored under ``name`` with just these facts, and ''; or nothing and why: it is absent, damaged or foreign."""
        path = self.folder / name
        try:
            payload = unseal(self._read(path), facts)
        except FileNotFoundError:
            return b"", "there is none yet"
        except OSError as error:
            return b"", f"it cannot be read: {error.strerror}"
        except BundleError as error:
            log.warning("cache.refused", extra={"file": name, "reason": error.reason, "what": error.what})
            return b"", error.what
        with contextlib.suppress(OSError):
            os.utime(path)  # when it was last used: what is pruned goes by that
        return payload, ""

    def store(self, name: str, facts: Facts, payload: bytes) -> None:
        """Keeps ``payload`` in the place of what had that name, unless it alone is above the bound.

        Raises:
            OSError: the disk is full or failing; what was there stays.
        """
        data = seal(payload, facts)
        if self._max_bytes is not None and len(data) > self._max_bytes:
            log.warning("cache.not_kept", extra={"file": name, "bytes": len(data), "most": self._max_bytes})
            self.drop(name)
            return
        write_durably(self.folder / name, data, mode=0o600)
        self._prune()

    def drop(self, name: str) -> None:
        """Forgets what has that name."""
        (self.folder / name).unlink(missing_ok=True)

    def _read(self, path: Path) -> bytes:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
                raise OSError(0, "it is no plain file, or too large")
            return file.read()

    def _prune(self) -> None:
        with contextlib.suppress(OSError):
            facts = [(path.stat(), path) for path in self.folder.iterdir()]
            left = 0
            newest = sorted(facts, key=lambda each: each[0].st_mtime_ns, reverse=True)
            for place, (found, path) in enumerate(newest):
                left += found.st_size
                if place >= MAX_FILES or (self._max_bytes is not None and left > self._max_bytes):
                    path.unlink(missing_ok=True)
                    left -= found.st_size


def _untrusted(folder: Path, what: str) -> OperatorSetupError:
    return OperatorSetupError(
        f"{folder} cannot keep what is loaded as code: {what}",
        reason="cache_untrusted",
        fix=f"chown and chmod 700 {folder}, or remove it",
    )
