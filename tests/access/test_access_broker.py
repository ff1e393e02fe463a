"""What one device can do to another on a real broker: nothing. Each attack is a named test, beside the honest deed that works."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from cloud_device import make_escalation
from cloud_service import HeldModel, eventually, make_service, the_task, write_config
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from secured import TOPICS, Peer, SecuredBroker, SecuredDevice, as_operator, downlink, secure

from outrider_cloud.access import pki
from outrider_cloud.service import CloudService
from outrider_link.envelope import Outgoing, Tls
from outrider_wire.access import Grant, cloud_grants, device_grants
from outrider_wire.codec import MSGPACK, encode
from outrider_wire.errors import OperatorSetupError, PeerError, UnreachableError
from outrider_wire.messages import Answer, BlobGone, BlobWant

pytestmark = pytest.mark.broker
WORKER = [grant.topic for grant in cloud_grants(TOPICS) if grant.action == "subscribe"]


@pytest.fixture(scope="module")
def identities(broker: SecuredBroker) -> tuple[Tls, Tls]:
    """Two devices that have been let in."""

    async def both() -> tuple[Tls, Tls]:
        return await broker.device("dev-a"), await broker.device("dev-b")

    return asyncio.run(both())


@pytest.fixture
async def a(broker: SecuredBroker, identities: tuple[Tls, Tls]) -> AsyncIterator[Peer]:
    async with Peer(broker.url, "dev-a", identities[0]) as peer:
        yield peer


@pytest.fixture
async def b(broker: SecuredBroker, identities: tuple[Tls, Tls]) -> AsyncIterator[Peer]:
    async with Peer(broker.url, "dev-b", identities[1]) as peer:
        yield peer


@pytest.fixture
async def worker(broker: SecuredBroker) -> AsyncIterator[Peer]:
    async with Peer(broker.url, "outrider-cloud-one", broker.worker_tls, subscriptions=WORKER) as peer:
        yield peer


async def heard(peer: Peer, count: int) -> list[bytes]:
    """The payloads that came, once there are that many."""
    async with asyncio.timeout(20):
        while len(peer.heard) < count:  # noqa: ASYNC110 (nothing announces it)
            await asyncio.sleep(0.01)
    return [message.payload for message in peer.heard]


def raw_client(
    broker: SecuredBroker,
    tls: Tls,
    *,
    name: str = "whoever",
    protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5,
    will: str = "",
) -> mqtt.Client:
    """A client that behaves as it likes, connected."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol)
    client.tls_set_context(tls.context())
    if will:
        client.will_set(will, b"forged", qos=1)
    client.connect("127.0.0.1", broker.site.port)
    deadline = time.monotonic() + 5
    while not client.is_connected() and time.monotonic() < deadline:
        client.loop(0.01)
    return client


@contextlib.contextmanager
def raw(broker: SecuredBroker, tls: Tls, **wishes: object) -> Iterator[mqtt.Client]:
    client = raw_client(broker, tls, **wishes)  # type: ignore[arg-type]  # passed on
    client.loop_start()
    yield client
    client.disconnect()
    client.loop_stop()


# --- the honest deeds, without which a refusal would prove nothing


async def test_a_device_says_and_hears_what_is_its_own(a: Peer, worker: Peer) -> None:
    assert await a.session.publish(Outgoing(TOPICS.of("escalate", "dev-a", task="t"), b"asked"))
    assert await heard(worker, 1) == [b"asked"]
    assert await worker.session.publish(Outgoing(TOPICS.of("answer", "dev-a"), b"answered"))
    assert await heard(a, 1) == [b"answered"]


# --- topics


@pytest.mark.parametrize(
    "topic",
    [
        pytest.param(TOPICS.of("escalate", "dev-a", task="t"), id="an escalation of another"),
        pytest.param(TOPICS.of("presence", "dev-a"), id="the presence of another"),
        pytest.param(TOPICS.of("reported", "dev-a"), id="the slots of another"),
        pytest.param(TOPICS.of("telemetry", "dev-a"), id="the telemetry of another"),
        pytest.param(TOPICS.of("blob-up", "dev-a", worker="one", transfer="x"), id="blocks of another"),
        pytest.param(TOPICS.of("answer", "dev-a"), id="an answer to another"),
        pytest.param(TOPICS.of("desired", "dev-a"), id="a release for another"),
        pytest.param(TOPICS.of("answer", "dev-b"), id="an answer to itself"),
        pytest.param(TOPICS.of("desired", "dev-b"), id="a release for itself"),
        pytest.param("outrider/1/all/down/stop", id="a stop to all"),
        pytest.param("$CONTROL/dynamic-security/v1", id="an order to the broker"),
        pytest.param("$SYS/broker/uptime", id="the broker's own figures"),
    ],
)
async def test_a_device_cannot_publish(topic: str, b: Peer) -> None:
    with pytest.raises(PeerError, match="Not authorized") as caught:
        await b.session.publish(Outgoing(topic, b"forged", retain=True))
    assert topic in str(caught.value)


