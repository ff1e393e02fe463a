"""Peers for the tests of sessions: a TCP relay that can be cut, and a broker that says what it is told to say."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Self

ACCEPTED = bytes([0x20, 3, 0, 0, 0])
"""CONNACK: success, no properties."""


def connack(code: int = 0, properties: bytes = b"") -> bytes:
    """CONNACK with a reason code and ready-made properties."""
    return bytes([0x20, 3 + len(properties), 0, code, len(properties)]) + properties


def maximum_packet_size(size: int) -> bytes:
    """The property by which a broker announces the largest packet it carries."""
    return bytes([0x27]) + size.to_bytes(4, "big")


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what nothing announces."""
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110  there is no event: that is why this exists
            await asyncio.sleep(0.01)


class Relay:
    """A TCP relay to a broker; `cut` drops all connections without a word and takes no more, like a cable that is pulled.

    ``bytes_per_s`` makes it a narrow link, in each direction; ``carried`` counts what has come through it, up and down.
    """

    def __init__(self, port: int, *, bytes_per_s: float | None = None) -> None:
        self.carried = [0, 0]
        self._bytes_per_s = bytes_per_s
        self._broker_port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        for way, (source, sink) in enumerate(((reader, far_writer), (far_reader, writer))):
            task = asyncio.create_task(self._copy(way, source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(self, way: int, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536 if self._bytes_per_s is None else 1000):
                if self._bytes_per_s is not None:
                    await asyncio.sleep(len(data) / self._bytes_per_s)
                self.carried[way] += len(data)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()


class ScriptedBroker:
    """A broker of a few bytes: answers CONNECT, SUBSCRIBE and PUBLISH with the codes it is given, and says ``greeting`` after a SUBACK.

    ``packets`` are all that it received, as (first byte, body).
    """

    def __init__(
        self,
        *,
        connack: bytes = ACCEPTED,
        suback: int = 1,
        puback: int | None = 0,
        greeting: bytes = b"",
        pingresp: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.connack = connack
        self.suback = suback
        self.puback = puback
        self.greeting = greeting
        self.pingresp = pingresp
        self.packets: list[tuple[int, bytes]] = []
        self._tls = tls
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"mqtt{'s' if self._tls else ''}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def received(self, kind: int) -> list[bytes]:
        """Bodies of the packets of a kind (the high four bits of the first byte)."""
        return [body for first, body in self.packets if first >> 4 == kind]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                first = (await reader.readexactly(1))[0]
                body = await reader.readexactly(await _length(reader))
                self.packets.append((first, body))
                writer.write(self._answer(first, body))
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    def _answer(self, first: int, body: bytes) -> bytes:
        match first >> 4:
            case 1:
                return self.connack
            case 8:
                codes = bytes([self.suback]) * _filters(body)
                return bytes([0x90, 3 + len(codes)]) + body[:2] + b"\0" + codes + self.greeting
            case 3 if self.puback is not None:
                topic = int.from_bytes(body[:2], "big")
                return bytes([0x40, 3]) + body[2 + topic : 4 + topic] + bytes([self.puback])
            case 12 if self.pingresp:
                return bytes([0xD0, 0])
        return b""


def publish_packet(topic: str | bytes, payload: bytes, mid: int, *, properties: bytes = b"") -> bytes:
    """A PUBLISH at QoS 1 as a broker sends it; fewer than 128 bytes of properties."""
    name = topic.encode() if isinstance(topic, str) else topic
    head = len(name).to_bytes(2, "big") + name + mid.to_bytes(2, "big")
    body = head + bytes([len(properties)]) + properties + payload
    length, encoded = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | (0x80 if length else 0))
        if not length:
            return bytes([0x32]) + bytes(encoded) + body


async def _length(reader: asyncio.StreamReader) -> int:
    length, shift = 0, 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return length


def _filters(body: bytes) -> int:
    at, count = 3 + body[2], 0
    while at < len(body):
        at += 3 + int.from_bytes(body[at : at + 2], "big")
        count += 1
    return count
