"""A topic of the local broker as a source: each message's payload is one part of one input.

Messages wait in memory, at most ``queue`` of them; the oldest makes way. A broker's retained message is passed over: it says what was so,
not that something has happened.
"""

import asyncio
import time
from collections import deque

from outrider_edge.sources.happening import Teller
from outrider_edge.sources.settings import LocalBrokerSettings, SourceSettings
from outrider_link.session import Incoming, MqttSession

WITHIN_S = 20.0
"""For the first connection; then it is said that there is none."""
LOOK_S = 1.0
"""Between two looks at whether the connection still lives, where no message comes."""


class TopicSource:
    """`outrider_edge.sources.starting.Source` over a topic.

    Args:
        settings: of the source.
        broker: the local one.
        teller: of its events.
    """

    def __init__(self, settings: SourceSettings, broker: LocalBrokerSettings, teller: Teller) -> None:
        self._topic = settings.address.place
        self._every_s = 1.0 / settings.max_fps
        self._broker = broker
        self._teller = teller
        self._waiting: deque[Incoming] = deque(maxlen=settings.queue)
        self._came = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled.

        Raises:
            UnreachableError: the broker does not answer.
            OperatorSetupError: it refuses this client, or the topic.
        """
        teller, broker = self._teller, self._broker
        session = MqttSession(
            url=broker.url,
            client_id=client_id(teller.device, teller.source),
            subscriptions=[self._topic],
            on_message=self._on_message,
            username=broker.username or None,
            password=broker.password,
            tls=broker.tls,
        )
        async with session:
            await session.wait_connected(WITHIN_S)
            teller.figures.up()
            while True:
                await self._wait(session)
                while self._waiting:
                    message, began = self._waiting.popleft(), time.monotonic()
                    await teller.one(message.payload, "message", origin=message.topic)
                    await asyncio.sleep(began + self._every_s - time.monotonic())

    async def _wait(self, session: MqttSession) -> None:
        """Until a message is here; says meanwhile whether any can come."""
        self._came.clear()
        while not self._waiting:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._came.wait()
            except TimeoutError:
                if not session.connected:
                    self._teller.figures.down("the local broker cannot be reached")
                elif self._teller.figures.state != "up":
                    self._teller.figures.up()

    async def _on_message(self, message: Incoming) -> None:
        if message.retained:
            return
        figures = self._teller.figures
        figures.read += 1
        figures.dropped += len(self._waiting) == self._waiting.maxlen
        self._waiting.append(message)
        self._came.set()


def client_id(device: str, source: str) -> str:
    """Of a session with the local broker, apart from those of other devices and sources."""
    return f"{device}-source-{source}"
