"""Wires the agent: configuration in, a serving process out. The one place that knows every part, and computes nothing.

Started from the inside out (folder, models, outbox, uplink, API) and stopped in the reverse order, so that nothing is
accepted that could not be kept, and nothing is dropped that was.
"""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aiohttp import web

from outrider_edge.budget.spending import Spending
from outrider_edge.config import EdgeConfig, read_task
from outrider_edge.exposition import AgentCollector, page
from outrider_edge.ground import audit_key, bound_sockets, hold_folder
from outrider_edge.journey.agent import NO_TASK, Agent
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.journey.subtasks import SubtaskModels, load_subtasks
from outrider_edge.journey.way_out import check_way_out
from outrider_edge.local_api.api import Api
from outrider_edge.local_api.ended_route import EndedRoute
from outrider_edge.local_api.kserve.routes import KserveRoutes
from outrider_edge.local_api.openapi import agent_version
from outrider_edge.local_api.outbox_routes import OutboxRoutes
from outrider_edge.local_api.updates_routes import UpdatesRoutes
from outrider_edge.local_api.views import StatusView, task_view
from outrider_edge.memory.memory import TaskMemory, check_embedding
from outrider_edge.metrics import Metrics
from outrider_edge.outbox.clock import run_clock
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.running import providers_of, say_provider
from outrider_edge.thermal.keeper import ThermalKeeper, families
from outrider_edge.thermal.pacer import Pacer
from outrider_edge.updates.device import Updater
from outrider_edge.updates.hands import Hands
from outrider_edge.updates.ledger import LedgerFile
from outrider_edge.updates.slots import SlotFolder
from outrider_edge.updates.starting import Load, SlotStart, settle_together, start_slots
from outrider_edge.updating import LEDGER_FOLDER, Ready, hear, updater_of
from outrider_edge.uplink.uplink import AloneUplink, BrokerAccess, Uplink
from outrider_edge.webhooks.starting import Sinks
from outrider_engine.bundle import Bundle
from outrider_engine.decoder import PictureDecoder, decoder_of
from outrider_engine.model import Model, load_model
from outrider_link.http import CloudHttp
from outrider_link.service_notice import ServiceNotice
from outrider_wire.errors import OperatorConfigError
from outrider_wire.images import Decode, decode_picture
from outrider_wire.report import Account
from outrider_wire.task import Task

log = logging.getLogger(__name__)

GRACE_S = 5.0
"""How long inputs under way may still wait for the cloud once the agent is asked to stop."""
_CLOSE_S = 2.0
"""How long the API's connections get to end after that."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """An agent that serves."""

    agent: Agent
    addresses: list[str]
    """``http://HOST:PORT``, and ``unix:PATH`` when there is one."""


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """One task, ready to answer."""

    runtime: TaskRuntime
    subtasks: SubtaskModels
    start: SlotStart
    load: Load


