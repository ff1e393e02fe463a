"""A session against a broker that refuses, lies or is not there."""

import asyncio
import logging
import socket
import ssl
import time
from pathlib import Path

import pytest
from link_peers import ScriptedBroker, connack, maximum_packet_size, publish_packet, until

from outrider_link.session import CONNECT_TIMEOUT_S, HELD_BYTES, Incoming, MqttSession, Outgoing, Tls, backoff_s
from outrider_wire.errors import OperatorConfigError, OperatorSetupError, PeerError, UnreachableError


async def ignore(_: Incoming) -> None:
    """A handler for what does not matter."""


def session_to(url: str, *subscriptions: str, tls: Tls | None = None) -> MqttSession:
    return MqttSession(url=url, client_id="test", subscriptions=subscriptions, on_message=ignore, tls=tls)


async def reaches(session: MqttSession) -> bool:
    try:
        return await session.publish(Outgoing("a/b", b""))
    except UnreachableError:
        return False


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_refused_subscription_names_the_topic(caplog: pytest.LogCaptureFixture) -> None:
    async with ScriptedBroker(suback=0x87) as broker, session_to(broker.url, "a/b", "c/d") as session:
        with pytest.raises(OperatorSetupError, match="'a/b': Not authorized") as caught:
            await session.wait_connected(30)
        assert caught.value.reason == "subscription_refused"
        assert session.refused == "a/b"
        assert not session.connected
    assert [(record.message, record.levelno) for record in caplog.records][:1] == [("session.down", logging.ERROR)]


async def test_a_subscription_that_is_granted_later_is_no_longer_refused() -> None:
    async with ScriptedBroker(suback=0x87) as broker, session_to(broker.url, "a/b") as session:
        with pytest.raises(OperatorSetupError):
            await session.wait_connected(30)
        broker.suback = 1
        await until(lambda: session.connected)
        await session.wait_connected(1)
        assert session.refused == ""


async def test_a_refused_client_is_the_operators_to_mend() -> None:
    async with ScriptedBroker(connack=connack(0x86)) as broker, session_to(broker.url) as session:
        with pytest.raises(OperatorSetupError, match="Bad user name or password") as caught:
            await session.wait_connected(30)
    assert caught.value.reason == "broker_refuses_client"


async def test_nobody_listening_is_told_from_a_subscriber() -> None:
    async with ScriptedBroker(puback=0x10) as broker, session_to(broker.url) as session:
        await session.wait_connected(30)
        assert await session.publish(Outgoing("a/b", b"")) is False
        broker.puback = 0
        assert await session.publish(Outgoing("a/b", b"")) is True


async def test_a_refused_message_is_a_peers_error_and_the_session_lives() -> None:
    async with ScriptedBroker(puback=0x87) as broker, session_to(broker.url) as session:
        await session.wait_connected(30)
        with pytest.raises(PeerError, match="Not authorized") as caught:
            await session.publish(Outgoing("a/b", b""))
        assert caught.value.reason == "broker_refused"
        assert session.connected


async def test_the_announced_packet_limit_is_kept() -> None:
    async with (
        ScriptedBroker(connack=connack(0, maximum_packet_size(1000))) as broker,
        session_to(broker.url) as session,
    ):
        await session.wait_connected(30)
        assert session.packet_limit == 1000
        assert await session.publish(Outgoing("a/b", bytes(900)))
        with pytest.raises(PeerError) as caught:
            await session.publish(Outgoing("a/b", bytes(1000)))
        assert caught.value.reason == "packet_too_large"
        assert session.connected


async def test_the_announced_receive_maximum_is_kept() -> None:
    two = bytes([0x21, 0, 2])
    async with ScriptedBroker(connack=connack(0, two), puback=None) as broker, session_to(broker.url) as session:
        await session.wait_connected(30)
        publishing = [asyncio.create_task(session.publish(Outgoing("a/b", b""))) for _ in range(5)]
        await until(lambda: len(broker.received(3)) >= 2)
        await asyncio.sleep(0.1)
        assert len(broker.received(3)) == 2
        for task in publishing:
            task.cancel()
        await asyncio.gather(*publishing, return_exceptions=True)
        late = asyncio.create_task(session.publish(Outgoing("a/b", b"")))
        await asyncio.sleep(0.1)
        assert len(broker.received(3)) == 2  # who no longer waits has not been acknowledged for that
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)


