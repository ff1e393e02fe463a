"""What a row of the API is, and how its handlers read and write JSON. Knows no route."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec
from aiohttp import web

from outrider_wire.decodable import decodable
from outrider_wire.errors import (
    BundleError,
    CallerError,
    CallerInputError,
    CallerUnknownError,
    OutriderError,
    RuleRefusalError,
    TrustError,
    UnreachableError,
)

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Who = Literal["anyone", "operator", "device"]
"""Whom a route serves: anyone; whoever holds the operator's token; or also the one device that ``{device}`` in its path names,
known by its client certificate."""
Shape = type[msgspec.Struct]
JSON_TYPE = "application/json"
BYTES_TYPE = "application/octet-stream"

_STATUS: tuple[tuple[type[OutriderError], int], ...] = (
    (CallerUnknownError, 404),
    (CallerError, 400),
    (BundleError, 422),
    (RuleRefusalError, 409),
    (TrustError, 409),
    (UnreachableError, 503),
)
_REASON_STATUS = {
    "too_large": 413,
    "unauthorised": 401,
    "bad_media_type": 415,
    "invitation_refused": 403,
    "device_revoked": 403,
    "too_many": 429,
    "metadata_missing": 404,
}


@dataclass(frozen=True, kw_only=True)
class Route:
    """One row of the API."""

    method: str
    path: str
    handler: Handler
    what: str
    answers: int = 200
    body: str = ""
    """Media type of the request's body; '' without one."""
    who: Who = "operator"
    takes: Shape | None = None
    """Shape of a body in JSON."""
    gives: Shape | str | None = None
    """Shape of the reply, from `outrider_cloud.web.shapes`; or its media type, where it is no JSON; None: it has no body."""
    also: Mapping[int, Shape | str | None] = field(default_factory=dict)
    """Other statuses by which it succeeds, with what the reply is then."""
    messages: bool = False
    """What it takes and gives are messages of the wire, in MessagePack as well as in JSON."""
    query: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """JSON Schema of each parameter in the query."""
    fails: Sequence[int] = ()
    """Statuses that it may have beside ``answers``, 401 (who it serves), 400 and 413 (what it takes)."""


def json_reply(value: Any, status: int = 200) -> web.Response:
    """``value`` as the body."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type=JSON_TYPE)


def error_reply(error: OutriderError, status: int | None = None) -> web.Response:
    """An error as the body; its kind and reason decide the status, unless one is given."""
    if status is None:
        fallback = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        status = _REASON_STATUS.get(error.reason, fallback)
    said = {"reason": error.reason, "what": error.what, "fix": error.fix, "part": getattr(error, "part", "")}
    return json_reply({"error": said}, status)


async def read_body(request: web.Request, kind: type[T]) -> T:
    """The request's JSON body.

    Raises:
        CallerInputError: it is not what it should be.
    """
    try:
        return msgspec.json.decode(await request.read(), type=decodable(kind))
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise CallerInputError(
            f"the body is not what it should be: {error}", reason="invalid_body", fix="see /openapi.json"
        ) from error


def converted(value: str, kind: Any, what: str, fix: str = "64 hexadecimal digits") -> str:
    """A name in the path, of a bounded string type.

    Raises:
        CallerInputError: it is none.
    """
    try:
        return str(msgspec.convert(value, decodable(kind)))
    except msgspec.ValidationError as error:
        raise CallerInputError(f"{value[:80]!r} is no {what}", reason=f"invalid_{what}", fix=fix) from error


def whole_number(request: web.Request, name: str, default: int, most: int) -> int:
    """A number in the query, brought between 1 and ``most``.

    Raises:
        CallerInputError: it is none.
    """
    try:
        return min(max(int(request.query.get(name, str(default))), 1), most)
    except ValueError as error:
        raise CallerInputError(f"{name} is not a number", reason="invalid_query", fix=f"send 1 to {most}") from error


async def chunks(request: web.Request) -> AsyncIterator[bytes]:
    """The body, piece by piece."""
    async for chunk in request.content.iter_chunked(1 << 20):
        yield chunk