async def serve(config: EdgeConfig) -> None:
    """Serves until SIGTERM or SIGINT; then finishes what is under way, keeps what is not, and returns.

    Raises:
        OperatorError: the machine or the configuration lacks something.
        BundleError: no model of a task can be used.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    notice = ServiceNotice.of_environment(os.environ)
    async with notice.alive(), serving(config) as served:
        tasks = ", ".join(served.agent.runtimes)
        log.info(
            "agent.ready", extra={"device": config.device, "addresses": ", ".join(served.addresses), "tasks": tasks}
        )
        if not config.broker.url:
            log.warning(
                "agent.alone",
                extra={"what": "no broker is configured: what the model is unsure of is answered here, uncertified"},
            )
        notice.say("READY=1", f"STATUS=answers {tasks} at {', '.join(served.addresses)}")
        await stop.wait()
        notice.say("STOPPING=1")
        log.info("agent.stopping", extra={"device": config.device})
    log.info("agent.stopped", extra={"device": config.device})


@asynccontextmanager
async def serving(config: EdgeConfig) -> AsyncIterator[Serving]:
    """The whole agent, from the first answer to the last; errors as `serve`."""
    async with AsyncExitStack() as stack:
        stack.callback(os.close, hold_folder(config.folder))
        sockets = bound_sockets(config.api)
        for bound in sockets:
            stack.callback(bound.close)
        key = audit_key(config)
        decoder = _decoder(config, stack)
        pacer, heat = Pacer(), None
        ledger = await asyncio.to_thread(LedgerFile, config.folder / LEDGER_FOLDER)
        loaded = await asyncio.to_thread(_load_tasks, config, decoder or decode_picture, ledger)
        for ready in loaded.values():
            stack.callback(ready.runtime.close)
            stack.callback(ready.subtasks.close)
        metrics = Metrics(tasks=loaded)
        outbox = await _outbox(config, stack)
        uplink = _uplink(config, outbox, metrics)
        clock = run_clock()
        terms = {name: ready.runtime.task.budget for name, ready in loaded.items()}
        spending = Spending(terms=terms, clock=clock, saved=outbox.remembered, remember=outbox.remember)
        memories = {
            name: TaskMemory(task=ready.runtime.task, now=clock.now)
            for name, ready in loaded.items()
            if ready.runtime.task.memory.enabled
        }
        agent = Agent(
            runtimes={name: ready.runtime for name, ready in loaded.items()},
            ledger=outbox,
            uplink=uplink,
            metrics=metrics,
            audit_key=key,
            spending=spending,
            memories=memories,
            subtasks={name: ready.subtasks for name, ready in loaded.items()},
            decode=decoder or decode_picture,
            pacer=pacer,
        )
        if config.thermal.enabled:
            heat = ThermalKeeper(terms=config.thermal, pacer=pacer)
            stack.callback(asyncio.create_task(heat.run()).cancel)
        uplink.listen(agent.on_final)
        uplink.listen_aside(agent.on_aside)
        uplink.spare_when(agent.may_spare)
        uplink.listen_pulled(agent.on_pulled)
        for runtime in agent.runtimes.values():
            agent.promise(runtime)  # an alarm that still stands is said at once
        updater = updater_of(
            config,
            [Ready(start=ready.start, runtime=ready.runtime, load=ready.load) for ready in loaded.values()],
            uplink=uplink,
            ledger=ledger,
            alarm=lambda task: (found := metrics.monitors().get(task)) is not None and found.alarm,
            headroom_c=lambda: heat.view().headroom_c if heat is not None else None,
        )
        hear(updater, uplink)
        await _start(uplink, updater, stack)
        if config.cloud.renew:
            _renew(config, stack)
        sinks = Sinks(settings=config.sinks, device=config.device, agent=agent, outbox=outbox)
        sinks.start(stack)
        api = Api(
            agent=agent,
            status=_status(config, agent, uplink, updater, outbox, heat=heat, sinks=sinks),
            metrics=_metrics_page(agent, metrics, uplink, decoder, outbox, heat=heat, sinks=sinks),
            groups=[
                OutboxRoutes(outbox=outbox, uplink=uplink),
                UpdatesRoutes(Hands(updater)),
                EndedRoute(feed=outbox.feed, stopping=lambda: agent.stopping),
                KserveRoutes(agent=agent, version=agent_version()),
            ],
        )
        yield Serving(agent=agent, addresses=await _open(api.application(), agent, outbox, sockets, stack))


def _decoder(config: EdgeConfig, stack: AsyncExitStack) -> PictureDecoder | None:
    """The process that pictures are decoded in; None where this one does it, or no task has any."""
    if config.runtime.decode == "inline":
        return None
    decoder = decoder_of(part for settings in config.tasks for part in read_task(settings).inputs)
    if decoder is not None:
        stack.callback(decoder.close)
        decoder.start()
    return decoder


def _load_tasks(config: EdgeConfig, decode: Decode, ledger: LedgerFile) -> dict[str, _Loaded]:
    """Every task with its model, loaded and timed. Blocks."""
    loaded: dict[str, _Loaded] = {}
    providers = providers_of(config.runtime)
    folders: dict[str, SlotFolder] = {}
    for settings in config.tasks:
        task = read_task(settings)
        if task.name in folders:
            raise OperatorConfigError(
                f"task {task.name!r} is configured twice", reason="duplicate_task", fix="name each task file once"
            )
        folders[task.name] = SlotFolder(folder=config.folder / "slots" / task.name, task=task)
    settle_together(folders)
    for settings, folder in zip(config.tasks, folders.values(), strict=True):
        task = folder.task
        load = _loader(config, task, decode, providers)
        kept = ledger.task(task.name) if task.name in ledger.now.tasks else None
        start = start_slots(folder=folder, factory=Path(settings.bundle), load=load, kept=kept)
        check_embedding(task, start.model.manifest)
        check_way_out(task, start.model.manifest)
        runtime = TaskRuntime(task=task, model=start.model)
        model_ms = runtime.warm()
        log.info(
            "task.ready", extra={"task": task.name, "model": start.model.manifest.version, "ms": round(model_ms, 3)}
        )
        subtasks = load_subtasks(settings.subtasks, task, load)
        loaded[task.name] = _Loaded(runtime=runtime, subtasks=subtasks, start=start, load=load)
    return loaded


def _loader(config: EdgeConfig, task: Task, decode: Decode, providers: Sequence[str]) -> Load:
    def load(bundle: Bundle) -> Model:
        model = load_model(
            bundle,
            threads=config.runtime.threads,
            providers=providers or None,
            bounds=task.inputs,
            decode=decode,
        )
        say_provider(task.name, model, providers)
        return model

    return load


async def _outbox(config: EdgeConfig, stack: AsyncExitStack) -> Outbox:
    settings = config.outbox
    outbox = Outbox(folder=config.folder / "outbox", bounds=settings.bounds, keep_settled=settings.keep_ended)
    await outbox.start()
    stack.push_async_callback(outbox.stop)
    return outbox


def _uplink(config: EdgeConfig, outbox: Outbox, metrics: Metrics) -> Uplink | AloneUplink:
    broker = config.broker
    if not broker.url:
        return AloneUplink()
    access = BrokerAccess(
        url=broker.url,
        root=broker.root,
        username=broker.username or None,
        password=broker.password,
        tls=broker.tls if broker.url.startswith("mqtts://") else None,
        blob_cap=broker.blob_cap,
    )
    return Uplink(
        device=config.device,
        access=access,
        outbox=outbox,
        figures=metrics,
        agent=agent_version(),
        telemetry_every_s=config.telemetry.every_s,
        receipt_timer_s=config.outbox.receipt_timer_s,
        http=_cloud_http(config),
    )


def _cloud_http(config: EdgeConfig) -> CloudHttp | None:
    cloud, broker = config.cloud, config.broker
    if not cloud.url:
        return None
    tls = cloud.tls(broker) if cloud.url.startswith("https://") else None
    if tls is not None:
        tls.context()  # what is wrong with its files is said now
    return CloudHttp(url=cloud.url, device=config.device, tls=tls, bytes_per_s=broker.blob_cap)


async def _start(uplink: Uplink | AloneUplink, updater: Updater, stack: AsyncExitStack) -> None:
    uplink.attach(updater)
    await uplink.start()
    stack.push_async_callback(uplink.stop)
    updater.start()
    stack.push_async_callback(updater.stop)


def _renew(config: EdgeConfig, stack: AsyncExitStack) -> None:
    """Keeps the certificate from running out. Loads what reads certificates, which a device without one need not."""
    from outrider_edge.joining.renewing import Renewing  # noqa: PLC0415  see above

    broker = config.broker
    renewing = Renewing(
        url=config.cloud.url,
        device=config.device,
        ca_file=Path(broker.ca_file),
        cert_file=Path(broker.cert_file),
    )
    stack.callback(asyncio.create_task(renewing.run()).cancel)


async def _open(
    app: web.Application, agent: Agent, outbox: Outbox, sockets: list[socket.socket], stack: AsyncExitStack
) -> list[str]:
    """Opens the API; closing it lets the inputs under way finish first."""

    async def drain(_: web.Application) -> None:
        draining = asyncio.ensure_future(agent.drain(GRACE_S))
        await asyncio.sleep(0)
        outbox.feed.wake()  # who reads along is told to go, once the agent says that it stops
        await draining

    app.on_shutdown.append(drain)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    addresses = []
    for bound in sockets:
        await web.SockSite(runner, bound).start()
        addresses.append(_address(bound))
    return addresses


def _address(bound: socket.socket) -> str:
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if bound.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"


def _status(
    config: EdgeConfig,
    agent: Agent,
    uplink: Uplink | AloneUplink,
    updater: Updater,
    outbox: Outbox,
    *,
    heat: ThermalKeeper | None,
    sinks: Sinks,
) -> Callable[[], StatusView]:
    began = time.monotonic()

    def status() -> StatusView:
        reach: Literal["connected", "unreachable"] = "connected" if uplink.connected else "unreachable"
        return StatusView(
            device=config.device,
            agent=agent_version(),
            uptime_s=round(time.monotonic() - began, 3),
            broker=reach if uplink.enabled else "none",
            bytes_up=uplink.bytes_up,
            account=agent.account(),
            tasks=[task_view(runtime, agent.promise(runtime)) for runtime in agent.runtimes.values()],
            slots=updater.slots(),
            budgets=agent.budgets(),
            memories=agent.memories(),
            outbox=outbox.view(),
            profile=config.runtime.profile,
            thermal=heat.view() if heat is not None else None,
            sinks=sinks.views(),
        )

    return status


def _metrics_page(
    agent: Agent,
    metrics: Metrics,
    uplink: Uplink | AloneUplink,
    decoder: PictureDecoder | None,
    outbox: Outbox,
    *,
    heat: ThermalKeeper | None,
    sinks: Sinks,
) -> Callable[[], bytes]:
    def accounts() -> dict[str, Account]:
        return {name: agent.account(name) for name in (*agent.runtimes, NO_TASK)}

    collector = AgentCollector(
        metrics=metrics,
        accounts=accounts,
        connected=lambda: uplink.connected,
        budgets=agent.budgets,
        memories=agent.memories,
        outbox=outbox.view,
        ignored=uplink.ignored,
        sinks=sinks.views,
        decoder_restarts=lambda: decoder.counts["restarts"] if decoder is not None else 0,
        others=lambda: families(heat.view()) if heat is not None else (),
    )
    return lambda: page(collector)
