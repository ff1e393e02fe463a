"""One MQTT 5 connection, from CONNECT to its loss, on the asyncio loop. Knows sockets, packets and reason codes, not reconnection.

It is never used twice, so it never resends what its owner was told is lost.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from outrider_link.dialling import connect_in_thread, drop_socket
from outrider_link.envelope import BrokerUrl, Outgoing
from outrider_link.patient import PatientClient
from outrider_link.pump import Pump
from outrider_wire.errors import OperatorSetupError, PeerError, UnreachableError
from outrider_wire.limits import MESSAGE_BYTES

PACKET_LIMIT = 268_435_455
"""What a packet can hold at all (MQTT 5, §2.1.4); a broker may announce less."""
RECEIVED_PACKET_LIMIT = MESSAGE_BYTES + 64 * 1024
"""What we ask a broker never to exceed: the largest message that is decoded, and its topic and properties."""
NO_SUBSCRIBER = 0x10
SLOWEST_BYTES_PER_S = 2_000
"""A link this slow may still be only slow, and not silent."""
_GOODBYE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a client announces when it connects."""

    url: BrokerUrl
    client_id: str
    will: Outgoing | None
    keepalive_s: int
    session_expiry_s: int
    receive_maximum: int
    username: str | None
    password: str | None = field(repr=False)
    tls: ssl.SSLContext | None
    connect_timeout_s: float
    ack_timeout_s: float
    """Without any PUBACK for so long, and for what the bytes that wait for one take on a slow link, it is given up."""


