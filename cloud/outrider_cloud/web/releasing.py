"""Files and releases, for whoever publishes them."""

import msgspec
from aiohttp import web

from outrider_cloud.releases import Releases
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.web.route import BYTES_TYPE, JSON_TYPE, Route, chunks, converted, json_reply, read_body
from outrider_cloud.web.shapes import AssignedReply, BlobReply, ReleasesReply, ReleaseView
from outrider_wire.errors import CallerInputError, RuleRefusalError
from outrider_wire.limits import BLOB_BYTES
from outrider_wire.names import Digest, Name


class ReleaseRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A manifest whose files are here."""

    manifest: Digest


class AssignRequest(msgspec.Struct, forbid_unknown_fields=True):
    """To whom a release is offered."""

    devices: list[Name] | str
    """Names, or ``all``."""


class Releasing:
    """The handlers, given what they change."""

    def __init__(self, *, blobs: BlobStore, releases: Releases, signed_only: bool = False) -> None:
        self._signed_only = signed_only
        self._blobs = blobs
        self._releases = releases

    def routes(self) -> list[Route]:
        """This group's rows."""
        return [
            Route(
                method="PUT",
                path="/v1/blobs/{sha256}",
                handler=self._put_blob,
                what="Store a file under its digest",
                answers=201,
                body=BYTES_TYPE,
                gives=BlobReply,
            ),
            Route(
                method="HEAD",
                path="/v1/blobs/{sha256}",
                handler=self._has_blob,
                what="Whether a file is here",
                fails=(404,),
            ),
            Route(
                method="POST",
                path="/v1/releases",
                handler=self._add_release,
                what="Make a release of a manifest whose files are here",
                answers=201,
                body=JSON_TYPE,
                takes=ReleaseRequest,
                gives=ReleaseView,
                fails=(404, 422),
            ),
            Route(
                method="GET",
                path="/v1/releases",
                handler=self._list_releases,
                what="All releases",
                gives=ReleasesReply,
            ),
            Route(
                method="POST",
                path="/v1/releases/{digest}/assign",
                handler=self._assign,
                what="Offer a release to devices",
                body=JSON_TYPE,
                takes=AssignRequest,
                gives=AssignedReply,
                fails=(404, 409),
            ),
        ]

    async def _put_blob(self, request: web.Request) -> web.Response:
        sha256 = converted(request.match_info["sha256"], Digest, "digest")
        if (request.content_length or 0) > BLOB_BYTES:
            raise CallerInputError(f"a blob may have {BLOB_BYTES} bytes", reason="too_large", fix="send a smaller file")
        size = await self._blobs.receive(sha256, chunks(request))
        return json_reply({"sha256": sha256, "size": size}, 201)

    async def _has_blob(self, request: web.Request) -> web.Response:
        sha256 = converted(request.match_info["sha256"], Digest, "digest")
        return web.Response(status=200 if self._blobs.find(sha256) else 404)

    async def _add_release(self, request: web.Request) -> web.Response:
        wanted = await read_body(request, ReleaseRequest)
        return json_reply(await self._releases.add(wanted.manifest), 201)

    async def _list_releases(self, _: web.Request) -> web.Response:
        return json_reply({"releases": await self._releases.list()})

    async def _assign(self, request: web.Request) -> web.Response:
        digest = converted(request.match_info["digest"], Digest, "digest")
        wanted = await read_body(request, AssignRequest)
        if isinstance(wanted.devices, str) and wanted.devices != "all":
            raise CallerInputError(
                'devices is neither a list of names nor "all"', reason="invalid_body", fix="send one of the two"
            )
        if self._signed_only:
            raise RuleRefusalError(
                "this cloud keeps signed metadata, and offers nothing that is not signed",
                reason="must_be_signed",
                fix="sign the release and a plan: outrider ota publish --key, outrider ota rollout",
            )
        to = None if isinstance(wanted.devices, str) else wanted.devices
        return json_reply({"release": digest, "counters": await self._releases.assign(digest, to)})
