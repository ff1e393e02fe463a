"""Starts and stops a disk that forgets. Knows processes and mounts, not what is written."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import msgspec

from outrider.sim.power.disk import MOOD, Op
from outrider_wire.decodable import decodable
from outrider_wire.errors import OperatorSetupError

_START_S = 10.0


def missing() -> str:
    """Why no such disk can be mounted here; '' when it can."""
    if importlib.util.find_spec("mfusepy") is None:
        return "the library mfusepy is not installed (pip install 'outrider[dev]')"
    if shutil.which("fusermount3") is None:
        return "fuse3 is not installed"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is not there, or not ours to open"
    return ""


class Mounted:
    """``with Mounted(folder=…) as disk:``, empty at first; afterwards ``disk.journal`` is all that happened on it.

    Args:
        folder: where it appears; made when absent.
    """

    def __init__(self, *, folder: Path) -> None:
        self.folder = folder
        self.journal: list[Op] = []
        self._journal_file = folder.with_name(folder.name + ".journal")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Mounts it.

        Raises:
            OperatorSetupError: there is no FUSE here.
        """
        if problem := missing():
            raise OperatorSetupError(
                f"no disk can be simulated: {problem}",
                reason="no_fuse",
                fix="install fuse3 and mfusepy, or leave it out",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "outrider.sim.power.mount", str(self.folder), str(self._journal_file)]
        log = self.folder.with_name(self.folder.name + ".log")
        with log.open("ab") as words:
            self._process = subprocess.Popen(command, stdout=words, stderr=words)
        deadline = time.monotonic() + _START_S
        while not self.folder.is_mount():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise OperatorSetupError(
                    f"the disk cannot be mounted: {log.read_text(errors='replace').strip()[-300:]}",
                    reason="no_fuse",
                    fix="see whether fusermount3 works here",
                )
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        """Unmounts it, whoever still uses it, and reads the journal."""
        process, self._process = self._process, None
        if process is None:
            return
        subprocess.run(["fusermount3", "-u", "-z", str(self.folder)], capture_output=True, check=False)
        try:
            process.wait(_START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(FileNotFoundError):
            self.journal = msgspec.msgpack.decode(self._journal_file.read_bytes(), type=decodable(list[Op]))

    def mood(self, mood: str) -> None:
        """How it takes changes from now on: ``ok``, ``full``, ``readonly`` or ``broken``."""
        with (self.folder / MOOD.strip("/")).open("w") as file:
            file.write(mood)
