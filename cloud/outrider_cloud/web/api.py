"""The application over the table of routes: who asks comes first, then every error of ours is JSON. Knows no store."""

import hmac
import logging
from collections.abc import Sequence

from aiohttp import web

from outrider_cloud.access.roster import Roster
from outrider_cloud.metrics import Metrics
from outrider_cloud.web.openapi import document
from outrider_cloud.web.route import JSON_TYPE, Handler, Route, error_reply, json_reply
from outrider_link.openapi_page import HEADERS, page
from outrider_wire.errors import CallerInputError, OutriderError, RuleRefusalError

log = logging.getLogger(__name__)

_HTTP_REASON = {404: "no_such_route", 405: "no_such_route", 413: "too_large"}


class Api:
    """The routes of every group, behind one guard."""

    def __init__(self, *, routes: Sequence[Route], metrics: Metrics, roster: Roster, token: str = "") -> None:
        self.routes = [
            *routes,
            Route(method="GET", path="/openapi.json", handler=self._openapi, what="This document", gives=JSON_TYPE),
            Route(method="GET", path="/docs", handler=self._docs, what="This document, for people", gives="text/html"),
        ]
        self._metrics = metrics
        self._roster = roster
        self._token = token
        self._who = {route.path: route.who for route in self.routes}

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(middlewares=[self._guard])
        for route in self.routes:
            application.router.add_route(route.method, route.path, route.handler)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check_who(request)
            return await handler(request)
        except OutriderError as error:
            return error_reply(error)
        except web.HTTPException as error:
            what = f"{request.method} {request.path}: {error.reason}"
            reason = _HTTP_REASON.get(error.status, "bad_request")
            return error_reply(CallerInputError(what, reason=reason, fix="see /openapi.json"), error.status)
        except Exception:  # supervised: a fault of ours must answer as one, and not as a broken connection
            log.exception("api.failed", extra={"path": request.path})
            self._metrics.error("api")
            return error_reply(
                OutriderError("the cloud failed on this request", reason="internal", fix="see its log"), 500
            )

    def _check_who(self, request: web.Request) -> None:
        """Without a token set, whoever reaches the API is its operator: the configuration keeps that to the loopback.

        Raises:
            CallerInputError: it is nobody that the route serves.
            RuleRefusalError: it is a device, or has a certificate, that was revoked.
        """
        name, serial = peer_certificate(request)
        if name and self._roster.refuses(name, serial):
            raise RuleRefusalError(
                f"the certificate of {name!r} has been revoked", reason="device_revoked", fix="ask for a new join line"
            )
        resource = request.match_info.route.resource
        who = self._who.get(resource.canonical, "operator") if resource else "operator"
        if who == "anyone" or self._is_operator(request):
            return
        if who == "device" and name and name == request.match_info["device"]:
            return
        raise CallerInputError(
            "the bearer token is missing or wrong", reason="unauthorised", fix="send Authorization: Bearer TOKEN"
        )

    def _is_operator(self, request: web.Request) -> bool:
        sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return not self._token or hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), self._token.encode())

    async def _openapi(self, _: web.Request) -> web.Response:
        return json_reply(document(self.routes))

    async def _docs(self, _: web.Request) -> web.Response:
        return web.Response(
            text=page(document(self.routes)), content_type="text/html", charset="utf-8", headers=HEADERS
        )


def peer_certificate(request: web.Request) -> tuple[str, str]:
    """Common name and serial number of the client certificate of a connection; empty without one."""
    certificate = request.get_extra_info("peercert") or {}
    names = dict(pair for relative in certificate.get("subject", ()) for pair in relative)
    return str(names.get("commonName", "")), str(certificate.get("serialNumber", ""))
