"""The agent's end of one camera: starts the limited child that reads it, and asks it for frames. Decodes nothing itself.

What a camera sends is hostile bytes to a decoder in C: it never reaches this process. What the child sends back is believed no more.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, NoReturn, assert_never

import msgspec
import numpy as np

from outrider_edge.video.motion import Grey
from outrider_edge.video.newest import Counts
from outrider_edge.video.protocol import (
    COUNTS,
    FRAME,
    FRAME_BYTES,
    HEAD,
    HEIGHT,
    KEEP,
    NEXT,
    PICTURE,
    PICTURE_WANTED,
    SAID,
    SAID_BYTES,
    WIDTH,
    Plan,
    Said,
)
from outrider_wire.decodable import decodable
from outrider_wire.errors import OperatorSetupError, OutriderError, PeerMessageError, UnreachableError

CHILD = (sys.executable, "-P", "-m", "outrider_edge.video.camera_child")
START_S = 20.0
"""Until the child has loaded its libraries and has a frame; beside what the camera itself takes."""
_INSTALL = "pip install 'outrider[video]'"


class EndOfVideo(Exception):  # noqa: N818 - no error: a file has an end
    """There are no more frames, and never will be."""


class Frame(NamedTuple):
    """One frame, small and grey."""

    grey: Grey
    at_s: float
    """On the clock of the child."""


class Camera:
    """One connection, which ends by an error; `camera` makes it.

    Args:
        name: of the source, for what is said of it.
        plan: what is read.
        stall_s: without a frame for so long it is given up.
        pid: of the child.
        words: to the child.
        says: from the child.
    """

    def __init__(
        self,
        *,
        name: str,
        plan: Plan,
        stall_s: float,
        pid: int,
        words: asyncio.StreamWriter,
        says: asyncio.StreamReader,
    ) -> None:
        self.pid = pid
        self._name = name
        self._plan = plan
        self._stall_s = stall_s
        self._words = words
        self._says = says
        self.counts = Counts()
        """Frames, as last heard of."""
        self._came = False
        self._write(msgspec.json.encode(plan) + b"\n")

    async def next(self) -> Frame:
        """The newest frame that was not given before, once there is one.

        Raises:
            EndOfVideo: of a file: that was all.
            UnreachableError: it cannot be reached, or gives no frame in time.
            PeerMessageError: it sends what is no video; the child did not survive it.
            OperatorSetupError: what reads it is not installed.
        """
        self._write(NEXT)
        within = self._stall_s if self._came else self._stall_s + START_S
        body = await self._reply(FRAME, most=FRAME_BYTES, within_s=within)
        if len(body) != FRAME_BYTES:
            raise self._nonsense()
        self._came = True
        read, paced, dropped, at_s = COUNTS.unpack_from(body)
        grey = np.frombuffer(body, np.uint8, offset=COUNTS.size).reshape(HEIGHT, WIDTH)
        self.counts = Counts(read, paced, dropped)
        return Frame(grey, at_s)

    def keep(self) -> None:
        """The frame given last is the one that `picture` will be of."""
        self._write(KEEP)

    async def picture(self) -> bytes:
        """The kept frame, or else the last one, whole, as a JPEG; errors as `next`."""
        self._write(PICTURE_WANTED)
        return await self._reply(PICTURE, most=self._plan.picture_bytes, within_s=self._stall_s)

    def _write(self, words: bytes) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):  # gone: the reply says so
            self._words.write(words)

    async def _reply(self, wanted: int, *, most: int, within_s: float) -> bytes:
        try:
            async with asyncio.timeout(within_s):
                kind, size = HEAD.unpack(await self._says.readexactly(HEAD.size))
                if size > (SAID_BYTES if kind == SAID else most) or kind not in (wanted, SAID):
                    raise self._nonsense()
                body = await self._says.readexactly(size)
        except TimeoutError as error:
            raise UnreachableError(
                f"camera {self._name!r} gave no frame for {within_s:g} s",
                reason="camera_stalled",
                fix="look whether it runs; a slower one needs a longer stall_s",
            ) from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise PeerMessageError(
                f"camera {self._name!r} sends what the process that reads it does not survive",
                reason="camera_crashed",
                fix="look what is at that address",
            ) from error
        if kind == SAID:
            self._raise_said(body)
        return body

    def _raise_said(self, body: bytes) -> NoReturn:
        try:
            said = msgspec.json.decode(body, type=decodable(Said))
        except (msgspec.MsgspecError, ValueError) as error:
            raise self._nonsense() from error
        self.counts = Counts(*map(max, self.counts, said.counts))
        if said.fate == "ended" and self._plan.kind == "file":
            raise EndOfVideo
        raise _error(self._name, said)

    def _nonsense(self) -> PeerMessageError:
        return PeerMessageError(
            f"the process that reads camera {self._name!r} speaks nonsense",
            reason="camera_crashed",
            fix="look what is at that address",
        )


@asynccontextmanager
async def camera(name: str, plan: Plan, *, stall_s: float, command: Sequence[str] = CHILD) -> AsyncIterator[Camera]:
    """A camera and its child, which ends with the block; ``command`` is the child.

    Raises:
        OperatorSetupError: it cannot be started.
    """
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise OperatorSetupError(
            f"camera {name!r}: the process that reads it cannot be started: {error}",
            reason="no_camera_process",
            fix="make room for a process",
        ) from error
    words, says = process.stdin, process.stdout
    if words is None or says is None:
        raise RuntimeError("pipes were asked for")
    try:
        yield Camera(name=name, plan=plan, stall_s=stall_s, pid=process.pid, words=words, says=says)
    finally:
        if process.returncode is None or plan.kind == "csi":  # GStreamer may have survived it
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())
        words.close()


def _error(name: str, said: Said) -> OutriderError:
    what = f"camera {name!r}: {said.what}"
    match said.fate:
        case "ended":
            return UnreachableError(
                f"{what}: the other end closed it", reason="camera_unreachable", fix="it is tried again"
            )
        case "camera_unreachable":
            return UnreachableError(what, reason="camera_unreachable", fix="look whether it is there, and its address")
        case "camera_garbage" | "camera_memory":
            return PeerMessageError(what, reason=said.fate, fix="look what is at that address")
        case "no_video":
            return OperatorSetupError(what, reason="no_video", fix=_INSTALL)
        case "no_gstreamer":
            return OperatorSetupError(what, reason="no_gstreamer", fix="install the board's GStreamer tools")
        case _ as never:
            assert_never(never)


def _environment() -> dict[str, str]:
    """What the child needs to start, and nothing else of ours: no key and no token is in it. GStreamer's own settings are."""
    ours = ("LD_LIBRARY_PATH", "PYTHONHOME", "PATH", "XDG_RUNTIME_DIR")
    kept = {name: value for name, value in os.environ.items() if name in ours or name.startswith("GST_")}
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "MALLOC_ARENA_MAX": "2",
    }
