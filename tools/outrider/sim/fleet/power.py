"""The power and the disk of one simulated device: every change that its code makes to its folder is a step, and any may be the last.

Python tells of each change before it is made (an audit hook, PEP 578), whichever thread makes it; a context variable says whose it is.
A change after the power has gone is not made. What was written and not yet synced is kept: that such writes are lost is
`outrider.sim.power`'s to try, at every step of one device.
"""

import errno
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES: Mapping[str, int] = {"open": 0, "os.rename": 0, "os.mkdir": 0, "os.remove": 1, "os.rmdir": 1}
"""Audit event → where it has the folder's handle in place of a whole path; 0: nowhere."""
_GROWS = frozenset({"open", "os.mkdir"})
_OWNER: ContextVar["Power | None"] = ContextVar("power", default=None)
_LOOKING = threading.local()
_installed = threading.Event()


class PowerCutError(BaseException):
    """The power is gone: nothing is written any more. No `Exception`, so that no code of the device may survive it."""


class Power:
    """One life of a device, from start to cut.

    Args:
        root: the device's folder.
        watched: a folder in it.
        look: called before every change to that; must only read.
        gone: called, from any thread, when the power goes.
    """

    def __init__(self, *, root: str, watched: str, look: Callable[[], None], gone: Callable[[], None]) -> None:
        self.steps = 0
        self.dead = self.full = False
        self._root = root
        self._watched = watched
        self._look = look
        self._gone = gone
        self._left: int | None = None
        self._full_in: int | None = None
        self._on_full: Callable[[], None] = lambda: None

    def within(self, name: str) -> str:
        """The path of a name in a folder that the device's code has open: which folder is not told, and taken for a watched one."""
        return f"{self._watched}/{name}"

    def owns(self) -> None:
        """Everything that this task does from now on, and starts, is this device's."""
        _install()
        _OWNER.set(self)

    def cut_after(self, steps: int) -> None:
        """The power goes at that step from now."""
        self._left = steps

    def fill_after(self, steps: int, on_full: Callable[[], None]) -> None:
        """The disk is full from that step on; ``on_full`` is told, from any thread."""
        self._full_in, self._on_full = steps, on_full

    def free(self) -> None:
        """There is room on the disk again."""
        self.full = False

    def cut(self) -> None:
        """The power goes now."""
        if not self.dead:
            self.dead = True
            self._gone()

    def change(self, event: str, path: str) -> None:
        """Something is about to be changed."""
        if not path.startswith(self._root):
            return
        self.steps += 1
        if self.dead:
            raise PowerCutError
        if path.startswith(self._watched):
            _LOOKING.now = True
            try:
                self._look()
            finally:
                _LOOKING.now = False
        if self._full_in is not None:
            self._full_in -= 1
            if self._full_in < 0:
                self._full_in, self.full = None, True
                self._on_full()
        if self.full and event in _GROWS:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self.cut()
                raise PowerCutError


def _install() -> None:
    if not _installed.is_set():
        _installed.set()
        sys.addaudithook(_told)


def _told(event: str, args: tuple[Any, ...]) -> None:
    if event not in _CHANGES or (power := _OWNER.get()) is None or getattr(_LOOKING, "now", False):
        return
    path = args[0]
    if event == "open" and not (args[2] or 0) & WRITES:
        return
    if isinstance(path, int | None):
        return
    text = os.fsdecode(path)
    if not text.startswith("/") and (place := _CHANGES[event]) and args[place] != -1:
        text = power.within(text)
    power.change(event, text)
