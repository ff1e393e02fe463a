"""An MQTT 5 client of a few bytes that may say what no honest client can: any bytes as topic, properties and payload."""

import asyncio
from types import TracebackType
from typing import Self

CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION, USER_PROPERTY, EXPIRY, FORMAT = 0x03, 0x08, 0x09, 0x26, 0x02, 0x01
"""Identifiers of properties (MQTT 5, §2.2.2.2)."""


def text(data: bytes) -> bytes:
    """A string or binary field: its length, and it."""
    return len(data).to_bytes(2, "big") + data


def varint(value: int) -> bytes:
    """A variable byte integer (MQTT 5, §1.5.5)."""
    out = b""
    while True:
        value, low = divmod(value, 128)
        out += bytes([low | (128 if value else 0)])
        if not value:
            return out


class RawClient:
    """``async with RawClient(port, "name") as client``: connected. What the broker says back is only waited for."""

    def __init__(self, port: int, name: str) -> None:
        self._port = port
        self._name = name
        self._mid = 0

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        body = text(b"MQTT") + bytes([5, 2]) + (60).to_bytes(2, "big") + b"\x00" + text(self._name.encode())
        self._writer.write(b"\x10" + varint(len(body)) + body)
        await asyncio.wait_for(self._packet(), 10)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.transport.abort()

    async def publish(self, topic: bytes, payload: bytes = b"", properties: bytes = b"") -> bool:
        """Publishes at QoS 1; whether the broker took it (False: it closed the connection, or refused)."""
        self._mid += 1
        body = text(topic) + self._mid.to_bytes(2, "big") + varint(len(properties)) + properties + payload
        self._writer.write(b"\x32" + varint(len(body)) + body)
        try:
            async with asyncio.timeout(5):
                first, said = await self._packet()
        except (TimeoutError, OSError, EOFError):
            return False
        return first >> 4 == 4 and (len(said) < 3 or said[2] < 0x80)

    async def _packet(self) -> tuple[int, bytes]:
        first, length, shift = (await self._reader.readexactly(1))[0], 0, 0
        while True:
            byte = (await self._reader.readexactly(1))[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return first, await self._reader.readexactly(length)
