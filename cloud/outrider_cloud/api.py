"""The cloud's HTTP API: one table of routes, from which the router and the OpenAPI document are both made.

Everything but health asks for the bearer token, where one is set. Errors are JSON: reason, what, fix, part.
"""

import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from outrider_cloud.fleet import Fleet
from outrider_cloud.metrics import Metrics
from outrider_cloud.openapi import document
from outrider_cloud.releases import Releases
from outrider_cloud.store import dead_letters, examples, inputs
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.store import Store
from outrider_wire.errors import (
    BundleError,
    CallerError,
    CallerInputError,
    CallerUnknownError,
    OutriderError,
    RuleRefusalError,
    UnreachableError,
)
from outrider_wire.limits import BLOB_BYTES
from outrider_wire.names import Digest, Name

log = logging.getLogger(__name__)

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUS: tuple[tuple[type[OutriderError], int], ...] = (
    (CallerUnknownError, 404),
    (CallerError, 400),
    (BundleError, 422),
    (RuleRefusalError, 409),
    (UnreachableError, 503),
)
_HTTP_REASON = {404: "no_such_route", 405: "no_such_route", 413: "too_large"}
_REASON_STATUS = {"too_large": 413, "unauthorised": 401, "bad_media_type": 415}


class Health(Protocol):
    """What the service says of itself."""

    def waiting_for(self) -> list[str]:
        """What must still come before escalations are taken; empty when ready."""
        ...

    def offers(self) -> dict[str, int]:
        """Offers since the start: ``received``, and each outcome."""
        ...


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
    open: bool = False
    """Whether it needs no token."""


class _ReleaseRequest(msgspec.Struct, forbid_unknown_fields=True):
    manifest: Digest


class _AssignRequest(msgspec.Struct, forbid_unknown_fields=True):
    devices: list[Name] | str
    """Names, or ``all``."""


