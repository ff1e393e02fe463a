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
MAX_BYTES = 4 << 30
"""Of one file."""


class CacheFolder:
    """Sealed files under one folder. Everything here blocks.

    Args:
        folder: made with mode 0700 when it is not there.

    Raises:
        OperatorSetupError: it cannot be made, is a link, is another user's, or others may write to it (``cache_untrusted``).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            make_folder(folder.parent)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            found = folder.lstat()
        except OSError as error:
            raise _untrusted(folder, f"it cannot be made: {error.strerror}") from error
        if not stat.S_ISDIR(found.st_mode):
            raise _untrusted(folder, "it is no folder")
        if found.st_uid != os.geteuid():
            raise _untrusted(folder, f"it belongs to user {found.st_uid}")
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise _untrusted(folder, f"others have rights on it (mode {stat.S_IMODE(found.st_mode):04o})")

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
        """Keeps ``payload`` in the place of what had that name.

        Raises:
            OSError: the disk is full or failing; what was there stays.
        """
        write_durably(self.folder / name, seal(payload, facts), mode=0o600)
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
            files = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime)
            for path in files[: max(0, len(files) - MAX_FILES)]:
                path.unlink(missing_ok=True)


def _untrusted(folder: Path, what: str) -> OperatorSetupError:
    return OperatorSetupError(
        f"{folder} cannot keep what is loaded as code: {what}",
        reason="cache_untrusted",
        fix=f"chown and chmod 700 {folder}, or remove it",
    )