class Connection:
    """Create, `open`, `subscribe`; then publish and acknowledge until `lost` has a reason; then `close`."""

    def __init__(self, *, terms: Terms, on_message: Callable[[MQTTMessage], None]) -> None:
        self.packet_limit = PACKET_LIMIT
        self._terms = terms
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        """Set to the reason once the connection is no more."""
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        self._granted: asyncio.Future[list[ReasonCode]] = self._loop.create_future()
        self._published: dict[int, asyncio.Future[ReasonCode]] = {}
        self._owed_bytes = 0
        self._watch: asyncio.TimerHandle | None = None
        self._window = asyncio.Semaphore(65_535)
        self._unacknowledged: deque[int] = deque()
        self._finished: set[int] = set()
        self._client = self._make_client()
        self._pump = Pump(client=self._client, on_closed=self._abort)

    def _make_client(self) -> Client:
        terms = self._terms
        client = PatientClient(
            CallbackAPIVersion.VERSION2,
            client_id=terms.client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = terms.connect_timeout_s
        client.max_inflight_messages = 65_535  # the broker's Receive Maximum is kept by `_window`
        if terms.username is not None:
            client.username_pw_set(terms.username, terms.password)
        if terms.tls is not None:
            client.tls_set_context(terms.tls)
        if (will := terms.will) is not None:
            properties = will.properties(PacketTypes.WILLMESSAGE)
            client.will_set(will.topic, will.payload, qos=1, retain=will.retain, properties=properties)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_publish_received
        return client

    # --- opening

    async def open(self) -> None:
        """Connects, and returns once the broker has accepted.

        Raises:
            UnreachableError: no answer in time, or the network or the broker closed the connection.
            OperatorSetupError: the broker refuses this client, or its certificate is not vouched for.
        """
        try:
            async with asyncio.timeout(self._terms.connect_timeout_s):
                await connect_in_thread(self._client, self._dial)
                if not self._pump.attach():
                    raise self._unreachable(f"{self._terms.url} closed the connection")
                await self._accepted
        except ssl.SSLCertVerificationError as error:
            raise OperatorSetupError(
                f"the certificate of {self._terms.url} is not to be trusted: {error.verify_message}",
                reason="broker_certificate",
                fix="give the authority that signed it as ca_file, and the name it was made for as host",
            ) from error
        except (OSError, UnicodeError) as error:  # TimeoutError and name resolution included
            why = str(error) or "no answer in time"
            raise self._unreachable(f"{self._terms.url} cannot be reached: {why}") from error

    def _dial(self) -> None:
        """Blocks: runs in a thread."""
        terms = self._terms
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        properties.SessionExpiryInterval = terms.session_expiry_s
        properties.ReceiveMaximum = terms.receive_maximum
        properties.MaximumPacketSize = RECEIVED_PACKET_LIMIT
        self._client.connect(
            terms.url.host,
            terms.url.port,
            keepalive=terms.keepalive_s,
            clean_start=terms.session_expiry_s == 0,
            properties=properties,
        )

    def _on_connect(
        self, _client: Client, _data: Any, _flags: Any, code: ReasonCode, properties: Properties | None
    ) -> None:
        self.packet_limit = getattr(properties, "MaximumPacketSize", PACKET_LIMIT)
        self._window = asyncio.Semaphore(getattr(properties, "ReceiveMaximum", 65_535))
        if self._accepted.done():
            return
        if code.is_failure:
            self._accepted.set_exception(
                OperatorSetupError(
                    f"{self._terms.url} refuses the client {self._terms.client_id!r}: {code}",
                    reason="broker_refuses_client",
                    fix="check the client's name, user name, password and certificate",
                )
            )
        else:
            self._accepted.set_result(None)

    # --- subscribing

    async def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribes to all of them at QoS 1, in one packet.

        Raises:
            SubscriptionRefusedError: the broker refuses one; the error names it.
            UnreachableError: the connection was lost, or the broker does not answer.
            PeerError: it answers another number of subscriptions.
        """
        if not filters:
            return
        result, _ = self._client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in filters])
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise self._unreachable("the connection was lost before it subscribed")
        try:
            async with asyncio.timeout(self._terms.connect_timeout_s):
                codes = await self._granted
        except TimeoutError as error:
            raise self._unreachable(f"{self._terms.url} does not answer a subscription") from error
        if len(codes) != len(filters):
            raise PeerError(
                f"{self._terms.url} answers {len(codes)} of {len(filters)} subscriptions", reason="broker_protocol"
            )
        for topic, code in zip(filters, codes, strict=True):
            if code.is_failure:
                raise SubscriptionRefusedError(topic, str(code))

    def _on_subscribe(self, _client: Client, _data: Any, _mid: int, codes: list[ReasonCode], _properties: Any) -> None:
        if not self._granted.done():
            self._granted.set_result(codes)

    # --- publishing

    async def publish(self, message: Outgoing) -> bool:
        """Publishes at QoS 1; returns at PUBACK: whether somebody was listening, as far as the broker says.

        Raises:
            UnreachableError: the connection was lost before the PUBACK; the message may have arrived or not.
            PeerError: the broker refuses the message, or it is larger than the broker's limit.
        """
        properties = message.properties()
        self._check_size(message, properties)
        code = await asyncio.shield(await self._handed_over(message, properties))
        if code.is_failure:
            raise PeerError(
                f"the broker refuses a message on {message.topic!r}: {code}",
                reason="broker_refused",
                fix="check the broker's access rules and quotas",
            )
        return code.value != NO_SUBSCRIBER

    async def _handed_over(self, message: Outgoing, properties: Properties) -> asyncio.Future[ReasonCode]:
        """Hands a message to the client in its turn; the PUBACK's code.

        Its place among the broker's Receive Maximum is free again at the PUBACK, whether or not anybody still waits for it.
        """
        window, size = self._window, len(message.payload)
        await window.acquire()
        info = self._client.publish(message.topic, message.payload, qos=1, retain=message.retain, properties=properties)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            window.release()
            raise self._unreachable("the connection to the broker is lost")
        answered: asyncio.Future[ReasonCode] = self._loop.create_future()
        answered.add_done_callback(lambda _: self._acknowledged(size, window))
        self._published[info.mid] = answered
        self._owed_bytes += size
        if self._watch is None:
            self._expect_ack()
        return answered

    def _acknowledged(self, size: int, window: asyncio.Semaphore) -> None:
        self._owed_bytes -= size
        window.release()
        self._expect_ack()

    def _expect_ack(self) -> None:
        """From now on the next PUBACK must come in time, as long as one is owed."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._published and not self.lost.done():
            within_s = self._terms.ack_timeout_s + self._owed_bytes / SLOWEST_BYTES_PER_S
            self._watch = self._loop.call_later(within_s, self._abort, "the broker acknowledges nothing")

    def _check_size(self, message: Outgoing, properties: Properties) -> None:
        if self.packet_limit == PACKET_LIMIT and len(message.payload) <= MESSAGE_BYTES:
            return
        packed: bytes = properties.pack()  # type: ignore[no-untyped-call]  # paho leaves it untyped
        head = 5 + 2 + 2  # fixed header, length of the topic, packet identifier
        size = head + len(message.topic.encode()) + len(packed) + len(message.payload)
        if size > self.packet_limit:
            raise PeerError(
                f"a message of {size} bytes is larger than the {self.packet_limit} that the broker carries",
                reason="packet_too_large",
                fix="offer it as a blob, or raise the broker's limit",
            )

    def _on_publish(self, _client: Client, _data: Any, mid: int, code: ReasonCode, _properties: Any) -> None:
        if (answered := self._published.pop(mid, None)) is not None and not answered.done():
            answered.set_result(code)

    # --- receiving

    def _on_publish_received(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        if message.qos:
            self._unacknowledged.append(message.mid)
        self._on_message(message)

    def hold(self) -> None:
        """Reads nothing for a while."""
        self._pump.hold()

    def resume(self) -> None:
        """Reads again."""
        self._pump.resume()

    def finished(self, message: MQTTMessage) -> None:
        """Says that a received message needs no redelivery.

        Acknowledgements leave in the order of arrival, as MQTT 5 §4.6 demands: iotcore (rumqttd) closes the connection
        on any other order. One that is early waits for those before it.
        """
        if not message.qos or self.lost.done():
            return
        self._finished.add(message.mid)
        while self._unacknowledged and self._unacknowledged[0] in self._finished:
            mid = self._unacknowledged.popleft()
            self._finished.discard(mid)
            self._client.ack(mid, 1)

    # --- the end

    def _on_disconnect(self, _client: Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        self._lose(str(code))

    def _lose(self, why: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(why)
        waiters: list[asyncio.Future[Any]] = [self._accepted, self._granted, *self._published.values()]
        self._published.clear()
        for waiting in waiters:
            if not waiting.done():
                waiting.set_exception(self._unreachable(f"the connection to the broker was lost: {why}"))
                waiting.exception()  # marked as seen: nobody may be waiting for it

    def _abort(self, why: str) -> None:
        self._pump.detach()
        drop_socket(self._client)
        self._lose(why)

    async def close(self) -> None:
        """Says goodbye when it still can (so that the will is not sent), and lets go of the socket."""
        if self._pump.attached and not self.lost.done():
            self._client.disconnect()
            self._pump.flush()
            await asyncio.wait([self.lost], timeout=_GOODBYE_S)
        self._abort("closed")

    def _unreachable(self, what: str) -> UnreachableError:
        return UnreachableError(what, reason="broker_unreachable", fix="check that the broker runs and is reachable")


class SubscriptionRefusedError(OperatorSetupError):
    """The broker refuses a subscription; ``topic`` says which."""

    def __init__(self, topic: str, code: str) -> None:
        super().__init__(
            f"the broker refuses the subscription to {topic!r}: {code}",
            reason="subscription_refused",
            fix="allow it in the broker's access rules",
        )
        self.topic = topic
