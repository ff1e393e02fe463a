"""A file system of a few megabytes of its own, so that a disk can really be full, or really be read-only."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """One that is mounted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, *, leave: int = 0) -> None:
        """Leaves that many bytes free, give or take a page."""
        with self._ballast.open("ab") as file:
            while (free := shutil.disk_usage(self.path).free - leave) > 4096:
                file.write(b"\0" * min(free, 1 << 20))
                file.flush()

    def empty(self) -> None:
        """As much room as at first."""
        self._ballast.unlink(missing_ok=True)

    def read_only(self, yes: bool) -> None:
        """Turns it so, or back; no file of it is open for writing meanwhile."""
        subprocess.run(["mount", "-o", f"remount,{'ro' if yes else 'rw'}", self.path], check=True)

    def fail(self) -> None:
        """What a kernel does to an ext4 that has failed: read-only from now on, open files included."""
        subprocess.run(["mount", "-o", "remount,abort", self.path], check=True)


@contextmanager
def small_disk(path: Path, *, megabytes: int, ext4: bool = False) -> Iterator[SmallDisk]:
    """Mounts one, in memory or (``ext4``) in an image beside it; skips the test where this process may not mount."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    if ext4:
        image = path.with_suffix(".image")
        image.write_bytes(b"")
        os.truncate(image, megabytes << 20)
        _ran("mkfs.ext4", "-q", str(image))
        command = ["mount", "-o", "loop", str(image), str(path)]
    if not _ran(*command):
        pytest.skip("mounting a small file system needs root on Linux")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def _ran(*command: str) -> bool:
    return (
        shutil.which(command[0]) is not None
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )
