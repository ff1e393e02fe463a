"""The updates for people: how they stand, check now, install from a folder, keep, return, pin. `outrider edge update` asks here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from outrider_edge.local_api.replies import Handler, json_reply
from outrider_edge.updates.hands import Hands
from outrider_wire.decodable import decodable
from outrider_wire.errors import CallerInputError
from outrider_wire.names import Name

T = TypeVar("T", bound=Struct)
Words = Annotated[str, Meta(max_length=256)]


class InstallWish(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What is to be installed."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    """A folder on the device, whole."""
    rollout: Name | None = None
    """Of the folder's plans, that one; None: the first that has this device."""
    dry_run: bool = False


class PinWish(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Whether the device stays on what runs."""

    pinned: bool
    reason: Words = ""


class RollbackWish(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Why a person returns."""

    reason: Words = ""


class Kept(Struct, kw_only=True, frozen=True):
    """The tasks whose probation a person has ended."""

    tasks: list[str]


class Returned(Struct, kw_only=True, frozen=True):
    """What is returned to."""

    task: str
    release: str


class UpdatesRoutes:
    """The routes under ``/v1/updates``."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """The table: method, path, handler."""
        return (
            ("GET", "/v1/updates", self._show),
            ("POST", "/v1/updates/check", self._check),
            ("POST", "/v1/updates/install", self._install),
            ("POST", "/v1/updates/pin", self._pin),
            ("POST", "/v1/updates/{task}/commit", self._commit),
            ("POST", "/v1/updates/{task}/rollback", self._rollback),
        )

    async def _show(self, _: web.Request) -> web.StreamResponse:
        return json_reply(self._hands.view())

    async def _check(self, _: web.Request) -> web.StreamResponse:
        return json_reply(await self._hands.check())

    async def _install(self, request: web.Request) -> web.StreamResponse:
        wish = await _wish(request, InstallWish)
        return json_reply(await self._hands.install(Path(wish.path), rollout=wish.rollout or "", dry_run=wish.dry_run))

    async def _pin(self, request: web.Request) -> web.StreamResponse:
        wish = await _wish(request, PinWish)
        return json_reply(await self._hands.pin(pinned=wish.pinned, reason=wish.reason))

    async def _commit(self, request: web.Request) -> web.StreamResponse:
        return json_reply(Kept(tasks=await self._hands.commit(request.match_info["task"])))

    async def _rollback(self, request: web.Request) -> web.StreamResponse:
        wish, task = await _wish(request, RollbackWish), request.match_info["task"]
        return json_reply(Returned(task=task, release=await self._hands.rollback(task, wish.reason)))


async def _wish(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=decodable(kind))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CallerInputError(
            f"the body is not what it should be: {error}", reason="damaged_body", fix="send JSON as the document says"
        ) from error
