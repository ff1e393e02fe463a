"""HTTP replies: JSON, errors as JSON, and who may ask at all. Knows no routes."""

import logging
import socket
from collections.abc import Awaitable, Callable
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from outrider_edge.local_api.views import ErrorReply, ErrorView
from outrider_link.settings import is_loopback
from outrider_wire.errors import (
    BundleError,
    CallerInputError,
    CallerUnknownError,
    OperatorError,
    OutriderError,
    PeerError,
    RuleRefusalError,
    TrustError,
    UndecidedError,
    UnreachableError,
)

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STATUS: tuple[tuple[type[OutriderError], int], ...] = (
    (CallerInputError, 400),
    (CallerUnknownError, 404),
    (RuleRefusalError, 409),
    (TrustError, 409),
    (BundleError, 500),
    (PeerError, 502),
    (OperatorError, 503),
    (UnreachableError, 503),
    (UndecidedError, 504),
)
"""The HTTP status by whose move it is."""
STATUS_OF_REASON = {
    "slow_body": 408,
    "too_large": 413,
    "too_many_pixels": 413,
    "too_many_scans": 413,
    "picture_memory": 413,
    "not_an_image": 415,
    "damaged_image": 415,
    "unsupported_media_type": 415,
}
"""Where HTTP has a number of its own for what a caller got wrong."""

_ENCODER = msgspec.json.Encoder()


def json_reply(value: object, status: int = 200) -> web.Response:
    """A value as JSON."""
    return coded_reply(status, _ENCODER.encode(value))


def coded_reply(status: int, body: bytes) -> web.Response:
    """JSON that is encoded already."""
    return web.Response(body=body, status=status, content_type="application/json")


def status_of(error: OutriderError) -> int:
    """The status that names the guilty side."""
    status = next((number for kind, number in STATUS if isinstance(error, kind)), 500)
    return STATUS_OF_REASON.get(error.reason, status) if isinstance(error, CallerInputError) else status


def error_json(error: OutriderError) -> tuple[int, bytes]:
    """HTTP status and JSON of an error."""
    part = error.part if isinstance(error, CallerInputError) else ""
    view = ErrorView(reason=error.reason, what=error.what, fix=error.fix, part=part)
    return status_of(error), _ENCODER.encode(ErrorReply(error=view))


DEFECT = (
    500,
    _ENCODER.encode(
        ErrorReply(error=ErrorView(reason="internal_error", what="a defect of the agent; its log says more"))
    ),
)
"""The same of what nobody foresaw: it is logged, and not told."""


@web.middleware
async def speak_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error becomes JSON; none ends the agent."""
    try:
        if not may_ask(request):
            return _plain("foreign_origin", "this API is for programs on this machine, not for web pages", 403)
        return await handler(request)
    except OutriderError as error:
        return coded_reply(*error_json(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _plain(
            _REASONS.get(error.status, "http_error"), f"{request.method} {request.path}: {error.reason}", error.status
        )
    except ConnectionError:
        raise  # the caller has gone
    except Exception:  # one request's defect must not become the others'
        log.exception("request.failed", extra={"method": request.method, "path": request.path})
        return coded_reply(*DEFECT)


def may_ask(request: web.Request) -> bool:
    """Whether a request comes from a program on this machine, as `from_here` tells. A Unix socket is out of a page's reach."""
    transport = request.transport
    own = transport.get_extra_info("socket") if transport is not None else None
    if own is not None and own.family == socket.AF_UNIX:
        return True
    return from_here(request.host, request.headers.get("Origin"))


def from_here(host: str, origin: str | None) -> bool:
    """Whether the fields ``Host`` and ``Origin`` are those of a program on this machine.

    A web page could post to loopback, or reach it by a name of its own (DNS rebinding): the first shows in ``Origin``, the
    second in ``Host``.
    """
    return _is_here(f"//{host}") and (origin is None or _is_here(origin))


@lru_cache(maxsize=64)
def _is_here(address: str) -> bool:
    """Asked of every request, mostly about the same few: taking an address apart costs a twelfth of answering one."""
    try:
        return is_loopback(urlsplit(address).hostname)
    except ValueError:  # a bracket without its end
        return False


_REASONS = {404: "unknown_path", 405: "method_not_allowed", 413: "too_large"}


def _plain(reason: str, what: str, status: int) -> web.Response:
    return json_reply(ErrorReply(error=ErrorView(reason=reason, what=what)), status)
