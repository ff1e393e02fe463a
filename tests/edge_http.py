"""A caller of the local HTTP API that says what it likes, byte for byte."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

ASK = "/v1/tasks/colours/answers"
UNREACHABLE = '[broker]\nurl = "mqtt://127.0.0.1:9"\n'


class Reply(NamedTuple):
    status: int
    fields: dict[str, str]
    body: Any

    @property
    def short(self) -> bool:
        """Whether it came the short way: aiohttp signs its replies."""
        return "server" not in self.fields


class Caller:
    """A connection that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def reply(self) -> Reply:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        body = await self.reader.readexactly(int(fields["content-length"]))
        coded = fields["content-type"].startswith("application/json")
        return Reply(int(head[0].split()[1]), fields, json.loads(body) if coded else body)

    async def ask(self, data: bytes) -> Reply:
        self.writer.write(data)
        return await self.reply()


@asynccontextmanager
async def calling(address: str, *, buffer: int = 0) -> AsyncIterator[Caller]:
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        own = socket.socket()
        if buffer:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        own.setblocking(False)
        await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", int(address.rpartition(":")[2])))
        reader, writer = await asyncio.open_connection(sock=own)
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()


def body_of(image: bytes) -> bytes:
    parts = {"image": {"base64": base64.b64encode(image).decode()}, "question": "what colour is it?"}
    return json.dumps({"parts": parts}).encode()


def request(
    body: bytes, *fields: str, path: str = ASK, host: str = "localhost", kind: str = "application/json"
) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
