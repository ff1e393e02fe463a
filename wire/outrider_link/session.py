"""A lasting MQTT 5 session on the asyncio loop: connects, subscribes, reconnects. Knows QoS 1 and acknowledgement, not what is said.

A PUBACK never means that a message was answered, and a broker may forget a session: whoever publishes keeps what matters
until an application message confirms it.
"""

import asyncio
import logging
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from paho.mqtt.client import MQTTMessage

from outrider_link.connection import PACKET_LIMIT, Connection, SubscriptionRefusedError, Terms
from outrider_link.envelope import Incoming, Outgoing, Tls, incoming, parse_url
from outrider_wire.errors import OperatorError, OutriderError, UnreachableError

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
STABLE_S = 10.0
"""A connection that lived this long was a good one: the next attempt comes soon again."""
HELD_BYTES = 16 * 1024 * 1024
"""So many bytes of messages may wait for their handlers; then nothing more is read until half of them are done."""
_RANDOM = secrets.SystemRandom()


def backoff_s(attempt: int, roll: float) -> float:
    """Seconds before attempt number ``attempt`` (from 0): exponential from 0.2 to 30 s with full jitter; ``roll`` in [0, 1)."""
    return roll * min(30.0, 0.2 * 2.0 ** min(attempt, 16))


class MqttSession:
    """``async with MqttSession(...) as session`` keeps a connection for as long as the block lasts.

    ``on_message`` runs as a task a message, at most ``receive_maximum`` at once, and the message is acknowledged when it
    returns, in the order of arrival. It must therefore never wait for another message of the same session: what does
    (pulling a blob, say) belongs in a task of its own, started by the handler.

    ``on_connected`` runs after every connection, once all subscriptions are granted, and is cancelled when it is lost.
    """

    def __init__(
        self,
        *,
        url: str,
        client_id: str,
        subscriptions: Sequence[str],
        on_message: Callable[[Incoming], Awaitable[None]],
        on_connected: Callable[[], Awaitable[None]] | None = None,
        will: Outgoing | None = None,
        keepalive_s: int = 20,
        session_expiry_s: int = 0,
        receive_maximum: int = 64,
        username: str | None = None,
        password: str | None = None,
        tls: Tls | None = None,
        ack_timeout_s: float = 60.0,
    ) -> None:
        self.url = parse_url(url)
        self.handler_failures = 0
        """How many times ``on_message`` or ``on_connected`` has raised."""
        self.bytes_published = 0
        """Payload bytes that the broker has acknowledged."""
        self.connections = 0
        """How many times the broker has accepted this session."""
        self.refused = ""
        """The subscription that the broker last refused; '' when all are granted."""
        self.packet_limit = PACKET_LIMIT
        """Largest packet in bytes that the broker carries, as announced by its last CONNACK."""
        self._client_id = client_id
        self._subscriptions = list(subscriptions)
        self._on_message = on_message
        self._on_connected = on_connected
        self._will = will
        self._keepalive_s = keepalive_s
        self._session_expiry_s = session_expiry_s
        self._receive_maximum = receive_maximum
        self._username = username
        self._password = password
        self._tls = tls
        self._ack_timeout_s = ack_timeout_s
        self._held_messages = 0
        self._held_bytes = 0
        self._connected = False
        self._connection: Connection | None = None
        self._failure: OutriderError | None = None
        self._changed = asyncio.Event()
        self._slots = asyncio.Semaphore(receive_maximum)
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted this session and granted all its subscriptions."""
        return self._connected

    async def __aenter__(self) -> Self:
        """Starts connecting and returns at once.

        Raises:
            OperatorConfigError: the TLS files cannot be used.
        """
        terms = self._terms(self._tls_context())
        self._keeper = asyncio.create_task(self._keep(terms), name=f"mqtt-{self._client_id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [*self._tasks, *([self._keeper] if self._keeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait_connected(self, timeout_s: float) -> None:
        """Returns once connected.

        Raises:
            OperatorSetupError: the broker refuses this client or one of its subscriptions (the session keeps trying).
            UnreachableError: not connected within ``timeout_s``.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self._connected:
                    if isinstance(self._failure, OperatorError):
                        raise self._failure
                    await self._changed.wait()
        except TimeoutError as error:
            why = self._failure.what if self._failure else f"{self.url} has not answered"
            raise self._unreachable(f"not connected within {timeout_s:g} s: {why}") from error

    async def publish(self, message: Outgoing) -> bool:
        """Publishes at QoS 1 and returns at PUBACK: False when the broker says that nobody is listening (not every broker does).

        Raises:
            UnreachableError: not connected, or the connection was lost before the PUBACK.
            PeerError: the broker refuses the message, or it is larger than `packet_limit`.
        """
        if self._connection is None:
            raise self._unreachable(f"not connected to {self.url}")
        heard = await self._connection.publish(message)
        self.bytes_published += len(message.payload)
        return heard

    # --- keeping the connection

    def _tls_context(self) -> ssl.SSLContext | None:
        return (self._tls or Tls()).context() if self.url.tls else None

    def _tls_stamp(self) -> tuple[int, ...]:
        return self._tls.stamp() if self._tls else ()

    def _terms(self, tls: ssl.SSLContext | None) -> Terms:
        return Terms(
            url=self.url,
            client_id=self._client_id,
            will=self._will,
            keepalive_s=self._keepalive_s,
            session_expiry_s=self._session_expiry_s,
            receive_maximum=self._receive_maximum,
            username=self._username,
            password=self._password,
            tls=tls,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            ack_timeout_s=self._ack_timeout_s,
        )

    async def _keep(self, terms: Terms) -> None:
        attempt, stamp = 0, self._tls_stamp()
        while True:
            began = time.monotonic()
            try:
                try:
                    if self._tls_stamp() != stamp:  # a renewed certificate: the old one may run out meanwhile
                        terms, stamp = self._terms(self._tls_context()), self._tls_stamp()
                    await self._live(terms)
                except OutriderError as error:
                    self._fail(error)
            except Exception:  # supervised: a bug of ours must not end the connection for good
                with suppress(Exception):  # there may be no memory for a line either
                    log.exception("session.failed", extra={"client": terms.client_id})
            attempt = 0 if time.monotonic() - began > STABLE_S else attempt + 1
            await asyncio.sleep(backoff_s(attempt, _RANDOM.random()))

    async def _live(self, terms: Terms) -> None:
        """One connection from beginning to end; always ends by raising."""
        connection = Connection(terms=terms, on_message=lambda message: self._take(connection, message))
        greeting: asyncio.Task[None] | None = None
        try:
            await connection.open()
            self._connection, self.packet_limit = connection, connection.packet_limit
            await connection.subscribe(self._subscriptions)
            self._succeed()
            greeting = self._spawn(self._greet())
            await asyncio.wait([connection.lost])
            raise self._unreachable(f"the connection to {self.url} was lost: {connection.lost.result()}")
        finally:
            self._connection, self._connected = None, False
            if greeting is not None:
                greeting.cancel()
            await connection.close()

    def _succeed(self) -> None:
        self._connected, self._failure, self.refused = True, None, ""
        self.connections += 1
        log.info("session.connected", extra={"broker": str(self.url), "client": self._client_id})
        self._tell()

    def _fail(self, error: OutriderError) -> None:
        level = logging.ERROR if isinstance(error, OperatorError) else logging.WARNING
        if self._failure is not None and self._failure.what == error.what:
            level = logging.DEBUG  # said already; a device may be out of reach for days
        self._failure = error
        self.refused = error.topic if isinstance(error, SubscriptionRefusedError) else ""
        log.log(level, "session.down", extra={"client": self._client_id, "reason": error.reason, "what": str(error)})
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _greet(self) -> None:
        if self._on_connected is None:
            return
        try:
            await self._on_connected()
        except OutriderError as error:  # as when the broker refuses a topic, which the sentence names
            self.handler_failures += 1
            facts = {"client": self._client_id, "reason": error.reason, "what": str(error)}
            log.error("session.on_connected_failed", extra=facts)
        except Exception:  # supervised: logged and counted
            self.handler_failures += 1
            with suppress(Exception):  # there may be no memory for a line either
                log.exception("session.on_connected_failed", extra={"client": self._client_id})

    # --- what arrives

    def _take(self, connection: Connection, message: MQTTMessage) -> None:
        self._hold(connection, 1, len(message.payload))
        self._spawn(self._handle(connection, message)).add_done_callback(
            lambda _: self._hold(self._connection, -1, -len(message.payload))
        )

    def _hold(self, connection: Connection | None, count: int, size: int) -> None:
        """Bounds what has come and is not handled yet: not every broker keeps to Receive Maximum, but all to TCP."""
        self._held_messages += count
        self._held_bytes += size
        if connection is None:
            return
        if self._held_messages > 4 * self._receive_maximum or self._held_bytes > HELD_BYTES:
            connection.hold()
        elif self._held_messages <= 2 * self._receive_maximum and self._held_bytes <= HELD_BYTES // 2:
            connection.resume()

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _handle(self, connection: Connection, message: MQTTMessage) -> None:
        async with self._slots:
            try:
                await self._on_message(incoming(message))
            except Exception:  # supervised: logged, counted, and acknowledged below, for it would only fail again
                self.handler_failures += 1
                with suppress(Exception):  # there may be no memory for a line either
                    log.exception("session.handler_failed", extra={"client": self._client_id})
        connection.finished(message)

    def _unreachable(self, what: str) -> UnreachableError:
        return UnreachableError(what, reason="broker_unreachable", fix="check that the broker runs and is reachable")


__all__ = ["Incoming", "MqttSession", "Outgoing", "Tls", "backoff_s"]
