"""What is handed to and by an MQTT session, free of the client library's types. Knows MQTT 5 properties, no sockets."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from outrider_wire.codec import MSGPACK
from outrider_wire.errors import OperatorConfigError

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class Outgoing:
    """A message to publish."""

    topic: str
    payload: bytes
    retain: bool = False
    content_type: str = MSGPACK
    correlation: bytes | None = None
    expiry_s: int | None = None
    """Seconds after which a broker drops it undelivered; None: never."""
    user_properties: Mapping[str, str] = field(default_factory=dict)

    def properties(self, packet_type: int = PacketTypes.PUBLISH) -> Properties:
        """Its MQTT 5 properties (§3.3.2.3), for a PUBLISH or for a last will."""
        properties = Properties(packet_type)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        if self.content_type:
            properties.ContentType = self.content_type
        if self.correlation is not None:
            properties.CorrelationData = self.correlation
        if self.expiry_s is not None:
            properties.MessageExpiryInterval = self.expiry_s
        if self.user_properties:
            properties.UserProperty = list(self.user_properties.items())
        return properties


@dataclass(frozen=True)
class Incoming:
    """A message as it arrived. Nothing in it has been judged yet."""

    topic: str
    payload: bytes
    content_type: str = ""
    correlation: bytes | None = None
    expiry_s: int | None = None
    """What was left of its life when the broker sent it on, in seconds."""
    user_properties: dict[str, str] = field(default_factory=dict)
    retained: bool = False


def incoming(message: MQTTMessage) -> Incoming:
    """The client library's message as ours; of a topic that is not UTF-8, nothing."""
    properties = message.properties
    try:
        topic = message.topic
    except UnicodeDecodeError:
        topic = ""
    return Incoming(
        topic=topic,
        payload=bytes(message.payload),
        content_type=getattr(properties, "ContentType", ""),
        correlation=getattr(properties, "CorrelationData", None),
        expiry_s=getattr(properties, "MessageExpiryInterval", None),
        user_properties=dict(getattr(properties, "UserProperty", ())),
        retained=bool(message.retain),
    )


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Files for `mqtts://`. The broker's certificate and host name are always verified."""

    ca_file: Path | None = None
    """Who may vouch for the broker; None: the system's authorities."""
    cert_file: Path | None = None
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """A client context, TLS 1.2 or later.

        Raises:
            OperatorConfigError: a file is missing or holds no certificate or key.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:  # ssl.SSLError is one
            raise OperatorConfigError(
                f"the broker's TLS files cannot be used: {error}",
                reason="tls_files",
                fix="check ca_file, cert_file and key_file",
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


@dataclass(frozen=True, kw_only=True)
class BrokerUrl:
    """A broker's address, taken apart."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.tls else ''}://{host}:{self.port}"


def parse_url(url: str) -> BrokerUrl:
    """``mqtt://host[:1883]`` or ``mqtts://host[:8883]``.

    Raises:
        OperatorConfigError: anything else, a path or credentials included (an address is logged; a password must not be).
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _invalid(url, str(error)) from error
    if parts.scheme not in DEFAULT_PORTS:
        raise _invalid(url, "it must start with mqtt:// or mqtts://")
    if "@" in parts.netloc:
        raise _invalid(f"{parts.scheme}://…", "it must not hold a user name or a password")
    if not parts.hostname or port == 0 or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _invalid(url, "it must be a host and, if you like, a port")
    return BrokerUrl(host=parts.hostname, port=port or DEFAULT_PORTS[parts.scheme], tls=parts.scheme == "mqtts")


def _invalid(url: str, why: str) -> OperatorConfigError:
    return OperatorConfigError(
        f"{url!r} is not a broker's address: {why}",
        reason="invalid_url",
        fix="write mqtt://host:port or mqtts://host:port",
    )