async def test_a_broker_that_acknowledges_nothing_is_left_and_whoever_published_is_told() -> None:
    async with ScriptedBroker(puback=None) as broker:
        session = MqttSession(url=broker.url, client_id="t", subscriptions=[], on_message=ignore, ack_timeout_s=0.3)
        async with session:
            await session.wait_connected(30)
            await asyncio.sleep(0.5)
            assert session.connections == 1  # nothing is owed
            outcomes = await asyncio.gather(
                *(session.publish(Outgoing("a/b", b"")) for _ in range(3)), return_exceptions=True
            )
            assert all(isinstance(outcome, UnreachableError) for outcome in outcomes)
            assert "acknowledges nothing" in str(outcomes[0])
            broker.puback = 0
            await until(lambda: session.connections == 2 and session.connected)
            assert await session.publish(Outgoing("a/b", b""))


async def test_what_is_large_has_the_time_that_a_slow_link_takes() -> None:
    async with ScriptedBroker(puback=None) as broker:
        session = MqttSession(url=broker.url, client_id="t", subscriptions=[], on_message=ignore, ack_timeout_s=0.1)
        async with session:
            await session.wait_connected(30)
            publishing = asyncio.create_task(session.publish(Outgoing("a/b", bytes(4_000))))
            await asyncio.sleep(0.6)
            assert not publishing.done()
            with pytest.raises(UnreachableError):
                await publishing


@pytest.mark.parametrize(("count", "size"), [(1000, 100), (80, 1_000_000)], ids=["many", "large"])
async def test_a_broker_that_floods_is_slowed_down_by_tcp_and_nothing_is_lost(count: int, size: int) -> None:
    """The broker keeps to no Receive Maximum; what is not handled yet stays few and small."""
    opened, handled = asyncio.Event(), 0

    async def handle(_: Incoming) -> None:
        nonlocal handled
        await opened.wait()
        handled += 1

    greeting = b"".join(publish_packet("a/b", bytes(size), mid) for mid in range(1, count + 1))
    async with ScriptedBroker(greeting=greeting) as broker:
        session = MqttSession(
            url=broker.url, client_id="t", subscriptions=["a/b"], on_message=handle, receive_maximum=32
        )
        async with session:
            await session.wait_connected(30)
            await asyncio.sleep(0.5)
            assert session._held_messages <= 4 * 32 + 2
            assert session._held_bytes <= HELD_BYTES + 2 * size
            assert session._held_messages < count
            opened.set()
            await until(lambda: handled == count)
            await until(lambda: len(broker.received(4)) == count)
            assert session.connections == 1


async def test_acknowledgements_leave_in_the_order_of_arrival() -> None:
    async def handle(message: Incoming) -> None:
        await asyncio.sleep(0.1 if message.payload == b"slow" else 0)

    greeting = b"".join(publish_packet("a/b", b"slow" if mid == 7 else b"fast", mid) for mid in (7, 5, 9))
    async with ScriptedBroker(greeting=greeting) as broker:
        session = MqttSession(url=broker.url, client_id="t", subscriptions=["a/b"], on_message=handle)
        async with session:
            await session.wait_connected(30)
            await until(lambda: len(broker.received(4)) >= 3)
    assert [int.from_bytes(body[:2], "big") for body in broker.received(4)] == [7, 5, 9]


