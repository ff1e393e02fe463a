"""Files that survive a power cut. Knows durability (write, fsync, rename, fsync the folder), not what is in the files."""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path


def write_durably(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replaces ``path`` with ``data`` so that after a power cut it holds the old bytes or the new ones, never a mixture.

    Args:
        path: the file.
        data: all that it will hold.
        mode: its rights, of which the process's umask takes away; a secret's are right before its first byte is written.

    Raises:
        OSError: the disk is full, the folder is missing or not writable; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # interrupted too: no half of a file stays behind
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_dir(path.parent)


def move_durably(source: Path, target: Path) -> None:
    """Renames a finished file into place: its bytes reach the disk before its new name does."""
    fsync_file(source)
    source.replace(target)
    fsync_dir(target.parent)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, when absent, so that a power cut leaves them there: what is in it is found by its name.

    Raises:
        OSError: it cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        fsync_dir(folder.parent)
    if not missing:
        with contextlib.suppress(OSError):  # it may have been made just before a kill; a parent that is not ours is not
            fsync_dir(path.parent)


def fsync_file(path: Path) -> None:
    """Waits until the bytes of ``path`` are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def fsync_dir(path: Path) -> None:
    """Waits until the names in the folder ``path`` are on the disk: a rename is not durable before."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in lower-case hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
