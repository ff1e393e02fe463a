"""An engine's build, from outside: starts the child, hears its progress, ends it when it takes too long. Blocks; knows no library."""

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from outrider_engine.native.build_child import Line, Request
from outrider_engine.native.target import Target
from outrider_engine.selftest import child_environment
from outrider_wire.decodable import decodable

log = logging.getLogger(__name__)

CHILD = (sys.executable, "-P", "-m", "outrider_engine.native.build_child")
TIMEOUT_S = 3600.0
"""A large model takes a Jetson tens of minutes; nobody waits for it."""

Progress = Callable[[float, str], None]
"""Told the share that is done, 0 to 1, and the phase."""


class BuildReport(Struct, kw_only=True, frozen=True):
    """What came of a build."""

    ok: bool
    reason: str = ""
    """``timeout``, ``stopped``, ``crashed``, ``out_of_memory``, or the reason of the error that the build ended in."""
    detail: str = ""
    """The same for a person."""
    bytes: int = 0
    seconds: float = 0.0


class EngineBuild:
    """One build, in a child process of its own. Made and run once; `stop` may be called from any thread."""

    def __init__(self, *, target: Target, folder: Path, data: bytes, command: Sequence[str] = CHILD) -> None:
        self._request = msgspec.json.encode(Request(target=target, folder=str(folder), size=len(data))) + b"\n" + data
        self._command = list(command)
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._why = ""

    def run(self, progress: Progress = lambda share, phase: None, *, timeout_s: float = TIMEOUT_S) -> BuildReport:
        """Builds the engine into the folder; never raises for what goes wrong in the child."""
        with self._lock:
            if self._why:
                return self._ended(0)
            try:
                self._child = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment()
                )
            except OSError as error:
                return BuildReport(ok=False, reason="no_child", detail=f"the build cannot be started: {error}")
        timer = threading.Timer(timeout_s, self._end, args=("timeout",))
        timer.start()
        feeder = threading.Thread(target=self._feed, daemon=True)
        feeder.start()
        try:
            last = self._hear(progress)
            returncode = self._child.wait()
        finally:
            timer.cancel()
            self._end("stopped")
            self._child.wait()
            feeder.join()
        if last is None or returncode:
            return self._ended(returncode)
        return BuildReport(
            ok=not last.reason, reason=last.reason, detail=last.detail, bytes=last.bytes, seconds=last.seconds
        )

    def stop(self) -> None:
        """Ends it now."""
        self._end("stopped")

    def _feed(self) -> None:
        child = self._child
        if child is None or child.stdin is None:
            return
        try:
            child.stdin.write(self._request)
            child.stdin.close()
        except OSError as error:  # it died before it had read all: its exit status says why
            log.debug("engine.build_unread", extra={"what": str(error)})

    def _hear(self, progress: Progress) -> Line | None:
        """Its last line; None: it ended without one."""
        child = self._child
        if child is None or child.stdout is None:
            return None
        for text in child.stdout:
            try:
                line = msgspec.json.decode(text, type=decodable(Line))
            except msgspec.MsgspecError:
                continue  # the library itself may print
            if line.done:
                return line
            progress(line.share, line.phase)
        return None

    def _end(self, why: str) -> None:
        with self._lock:
            if self._child is None:
                self._why = self._why or why
            elif self._child.poll() is None:
                self._why = self._why or why
                self._child.kill()

    def _ended(self, returncode: int) -> BuildReport:
        if self._why:
            return BuildReport(ok=False, reason=self._why, detail=f"the build was ended: {self._why}")
        if returncode == -signal.SIGKILL:
            return BuildReport(ok=False, reason="out_of_memory", detail="the build was killed, as for want of memory")
        name = signal.Signals(-returncode).name if returncode < 0 else f"status {returncode}"
        return BuildReport(ok=False, reason="crashed", detail=f"the build ended by {name} without a report")
