"""Tells events to the local broker: ``PREFIX/DEVICE/SOURCE``, JSON, QoS 1. What the broker does not take yet waits in the log."""

import asyncio
import contextlib
import logging

import msgspec

from outrider_edge.sources.events import EventLog, SourceEvent
from outrider_edge.sources.settings import LocalBrokerSettings
from outrider_link.envelope import Incoming, Outgoing
from outrider_link.session import MqttSession
from outrider_wire.codec import JSON
from outrider_wire.errors import OutriderError, PeerError

log = logging.getLogger(__name__)

AGAIN_S = 1.0
"""Between two tries to publish the same event."""
LOOK_S = 60.0
CONNECT_S = 20.0


def topic_of(prefix: str, event: SourceEvent) -> str:
    """Where an event is published."""
    return f"{prefix}/{event.device}/{event.source}"


class EventPublisher:
    """Publishes every event, in order, from the start of the agent.

    Args:
        device: this device's name.
        broker: the local one.
        events: the log.
    """

    def __init__(self, *, device: str, broker: LocalBrokerSettings, events: EventLog) -> None:
        self._device = device
        self._broker = broker
        self._events = events
        self._told = 0
        self._taken = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled.

        Raises:
            OutriderError: the broker cannot be reached, or will not have this client.
        """
        broker = self._broker
        session = MqttSession(
            url=broker.url,
            client_id=f"{self._device}-events",
            subscriptions=[],
            on_message=_nothing,
            username=broker.username or None,
            password=broker.password,
            tls=broker.tls,
        )
        async with session:
            await session.wait_connected(CONNECT_S)
            while True:
                mark = self._events.mark
                missed, found = self._events.after(self._told)
                if missed:
                    log.warning(
                        "events.forgotten", extra={"what": f"{missed} events were not taken by the local broker"}
                    )
                for number, event in found:
                    await self._publish(session, event)
                    self._told = number
                    self._taken.set()
                if not found:
                    await self._events.wait(mark, LOOK_S)

    async def drained(self, timeout_s: float) -> None:
        """Returns when all events are published, or the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._told < self._events.last:
                    self._taken.clear()
                    await self._taken.wait()

    async def _publish(self, session: MqttSession, event: SourceEvent) -> None:
        message = Outgoing(topic_of(self._broker.events, event), msgspec.json.encode(event), content_type=JSON)
        while True:
            try:
                await session.publish(message)
            except PeerError as error:  # refused, and so it would be again: those behind it go on
                log.warning("events.refused", extra={"id": event.id, "what": str(error)})
                return
            except OutriderError as error:
                log.debug("events.not_taken", extra={"what": str(error)})
                await asyncio.sleep(AGAIN_S)
            else:
                return


async def _nothing(_: Incoming) -> None:
    """It subscribes to nothing."""
