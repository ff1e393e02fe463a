"""What a restart of mosquitto leaves of sessions and of retained messages, with persistence and without; and after a kill.

This is why nothing in Outrider rests on a broker's memory: receipts, re-offers and a greeting after each connection do.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from mosquitto import Mosquitto

from outrider_link.session import Incoming, MqttSession, Outgoing

pytestmark = pytest.mark.broker


class Listener:
    """A client whose session the broker is asked to keep for an hour."""

    def __init__(self, url: str) -> None:
        self.heard: list[tuple[str, bytes, bool]] = []
        self.session = MqttSession(
            url=url, client_id="kept", subscriptions=["q/+"], on_message=self._take, session_expiry_s=3600
        )

    async def _take(self, message: Incoming) -> None:
        self.heard.append((message.topic, message.payload, message.retained))

    async def connect(self) -> None:
        async with self.session:
            await self.session.wait_connected(10)
            await asyncio.sleep(0.3)  # what it is owed comes at once, or never


async def left_after(broker: Mosquitto, end: Callable[[], object]) -> tuple[set[bytes], set[bytes]]:
    """Of one queued and one retained message, published while the listener is away: what it gets after ``end`` and a start."""
    with broker:
        await Listener(broker.url).connect()
        async with MqttSession(url=broker.url, client_id="say", subscriptions=[], on_message=_ignore) as speaker:
            await speaker.wait_connected(10)
            await speaker.publish(Outgoing("q/queued", b"queued"))
            await speaker.publish(Outgoing("q/kept", b"retained", retain=True))
        end()
        broker.start()
        listener = Listener(broker.url)
        await listener.connect()
    queued = {payload for _, payload, retained in listener.heard if not retained}
    return queued, {payload for _, payload, retained in listener.heard if retained}


async def _ignore(_: Incoming) -> None: ...


async def test_with_persistence_a_restart_forgets_nothing(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path, persistence=True)
    assert await left_after(broker, broker.stop) == ({b"queued", b"retained"}, {b"retained"})


async def test_without_persistence_a_restart_forgets_what_it_had_acknowledged(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    assert await left_after(broker, broker.stop) == (set(), set())


@pytest.mark.slow
async def test_a_killed_broker_forgets_what_came_since_it_last_saved(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path, persistence=True)
    assert await left_after(broker, broker.kill) == (set(), set())