@pytest.mark.parametrize(
    "subscription",
    [
        *(each for each in downlink("dev-a") if "/dev-a/" in each),
        TOPICS.of("presence", "dev-a"),
        TOPICS.of("blob-up", "dev-a", worker="+", transfer="+"),
        TOPICS.of("answer", "+"),
        "outrider/1/+/down/#",
        "outrider/1/dev-b/#",
        "outrider/1/dev-b/up/presence",
        "outrider/1/#",
        "+/+/+/down/answer",
        "#",
        "+/#",
        "$SYS/#",
        "$CONTROL/#",
        "$CONTROL/dynamic-security/v1/response",
        TOPICS.shared_escalations(),
        TOPICS.shared_escalations("another-group"),
        "$share/x/" + TOPICS.of("answer", "dev-a"),
        "$share/x/#",
    ],
)
async def test_a_device_cannot_listen(subscription: str, broker: SecuredBroker, identities: tuple[Tls, Tls]) -> None:
    with pytest.raises(OperatorSetupError) as caught:
        async with Peer(broker.url, "dev-b", identities[1], subscriptions=[subscription]):
            pass
    assert caught.value.reason == "subscription_refused"
    assert repr(subscription) in str(caught.value)


async def test_the_cloud_hears_20_of_20_with_an_intruder_that_tries_to_join_the_workers(
    a: Peer, worker: Peer, broker: SecuredBroker, identities: tuple[Tls, Tls]
) -> None:
    with raw(broker, identities[1]) as intruder:
        intruder.subscribe(TOPICS.shared_escalations(), qos=1)
        await asyncio.sleep(0.2)
        for number in range(20):
            await a.session.publish(Outgoing(TOPICS.of("escalate", "dev-a", task="t"), str(number).encode()))
        assert await heard(worker, 20) == [str(number).encode() for number in range(20)]


async def test_rules_are_closed_for_whoever_has_a_certificate_and_no_role(broker: SecuredBroker) -> None:
    tls = broker.tls(broker.certificate("never-let-in"))
    async with Peer(broker.url, "never-let-in", tls, subscriptions=[]) as peer:
        with pytest.raises(PeerError, match="Not authorized"):
            await peer.session.publish(Outgoing(TOPICS.of("presence", "never-let-in"), b""))


