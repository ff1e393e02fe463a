"""The application's late hook: a stream of the final reports of escalated inputs. It survives a break at either end.

Every event's id is a cursor; who comes back with the last one (``Last-Event-ID``, or ``after``) is told all that ended since,
as far as the outbox remembers ([outbox] keep_ended).
"""

from collections.abc import Callable, Sequence

import msgspec
from aiohttp import web

from outrider_edge.local_api.replies import Handler
from outrider_edge.outbox.feed import Cursor, EndedFeed, parse_cursor
from outrider_wire.errors import CallerInputError
from outrider_wire.report import AnswerReport

KEEP_ALIVE_S = 15.0
"""A comment this often keeps an event stream from looking dead."""
_SWITCH = {"1": True, "true": True, "0": False, "false": False}
_QUERY = ("late", "task", "after")


class EndedRoute:
    """``GET /v1/answers/events``.

    Args:
        feed: of the outbox.
        stopping: whether the agent stops.
        keep_alive_s: between two comments.
    """

    def __init__(self, *, feed: EndedFeed, stopping: Callable[[], bool], keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._feed = feed
        self._stopping = stopping
        self._keep_alive_s = keep_alive_s

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """The table: method, path, handler."""
        return (("GET", "/v1/answers/events", self._stream),)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events ``final``; ``late=true``: only answers after their ``answer_within_ms``."""
        query = request.query
        if unknown := [key for key in query if key not in _QUERY]:
            raise CallerInputError(
                f"unknown query parameter {unknown[0][:64]!r}",
                reason="unknown_parameter",
                fix=f"known ones: {', '.join(_QUERY)}",
            )
        if (late := _SWITCH.get(query.get("late", "false"))) is None:
            raise CallerInputError(
                "late is neither true nor false", reason="invalid_parameter", fix="give true or false"
            )
        told = query.get("after") or request.headers.get("Last-Event-ID", "")
        cursor = parse_cursor(told) if told else await self._feed.end()
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await stream.prepare(request)
        await stream.write(b"id: %s\n: from here on\n\n" % str(cursor).encode())
        task = query.get("task", "")
        while not self._stopping():
            mark = self._feed.mark
            found = await self._feed.after(cursor)
            for cursor, report in found:
                if (report.late or not late) and task in ("", report.task):
                    await _send(stream, cursor, report)
            if not found:
                await self._feed.wait(mark, self._keep_alive_s)
                await stream.write(b": still here\n\n")
        return stream


async def _send(stream: web.StreamResponse, cursor: Cursor, report: AnswerReport) -> None:
    await stream.write(b"id: %s\nevent: final\ndata: %s\n\n" % (str(cursor).encode(), msgspec.json.encode(report)))
