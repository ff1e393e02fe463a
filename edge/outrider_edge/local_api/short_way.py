"""The short way to an answer: plain requests for one, on connections that carry nothing else, past aiohttp.

Around a small model the general HTTP server takes three times as long as the model. What is not plain (another route, a
chunked body, a page's origin, a body that is too large) is not judged here: the connection is handed to aiohttp, for good, with every
byte that it has not answered.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from outrider_edge.journey.agent import Agent
from outrider_edge.local_api.answering import answered, report_json
from outrider_edge.local_api.plain_head import MOST_BYTES, PlainHead, plain_head
from outrider_edge.local_api.replies import DEFECT, error_json
from outrider_edge.local_api.submission import BODY_S, slow_body
from outrider_wire.errors import OutriderError

log = logging.getLogger(__name__)

_END = b"\r\n\r\n"


class Patience(NamedTuple):
    """How long a caller may keep a connection open, in seconds: each one holds a file of the agent's, and some hold memory."""

    idle_s: float = 3600.0
    """Without a request, or without reading its replies."""
    body_s: float = BODY_S
    """From a head to the end of its body."""
    look_s: float = 15.0
    """How often that is looked at."""


class ShortWay:
    """Makes the protocol of every connection to the API.

    Args:
        agent: answers.
        max_bytes: of a body.
        otherwise: makes the protocol that a connection is handed to.
    """

    def __init__(
        self,
        *,
        agent: Agent,
        max_bytes: int,
        otherwise: Callable[[], asyncio.BaseProtocol],
        patience: Patience = Patience(),  # noqa: B008 - it cannot be changed
    ) -> None:
        self.max_bytes = max_bytes
        self.otherwise = otherwise
        self.patience = patience
        self.stopping = False
        self.connections: set[_Connection] = set()
        """Those that are open and not handed over."""
        self._agent = agent
        self._looking: asyncio.TimerHandle | None = None

    def __call__(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return _Connection(self)

    def serves(self, head: PlainHead) -> bool:
        """Whether a request with that head is answered here."""
        return head.length <= self.max_bytes and head.task in self._agent.runtimes

    async def answer(self, head: PlainHead, body: bytes) -> tuple[int, bytes]:
        """HTTP status and JSON."""
        try:
            return report_json(await answered(self._agent, head.task, body, head.content_type, head.wishes))
        except OutriderError as error:
            return error_json(error)
        except Exception:  # one request's defect must not become the others'
            log.exception("request.failed", extra={"task": head.task})
            return DEFECT

    def too_slow(self, head: PlainHead) -> tuple[int, bytes]:
        """The same of a request whose body has not come in time."""
        return error_json(self._agent.refused(head.task, slow_body()))

    def look(self) -> None:
        """Parts from who has used up its patience, now and every `Patience.look_s` from now on."""
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(self.patience.look_s, self.look)
        for connection in list(self.connections):
            if connection.asked is None and connection.until < loop.time():
                connection.part()

    def stop(self) -> None:
        """Requests under way are answered, and their connections end with that; all others end now."""
        self.stopping = True
        for connection in list(self.connections):
            connection.stop()

    async def close(self, within_s: float) -> None:
        """Ends what is left once the last requests are answered, or the time is up."""
        if self._looking is not None:
            self._looking.cancel()
        if busy := [connection.asked for connection in self.connections if connection.asked is not None]:
            await asyncio.wait(busy, timeout=within_s)
        for connection in list(self.connections):
            connection.part()


class _Connection(asyncio.Protocol):
    """One request after the other; whoever sends the next one early is not read until it is its turn."""

    def __init__(self, way: ShortWay) -> None:
        self.asked: asyncio.Task[None] | None = None
        """The request under way."""
        self.until = 0.0
        """When, by the loop's clock, its caller will have kept it waiting for too long."""
        self._way = way
        self._buffer = bytearray()
        self._head: PlainHead | None = None
        """Of the request whose body is coming."""
        self._full = False
        """The caller does not read its replies."""
        self._transport: asyncio.Transport
        self._local = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A caller is here."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what a stream's transport is
        self._transport = transport
        own = transport.get_extra_info("socket")
        self._local = own.family == socket.AF_UNIX
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._wait(self._way.patience.idle_s)
        self._way.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller has gone; a request under way goes on, and is counted."""
        self._way.connections.discard(self)

    def pause_writing(self) -> None:
        """No request is begun until the caller reads."""
        self._full = True

    def resume_writing(self) -> None:
        """It does."""
        self._full = False
        if self.asked is None and not self._transport.is_closing():
            self._go_on()

    def data_received(self, data: bytes) -> None:
        """Some of a request, or one and some of the next."""
        self._buffer += data
        if self.asked is not None or self._full:
            self._transport.pause_reading()
        else:
            self._next()

    def stop(self) -> None:
        """Ends now, or with the reply that is under way."""
        if self.asked is None:
            self.close()

    def close(self) -> None:
        """Ends when what was written is sent."""
        self._transport.close()

    def part(self) -> None:
        """Ends, and says why to who waits for a reply; who reads none is not waited for."""
        if self._full:
            self._transport.abort()
            return
        if self._head is not None:
            self._transport.write(_reply(*self._way.too_slow(self._head), last=True))
        self.close()

    def _wait(self, most_s: float) -> None:
        self.until = asyncio.get_running_loop().time() + most_s

    def _next(self) -> None:
        """Begins with the first request in the buffer, if it is plain and whole."""
        if self._way.stopping:  # nobody would take it over
            self.close()
            return
        if self._head is None:
            end = self._buffer.find(_END, 0, MOST_BYTES)
            head = plain_head(bytes(self._buffer[:end])) if end >= 0 else None
            if head is None or not (head.here or self._local) or not self._way.serves(head):
                self._hand_over()
                return
            del self._buffer[: end + len(_END)]
            self._head = head
            self._wait(self._way.patience.body_s)
        if len(self._buffer) >= (length := self._head.length):
            head, body = self._head, bytes(self._buffer[:length])
            del self._buffer[:length]
            self._head = None
            self.asked = asyncio.get_running_loop().create_task(self._answer(head, body))

    async def _answer(self, head: PlainHead, body: bytes) -> None:
        status, said = await self._way.answer(head, body)
        self.asked = None
        self._wait(self._way.patience.idle_s)
        if self._transport.is_closing():
            return
        self._transport.write(_reply(status, said, last=self._way.stopping))
        if self._way.stopping:
            self.close()
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self._full:
            return
        if not self._transport.is_reading():
            self._transport.resume_reading()
        if self._buffer:
            self._next()

    def _hand_over(self) -> None:
        self._way.connections.discard(self)
        other = self._way.otherwise()
        assert isinstance(other, asyncio.Protocol)  # noqa: S101 - a stream's
        self._transport.set_protocol(other)
        other.connection_made(self._transport)
        other.data_received(bytes(self._buffer))


def _reply(status: int, body: bytes, *, last: bool) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nDate: %s\r\n%s\r\n%s" % (
        _line(status),
        len(body),
        _date(int(time.time())),
        b"Connection: close\r\n" if last else b"",
        body,
    )


@lru_cache(maxsize=32)
def _line(status: int) -> bytes:
    return f"{status:d} {HTTPStatus(status).phrase}".encode()


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    """As a reply must bear it (RFC 9110, §6.6.1)."""
    return formatdate(second, usegmt=True).encode()