class Api:
    """The handlers, given what they talk to."""

    def __init__(
        self,
        *,
        health: Health,
        store: Store,
        blobs: BlobStore,
        releases: Releases,
        fleet: Fleet,
        tasks: Sequence[str],
        metrics: Metrics,
        token: str = "",
    ) -> None:
        self._health = health
        self._store = store
        self._blobs = blobs
        self._releases = releases
        self._fleet = fleet
        self._tasks = tasks
        self._metrics = metrics
        self._token = token

    def routes(self) -> list[Route]:
        """The whole API."""
        json, any_bytes = "application/json", "application/octet-stream"
        return [
            Route(method="GET", path="/health/live", handler=self._live, what="The process runs", open=True),
            Route(method="GET", path="/health/ready", handler=self._ready, what="Escalations are taken", open=True),
            Route(method="GET", path="/metrics", handler=self._prometheus, what="Prometheus metrics"),
            Route(method="GET", path="/openapi.json", handler=self._openapi, what="This document"),
            Route(method="GET", path="/v1/account", handler=self._account, what="Where every escalation ended"),
            Route(method="GET", path="/v1/devices", handler=self._devices, what="The fleet"),
            Route(
                method="PUT",
                path="/v1/blobs/{sha256}",
                handler=self._put_blob,
                what="Store a file under its digest",
                answers=201,
                body=any_bytes,
            ),
            Route(method="HEAD", path="/v1/blobs/{sha256}", handler=self._has_blob, what="Whether a file is here"),
            Route(
                method="POST",
                path="/v1/releases",
                handler=self._add_release,
                what="Make a release of a manifest whose files are here",
                answers=201,
                body=json,
            ),
            Route(method="GET", path="/v1/releases", handler=self._list_releases, what="All releases"),
            Route(
                method="POST",
                path="/v1/releases/{digest}/assign",
                handler=self._assign,
                what="Offer a release to devices",
                body=json,
            ),
            Route(
                method="GET",
                path="/v1/tasks/{task}/examples/stats",
                handler=self._example_stats,
                what="What there is to learn from",
            ),
            Route(
                method="GET",
                path="/v1/dead-letters",
                handler=self._dead_letters,
                what="The newest messages that could not be taken (?limit=100)",
            ),
        ]

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(middlewares=[self._guard])
        self._open = {route.path for route in self.routes() if route.open}
        for route in self.routes():
            application.router.add_route(route.method, route.path, route.handler)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Token first; then every error of ours as JSON."""
        try:
            if self._token and request.path not in self._open:
                self._check_token(request)
            return await handler(request)
        except OutriderError as error:
            return _error(error)
        except web.HTTPException as error:
            what = f"{request.method} {request.path}: {error.reason}"
            reason = _HTTP_REASON.get(error.status, "bad_request")
            return _error(CallerInputError(what, reason=reason, fix="see /openapi.json"), error.status)
        except Exception:  # supervised: a fault of ours must answer as one, and not as a broken connection
            log.exception("api.failed", extra={"path": request.path})
            self._metrics.error("api")
            return _error(OutriderError("the cloud failed on this request", reason="internal", fix="see its log"), 500)

    def _check_token(self, request: web.Request) -> None:
        sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(sent.encode(), self._token.encode()):
            raise CallerInputError(
                "the bearer token is missing or wrong", reason="unauthorised", fix="send Authorization: Bearer TOKEN"
            )

    async def _live(self, _: web.Request) -> web.Response:
        return _json({"live": True})

    async def _ready(self, _: web.Request) -> web.Response:
        waiting = self._health.waiting_for()
        return _json({"ready": not waiting, "waiting_for": waiting}, 503 if waiting else 200)

    async def _prometheus(self, _: web.Request) -> web.Response:
        self._metrics.ready.set(not self._health.waiting_for())
        for task, alarmed in (await self._fleet.alarms()).items():
            self._metrics.device_alarms.labels(task).set(alarmed)
        return web.Response(body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _openapi(self, _: web.Request) -> web.Response:
        return _json(document(self.routes()))

    async def _account(self, _: web.Request) -> web.Response:
        accounts = await self._store.read(inputs.accounts)
        whole = inputs.total(accounts)
        return _json(
            msgspec.to_builtins(whole)
            | {
                "adds_up": whole.adds_up,
                "tasks": {task: msgspec.to_builtins(account) for task, account in accounts.items()},
                "offers": self._health.offers(),
            }
        )

    async def _devices(self, _: web.Request) -> web.Response:
        return _json({"devices": await self._fleet.devices()})

    async def _put_blob(self, request: web.Request) -> web.Response:
        sha256 = _converted(request.match_info["sha256"], Digest, "digest")
        if (request.content_length or 0) > BLOB_BYTES:
            raise CallerInputError(f"a blob may have {BLOB_BYTES} bytes", reason="too_large", fix="send a smaller file")
        size = await self._blobs.receive(sha256, _chunks(request))
        return _json({"sha256": sha256, "size": size}, 201)

    async def _has_blob(self, request: web.Request) -> web.Response:
        sha256 = _converted(request.match_info["sha256"], Digest, "digest")
        return web.Response(status=200 if self._blobs.find(sha256) else 404)

    async def _add_release(self, request: web.Request) -> web.Response:
        wanted = await _body(request, _ReleaseRequest)
        return _json(await self._releases.add(wanted.manifest), 201)

    async def _list_releases(self, _: web.Request) -> web.Response:
        return _json({"releases": await self._releases.list()})

    async def _assign(self, request: web.Request) -> web.Response:
        digest = _converted(request.match_info["digest"], Digest, "digest")
        wanted = await _body(request, _AssignRequest)
        if isinstance(wanted.devices, str) and wanted.devices != "all":
            raise CallerInputError(
                'devices is neither a list of names nor "all"', reason="invalid_body", fix="send one of the two"
            )
        to = None if isinstance(wanted.devices, str) else wanted.devices
        return _json({"release": digest, "counters": await self._releases.assign(digest, to)})

    async def _example_stats(self, request: web.Request) -> web.Response:
        task = request.match_info["task"]
        if task not in self._tasks:
            raise CallerUnknownError(
                f"task {task!r} is not served here", reason="unknown_task", fix=f"one of {', '.join(self._tasks)}"
            )
        return _json(await self._store.read(partial(examples.stats, task=task)))

    async def _dead_letters(self, request: web.Request) -> web.Response:
        try:
            limit = min(max(int(request.query.get("limit", "100")), 1), 1000)
        except ValueError as error:
            raise CallerInputError("limit is not a number", reason="invalid_query", fix="send 1 to 1000") from error
        return _json({"dead_letters": await self._store.read(partial(dead_letters.latest, limit=limit))})


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_chunked(1 << 20):
        yield chunk


async def _body(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as error:
        raise CallerInputError(
            f"the body is not what it should be: {error}", reason="invalid_body", fix="see /openapi.json"
        ) from error


def _converted(value: str, kind: Any, what: str) -> str:
    try:
        return str(msgspec.convert(value, kind))
    except msgspec.ValidationError as error:
        raise CallerInputError(
            f"{value[:80]!r} is no {what}", reason=f"invalid_{what}", fix="64 hexadecimal digits"
        ) from error


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _error(error: OutriderError, status: int | None = None) -> web.Response:
    if status is None:
        fallback = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        status = _REASON_STATUS.get(error.reason, fallback)
    said = {"reason": error.reason, "what": error.what, "fix": error.fix, "part": getattr(error, "part", "")}
    return _json({"error": said}, status)
