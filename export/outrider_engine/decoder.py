"""Pictures decoded in a limited child process: what a hostile file does to a decoder, it does there. Knows no models.

Pillow's decoders are C and have had heap overflows that a crafted JPEG reaches. The child (`outrider_engine.decoder_child`) holds no
secret and no open file, can open none, and has a bound on its memory and time; whatever becomes of it costs one input. What it
sends back is believed no more than the file was.
"""

import fcntl
import logging
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Annotated, Self

import msgspec
from msgspec import Meta, Struct
from PIL import Image

from outrider_wire.decodable import decodable
from outrider_wire.errors import CallerInputError, OperatorSetupError
from outrider_wire.images import Mode, out_of_memory, picture_bytes
from outrider_wire.limits import IMAGE_PIXELS
from outrider_wire.task import InputPart

log = logging.getLogger(__name__)

CHILD = (sys.executable, "-P", "-m", "outrider_engine.decoder_child")
REQUEST = struct.Struct("<IIB")
"""Bytes of the file, most pixels, number of the mode in `MODES`; the file follows."""
REPLY = struct.Struct("<BIII")
"""0 and width, height and bytes of the pixels that lie in the shared memory; or 1, two zeros and bytes of a `Said` in JSON,
which follows."""
MODES: tuple[Mode, ...] = ("L", "RGB")
READY = b"!"
"""What the child says once it can decode."""
MEMORY = "picture_memory"
"""The reason after which the child ends itself: there is no telling what else has failed in it."""

_CHANNELS = {"L": 1, "RGB": 3}
_START_S = 20.0
_BASE_MB = 384
"""Address space of the interpreter and its libraries, with room for a file."""
_BYTES_PER_PIXEL = 16
"""Pillow keeps four bytes a pixel; a picture is at most loaded, converted, turned and copied at once."""
_SAID_BYTES = 4_096
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
"""glibc: memory of one picture is kept for the next. Without, each one's pages are asked of the kernel anew: at 2 megapixels three
quarters of the time."""


class Said(Struct, kw_only=True, frozen=True):
    """Why the child refuses a picture."""

    what: Annotated[str, Meta(max_length=512)]
    reason: Annotated[str, Meta(max_length=64)]
    fix: Annotated[str, Meta(max_length=256)] = ""


class _LostError(Exception):
    """The child is gone, silent or speaks nonsense; the reason is its one argument."""


