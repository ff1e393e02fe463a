"""Reads one camera from inside a limited child process: words come on its standard input, frames go to its standard output.

Run as ``python -m outrider_edge.video.camera_child`` by `outrider_edge.video.camera`. One life is one connection: when that ends,
so does the child, and says why. From before the first byte of a stream it has bounds on its memory, writes no file, starts no
process and gains no privilege; of anything but a stream it has no network; once there are frames it can open nothing more. It ends
with its parent.
"""

import contextlib
import io
import os
import resource
import signal
import sys
import threading
from typing import IO, Any

import msgspec
from msgspec.structs import replace
from PIL import Image

from outrider_edge.video.frames_av import AvFrames
from outrider_edge.video.frames_gst import GstFrames, NoGstreamerError
from outrider_edge.video.newest import Newest, Taken
from outrider_edge.video.protocol import (
    COUNTS,
    FRAME,
    HEAD,
    KEEP,
    NEXT,
    PICTURE,
    PICTURE_WANTED,
    SAID,
    Fate,
    Plan,
    Said,
)
from outrider_engine.confining import end_with_parent, gain_nothing, without_network
from outrider_wire.decodable import decodable

_FILES_WHILE_OPENING = 64
_GARBAGE = frozenset(
    {
        "InvalidDataError",
        "DecoderNotFoundError",
        "DemuxerNotFoundError",
        "StreamNotFoundError",
        "PatchWelcomeError",
        "BugError",
    }
)
"""PyAV's errors of bytes that are no video; all its others are of the way there."""
_SMALLER = 0.7
"""By how much a picture of too many bytes is made smaller, again and again."""

Frames = AvFrames | GstFrames


class _EndedError(Exception):
    """The connection is over; its one argument is what to say."""


def main() -> int:
    """Serves until the connection or the parent ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent ends it
        signal.signal(number, signal.SIG_IGN)
    words, out = sys.stdin.buffer, sys.stdout.buffer
    end_with_parent()
    try:
        plan = msgspec.json.decode(words.readline(), type=decodable(Plan))
        frames = _frames_of(plan)
        newest: Newest[Any] = Newest(max_fps=plan.max_fps)
        confined = threading.Event()
        threading.Thread(
            target=_read, args=(frames, newest, confined), daemon=True
        ).start()  # none can be started later
        _confine(plan)
        confined.set()
        try:
            _serve(words, out, frames, newest, plan)
        except _EndedError as ended:
            raise _EndedError(replace(ended.args[0], counts=newest.counts)) from ended
    except _EndedError as ended:
        _say(out, SAID, msgspec.json.encode(ended.args[0]))
    return 0


def _frames_of(plan: Plan) -> Frames:
    try:
        return GstFrames(plan) if plan.kind == "csi" else AvFrames(plan)
    except ImportError as error:
        raise _EndedError(Said(fate="no_video", what="PyAV is not installed")) from error
    except NoGstreamerError as error:
        raise _EndedError(Said(fate="no_gstreamer", what="there is no gst-launch-1.0")) from error


def _read(frames: Frames, newest: Newest[Any], confined: threading.Event) -> None:
    """Every frame, as it comes; then why there are no more."""
    confined.wait()
    came = False
    try:
        for frame, at_s in frames.frames():
            if not came:
                _close_door()
                came = True
            newest.offer(frame, at_s)
        newest.end(_EndedError(Said(fate="ended", what="it has ended")))
    except MemoryError:
        newest.end(_EndedError(Said(fate="camera_memory", what="its frames take more memory than there is for them")))
    except Exception as error:  # noqa: BLE001 - whatever the libraries raise on hostile bytes ends this connection, and is said
        newest.end(_EndedError(Said(fate=_fate(error), what=_in_words(error)[:512])))


def _fate(error: Exception) -> Fate:
    """Whether it could not be reached, or sent what is no video."""
    of_av = (type(error).__module__ or "").partition(".")[0] == "av"
    reachable = type(error).__name__ in _GARBAGE if of_av else not isinstance(error, OSError)
    return "camera_garbage" if reachable else "camera_unreachable"


def _in_words(error: Exception) -> str:
    """Without the address, in which a password may stand."""
    if type(error).__name__ == "ExitError":  # PyAV's word for a time that is up
        return "nothing came in time"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _serve(words: IO[bytes], out: IO[bytes], frames: Frames, newest: Newest[Any], plan: Plan) -> None:
    last: Taken[Any] | None = None
    kept: Any = None
    while word := words.read(1):
        if word == NEXT:
            last = newest.take()
            _say(out, FRAME, COUNTS.pack(*last.counts, last.at_s) + frames.grey(last.frame))
        elif word == KEEP and last is not None:
            kept = last.frame
        elif word == PICTURE_WANTED and last is not None:
            whole = frames.picture(last.frame if kept is None else kept)
            kept = None
            _say(out, PICTURE, _jpeg(whole, plan))


def _jpeg(image: Image.Image, plan: Plan) -> bytes:
    """The picture within what a model's part may be, made smaller where it must be."""
    if (excess := image.width * image.height / plan.picture_pixels) > 1:
        image = _smaller(image, excess**-0.5)
    while True:
        made = io.BytesIO()
        image.save(made, "JPEG", quality=plan.quality)
        if made.tell() <= plan.picture_bytes or min(image.size) < 16:
            return made.getvalue()
        image = _smaller(image, _SMALLER)


def _smaller(image: Image.Image, factor: float) -> Image.Image:
    width, height = (max(1, int(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _say(out: IO[bytes], kind: int, body: bytes) -> None:
    out.write(HEAD.pack(kind, len(body)) + body)
    out.flush()


def _confine(plan: Plan) -> None:
    """Bounds what this process can do, for good."""
    _limit(resource.RLIMIT_AS, plan.memory_mb << 20)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, _FILES_WHILE_OPENING)
    _limit(resource.RLIMIT_NPROC, 0)
    gain_nothing()
    if plan.kind != "stream":  # a device, a file, or a pipe from GStreamer
        without_network()


def _close_door() -> None:
    """The connection is made: nothing else is to be opened."""
    with contextlib.suppress(OSError, ValueError):
        _limit(resource.RLIMIT_NOFILE, 1 + max(map(int, os.listdir("/proc/self/fd"))))  # noqa: PTH208 - names, not paths


def _limit(kind: int, wanted: int) -> None:
    hard = resource.getrlimit(kind)[1]
    bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (bound, bound))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
    sys.stdout = None  # what could not be said is not said again
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with whatever it has started
    os._exit(0)  # the thread that reads may be waiting
