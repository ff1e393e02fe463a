"""Frames of a video device, a stream or a file, by PyAV (FFmpeg's libraries in a wheel). Runs in the camera's child only.

Only a few of FFmpeg's formats, decoders and protocols are let near what comes: a playlist, which could name any file of this
machine, is none of them.
"""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

from PIL import Image

from outrider_edge.video.protocol import HEIGHT, WIDTH, Plan

DEMUXERS = {
    "camera": "video4linux2,v4l2",
    "file": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,avi,mjpeg",
    "rtsp": "rtsp,sdp,rtp,mpegts",
    "http": "mpegts,mjpeg,mpjpeg,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm",
    "raw": "mpegts,matroska,webm,mjpeg,mpjpeg",
}
PROTOCOLS = {
    "camera": "file",
    "file": "file",
    "rtsp": "rtsp,rtp,tcp,udp,tls,crypto",
    "http": "http,https,tcp,tls,crypto",
    "raw": "tcp,udp",
}
DECODERS = "h264,hevc,mjpeg,rawvideo,vp8,vp9,libdav1d,av1,mpeg4,mpeg2video"


def way_of(plan: Plan) -> str:
    """Which rows of the tables a plan stands under."""
    if plan.kind != "stream":
        return plan.kind
    scheme = urlsplit(plan.place).scheme
    return {"rtsp": "rtsp", "rtsps": "rtsp", "http": "http", "https": "http"}.get(scheme, "raw")


def options_of(plan: Plan) -> dict[str, str]:
    """FFmpeg's options, by its names."""
    way = way_of(plan)
    options = {
        "format_whitelist": DEMUXERS[way],
        "protocol_whitelist": PROTOCOLS[way],
        "codec_whitelist": DECODERS,
        "max_pixels": str(plan.max_pixels),
        "threads": "1",
        "fpsprobesize": "0",  # else a second passes before the first frame, while FFmpeg guesses a rate that nobody asks for
        "probesize": "2000000",
        "analyzeduration": "3000000",
    }
    if way == "rtsp":
        options |= {"rtsp_transport": plan.transport, "allowed_media_types": "video"}
    if plan.place.startswith("udp:"):
        options["fifo_size"] = "0"  # else FFmpeg starts a thread, which the child may not
    if way == "camera" and plan.width:
        options["video_size"] = f"{plan.width}x{plan.height}"
    if way == "camera" and plan.pixel_format:
        options["input_format"] = plan.pixel_format
    return options


def address_of(plan: Plan) -> str:
    """Where FFmpeg is to look, the user's name and password in it."""
    if not plan.username or plan.kind != "stream":
        return plan.place
    scheme, _, rest = plan.place.partition("://")
    return f"{scheme}://{quote(plan.username, safe='')}:{quote(plan.password, safe='')}@{rest}"


class AvFrames:
    """The frames of one connection. Making it loads the libraries and opens nothing."""

    def __init__(self, plan: Plan) -> None:
        import av  # noqa: PLC0415  only the child of a configured camera needs it

        av.logging.set_level(None)
        self._open = av.open
        self._plan = plan

    def frames(self) -> Iterator[tuple[Any, float]]:
        """Each frame, and when it was taken, on `time.monotonic`. A file goes at its own pace.

        Raises:
            OSError, ValueError: `av.FFmpegError` is one of them.
        """
        plan = self._plan
        with self._open(
            address_of(plan),
            format="v4l2" if plan.kind == "camera" else None,
            options=options_of(plan),
            timeout=(plan.timeout_s, plan.timeout_s),
        ) as container:
            if not container.streams.video:
                raise ValueError("there is no video in it")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"max_pixels": str(plan.max_pixels)}
            began = time.monotonic()
            for frame in container.decode(stream):
                if frame.width * frame.height > plan.max_pixels:
                    raise ValueError(f"its frames have more than {plan.max_pixels} pixels")
                if plan.kind == "file" and frame.time is not None:
                    time.sleep(min(max(0.0, began + frame.time - time.monotonic()), plan.timeout_s))
                yield frame, time.monotonic()

    @staticmethod
    def grey(frame: Any) -> bytes:
        """`HEIGHT` × `WIDTH` grey levels, row by row."""
        plane = frame.reformat(width=WIDTH, height=HEIGHT, format="gray", interpolation="AREA", threads=1).planes[0]
        rows, line = bytes(plane), plane.line_size
        return b"".join(rows[line * row : line * row + WIDTH] for row in range(HEIGHT))

    @staticmethod
    def picture(frame: Any) -> Image.Image:
        """The whole frame in colour."""
        image: Image.Image = frame.to_image(threads=1)
        return image
