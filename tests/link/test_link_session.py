"""A session against real brokers of both kinds."""

import asyncio
import contextlib
import time

import pytest
from link_peers import Relay, until
from mosquitto import AnyBroker

from outrider_link.session import Incoming, MqttSession, Outgoing
from outrider_wire.errors import UnreachableError

pytestmark = [pytest.mark.broker, pytest.mark.both_brokers]


async def ignore(_: Incoming) -> None:
    """A handler for what does not matter."""


class Inbox:
    """A handler that keeps what comes."""

    def __init__(self) -> None:
        self.messages: list[Incoming] = []
        self._bell = asyncio.Event()

    async def __call__(self, message: Incoming) -> None:
        self.messages.append(message)
        self._bell.set()

    async def until(self, count: int) -> list[Incoming]:
        async with asyncio.timeout(15):
            while len(self.messages) < count:
                self._bell.clear()
                await self._bell.wait()
        return self.messages


async def test_a_message_arrives_with_all_its_properties(broker: AnyBroker) -> None:
    inbox = Inbox()
    async with MqttSession(url=broker.url, client_id="p1", subscriptions=["props/#"], on_message=inbox) as session:
        await session.wait_connected(30)
        said = Outgoing(
            "props/here",
            b"\x00payload",
            content_type="application/json",
            correlation=b"\x01\x02",
            expiry_s=60,
            user_properties={"traceparent": "00-abc", "é": "ü"},
        )
        assert await session.publish(said) is True
        (heard,) = await inbox.until(1)
    assert (heard.topic, heard.payload, heard.content_type) == ("props/here", b"\x00payload", "application/json")
    assert (heard.correlation, heard.user_properties) == (b"\x01\x02", {"traceparent": "00-abc", "é": "ü"})
    assert heard.expiry_s is not None
    assert 0 < heard.expiry_s <= 60
    assert not heard.retained


async def test_a_retained_message_is_marked_when_it_is_old_news(broker: AnyBroker) -> None:
    async with MqttSession(url=broker.url, client_id="r1", subscriptions=[], on_message=ignore) as session:
        await session.wait_connected(30)
        await session.publish(Outgoing("old/news", b"1", retain=True))
    inbox = Inbox()
    async with MqttSession(url=broker.url, client_id="r2", subscriptions=["old/+"], on_message=inbox):
        (heard,) = await inbox.until(1)
    assert heard.retained


async def test_an_echo_comes_back_within_the_time_of_a_local_network(broker: AnyBroker) -> None:
    """A delayed TCP acknowledgement alone would make each of them 40 ms; that some take longer is the machine's affair."""
    inbox = Inbox()

    async def echo(message: Incoming) -> None:
        await server.publish(Outgoing("pong/1", message.payload))

    async with (
        MqttSession(url=broker.url, client_id="e1", subscriptions=["ping/+"], on_message=echo) as server,
        MqttSession(url=broker.url, client_id="e2", subscriptions=["pong/+"], on_message=inbox) as client,
    ):
        await server.wait_connected(30)
        await client.wait_connected(30)
        took = []
        for number in range(50):
            began = time.perf_counter()
            await client.publish(Outgoing("ping/1", bytes(1024)))
            await inbox.until(number + 1)
            took.append(time.perf_counter() - began)
    assert sorted(took)[5] < 0.025


async def test_the_will_is_published_when_the_connection_is_cut_and_not_when_it_is_closed(
    broker: AnyBroker,
) -> None:
    inbox = Inbox()
    async with MqttSession(url=broker.url, client_id="w0", subscriptions=["will/+"], on_message=inbox) as watcher:
        await watcher.wait_connected(30)
        for name in ("closed", "cut"):
            async with Relay(broker.port) as relay:
                will = Outgoing(f"will/{name}", b"gone")
                session = MqttSession(url=relay.url, client_id=name, subscriptions=[], on_message=ignore, will=will)
                async with session:
                    await session.wait_connected(30)
                    if name == "cut":
                        relay.cut()
                        await inbox.until(1)
    assert [message.topic for message in inbox.messages] == ["will/cut"]


async def test_that_nobody_listens_is_said_by_a_broker_that_knows(broker: AnyBroker, broker_kind: str) -> None:
    """PUBACK 0x10: mosquitto says it, iotcore does not; so nothing may rest on a True."""
    async with MqttSession(url=broker.url, client_id="n1", subscriptions=["nobody/else"], on_message=ignore) as session:
        await session.wait_connected(30)
        assert await session.publish(Outgoing("nobody/else", b"")) is True
        assert await session.publish(Outgoing("nobody/here", b"")) is (broker_kind == "embedded")


async def test_it_reconnects_when_the_broker_comes_back_and_greets_it_again(own_broker: AnyBroker) -> None:
    greetings = 0

    async def greet() -> None:
        nonlocal greetings
        greetings += 1
        await session.publish(Outgoing("back/again", str(greetings).encode()))

    inbox = Inbox()
    session = MqttSession(
        url=own_broker.url, client_id="b1", subscriptions=["back/+"], on_message=inbox, on_connected=greet
    )
    async with session:
        await session.wait_connected(30)
        await inbox.until(1)
        own_broker.stop()
        await until(lambda: not session.connected)
        with pytest.raises(UnreachableError):
            await session.publish(Outgoing("back/lost", b""))
        own_broker.start()
        await session.wait_connected(15)
        assert [message.payload for message in await inbox.until(2)] == [b"1", b"2"]
        assert session.connections == 2


