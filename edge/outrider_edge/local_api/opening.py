"""Opens the API on its addresses, and closes it so that the inputs under way finish first. Knows no route."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from aiohttp import web

from outrider_edge.journey.agent import Agent
from outrider_edge.local_api.api import Api
from outrider_edge.local_api.short_way import ShortWay

GRACE_S = 5.0
"""How long inputs under way may still wait for the cloud once the agent is asked to stop."""
_CLOSE_S = 2.0
"""How long the API's connections get to end after that."""
_BACKLOG = 128


async def open_api(
    api: Api, agent: Agent, wake: Callable[[], object], sockets: Sequence[socket.socket], stack: AsyncExitStack
) -> list[str]:
    """Where it answers from now on, until ``stack`` ends: ``http://HOST:PORT``, and ``unix:PATH``.

    Args:
        api: the routes.
        agent: that they ask.
        wake: tells who reads a stream of events to look up.
        sockets: bound.
        stack: of what is to be closed.
    """

    async def drain(_: web.Application) -> None:
        draining = asyncio.ensure_future(agent.drain(GRACE_S))
        await asyncio.sleep(0)
        wake()  # who reads along is told to go, once the agent says that it stops
        await draining

    app = api.application()
    app.on_shutdown.append(drain)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_S)
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - it is set up
    way = ShortWay(agent=agent, max_bytes=api.max_bytes, otherwise=runner.server)
    stack.push_async_callback(way.close, _CLOSE_S)
    stack.push_async_callback(runner.cleanup)
    stack.callback(way.stop)
    way.look()
    loop, addresses = asyncio.get_running_loop(), []
    for bound in sockets:
        open_on = loop.create_unix_server if bound.family == socket.AF_UNIX else loop.create_server
        listening = await open_on(way, sock=bound, backlog=_BACKLOG)
        stack.callback(listening.close)
        addresses.append(_address(bound))
    return addresses


def _address(bound: socket.socket) -> str:
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if bound.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"
