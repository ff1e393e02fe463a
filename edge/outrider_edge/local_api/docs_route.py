"""The agent's API for people: its document as a page. Knows no route but its own."""

from collections.abc import Sequence

from aiohttp import web

from outrider_edge.local_api.openapi import document
from outrider_edge.local_api.replies import Handler
from outrider_link.openapi_page import HEADERS, page


class DocsRoute:
    """``GET /docs``."""

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """The table: method, path, handler."""
        return (("GET", "/docs", self._docs),)

    async def _docs(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text=page(document()), content_type="text/html", charset="utf-8", headers=HEADERS)
