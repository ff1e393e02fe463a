"""What the agent and the child that reads a camera say to each other. Types and framing only; knows neither PyAV nor GStreamer.

The agent's words are one byte each, after a `Plan` in JSON; the child's are a head and a body::

    agent   Plan, then  N: the newest frame that I have not had, once there is one
                        K: keep the frame that I had last
                        P: the kept frame, or else the last one, as a JPEG
    child   FRAME (counts, when, grey levels) · PICTURE (JPEG) · SAID (why it ends, as JSON)
"""

import struct
from typing import Annotated, Literal

from msgspec import Meta, Struct

WIDTH, HEIGHT = 64, 36
"""Of the small grey frame, whatever the camera's shape."""
NEXT, KEEP, PICTURE_WANTED = b"N", b"K", b"P"
HEAD = struct.Struct("<BI")
"""Number of the kind, and bytes of the body."""
FRAME, PICTURE, SAID = 1, 2, 3
COUNTS = struct.Struct("<QQQd")
"""Of a frame: frames read, passed over because they came too fast, and replaced before they were taken, all since the start; and its
time in seconds on the child's clock. Grey levels follow."""
FRAME_BYTES = COUNTS.size + WIDTH * HEIGHT
SAID_BYTES = 4_096

Fate = Literal["ended", "camera_unreachable", "camera_garbage", "camera_memory", "no_video", "no_gstreamer"]


class Plan(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the child is to read, and how."""

    kind: Literal["camera", "csi", "file", "stream"]
    place: str
    username: str = ""
    password: str = ""
    width: int = 0
    height: int = 0
    pixel_format: str = ""
    pipeline: list[str] = []
    transport: Literal["tcp", "udp"] = "tcp"
    max_fps: float
    max_pixels: int
    """A frame of more is never decoded."""
    picture_pixels: int
    """A picture that is given has no more; it is made smaller."""
    picture_bytes: int
    """Nor more bytes."""
    quality: int
    timeout_s: float
    """For a connection, and between two packets."""
    memory_mb: int


class Said(Struct, kw_only=True, frozen=True):
    """Why a child ends."""

    fate: Fate
    what: Annotated[str, Meta(max_length=512)]
    counts: tuple[int, int, int] = (0, 0, 0)
    """As of a frame."""
