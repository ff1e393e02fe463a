"""A session in a process that has no memory even for its log: it goes on, and owes the broker no acknowledgement."""

import pytest
from failing_log import no_memory_for_the_log_of
from link_peers import ACCEPTED, ScriptedBroker, connack, until
from mosquitto import AnyBroker

from outrider_link.session import Incoming, MqttSession, Outgoing

NOT_AUTHORIZED = connack(0x87)


async def ignore(_: Incoming) -> None:
    """A handler for what does not matter."""


async def test_a_failure_that_cannot_be_logged_does_not_end_the_connecting() -> None:
    async with ScriptedBroker(connack=NOT_AUTHORIZED) as broker:
        session = MqttSession(url=broker.url, client_id="s1", subscriptions=["a"], on_message=ignore)
        with no_memory_for_the_log_of("outrider_link.session") as log:
            await session.__aenter__()
            await until(lambda: "session.down" in log.events)
        broker.connack = ACCEPTED
        try:
            await until(lambda: session.connected)
        finally:
            await session.__aexit__(None, None, None)


@pytest.mark.broker
async def test_a_failed_handler_that_cannot_be_logged_does_not_hold_up_what_comes_after(broker: AnyBroker) -> None:
    heard: list[bytes] = []

    async def fail_at_first(message: Incoming) -> None:
        heard.append(message.payload)
        if message.payload == b"0":
            raise MemoryError

    async with MqttSession(
        url=broker.url, client_id="s2", subscriptions=["starved"], on_message=fail_at_first, receive_maximum=2
    ) as session:
        await session.wait_connected(30)
        with no_memory_for_the_log_of("outrider_link.session") as log:
            for number in range(6):  # a message that is never acknowledged holds up every later acknowledgement
                await session.publish(Outgoing("starved", str(number).encode()))
            await until(lambda: b"5" in heard)
        assert "session.handler_failed" in log.events
        assert session.connections == 1
