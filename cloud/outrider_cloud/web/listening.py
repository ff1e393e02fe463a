"""The HTTP API on its address, for as long as a block lasts. Knows no route."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from outrider_cloud.access.settings import server_tls
from outrider_cloud.config import ApiSettings
from outrider_cloud.web.api import Api
from outrider_wire.errors import OperatorSetupError


@asynccontextmanager
async def listening(api: Api, settings: ApiSettings) -> AsyncIterator[str]:
    """Inside the block it is served; the URL of it.

    Raises:
        OperatorSetupError: ``port_occupied``.
    """
    runner = web.AppRunner(api.application(), access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await _bind(runner, settings)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        yield f"http{'s' if settings.cert_file else ''}://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _bind(runner: web.AppRunner, settings: ApiSettings) -> None:
    try:
        await web.TCPSite(runner, settings.host, settings.port, ssl_context=server_tls(settings)).start()
    except OSError as error:
        raise OperatorSetupError(
            f"the API cannot listen on {settings.host}:{settings.port}: {error.strerror or error}",
            reason="port_occupied",
            fix="stop what listens there, or set api.port to another one",
        ) from error
