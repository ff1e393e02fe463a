"""Starts the configured sinks beside an agent, and tells how they fare. Posts nothing itself."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from outrider_edge.journey.agent import Agent
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.supervising import Supervised
from outrider_edge.webhooks.settings import SinkSettings
from outrider_edge.webhooks.webhook import SinkView, WebhookSink


class Sinks:
    """The sinks of one agent.

    Args:
        settings: one a sink.
        device: this device's name.
        agent: tells of what it answers.
        outbox: tells of what ended, and remembers how far each sink has come.

    Raises:
        OperatorConfigError: a secret's file cannot be used.
    """

    def __init__(self, *, settings: Sequence[SinkSettings], device: str, agent: Agent, outbox: Outbox) -> None:
        self._sinks = [
            WebhookSink(
                settings=each,
                device=device,
                feed=outbox.feed,
                remembered=lambda: outbox.remembered,
                remember=outbox.remember,
            )
            for each in settings
        ]
        for sink in self._sinks:
            agent.tell(sink.tell)

    def start(self, stack: AsyncExitStack) -> None:
        """Each as a task of its own, until the stack is closed."""
        for sink in self._sinks:
            work = Supervised(name=f"sink {sink.settings.name}", work=sink.run)
            stack.callback(asyncio.create_task(work.run()).cancel)

    def views(self) -> dict[str, SinkView]:
        """How each fares, by name."""
        return {sink.settings.name: sink.view() for sink in self._sinks}
