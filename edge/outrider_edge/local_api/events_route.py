"""What happens before the device's sources, as a stream: the same events that the local broker is told.

Every event's id is its number since the agent started, after a mark of that start; who comes back with the last one (``Last-Event-ID``, or
``after``) is told what has come since, and with ``missed`` how many events are forgotten already.
"""

import secrets
from collections.abc import Callable, Sequence

import msgspec
from aiohttp import web

from outrider_edge.local_api.replies import Handler
from outrider_edge.sources.events import EventLog, SourceEvent
from outrider_wire.errors import CallerInputError

KEEP_ALIVE_S = 15.0
"""A comment this often keeps an event stream from looking dead."""
_QUERY = ("source", "task", "after")


class EventsRoute:
    """``GET /v1/events``.

    Args:
        events: the log.
        stopping: whether the agent stops.
        keep_alive_s: between two comments.
    """

    def __init__(self, *, events: EventLog, stopping: Callable[[], bool], keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._events = events
        self._stopping = stopping
        self._keep_alive_s = keep_alive_s
        self._start = secrets.token_hex(4)

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """The table: method, path, handler."""
        return (("GET", "/v1/events", self._stream),)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events ``new``, ``update``, ``end``."""
        query = request.query
        if unknown := [key for key in query if key not in _QUERY]:
            raise CallerInputError(
                f"unknown query parameter {unknown[0][:64]!r}",
                reason="unknown_parameter",
                fix=f"known ones: {', '.join(_QUERY)}",
            )
        told = self._begins_after(query.get("after", "") or request.headers.get("Last-Event-ID", ""))
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await stream.prepare(request)
        await stream.write(b"id: %s\n: from here on\n\n" % self._id(told))
        wanted = [(name, query[name]) for name in ("source", "task") if query.get(name)]
        while not self._stopping():
            mark = self._events.mark
            missed, found = self._events.after(told)
            if missed:
                await stream.write(b'event: missed\ndata: {"missed":%d}\n\n' % missed)
            for number, event in found:
                told = number
                if all(getattr(event, name) == value for name, value in wanted):
                    await self._send(stream, number, event)
            if not found:
                await self._events.wait(mark, self._keep_alive_s)
                await stream.write(b": still here\n\n")
        return stream

    def _begins_after(self, text: str) -> int:
        """The number that a reader has; of another start of the agent: it has nothing of this one.

        Raises:
            CallerInputError: it is no id of an event.
        """
        if not text:
            return self._events.last
        start, _, number = text.partition(".")
        if not (number.isascii() and number.isdigit() and len(number) < 16 and start.isalnum()):
            raise CallerInputError(
                f"{text[:32]!r} is no cursor", reason="invalid_cursor", fix="give the id of an event, or none"
            )
        return min(int(number), self._events.last) if start == self._start else 0

    def _id(self, number: int) -> bytes:
        return f"{self._start}.{number}".encode()

    async def _send(self, stream: web.StreamResponse, number: int, event: SourceEvent) -> None:
        body = msgspec.json.encode(event)
        await stream.write(b"id: %s\nevent: %s\ndata: %s\n\n" % (self._id(number), event.type.encode(), body))
