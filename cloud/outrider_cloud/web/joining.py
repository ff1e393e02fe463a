"""How devices are let in over HTTP: the two routes that serve anyone, a device's renewal, and what the operator does."""

import asyncio
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from outrider_cloud.access.desk import Desk
from outrider_cloud.access.limiter import Limiter
from outrider_cloud.web.route import JSON_TYPE, Route, error_reply, json_reply, read_body
from outrider_cloud.web.shapes import IdentitiesReply, InvitedReply, RevokedReply, StateReply
from outrider_wire.errors import CallerInputError, RuleRefusalError
from outrider_wire.joining import JoinReply, JoinRequest, RenewRequest
from outrider_wire.names import END, NAME_GRAMMAR

T = TypeVar("T")
PEM_TYPE = "application/x-pem-file"
_BODY_BYTES = 32 * 1024
_GROUP = rf"^({NAME_GRAMMAR})?{END}"


class InviteRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """For whom a join line is."""

    count: int = 1
    expires_s: int = 3600
    group: Annotated[str, Meta(pattern=_GROUP)] = ""
    ask: bool = False
    device: str = ""


class Joining:
    """The handlers, given the desk that decides."""

    def __init__(self, *, desk: Desk) -> None:
        self._desk = desk
        self._by_peer = Limiter(burst=20, per_s=0.5)
        self._by_device = Limiter(burst=5, per_s=1 / 60)
        self._all = Limiter(burst=200, per_s=20)

    def routes(self) -> list[Route]:
        """This group's rows."""
        return [
            Route(
                method="GET",
                path="/v1/join/authorities",
                handler=self._authorities,
                what="The authorities that a join line's fingerprint is of",
                gives=PEM_TYPE,
                who="anyone",
            ),
            Route(
                method="POST",
                path="/v1/join",
                handler=self._join,
                what="Let a device in that has an invitation",
                body=JSON_TYPE,
                takes=JoinRequest,
                gives=JoinReply,
                also={202: JoinReply},
                fails=(403, 409, 429, 503),
                who="anyone",
            ),
            Route(
                method="POST",
                path="/v1/devices/{device}/certificate",
                handler=self._renew,
                what="Renew a device's certificate",
                body=JSON_TYPE,
                takes=RenewRequest,
                gives=JoinReply,
                fails=(409, 429),
                who="device",
            ),
            Route(
                method="POST",
                path="/v1/invitations",
                handler=self._invite,
                what="Make a join line",
                answers=201,
                body=JSON_TYPE,
                takes=InviteRequest,
                gives=InvitedReply,
            ),
            Route(
                method="GET",
                path="/v1/identities",
                handler=self._list,
                what="Every device that asked to join",
                gives=IdentitiesReply,
            ),
            Route(
                method="POST",
                path="/v1/identities/{device}/accept",
                handler=self._accept,
                what="Let a waiting device in",
                gives=StateReply,
                fails=(400, 404, 409),
            ),
            Route(
                method="POST",
                path="/v1/identities/{device}/revoke",
                handler=self._revoke,
                what="Put a device out, and keep it out",
                gives=RevokedReply,
                fails=(400,),
            ),
        ]

    async def _authorities(self, _: web.Request) -> web.Response:
        return web.Response(text=self._desk.authorities, content_type=PEM_TYPE)

    async def _join(self, request: web.Request) -> web.Response:
        now = asyncio.get_running_loop().time()
        if not (self._by_peer.allows(request.remote or "", now) and self._all.allows("", now)):
            return _too_many()
        reply = await self._desk.join(await _small_body(request, JoinRequest))
        return json_reply(reply, 200 if reply.state == "accepted" else 202)

    async def _renew(self, request: web.Request) -> web.Response:
        device = request.match_info["device"]
        if not self._by_device.allows(device, asyncio.get_running_loop().time()):
            return _too_many()
        wanted = await _small_body(request, RenewRequest)
        return json_reply(await self._desk.renew(device, wanted.request))

    async def _invite(self, request: web.Request) -> web.Response:
        wanted = await _small_body(request, InviteRequest)
        line = await self._desk.invite(
            count=wanted.count,
            expires_s=wanted.expires_s,
            group=wanted.group,
            ask=wanted.ask,
            device=wanted.device,
        )
        return json_reply({"line": str(line), "invitation": line.invitation, "expires_s": wanted.expires_s}, 201)

    async def _list(self, _: web.Request) -> web.Response:
        return json_reply({"identities": await self._desk.listed()})

    async def _accept(self, request: web.Request) -> web.Response:
        known = await self._desk.accept(request.match_info["device"])
        return json_reply({"device": known.device, "state": known.state})

    async def _revoke(self, request: web.Request) -> web.Response:
        device = request.match_info["device"]
        told = await self._desk.revoke(device)
        return json_reply({"device": device, "state": "revoked", "broker_told": told})


async def _small_body(request: web.Request, kind: type[T]) -> T:
    if request.content_length is None or request.content_length > _BODY_BYTES:
        raise CallerInputError(
            f"the body must say its length, {_BODY_BYTES} bytes at most", reason="too_large", fix="see /openapi.json"
        )
    return await read_body(request, kind)


def _too_many() -> web.Response:
    reply = error_reply(RuleRefusalError("too many tries", reason="too_many", fix="wait a minute, then try again"))
    reply.headers["Retry-After"] = "60"
    return reply
