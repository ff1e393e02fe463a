"""Cameras of the tests: clips that are drawn and encoded here, served from a file, over TCP, and by a small RTSP server."""

import asyncio
import base64
import io
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

SIZE = (160, 120)
"""Width and height of every clip."""
FPS = 25
GREY = (90, 90, 90)


def plain(colour: Sequence[int] = GREY) -> Picture:
    """A picture of one colour."""
    picture = np.empty((SIZE[1], SIZE[0], 3), np.uint8)
    picture[:] = colour
    return picture


def still(count: int, colour: Sequence[int] = GREY) -> list[Picture]:
    """Nothing happens."""
    return [plain(colour)] * count


def passing(count: int, colour: Sequence[int] = (255, 255, 0), *, side: int = 40) -> Iterator[Picture]:
    """A square comes in at the left and goes out at the right."""
    for number in range(count):
        picture = plain()
        left = round(number / max(1, count - 1) * (SIZE[0] + side)) - side
        picture[40 : 40 + side, max(0, left) : max(0, left + side)] = colour
        yield picture


def noisy(pictures: Iterable[Picture], *, sigma: float, seed: int = 0) -> Iterator[Picture]:
    """The same from a sensor that is not still."""
    dice = np.random.default_rng(seed)
    for picture in pictures:
        yield np.clip(picture + dice.normal(0, sigma, picture.shape), 0, 255).astype(np.uint8)


def encoded(pictures: Iterable[Picture], form: str, *, fps: int = FPS) -> bytes:
    """A whole video in memory; ``form`` is FFmpeg's name of a format."""
    made = io.BytesIO()
    with av.open(made, "w", format=form) as container:
        for packet in _packets(container, pictures, fps):
            container.mux(packet)
    return made.getvalue()


def write_clip(path: Path, pictures: Iterable[Picture], *, fps: int = FPS) -> Path:
    """A whole video in a file."""
    path.write_bytes(encoded(pictures, "matroska" if path.suffix == ".mkv" else "mpegts", fps=fps))
    return path


def _packets(container: Any, pictures: Iterable[Picture], fps: int) -> Iterator[Any]:
    stream = container.add_stream("libx264", rate=fps)
    stream.width, stream.height = SIZE
    stream.pix_fmt = "yuv420p"
    stream.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "10", "g": "10", "threads": "1"}
    for picture in pictures:
        yield from stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
    yield from stream.encode()


@asynccontextmanager
async def tcp_camera(video: bytes, *, lasts_s: float, hold: bool = False) -> AsyncIterator[str]:
    """Sends ``video`` to whoever connects, spread over ``lasts_s``; with ``hold``, says nothing more and stays. Gives its URL."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            pieces = max(1, round(lasts_s / 0.04))
            length = -(-len(video) // pieces)
            for begin in range(0, len(video), length):
                writer.write(video[begin : begin + length])
                await writer.drain()
                await asyncio.sleep(0.04)
            if hold:
                await asyncio.Event().wait()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


class RtspCamera:
    """A camera that speaks RTSP 1.0 (RFC 2326) with H.264 in RTP (RFC 6184, single NAL units) over the same TCP connection.

    Args:
        pictures: what it shows, once a connection.
        user: who may look, as ``name:password``; '': anybody.
    """

    def __init__(self, pictures: Iterable[Picture], *, user: str = "") -> None:
        self._pictures = list(pictures)
        self._user = user
        self.players = 0
        self.refused = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().splitlines()
                method = lines[0].split()[0]
                fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
                writer.write(self._reply(method, fields))
                await writer.drain()
                if method == "PLAY":
                    self.players += 1
                    await self._play(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _reply(self, method: str, fields: dict[str, str]) -> bytes:
        head, body = f"CSeq: {fields['CSeq']}\r\n", ""
        wanted = "Basic " + base64.b64encode(self._user.encode()).decode()
        if self._user and method != "OPTIONS" and fields.get("Authorization") != wanted:
            self.refused += 1
            return f'RTSP/1.0 401 Unauthorized\r\n{head}WWW-Authenticate: Basic realm="camera"\r\n\r\n'.encode()
        if method == "OPTIONS":
            head += "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = (
                "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n"
                "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track0\r\n"
            )
            head += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            head += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 7\r\n"
        else:
            head += "Session: 7\r\n"
        return f"RTSP/1.0 200 OK\r\n{head}\r\n{body}".encode()

    async def _play(self, writer: asyncio.StreamWriter) -> None:
        sequence, source = random.randrange(1 << 15), random.randrange(1 << 31)
        with av.open(io.BytesIO(), "w", format="h264") as container:
            for number, packet in enumerate(_packets(container, self._pictures, FPS)):
                units = [unit.rstrip(b"\0") for unit in bytes(packet).split(b"\0\0\1") if unit.strip(b"\0")]
                for place, unit in enumerate(units):
                    last = 0x80 if place == len(units) - 1 else 0
                    rtp = bytes([0x80, last | 96]) + sequence.to_bytes(2, "big")
                    rtp += (number * 90_000 // FPS).to_bytes(4, "big") + source.to_bytes(4, "big") + unit
                    writer.write(b"$\0" + len(rtp).to_bytes(2, "big") + rtp)
                    sequence = (sequence + 1) & 0xFFFF
                await writer.drain()
                await asyncio.sleep(1 / FPS)


@asynccontextmanager
async def rtsp_camera(pictures: Iterable[Picture], *, user: str = "") -> AsyncIterator[tuple[RtspCamera, str]]:
    """An RTSP camera, and its URL."""
    camera = RtspCamera(pictures, user=user)
    server = await asyncio.start_server(camera.serve, "127.0.0.1", 0)
    try:
        yield camera, f"rtsp://127.0.0.1:{server.sockets[0].getsockname()[1]}/live"
    finally:
        server.close()
