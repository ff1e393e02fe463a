"""A device's blobs over HTTP: what is assigned to it comes down, in ranges; what its offers will refer to goes up.

The same files and the same bounds as over the broker; the digest decides, not the path.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from outrider_cloud.intake.uploads import Uploads
from outrider_cloud.releases import Releases
from outrider_cloud.web.route import BYTES_TYPE, Route, chunks, converted, error_reply, json_reply
from outrider_cloud.web.shapes import BlobReply
from outrider_wire.errors import CallerInputError, CallerUnknownError, RuleRefusalError
from outrider_wire.names import Digest, Name

PATH = "/v1/devices/{device}/blobs/{sha256}"
_PIECE = 64 * 1024
_RETRY_S = 2.0
_QUOTA_RETRY_S = 60.0
_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{1,15})?")


class DeviceBlobs:
    """The handlers, given what they read and write."""

    def __init__(self, *, releases: Releases, uploads: Uploads) -> None:
        self._releases = releases
        self._uploads = uploads

    def routes(self) -> list[Route]:
        """This group's rows."""
        return [
            Route(
                method="GET",
                path=PATH,
                handler=self._get,
                what="A file of a release that is assigned to the device; whole, or from an offset by Range",
                who="device",
                gives=BYTES_TYPE,
                also={206: BYTES_TYPE},
                fails=(404, 416, 429),
            ),
            Route(
                method="PUT",
                path=PATH,
                handler=self._put,
                what="Put a part that an escalation will refer to by its digest; kept for an hour",
                answers=201,
                body=BYTES_TYPE,
                who="device",
                gives=BlobReply,
                also={200: BlobReply},
                fails=(411, 429),
            ),
        ]

    async def _get(self, request: web.Request) -> web.StreamResponse:
        device, sha256 = _names(request)
        with self._releases.serving(device) as taken:
            if not taken:
                return _too_much("so many are served to this device already", "busy", _RETRY_S)
            path = await self._releases.file_for(device, sha256)
            if path is None:
                raise CallerUnknownError(
                    f"no release with a file {sha256} is assigned to {device!r}",
                    reason="unknown_blob",
                    fix="fetch what the desired state names",
                )
            return await self._send(request, device, path, path.stat().st_size)

    async def _send(self, request: web.Request, device: str, path: Path, size: int) -> web.StreamResponse:
        begin, end = _range(request, size)
        ranged = "Range" in request.headers
        if begin >= end and size:
            error = CallerInputError(f"the file has {size} bytes", reason="invalid_range", fix="ask within them")
            return _with(error_reply(error, 416), {"Content-Range": f"bytes */{size}"})
        headers = {"Content-Type": BYTES_TYPE, "Content-Length": str(end - begin), "Accept-Ranges": "bytes"}
        if ranged:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        response = web.StreamResponse(status=206 if ranged else 200, headers=headers)
        await response.prepare(request)
        async for piece in _pieces(path, begin, end):
            await self._releases.share(device, len(piece))
            await response.write(piece)
        await response.write_eof()
        return response

    async def _put(self, request: web.Request) -> web.Response:
        device, sha256 = _names(request)
        if (size := request.content_length) is None:
            error = CallerInputError("the length is not said", reason="no_length", fix="send Content-Length")
            return error_reply(error, 411)
        try:
            new = await self._uploads.receive(device, sha256, size, chunks(request))
        except RuleRefusalError as error:
            return _with(error_reply(error, 429), {"Retry-After": f"{_QUOTA_RETRY_S:.0f}"})
        return json_reply({"sha256": sha256, "size": size}, 201 if new else 200)


def _names(request: web.Request) -> tuple[str, str]:
    device = converted(request.match_info["device"], Name, "device", fix="1 to 64 of a-z 0-9 -")
    return device, converted(request.match_info["sha256"], Digest, "digest")


def _range(request: web.Request, size: int) -> tuple[int, int]:
    """First byte, and the one behind the last, of what is asked for.

    Raises:
        CallerInputError: it is no single range with a beginning.
    """
    if (said := request.headers.get("Range")) is None:
        return 0, size
    if (found := _RANGE.fullmatch(said)) is None:
        raise CallerInputError(f"{said[:80]!r} is no range", reason="invalid_range", fix="send bytes=FIRST-")
    first, last = found.groups()
    return int(first), min(size, int(last) + 1) if last else size


async def _pieces(path: Path, begin: int, end: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        file.seek(begin)
        while begin < end and (piece := await asyncio.to_thread(file.read, min(_PIECE, end - begin))):
            begin += len(piece)
            yield piece


def _too_much(what: str, reason: str, retry_after_s: float) -> web.Response:
    error = RuleRefusalError(what, reason=reason, fix="try again later")
    return _with(error_reply(error, 429), {"Retry-After": f"{retry_after_s:.0f}"})


def _with(response: web.Response, headers: dict[str, str]) -> web.Response:
    response.headers.update(headers)
    return response