@pytest.mark.parametrize("protocol", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
async def test_neither_another_quality_of_service_nor_an_older_protocol_gets_around_a_rule(
    protocol: MQTTProtocolVersion, a: Peer, worker: Peer, broker: SecuredBroker, identities: tuple[Tls, Tls]
) -> None:
    with raw(broker, identities[1], protocol=protocol) as client:
        for qos in (0, 1, 2):
            client.publish(TOPICS.of("escalate", "dev-a", task="t"), b"forged", qos=qos)
            client.publish(TOPICS.of("answer", "dev-a"), b"forged", qos=qos)
        client.publish(TOPICS.of("escalate", "dev-b", task="t"), b"its own", qos=1)
        assert await heard(worker, 1) == [b"its own"]
    assert a.heard == []


# --- identity


async def test_a_client_id_takes_no_session_over(
    a: Peer, worker: Peer, broker: SecuredBroker, identities: tuple[Tls, Tls]
) -> None:
    async with Peer(broker.url, "dev-a", identities[1], subscriptions=downlink("dev-b")) as thief:
        await worker.session.publish(Outgoing(TOPICS.of("answer", "dev-a"), b"for a"))
        assert await heard(a, 1) == [b"for a"]
        await worker.session.publish(Outgoing(TOPICS.of("answer", "dev-b"), b"for b"))
        assert await heard(thief, 1) == [b"for b"]
        assert a.session.connected and a.session.connections == 1


async def test_a_will_is_forged_for_nobody_else(
    worker: Peer, broker: SecuredBroker, identities: tuple[Tls, Tls]
) -> None:
    for will, comes in ((TOPICS.of("presence", "dev-a"), False), (TOPICS.of("presence", "dev-b"), True)):
        client = raw_client(broker, identities[1], will=will)
        assert client.is_connected()
        sock = client.socket()
        assert sock is not None
        sock.close()  # without a goodbye
        if comes:
            assert b"forged" in await heard(worker, 1)
        else:
            await asyncio.sleep(0.3)
            assert b"forged" not in [message.payload for message in worker.heard]


@pytest.mark.filterwarnings("ignore:Attribute's length:UserWarning")
@pytest.mark.parametrize("name", ["#", "+", "dev-a/#", "dev-a/up", "$SYS", "", "d" * 65, "Dev-A", "dev a"])
def test_the_authority_signs_no_such_name(name: str, broker: SecuredBroker) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    from outrider_wire.errors import CallerInputError

    named = [x509.NameAttribute(x509.NameOID.COMMON_NAME, name, _validate=False)]
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(named)).sign(pki.new_key(), hashes.SHA256())
    text = csr.public_bytes(serialization.Encoding.PEM).decode()
    for wanted in (name, "dev-c"):
        with pytest.raises(CallerInputError):
            pki.issue_device(broker.authority, wanted, text, now=pki.utc_now_from_ms(time.time_ns() // 1_000_000))


@pytest.mark.parametrize("name", ["#", "+", "dev-a/#"])
async def test_a_certificate_of_such_a_name_would_gain_nothing(name: str, broker: SecuredBroker, worker: Peer) -> None:
    tls = broker.tls(broker.certificate(name))
    async with Peer(broker.url, "x", tls, subscriptions=[]) as peer:
        with pytest.raises(PeerError, match="Not authorized"):
            await peer.session.publish(Outgoing(TOPICS.of("presence", "dev-a"), b"forged"))
    with pytest.raises(OperatorSetupError):
        async with Peer(broker.url, "x", tls, subscriptions=["outrider/1/#"]):
            pass
    assert worker.heard == []


async def connects(url: str, tls: Tls) -> bool:
    with contextlib.suppress(UnreachableError, OperatorSetupError, ssl.SSLError):
        async with Peer(url, "x", tls, subscriptions=[], within_s=0.6):
            return True
    return False


async def test_only_a_good_certificate_of_this_site_connects(broker: SecuredBroker, tmp_path: Path) -> None:
    now = pki.utc_now_from_ms(time.time_ns() // 1_000_000)
    stranger, key = pki.new_authority("another site", now=now), pki.new_key()
    issued = pki.issue_service(stranger, "dev-a", key, hosts=(), now=now)
    foreign = tmp_path / "foreign.pem"
    foreign.write_bytes(issued.pem.encode() + pki.key_pem(key))
    good, expired = broker.certificate("dev-a"), broker.certificate("dev-a", days=-0.01)
    assert await connects(broker.url, broker.tls(good))
    assert not await connects(broker.url, broker.tls(expired))
    assert not await connects(broker.url, broker.tls(foreign))
    assert not await connects(broker.url, Tls(ca_file=broker.ca_file))


# --- a start that lacks a right says which


async def test_a_start_names_the_subscription_that_is_refused(broker: SecuredBroker) -> None:
    lacking = [grant for grant in device_grants(TOPICS, "dev-d") if "/down/desired" not in grant.topic]
    tls = await broker.device("dev-d", grants=lacking)
    with pytest.raises(OperatorSetupError, match="outrider/1/dev-d/down/desired"):
        async with Peer(broker.url, "dev-d", tls):
            pass


async def test_a_start_names_the_topic_that_it_may_not_publish_on(broker: SecuredBroker) -> None:
    from outrider_edge.joining.trial import try_broker

    tls = await broker.device("dev-e")
    await try_broker(broker.url, root=TOPICS.root, device="dev-e", tls=tls)
    mute = [grant for grant in device_grants(TOPICS, "dev-e") if not grant.topic.endswith("/up/presence")]
    await broker.device("dev-e", grants=mute)
    with pytest.raises(PeerError, match="outrider/1/dev-e/up/presence"):
        await try_broker(broker.url, root=TOPICS.root, device="dev-e", tls=tls)


async def test_an_agent_says_in_one_sentence_which_topic_it_may_not_publish_on(
    broker: SecuredBroker, identities: tuple[Tls, Tls], caplog: pytest.LogCaptureFixture
) -> None:
    async def greet() -> None:
        await session.publish(Outgoing(TOPICS.of("presence", "dev-a"), b"here"))

    session = Peer(broker.url, "dev-b", identities[1]).session
    session._on_connected = greet
    async with session:
        await session.wait_connected(30)
        async with asyncio.timeout(20):
            while not session.handler_failures:  # noqa: ASYNC110 (nothing announces it)
                await asyncio.sleep(0.01)
    (record,) = [each for each in caplog.records if each.message == "session.on_connected_failed"]
    assert "outrider/1/dev-a/up/presence" in record.__dict__["what"] and record.exc_info is None


async def test_a_new_version_tells_the_broker_what_its_workers_may_do(broker: SecuredBroker) -> None:
    control, rules = broker.control, broker.site.folder / "broker/dynamic-security.json"
    await control.allow_cloud(cloud_grants(TOPICS))
    before = broker.log().count("administrative")
    await control.allow_cloud([*cloud_grants(TOPICS), Grant("say", "outrider/1/all/down/tune")])
    assert "all/down/tune" in rules.read_text()
    await control.allow_cloud(cloud_grants(TOPICS))
    assert "all/down/tune" not in rules.read_text()
    async with Peer(broker.url, "outrider-cloud-one", broker.worker_tls, subscriptions=WORKER) as worker:
        await control.allow_cloud(cloud_grants(TOPICS))
        assert worker.session.connected and worker.session.connections == 1, "nothing to change, nobody disconnected"
    assert broker.log().count("administrative") == before


async def test_the_cloud_names_the_subscription_that_is_refused(broker: SecuredBroker, tmp_path: Path) -> None:
    path = secure(write_config(tmp_path, broker.url), broker)
    path.write_text(path.read_text().replace('group = "workers"', 'group = "others"'))
    async with make_service(path, HeldModel()) as service:

        async def told() -> bool:
            return any("$share/others/" in each for each in service.waiting_for())

        await eventually(told)


# --- against the real cloud


async def test_the_cloud_answers_where_the_question_came_from_whatever_response_topic_it_names(
    cloud: CloudService, b: Peer, broker: SecuredBroker, identities: tuple[Tls, Tls], cloud_folder: Path
) -> None:
    escalation = make_escalation(the_task(cloud_folder), {"image": b"1", "question": "?"})
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties.ResponseTopic = TOPICS.of("answer", "dev-b")
    properties.ContentType = MSGPACK
    async with SecuredDevice(broker.url, "dev-a", identities[0]) as device:
        session = device.session
        assert session._connection is not None
        session._connection._client.publish(
            TOPICS.of("escalate", "dev-a", task="colours"), encode(escalation), qos=1, properties=properties
        )
        answer = await device.hears(Answer, escalation.id)
    assert answer.label == "green"
    assert b.heard == []


async def test_an_input_of_another_cannot_be_pulled_by_its_digest(
    cloud: CloudService, broker: SecuredBroker, identities: tuple[Tls, Tls], cloud_folder: Path
) -> None:
    async with (
        SecuredDevice(broker.url, "dev-a", identities[0]) as owner,
        SecuredDevice(broker.url, "dev-b", identities[1]) as thief,
    ):
        picture = b"private" * 20_000
        owner.serve(picture)
        escalation = make_escalation(the_task(cloud_folder), {"image": picture, "question": "?"})
        await owner.hears(Answer, await owner.escalate(escalation))
        digest = escalation.parts[0].sha256
        assert owner.wants_served, "the cloud has pulled it, and keeps it as an example"
        with pytest.raises(PeerError) as caught:
            await thief.pull(digest, len(picture))
        assert caught.value.reason == "blob_gone"
        want = BlobWant(transfer="x", sha256=digest, offset=0, count=1, block=1024, worker="dev-b")
        with pytest.raises(PeerError, match="Not authorized"):
            await thief.session.publish(Outgoing(TOPICS.of("blob-down", "dev-a", transfer="x"), encode(want)))
        gone = BlobGone(transfer="x", sha256=digest, reason="gone")
        with pytest.raises(PeerError, match="Not authorized"):
            await thief.session.publish(
                Outgoing(TOPICS.of("blob-up", "dev-a", worker="one", transfer="x"), encode(gone))
            )


async def test_nothing_by_mqtt_3_or_at_qos_0_has_an_effect(
    cloud: CloudService, broker: SecuredBroker, identities: tuple[Tls, Tls], cloud_folder: Path
) -> None:
    topic, task = TOPICS.of("escalate", "dev-a", task="colours"), the_task(cloud_folder)
    old, unsure, right = (make_escalation(task, {"image": b"1", "question": "?"}) for _ in range(3))
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties.ContentType = MSGPACK
    tls = identities[0]
    _, before = await as_operator(cloud, "GET", "/v1/account")
    with raw(broker, tls, protocol=MQTTProtocolVersion.MQTTv311) as client:
        client.publish(topic, encode(old), qos=1).wait_for_publish(5)
    with raw(broker, tls) as client:
        client.publish(topic, encode(unsure), qos=0, properties=properties)
        await asyncio.sleep(0.3)
    async with SecuredDevice(broker.url, "dev-a", tls) as device:
        await device.hears(Answer, await device.escalate(right))
        answered = {message.id for message in device.of(Answer)}
    assert answered == {right.id}
    _, said = await as_operator(cloud, "GET", "/v1/dead-letters")
    letters = said["dead_letters"]
    assert {(letter["input"], letter["reason"]) for letter in letters} >= {
        (old.id, "no_content_type"),
        (unsure.id, "wrong_qos"),
    }
    _, after = await as_operator(cloud, "GET", "/v1/account")
    assert after["cloud"] - before["cloud"] == 1