CONTENT_TYPE = b"\x03"
UNREADABLE = {
    "a content type that is not UTF-8": CONTENT_TYPE + b"\x00\x02\xff\xfe",
    "a content type with a NUL": CONTENT_TYPE + b"\x00\x03a\x00b",
    "a content type with half a character": CONTENT_TYPE + b"\x00\x03\xed\xa0\x80",
    "a user property that is not UTF-8": b"\x26\x00\x01k\x00\x01\xff",
    "a content type that stands twice": 2 * (CONTENT_TYPE + b"\x00\x01a"),
    "a content type longer than the packet": CONTENT_TYPE + b"\xff\xffa",
    "a property that does not exist": b"\xfe",
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_a_message_that_cannot_be_read_is_an_empty_one_and_costs_no_connection(name: str) -> None:
    heard: list[Incoming] = []

    async def handle(message: Incoming) -> None:
        heard.append(message)

    greeting = publish_packet("a/b", b"evil", 7, properties=UNREADABLE[name]) + publish_packet("a/b", b"good", 8)
    async with ScriptedBroker(greeting=greeting) as broker:
        session = MqttSession(url=broker.url, client_id="t", subscriptions=["a/b"], on_message=handle)
        async with session:
            await session.wait_connected(30)
            await until(lambda: len(broker.received(4)) == 2)
            assert session.connected and (session.connections, session.handler_failures) == (1, 0)
    assert [(message.topic, message.payload) for message in heard] == [("a/b", b""), ("a/b", b"good")]
    assert [int.from_bytes(body[:2], "big") for body in broker.received(4)] == [7, 8], (
        "acknowledged, so that none comes back"
    )


async def test_a_topic_that_is_not_utf8_is_none() -> None:
    heard: list[Incoming] = []

    async def handle(message: Incoming) -> None:
        heard.append(message)

    greeting = publish_packet(b"a/\xff", b"evil", 7) + publish_packet(b"a/\xff", b"evil", 8, properties=b"\xfe")
    async with ScriptedBroker(greeting=greeting) as broker:
        session = MqttSession(url=broker.url, client_id="t", subscriptions=["a/b"], on_message=handle)
        async with session:
            await session.wait_connected(30)
            await until(lambda: len(broker.received(4)) == 2)
    assert [message.topic for message in heard] == ["", "a/\ufffd"]
    assert session.handler_failures == 0


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(b"\x32\xff\xff\xff\xff\xff", id="a length of five bytes"),
        pytest.param(b"\x32\x04\x00\xffab", id="a topic longer than its packet"),
        pytest.param(b"\xf0\x00", id="an AUTH that nobody asked for"),
        pytest.param(b"\x90\x00", id="an empty SUBACK"),
    ],
)
async def test_hostile_bytes_cost_the_connection_and_not_the_session(hostile: bytes) -> None:
    async with ScriptedBroker(greeting=hostile) as broker, session_to(broker.url, "a/b") as session:
        await until(lambda: len(broker.received(1)) >= 2)  # it came back
        broker.greeting = b""
        async with asyncio.timeout(10):
            while not await reaches(session):  # noqa: ASYNC110  one more connection may be greeted badly meanwhile
                await asyncio.sleep(0.01)


async def test_without_a_broker_publishing_fails_at_once_and_waiting_after_its_time() -> None:
    url = f"mqtt://127.0.0.1:{closed_port()}"
    async with session_to(url) as session:
        with pytest.raises(UnreachableError):
            await session.publish(Outgoing("a/b", b""))
        async with asyncio.timeout(15):
            while "Connection refused" not in (why := await unreachable(session)):
                assert "has not answered" in why  # the thread that connects has not had its turn yet


async def unreachable(session: MqttSession) -> str:
    """What waiting for a moment says."""
    with pytest.raises(UnreachableError) as caught:
        await session.wait_connected(0.3)
    assert caught.value.reason == "broker_unreachable"
    return str(caught.value)


async def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    async with session_to("mqtt://no-such-host.invalid") as session:
        with pytest.raises(UnreachableError):
            await session.wait_connected(0.5)


async def test_connecting_to_a_silent_host_blocks_neither_the_loop_nor_the_end() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        fillers = [socket.socket() for _ in range(3)]  # a full backlog: no further connection is ever answered
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        began = time.monotonic()
        longest = 0.0
        async with session_to(f"mqtt://127.0.0.1:{silent.getsockname()[1]}"):
            for _ in range(30):
                before = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - before)
        for filler in fillers:
            filler.close()
    assert longest < CONNECT_TIMEOUT_S / 2
    assert time.monotonic() - began < CONNECT_TIMEOUT_S


