"""The outbox for people: what waits, one entry whole, try again now, give up. Payload never leaves by these routes."""

from collections.abc import Sequence
from typing import Protocol

from aiohttp import web
from msgspec import Struct

from outrider_edge.local_api.replies import Handler, json_reply
from outrider_edge.local_api.submission import whole_number
from outrider_edge.outbox.looking import MOST, Page
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.outbox.states import OPEN
from outrider_edge.outbox.view import OutboxView
from outrider_wire.errors import CallerInputError, CallerUnknownError

DROPPED = "a person dropped it"
_FILTERS = ("after", "limit", "task", "delivery", "durability")


class PageView(Struct, kw_only=True, frozen=True):
    """One page of what waits, and how the outbox fares."""

    page: Page
    outbox: OutboxView


class Retried(Struct, kw_only=True, frozen=True):
    """What is due now."""

    due: int


class Dropped(Struct, kw_only=True, frozen=True):
    """What a person gave up."""

    id: str
    dropped: bool
    """False: it had ended already."""


class Retrier(Protocol):
    """Whoever offers questions. Real: `outrider_edge.uplink.uplink.Uplink`."""

    async def retry(self, id_: str = "") -> int:
        """Makes one, or all, due now; how many."""
        ...


class OutboxRoutes:
    """The routes under ``/v1/outbox``."""

    def __init__(self, *, outbox: Outbox, uplink: Retrier) -> None:
        self._outbox = outbox
        self._uplink = uplink

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """The table: method, path, handler."""
        return (
            ("GET", "/v1/outbox", self._list),
            ("POST", "/v1/outbox/retry", self._retry_all),
            ("GET", "/v1/outbox/{id}", self._show),
            ("POST", "/v1/outbox/{id}/retry", self._retry),
            ("DELETE", "/v1/outbox/{id}", self._drop),
        )

    async def _list(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if unknown := [key for key in query if key not in _FILTERS]:
            raise CallerInputError(
                f"unknown query parameter {unknown[0][:64]!r}",
                reason="unknown_parameter",
                fix=f"known ones: {', '.join(_FILTERS)}",
            )
        delivery, durability = query.get("delivery", ""), query.get("durability", "disk")
        _one_of("delivery", delivery, ("", *OPEN))
        _one_of("durability", durability, ("disk", "memory"))
        limit = whole_number(query.get("limit", "100"), "limit")
        if not 1 <= limit <= MOST:
            raise CallerInputError(
                f"limit is {limit}, and not between 1 and {MOST}", reason="invalid_parameter", fix="ask page by page"
            )
        page = await self._outbox.shelves.page(
            after=whole_number(query.get("after", "0"), "after"),
            limit=limit,
            task=query.get("task", ""),
            delivery=delivery,
            memory=durability == "memory",
        )
        return json_reply(PageView(page=page, outbox=self._outbox.view()))

    async def _show(self, request: web.Request) -> web.StreamResponse:
        id_ = request.match_info["id"]
        if (found := await self._outbox.shelves.entry(id_)) is None:
            raise _unknown(id_)
        return json_reply(found)

    async def _retry_all(self, _: web.Request) -> web.StreamResponse:
        return json_reply(Retried(due=await self._uplink.retry()))

    async def _retry(self, request: web.Request) -> web.StreamResponse:
        return json_reply(Retried(due=await self._uplink.retry(request.match_info["id"])))

    async def _drop(self, request: web.Request) -> web.StreamResponse:
        id_ = request.match_info["id"]
        settled = await self._outbox.give_up(id_, DROPPED)
        if not settled.known:
            raise _unknown(id_)
        return json_reply(Dropped(id=id_, dropped=settled.closed))


def _one_of(name: str, text: str, known: Sequence[str]) -> None:
    if text not in known:
        raise CallerInputError(
            f"{name} is {text[:32]!r}", reason="invalid_parameter", fix=f"give one of: {', '.join(filter(None, known))}"
        )


def _unknown(id_: str) -> CallerUnknownError:
    return CallerUnknownError(
        f"no entry {id_[:64]!r} is in the outbox", reason="unknown_input", fix="see: outrider edge outbox ls"
    )
