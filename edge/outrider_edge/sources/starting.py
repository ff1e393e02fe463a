"""Starts the configured sources beside an agent, and tells how they fare. One that fails never stops another."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Protocol

from outrider_edge.journey.agent import Agent
from outrider_edge.sources.camera_source import CameraSource
from outrider_edge.sources.events import EventLog
from outrider_edge.sources.figures import Figures, SourceView
from outrider_edge.sources.fitting import fit
from outrider_edge.sources.folder_source import FolderSource
from outrider_edge.sources.happening import Teller
from outrider_edge.sources.publishing import EventPublisher
from outrider_edge.sources.settings import LocalBrokerSettings, SourceSettings
from outrider_edge.sources.topic_source import TopicSource
from outrider_edge.supervising import Supervised
from outrider_wire.errors import OutriderError

GOODBYE_S = 1.0
"""For the last events to reach the local broker."""


class Source(Protocol):
    """Whatever gives inputs of its own accord. Real: folders, topics, cameras."""

    async def run(self) -> None:
        """Gives inputs until it is cancelled, or raises; it is then called again, after a growing random pause."""
        ...


class Sources:
    """The sources of one agent.

    Args:
        settings: one a source.
        broker: the local one.
        device: this device's name.
        agent: answers.

    Raises:
        OperatorConfigError: a source fits no part of a task, or a secret's file cannot be used.
    """

    def __init__(
        self, *, settings: Sequence[SourceSettings], broker: LocalBrokerSettings, device: str, agent: Agent
    ) -> None:
        self.events = EventLog()
        self._tellers: dict[str, Teller] = {}
        self._sources: dict[str, Source] = {}
        tasks = {name: runtime.task for name, runtime in agent.runtimes.items()}
        for each in settings:
            fitted = fit(each, tasks)
            self._tellers[each.name] = Teller(
                device=device,
                source=each.name,
                fitted=fitted,
                agent=agent,
                events=self.events,
                figures=Figures(kind=each.address.kind, task=fitted.task.name),
            )
            self._sources[each.name] = _source(each, broker, self._tellers[each.name])
        publishes = bool(settings and broker.url and broker.events)
        self._publisher = EventPublisher(device=device, broker=broker, events=self.events) if publishes else None

    def start(self, stack: AsyncExitStack) -> None:
        """Each as a task of its own, until the stack is closed."""
        if (publisher := self._publisher) is not None:
            _run(Supervised(name="events to the local broker", work=publisher.run), stack)
            stack.push_async_callback(lambda: publisher.drained(GOODBYE_S))
        for name, source in self._sources.items():
            teller = self._tellers[name]
            stack.push_async_callback(teller.close)
            _run(Supervised(name=f"source {name}", work=_watched(source, teller.figures)), stack)

    def views(self) -> dict[str, SourceView]:
        """How each fares, by name."""
        return {name: teller.figures.view() for name, teller in self._tellers.items()}


def _source(settings: SourceSettings, broker: LocalBrokerSettings, teller: Teller) -> Source:
    match settings.address.kind:
        case "dir":
            return FolderSource(settings, teller)
        case "mqtt":
            return TopicSource(settings, broker, teller)
        case _:
            return CameraSource(settings, teller)


def _watched(source: Source, figures: Figures) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        try:
            await source.run()
        except OutriderError as error:
            figures.down(str(error))
            raise
        except Exception:
            figures.down("a defect of the agent; its log says more")
            raise

    return work


def _run(work: Supervised, stack: AsyncExitStack) -> None:
    task = asyncio.create_task(work.run())

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(stop)
