"""Rollouts, for whoever runs them."""

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from outrider_cloud.rollout.collecting import KEEP, Collected
from outrider_cloud.rollout.collector import Collector
from outrider_cloud.rollout.desk import RolloutDesk
from outrider_cloud.rollout.forecast import Forecast
from outrider_cloud.rollout.states import Act
from outrider_cloud.rollout.views import DeviceInRollout, RolloutBrief, RolloutDetail
from outrider_cloud.web.route import JSON_TYPE, Route, converted, json_reply, read_body
from outrider_wire.names import Digest, Name
from outrider_wire.rollout import RolloutPlan, Stop

Note = Annotated[str, Meta(max_length=256)]


class ForecastRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A plan, signed or not."""

    plan: RolloutPlan


class NewRolloutRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A plan that is in the signed metadata."""

    task: Name
    rollout: Name


class ActRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A person's word on a rollout."""

    act: Act
    note: Note = ""
    forgive: bool = False
    """With ``resume``: what went wrong so far does not count."""
    dry_run: bool = False


class StopRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The emergency stop."""

    rollouts: Annotated[list[Name], Meta(max_length=64)] = []
    """None named: all."""
    lifted: bool = False
    reason: Note = ""
    dry_run: bool = False


class RolloutsReply(msgspec.Struct, kw_only=True, frozen=True):
    """All rollouts, newest first."""

    rollouts: list[RolloutBrief]
    stop: Stop | None
    """The emergency stop that stands now."""


class RolloutDevicesReply(msgspec.Struct, kw_only=True, frozen=True):
    """The devices of a rollout."""

    devices: list[DeviceInRollout]


class StopReply(msgspec.Struct, kw_only=True, frozen=True):
    """The stop that stands now, or would."""

    dry_run: bool
    stop: Stop


class CollectRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Releases that nothing needs."""

    keep: Annotated[int, Meta(ge=1, le=1000)] = KEEP
    """So many of each task's newest stay in any case."""
    without: Annotated[list[Digest], Meta(max_length=10_000)] = []
    """With ``dry_run``: releases that are about to be signed no more."""
    dry_run: bool = True


class CollectReply(msgspec.Struct, kw_only=True, frozen=True):
    """What was removed, or would be, and why the rest stays."""

    dry_run: bool
    collected: Collected


class RolloutRoutes:
    """The handlers, given what they ask."""

    def __init__(self, *, desk: RolloutDesk, collector: Collector) -> None:
        self._desk = desk
        self._collector = collector

    def routes(self) -> list[Route]:
        """This group's rows."""
        return [
            Route(
                method="POST",
                path="/v1/rollouts/forecast",
                handler=self._forecast,
                what="What a plan would come to on the fleet as it is",
                body=JSON_TYPE,
                takes=ForecastRequest,
                gives=Forecast,
                fails=(404,),
            ),
            Route(
                method="POST",
                path="/v1/rollouts",
                handler=self._create,
                what="Take up a rollout whose plan is signed",
                answers=201,
                body=JSON_TYPE,
                takes=NewRolloutRequest,
                gives=RolloutBrief,
                fails=(404, 409, 503),
            ),
            Route(method="GET", path="/v1/rollouts", handler=self._list, what="All rollouts", gives=RolloutsReply),
            Route(
                method="GET",
                path="/v1/rollouts/{rollout}",
                handler=self._show,
                what="One rollout with its stages and figures",
                gives=RolloutDetail,
                fails=(404,),
            ),
            Route(
                method="GET",
                path="/v1/rollouts/{rollout}/devices",
                handler=self._devices,
                what="The devices of a rollout",
                gives=RolloutDevicesReply,
                fails=(404,),
            ),
            Route(
                method="POST",
                path="/v1/rollouts/{rollout}/act",
                handler=self._act,
                what="Approve, pause, resume, abort or roll back",
                body=JSON_TYPE,
                takes=ActRequest,
                gives=RolloutBrief,
                fails=(404, 409, 503),
            ),
            Route(
                method="POST",
                path="/v1/stops",
                handler=self._stop,
                what="Stop what is under way on all devices, or let it go on",
                body=JSON_TYPE,
                takes=StopRequest,
                gives=StopReply,
                fails=(404, 409, 503),
            ),
            Route(
                method="POST",
                path="/v1/releases/collect",
                handler=self._collect,
                what="Remove the releases that nothing needs, or say which would go",
                body=JSON_TYPE,
                takes=CollectRequest,
                gives=CollectReply,
                fails=(503,),
            ),
        ]

    async def _forecast(self, request: web.Request) -> web.Response:
        return json_reply(await self._desk.forecast((await read_body(request, ForecastRequest)).plan))

    async def _create(self, request: web.Request) -> web.Response:
        wanted = await read_body(request, NewRolloutRequest)
        return json_reply(await self._desk.create(wanted.task, wanted.rollout), 201)

    async def _list(self, _: web.Request) -> web.Response:
        return json_reply({"rollouts": await self._desk.all_briefs(), "stop": await self._desk.standing_stop()})

    async def _show(self, request: web.Request) -> web.Response:
        return json_reply(await self._desk.one(_name(request)))

    async def _devices(self, request: web.Request) -> web.Response:
        return json_reply({"devices": await self._desk.devices(_name(request))})

    async def _act(self, request: web.Request) -> web.Response:
        name, said = _name(request), await read_body(request, ActRequest)
        done = await self._desk.act(name, said.act, note=said.note, forgive=said.forgive, dry_run=said.dry_run)
        return json_reply(done)

    async def _collect(self, request: web.Request) -> web.Response:
        said = await read_body(request, CollectRequest)
        if said.dry_run:
            found = await self._collector.foresee(keep=said.keep, without=frozenset(said.without))
        else:
            found = await self._collector.collect(keep=said.keep)
        return json_reply(CollectReply(dry_run=said.dry_run, collected=found))

    async def _stop(self, request: web.Request) -> web.Response:
        said = await read_body(request, StopRequest)
        stop = await self._desk.stop(said.rollouts, lifted=said.lifted, reason=said.reason, dry_run=said.dry_run)
        return json_reply({"dry_run": said.dry_run, "stop": stop})


def _name(request: web.Request) -> str:
    return converted(request.match_info["rollout"], Name, "rollout", fix="1 to 64 of a-z 0-9 -")