class PictureDecoder:
    """`outrider_wire.images.decode_picture` in one persistent child. Call it from any thread; pictures wait for each other.

    Args:
        max_pixels: the most that any picture may have; decides the child's memory.
        memory_mb: address space of the child in MB of 2^20 bytes; None: what ``max_pixels`` needs.
        timeout_s: for one picture, processor and wall; None: what ``max_pixels`` needs on a slow machine.
        command: the child.
    """

    def __init__(
        self,
        *,
        max_pixels: int = IMAGE_PIXELS,
        memory_mb: int | None = None,
        timeout_s: float | None = None,
        command: Sequence[str] = CHILD,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """``pictures`` asked for, ``restarts`` of the child, and by reason the pictures that cost one."""
        self._max_pixels = max_pixels
        self._timeout_s = timeout_s or 2.0 + max_pixels / 4e6
        memory = memory_mb or _BASE_MB + (_BYTES_PER_PIXEL * max_pixels >> 20)
        self._command = [*command, str(memory), str(max(1, round(self._timeout_s)))]
        self._shared_bytes = max(_CHANNELS.values()) * max_pixels
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Starts the child, which is not waited for: the first picture is.

        Raises:
            OperatorSetupError: it cannot be started.
        """
        with self._lock:
            self._begin()

    def close(self) -> None:
        """Ends the child; a picture under way ends first."""
        with self._lock:
            self._end()

    def __call__(self, data: bytes | str, *, part: str, mode: Mode, max_pixels: int) -> Image.Image:
        """As `outrider_wire.images.decode_picture`.

        Raises:
            CallerInputError: as there; also when the child crashed on it (``decoder_crashed``), took too long
                (``decoder_timeout``) or too much memory (``picture_memory``).
            OperatorSetupError: the child cannot be started.
        """
        data = picture_bytes(data, part)
        with self._lock:
            self.counts["pictures"] += 1
            child = self._begin()
            try:
                found = child.ask(data, mode=mode, max_pixels=min(max_pixels, self._max_pixels), within=self._timeout_s)
            except _LostError as lost:
                raise self._replaced(part, str(lost)) from lost
            except BaseException:  # interrupted: what it still sends would be taken for the next picture's
                self._end()
                raise
            if isinstance(found, Image.Image):
                return found
            if found.reason == MEMORY:
                self._replaced(part, MEMORY)
                raise out_of_memory(part)
        raise CallerInputError(f"part {part!r} {found.what}", reason=found.reason, fix=found.fix, part=part)

    def _begin(self) -> "_Child":
        """The child; another one where it ended by itself, between two pictures, which is nobody's fault."""
        if self._child is not None and self._child.gone:
            self._end()
            self.counts["restarts"] += 1
        if self._child is None:
            try:
                self._child = _Child(self._command, shared_bytes=self._shared_bytes)
            except OSError as error:
                raise OperatorSetupError(
                    f"the process that decodes pictures cannot be started: {error}",
                    reason="no_decoder",
                    fix='make room for a process, or set [runtime] decode = "inline" if all pictures are your own',
                ) from error
        return self._child

    def _end(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def _replaced(self, part: str, reason: str) -> CallerInputError:
        """What the caller is told whose picture cost a child; another one starts at once."""
        self._end()
        self.counts[reason] += 1
        self.counts["restarts"] += 1
        log.warning("decoder.replaced", extra={"part": part, "reason": reason})
        with suppress(OperatorSetupError):  # the next picture tries again, and says so
            self._begin()
        return CallerInputError(
            f"part {part!r} is a picture that the decoder does not survive",
            reason=reason,
            fix="send another",
            part=part,
        )


def decoder_of(parts: Iterable[InputPart]) -> PictureDecoder | None:
    """A decoder for the pictures among those parts; None where there are none. The first picture starts it."""
    bounds = [part.max_pixels for part in parts if part.modality == "image"]
    return PictureDecoder(max_pixels=max(bounds)) if bounds else None


class _Child:
    """One child, the socket to it, and the memory that its pixels come in: through the socket, 6 MB take as long as their decoding."""

    def __init__(self, command: Sequence[str], *, shared_bytes: int) -> None:
        self._ready = False
        with _shared_file(shared_bytes) as shared:
            self._pixels = mmap.mmap(shared.fileno(), shared_bytes, access=mmap.ACCESS_READ)
            self._socket, theirs = socket.socketpair()
            with theirs:
                try:
                    self._process = subprocess.Popen(
                        command, stdin=theirs.fileno(), stdout=shared, stderr=subprocess.DEVNULL, env=_environment()
                    )
                except BaseException:  # interrupted too: what was opened for the child is closed
                    self._socket.close()
                    self._pixels.close()
                    raise

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def ask(self, data: bytes, *, mode: Mode, max_pixels: int, within: float) -> Image.Image | Said:
        """The picture, or why it is refused.

        Raises:
            _LostError: neither came in time, or what came can be neither.
        """
        try:
            if not self._ready:
                self._await_ready()
            deadline = time.monotonic() + within
            self._socket.settimeout(within)
            # In one piece: the child would wake for the head alone, and sleep again until the file comes.
            self._socket.sendall(REQUEST.pack(len(data), max_pixels, MODES.index(mode)) + data)
            refused, width, height, size = REPLY.unpack(self._received(REPLY.size, deadline))
            if refused:
                return self._said(size, deadline)
            if width * height > max_pixels or size != width * height * _CHANNELS[mode] or not size:
                raise _LostError("decoder_crashed")
        except TimeoutError as error:
            raise _LostError("decoder_timeout") from error
        except OSError as error:
            raise _LostError(self._fate()) from error
        with memoryview(self._pixels) as shared, shared[:size] as pixels:
            return Image.frombytes(mode, (width, height), pixels)  # a copy: the child may write there at any time

    def close(self) -> None:
        self._socket.close()
        self._pixels.close()
        self._process.kill()
        self._process.wait()

    def _await_ready(self) -> None:
        self._received(len(READY), time.monotonic() + _START_S)
        self._ready = True

    def _said(self, size: int, deadline: float) -> Said:
        if size > _SAID_BYTES:
            raise _LostError("decoder_crashed")
        try:
            return msgspec.json.decode(self._received(size, deadline), type=decodable(Said))
        except (msgspec.MsgspecError, ValueError) as error:
            raise _LostError("decoder_crashed") from error

    def _received(self, size: int, deadline: float) -> bytearray:
        buffer = bytearray(size)
        left = memoryview(buffer)
        while left:
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
            if not (got := self._socket.recv_into(left)):
                raise ConnectionResetError("the child has closed its end")
            left = left[got:]
        return buffer

    def _fate(self) -> str:
        """Why a child that has closed its end is gone."""
        with suppress(subprocess.TimeoutExpired):
            if self._process.wait(1.0) == -_SIGXCPU:
                return "decoder_timeout"
        return "decoder_crashed"


_SIGXCPU = 24
"""What the kernel ends a process with that has used up its processor time (Linux and macOS)."""


def _shared_file(size: int) -> IO[bytes]:
    """A file of that size in memory alone, which nobody can make shorter: reading what was cut off would end this process (SIGBUS).

    Where the system has none, one without a name.
    """
    if not hasattr(os, "memfd_create"):
        shared: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it  # on macOS
        shared.truncate(size)
        return shared
    shared = os.fdopen(os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b")
    shared.truncate(size)
    fcntl.fcntl(shared, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return shared


def _environment() -> dict[str, str]:
    """What the child needs to start, and nothing else of ours: no key and no token is in it."""
    ours = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONHOME") if name in os.environ}
    return {
        **ours,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        **_MALLOC,
    }