async def test_a_publish_under_way_fails_when_the_connection_is_cut(broker: AnyBroker) -> None:
    async with (
        Relay(broker.port) as relay,
        MqttSession(url=relay.url, client_id="u1", subscriptions=[], on_message=ignore) as session,
    ):
        await session.wait_connected(30)
        publishing = [asyncio.create_task(session.publish(Outgoing("under/way", bytes(100)))) for _ in range(50)]
        await asyncio.sleep(0)
        relay.cut()
        outcomes = await asyncio.gather(*publishing, return_exceptions=True)
    assert any(isinstance(outcome, UnreachableError) for outcome in outcomes)
    assert all(outcome is True or isinstance(outcome, UnreachableError) for outcome in outcomes)


async def test_a_handler_that_raises_is_counted_and_the_next_message_is_handled(broker: AnyBroker) -> None:
    inbox = Inbox()

    async def handle(message: Incoming) -> None:
        if message.payload == b"bad":
            raise KeyError("bad")
        await inbox(message)

    async with MqttSession(url=broker.url, client_id="h1", subscriptions=["hx/+"], on_message=handle) as session:
        await session.wait_connected(30)
        for payload in (b"bad", b"good", b"bad", b"good"):
            await session.publish(Outgoing("hx/1", payload))
        assert [message.payload for message in await inbox.until(2)] == [b"good", b"good"]
        assert session.handler_failures == 2
        assert session.connected


async def test_an_on_connected_that_raises_is_counted_and_the_session_lives(broker: AnyBroker) -> None:
    async def greet() -> None:
        raise ValueError("no")

    async with MqttSession(
        url=broker.url, client_id="h2", subscriptions=["any/+"], on_message=ignore, on_connected=greet
    ) as session:
        await session.wait_connected(30)
        await until(lambda: session.handler_failures >= 1)
        assert await session.publish(Outgoing("any/thing", b""))


async def test_handlers_that_finish_out_of_order_keep_the_connection(broker: AnyBroker) -> None:
    """The broker closes a connection whose acknowledgements are out of order."""
    finished: list[int] = []

    async def handle(message: Incoming) -> None:
        number = int(message.payload)
        await asyncio.sleep(0.3 - number * 0.01)
        finished.append(number)

    async with MqttSession(url=broker.url, client_id="o1", subscriptions=["ooo/+"], on_message=handle) as session:
        await session.wait_connected(30)
        for number in range(20):
            await session.publish(Outgoing("ooo/1", str(number).encode()))
        await until(lambda: len(finished) == 20)
        assert finished != sorted(finished)
        await session.publish(Outgoing("ooo/1", b"20"))
        await until(lambda: len(finished) == 21)
        assert session.connections == 1


async def test_no_more_handlers_run_at_once_than_receive_maximum(broker: AnyBroker) -> None:
    running = most = done = 0

    async def handle(_: Incoming) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        done += 1

    async with MqttSession(
        url=broker.url, client_id="m1", subscriptions=["many/+"], on_message=handle, receive_maximum=4
    ) as session:
        await session.wait_connected(30)
        await asyncio.gather(*(session.publish(Outgoing("many/1", b"")) for _ in range(40)))
        await until(lambda: done == 40)
    assert most == 4


async def test_two_workers_share_a_subscription_and_no_message_goes_to_both(broker: AnyBroker) -> None:
    inboxes = [Inbox(), Inbox()]
    async with contextlib.AsyncExitStack() as stack:
        for number, inbox in enumerate(inboxes):
            worker = MqttSession(
                url=broker.url, client_id=f"s{number}", subscriptions=["$share/workers/jobs/+"], on_message=inbox
            )
            await stack.enter_async_context(worker)
            await worker.wait_connected(30)
        for number in range(40):
            await worker.publish(Outgoing("jobs/1", str(number).encode()))
        await until(lambda: sum(len(inbox.messages) for inbox in inboxes) >= 40)
        await asyncio.sleep(0.1)
    first, second = ([int(message.payload) for message in inbox.messages] for inbox in inboxes)
    assert first
    assert second
    assert sorted(first + second) == list(range(40))


async def test_a_message_of_a_megabyte_arrives_whole(broker: AnyBroker) -> None:
    inbox = Inbox()
    async with MqttSession(url=broker.url, client_id="l1", subscriptions=["large/+"], on_message=inbox) as session:
        await session.wait_connected(30)
        data = bytes(range(256)) * 4000
        await session.publish(Outgoing("large/1", data))
        (heard,) = await inbox.until(1)
    assert heard.payload == data


async def test_leaving_the_block_ends_handlers_that_hang(broker: AnyBroker) -> None:
    began = asyncio.Event()

    async def hang(_: Incoming) -> None:
        began.set()
        await asyncio.sleep(3600)

    async with asyncio.timeout(10):
        async with MqttSession(url=broker.url, client_id="q1", subscriptions=["hang/+"], on_message=hang) as session:
            await session.wait_connected(30)
            await session.publish(Outgoing("hang/1", b""))
            await began.wait()
    assert not session.connected
