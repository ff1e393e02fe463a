"""Frames of a camera on the board's own connector (CSI), by GStreamer's command ``gst-launch-1.0``. Runs in the camera's child only.

Boards bring their GStreamer, with elements for their sensors that no wheel has; its command comes with it, where bindings and an
OpenCV built for it may not. It writes frames of a size that is agreed on to a pipe.
"""

import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from PIL import Image

from outrider_edge.video.protocol import HEIGHT, WIDTH, Plan

COMMAND = "gst-launch-1.0"
SIZE = (1280, 720)
_CHANNELS = 4
_LINES = 20


class NoGstreamerError(Exception):
    """The command is not there."""


def size_of(plan: Plan) -> tuple[int, int]:
    """Width and height of every frame."""
    return (plan.width, plan.height) if plan.width else SIZE


def command_of(plan: Plan) -> list[str]:
    """The whole pipeline: the sensor's frames, or what the operator gives them from, as BGRx on standard output.

    BGRx is what Jetson's ``nvvidconv`` gives, and four bytes a pixel leave no padding at the end of a row.
    """
    width, height = size_of(plan)
    size = f"width={width},height={height}"
    given = plan.pipeline or [
        "nvarguscamerasrc",
        f"sensor-id={int(plan.place)}",
        "!",
        f"video/x-raw(memory:NVMM),{size}",
        "!",
        "nvvidconv",
    ]
    return [COMMAND, "-q", *given, "!", f"video/x-raw,format=BGRx,{size}", "!", "fdsink", "fd=1", "sync=false"]


class GstFrames:
    """The frames of one run of the command. Making it starts the command, so that the child may then be forbidden to.

    Raises:
        NoGstreamerError: there is no such command.
    """

    def __init__(self, plan: Plan) -> None:
        if shutil.which(COMMAND) is None:
            raise NoGstreamerError
        self._size = size_of(plan)
        self._process = subprocess.Popen(
            command_of(plan), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        if self._process.stdout is None or self._process.stderr is None:
            raise RuntimeError("pipes were asked for")
        self._pixels, self._words = self._process.stdout, self._process.stderr
        self._said: deque[str] = deque(maxlen=_LINES)
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def frames(self) -> Iterator[tuple[Any, float]]:
        """Each frame, and when it was taken, on `time.monotonic`.

        Raises:
            OSError: the command has ended; its first line says why.
        """
        length = self._size[0] * self._size[1] * _CHANNELS
        while len(frame := self._pixels.read(length)) == length:
            yield frame, time.monotonic()
        if self._process.wait() == 0:
            return
        self._listening.join(1.0)
        fault = next((line for line in self._said if "ERROR" in line or "WARNING" in line), "it gave no frames")
        raise OSError(f"{COMMAND}: {fault[:300]}")

    def grey(self, frame: bytes) -> bytes:
        """`HEIGHT` × `WIDTH` grey levels, row by row."""
        return self.picture(frame).convert("L").resize((WIDTH, HEIGHT), Image.Resampling.BOX).tobytes()

    def picture(self, frame: bytes) -> Image.Image:
        """The whole frame in colour."""
        return Image.frombytes("RGB", self._size, frame, "raw", "BGRX")

    def _listen(self) -> None:
        """Takes what the command says, so that it never waits to say it."""
        for line in self._words:
            self._said.append(line.decode(errors="replace").strip())
