"""How the cloud fares: health, metrics, the account, the fleet, what there is to learn from. Reads, and changes nothing."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import msgspec
from aiohttp import web

from outrider_cloud.fleet import Fleet
from outrider_cloud.metrics import Metrics
from outrider_cloud.store import examples, inputs
from outrider_cloud.store.store import Store
from outrider_cloud.web.route import Route, json_reply
from outrider_cloud.web.shapes import (
    AccountReply,
    DevicesReply,
    LiveReply,
    ReadyReply,
    StatsReply,
)
from outrider_wire.errors import CallerUnknownError


class Health(Protocol):
    """What the service says of itself."""

    def waiting_for(self) -> list[str]:
        """What must still come before escalations are taken; empty when ready."""
        ...

    def offers(self) -> dict[str, int]:
        """Offers since the start: ``received``, and each outcome."""
        ...


class Watching:
    """The handlers, given what they read."""

    def __init__(self, *, health: Health, store: Store, fleet: Fleet, tasks: Sequence[str], metrics: Metrics) -> None:
        self._health = health
        self._store = store
        self._fleet = fleet
        self._tasks = tasks
        self._metrics = metrics

    def routes(self) -> list[Route]:
        """This group's rows."""
        return [
            Route(
                method="GET",
                path="/health/live",
                handler=self._live,
                what="The process runs",
                who="anyone",
                gives=LiveReply,
            ),
            Route(
                method="GET",
                path="/health/ready",
                handler=self._ready,
                what="Escalations are taken",
                who="anyone",
                gives=ReadyReply,
                fails=(503,),
            ),
            Route(
                method="GET", path="/metrics", handler=self._prometheus, what="Prometheus metrics", gives="text/plain"
            ),
            Route(
                method="GET",
                path="/v1/account",
                handler=self._account,
                what="Where every escalation ended",
                gives=AccountReply,
            ),
            Route(method="GET", path="/v1/devices", handler=self._devices, what="The fleet", gives=DevicesReply),
            Route(
                method="GET",
                path="/v1/tasks/{task}/examples/stats",
                handler=self._example_stats,
                what="What there is to learn from",
                gives=StatsReply,
                fails=(404,),
            ),
        ]

    async def _live(self, _: web.Request) -> web.Response:
        return json_reply({"live": True})

    async def _ready(self, _: web.Request) -> web.Response:
        waiting = self._health.waiting_for()
        return json_reply({"ready": not waiting, "waiting_for": waiting}, 503 if waiting else 200)

    async def _prometheus(self, _: web.Request) -> web.Response:
        self._metrics.ready.set(not self._health.waiting_for())
        for task, alarmed in (await self._fleet.alarms()).items():
            if task in self._tasks:  # a device may tell of any
                self._metrics.device_alarms.labels(task).set(alarmed)
        return web.Response(body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _account(self, _: web.Request) -> web.Response:
        accounts = await self._store.read(inputs.accounts)
        whole = inputs.total(accounts)
        return json_reply(
            msgspec.to_builtins(whole)
            | {
                "adds_up": whole.adds_up,
                "tasks": {task: msgspec.to_builtins(account) for task, account in accounts.items()},
                "offers": self._health.offers(),
            }
        )

    async def _devices(self, _: web.Request) -> web.Response:
        return json_reply({"devices": await self._fleet.devices()})

    async def _example_stats(self, request: web.Request) -> web.Response:
        task = request.match_info["task"]
        if task not in self._tasks:
            raise CallerUnknownError(
                f"task {task!r} is not served here", reason="unknown_task", fix=f"one of {', '.join(self._tasks)}"
            )
        return json_reply(await self._store.read(partial(examples.stats, task=task)))