@pytest.mark.parametrize("answers", [True, False])
async def test_a_connection_on_which_nothing_answers_is_given_up_after_two_keepalives(answers: bool) -> None:
    async with ScriptedBroker(pingresp=answers) as broker:
        session = MqttSession(url=broker.url, client_id="t", subscriptions=[], on_message=ignore, keepalive_s=1)
        async with session:
            await session.wait_connected(30)
            await until(lambda: len(broker.received(12)) >= (4 if answers else 1))
            await until(lambda: answers or session.connections > 1)
            assert (session.connections == 1) is answers


async def test_being_out_of_reach_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with session_to(f"mqtt://127.0.0.1:{closed_port()}"):
        await until(lambda: bool(caplog.records))
        await asyncio.sleep(1)
    assert [record.message for record in caplog.records] == ["session.down"]


async def test_a_client_id_that_is_taken_over_reconnects_slowly() -> None:
    taken_over = bytes([0xE0, 1, 0x8E])
    async with ScriptedBroker(greeting=taken_over) as broker, session_to(broker.url, "a/b"):
        await asyncio.sleep(2)
        assert len(broker.received(1)) < 40
        await until(lambda: len(broker.received(1)) >= 2)


def test_the_backoff_grows_to_half_a_minute_and_is_spread_from_zero() -> None:
    assert [round(backoff_s(attempt, 1.0), 1) for attempt in (0, 1, 2, 7, 8, 10_000)] == [0.2, 0.4, 0.8, 25.6, 30, 30]
    assert backoff_s(5, 0.0) == 0


@pytest.mark.parametrize(
    "url",
    ["", "host", "http://host", "mqtt://", "mqtt://host:0", "mqtt://host:99999", "mqtt://h/path", "mqtt://u:pw@host"],
)
def test_what_is_not_a_brokers_address_is_refused_without_repeating_a_password(url: str) -> None:
    with pytest.raises(OperatorConfigError) as caught:
        session_to(url)
    assert caught.value.reason == "invalid_url"
    assert "pw" not in str(caught.value)


def test_ports_have_their_defaults() -> None:
    assert [session_to(url).url.port for url in ("mqtt://h", "mqtts://h", "mqtt://[::1]:7/")] == [1883, 8883, 7]
    assert str(session_to("mqtt://[::1]:7/").url) == "mqtt://[::1]:7"


def server_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


async def test_over_tls_a_burst_of_messages_in_one_record_is_all_read(certificate: tuple[Path, Path]) -> None:
    heard: list[bytes] = []

    async def handle(message: Incoming) -> None:
        heard.append(message.payload)

    burst = b"".join(publish_packet("a/b", str(mid).encode(), mid) for mid in range(1, 101))
    async with ScriptedBroker(greeting=burst, tls=server_context(certificate)) as broker:
        session = MqttSession(
            url=broker.url, client_id="t", subscriptions=["a/b"], on_message=handle, tls=Tls(ca_file=certificate[0])
        )
        async with session:
            await session.wait_connected(30)
            assert await session.publish(Outgoing("a/b", bytes(300_000)))
            await until(lambda: len(broker.received(4)) == 100)
    assert heard == [str(mid).encode() for mid in range(1, 101)]


async def test_a_certificate_that_nobody_vouches_for_is_the_operators_to_mend(certificate: tuple[Path, Path]) -> None:
    async with ScriptedBroker(tls=server_context(certificate)) as broker, session_to(broker.url) as session:
        with pytest.raises(OperatorSetupError, match="self-signed") as caught:
            await session.wait_connected(30)
    assert caught.value.reason == "broker_certificate"
    assert broker.packets == []


async def test_tls_files_that_cannot_be_used_are_named_before_connecting(tmp_path: Path) -> None:
    session = session_to("mqtts://127.0.0.1", tls=Tls(ca_file=tmp_path / "absent.pem"))
    with pytest.raises(OperatorConfigError) as caught:
        await session.__aenter__()
    assert caught.value.reason == "tls_files"
