"""Signed metadata over HTTP: devices read it, publishers read and bring it. What is signed decides, not who sends it."""

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from outrider_cloud.trust.service import Trust
from outrider_cloud.web.route import BYTES_TYPE, JSON_TYPE, Route, json_reply, read_body
from outrider_cloud.web.shapes import TrustedReply
from outrider_wire.errors import CallerInputError, CallerUnknownError

BODY_BYTES = 8_000_000
"""Of what a publisher brings at once."""
_Role = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,70}$(?!\n)")]


class MetadataRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The next versions of some roles, signed; all of them are taken or none."""

    metadata: Annotated[dict[_Role, bytes], Meta(min_length=1, max_length=64)]
    """Role to file; Base64 in JSON."""


class Trusting:
    """The handlers, given what keeps the metadata."""

    def __init__(self, *, trust: Trust) -> None:
        self._trust = trust

    def routes(self) -> list[Route]:
        """This group's rows."""
        return [
            Route(
                method="GET",
                path="/v1/tuf/{path}",
                handler=self._get,
                what="A file of the repository of signed metadata; its slashes are written %2F",
                gives=BYTES_TYPE,
                fails=(404, 409),
            ),
            Route(
                method="GET",
                path="/v1/devices/{device}/tuf/{path}",
                handler=self._get,
                what="The same, for a device",
                who="device",
                gives=BYTES_TYPE,
                fails=(404, 409),
            ),
            Route(
                method="POST",
                path="/v1/tuf",
                handler=self._post,
                what="Publish signed metadata; what it names must have been put as blobs before",
                body=JSON_TYPE,
                takes=MetadataRequest,
                gives=TrustedReply,
                fails=(404, 409),
            ),
        ]

    async def _get(self, request: web.Request) -> web.Response:
        self._check_on()
        data = await self._trust.read(request.match_info["path"])
        return web.Response(body=data, content_type=BYTES_TYPE)

    async def _post(self, request: web.Request) -> web.Response:
        self._check_on()
        if (request.content_length or BODY_BYTES + 1) > BODY_BYTES:
            raise CallerInputError(f"the body must say its length, {BODY_BYTES} bytes at most", reason="too_large")
        wanted = await read_body(request, MetadataRequest)
        return json_reply({"timestamp": await self._trust.take(wanted.metadata)})

    def _check_on(self) -> None:
        if not self._trust.on:
            raise CallerUnknownError(
                "this cloud keeps no signed metadata",
                reason="trust_off",
                fix="make a repository (outrider ota init) and name it as trust.repository in cloud.toml",
            )
