"""Wires the agent: configuration in, a serving process out. The one place that knows every part, and computes nothing.

Started from the inside out (folder, models, outbox, uplink, API) and stopped in the reverse order, so that nothing is
accepted that could not be kept, and nothing is dropped that was.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from outrider_edge.budget.spending import Spending
from outrider_edge.config import EdgeConfig, read_task
from outrider_edge.engine_desk import EngineDesk, EngineTerms
from outrider_edge.exposition import AgentCollector, page
from outrider_edge.ground import audit_key, bound_sockets, hold_folder
from outrider_edge.interpreter import set_for_serving
from outrider_edge.journey.agent import NO_TASK, Agent
from outrider_edge.loading import Loaded, load_tasks
from outrider_edge.local_api.api import Api
from outrider_edge.local_api.docs_route import DocsRoute
from outrider_edge.local_api.ended_route import EndedRoute
from outrider_edge.local_api.events_route import EventsRoute
from outrider_edge.local_api.kserve.routes import KserveRoutes
from outrider_edge.local_api.openapi import agent_version
from outrider_edge.local_api.opening import open_api
from outrider_edge.local_api.outbox_routes import OutboxRoutes
from outrider_edge.local_api.updates_routes import UpdatesRoutes
from outrider_edge.local_api.views import StatusView, task_view
from outrider_edge.memory.memory import TaskMemory
from outrider_edge.metrics import Metrics
from outrider_edge.outbox.clock import run_clock
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.replays import ItemShelf, ReplayBook, Replays
from outrider_edge.running import bytes_of
from outrider_edge.sources import figures as source_figures
from outrider_edge.sources.starting import Sources
from outrider_edge.thermal.keeper import ThermalKeeper, families
from outrider_edge.thermal.pacer import Pacer
from outrider_edge.updates.device import Updater
from outrider_edge.updates.hands import Hands
from outrider_edge.updates.ledger import LedgerFile
from outrider_edge.updating import LEDGER_FOLDER, hear, updater_of
from outrider_edge.uplink.uplink import AloneUplink, BrokerAccess, Uplink
from outrider_edge.webhooks.starting import Sinks
from outrider_engine.cache_folder import CacheFolder
from outrider_engine.decoder import PictureDecoder, decoder_of
from outrider_engine.providers import wish
from outrider_link.http import CloudHttp
from outrider_link.service_notice import ServiceNotice
from outrider_wire.images import Decode, decode_picture
from outrider_wire.report import Account

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """An agent that serves."""

    agent: Agent
    addresses: list[str]
    """``http://HOST:PORT``, and ``unix:PATH`` when there is one."""


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
        cache = CacheFolder(config.cache_folder, max_bytes=bytes_of(config.runtime.cache_mb))
        decoder = _decoder(config, stack)
        pacer, heat = Pacer(), None
        ledger = await asyncio.to_thread(LedgerFile, config.folder / LEDGER_FOLDER)
        loaded = await asyncio.to_thread(load_tasks, config, decoder or decode_picture, cache, ledger)
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
            list(loaded.values()),
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
        sources = Sources(settings=config.sources, broker=config.local_broker, device=config.device, agent=agent)
        await _build_engines(config, loaded, uplink, cache=cache, decode=decoder or decode_picture, stack=stack)
        api = Api(
            agent=agent,
            status=_status(config, agent, uplink, updater, outbox, heat=heat, sinks=sinks, sources=sources),
            metrics=_metrics_page(agent, metrics, uplink, decoder, outbox, heat=heat, sinks=sinks, sources=sources),
            groups=[
                OutboxRoutes(outbox=outbox, uplink=uplink),
                UpdatesRoutes(Hands(updater)),
                EndedRoute(feed=outbox.feed, stopping=lambda: agent.stopping),
                EventsRoute(events=sources.events, stopping=lambda: agent.stopping),
                DocsRoute(),
                KserveRoutes(agent=agent, version=agent_version()),
            ],
        )

        def wake() -> None:
            outbox.feed.wake()
            sources.events.wake()

        stack.enter_context(set_for_serving())
        addresses = await open_api(api, agent, wake, sockets, stack)
        sources.start(stack)  # last, so that they are the first to stop
        yield Serving(agent=agent, addresses=addresses)


def _decoder(config: EdgeConfig, stack: AsyncExitStack) -> PictureDecoder | None:
    """The process that pictures are decoded in; None where this one does it, or no task has any."""
    if config.runtime.decode == "inline":
        return None
    decoder = decoder_of(part for settings in config.tasks for part in read_task(settings).inputs)
    if decoder is not None:
        stack.callback(decoder.close)
        decoder.start()
    return decoder


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


async def _build_engines(
    config: EdgeConfig,
    loaded: Mapping[str, Loaded],
    uplink: Uplink | AloneUplink,
    *,
    cache: CacheFolder,
    decode: Decode,
    stack: AsyncExitStack,
) -> None:
    """What was not certified itself is replayed, and native engines are built where any is wanted, while ONNX Runtime answers."""
    wanted = wish(config.runtime.providers).native
    folder, one_build_at_a_time = config.folder / "replays", asyncio.Lock()
    replays = Replays(book=ReplayBook(folder), shelf=ItemShelf(folder, uplink))
    for ready in loaded.values():
        terms = EngineTerms(
            wanted=wanted,
            when=config.runtime.engines,
            decode=decode,
            turn=one_build_at_a_time,
            replays=replays,
            residents=ready.residents,
        )
        desk = EngineDesk(runtime=ready.runtime, folder=cache, terms=terms)
        desk.start()
        stack.push_async_callback(desk.stop)


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


def _status(
    config: EdgeConfig,
    agent: Agent,
    uplink: Uplink | AloneUplink,
    updater: Updater,
    outbox: Outbox,
    *,
    heat: ThermalKeeper | None,
    sinks: Sinks,
    sources: Sources,
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
            sources=sources.views(),
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
    sources: Sources,
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
        others=lambda: [
            *(families(heat.view()) if heat is not None else ()),
            *source_figures.families(sources.views()),
        ],
    )
    return lambda: page(collector)
