"""Where a source's inputs come from, as an operator writes it: ``camera:0``, ``rtsp://…``. Pure: opens nothing."""

from typing import Literal, NamedTuple
from urllib.parse import urlsplit

Kind = Literal["dir", "mqtt", "camera", "csi", "file", "stream"]

VIDEO: tuple[Kind, ...] = ("camera", "csi", "file", "stream")
"""Kinds that give frames."""
FORMS = "dir:PATH, camera:N, csi:N, file:PATH, mqtt:TOPIC, rtsp://, rtsps://, http://, https://, tcp:// or udp://"
STREAMS = ("rtsp", "rtsps", "http", "https", "tcp", "udp")
_LONGEST_TOPIC = 512


class Address(NamedTuple):
    """One address, taken apart."""

    kind: Kind
    place: str
    """The path, the topic, the device's number or path, or the whole URL of a stream."""

    @property
    def is_video(self) -> bool:
        """Whether it gives frames."""
        return self.kind in VIDEO


def parse_address(text: str) -> Address:
    """The parts of an address.

    Raises:
        ValueError: it is none; the sentence says why.
    """
    scheme, colon, place = text.partition(":")
    if not colon or not place:
        raise ValueError(f"{text!r} is no source")
    match scheme:
        case "dir" | "file":
            return Address(scheme, place)
        case "mqtt":
            return Address("mqtt", _topic_filter(place))
        case "camera" if place.isascii() and (place.isdigit() or place.startswith("/dev/")):
            return Address("camera", f"/dev/video{int(place)}" if place.isdigit() and len(place) < 5 else place)
        case "csi" if place.isascii() and place.isdigit() and len(place) < 3:
            return Address("csi", place)
        case _ if scheme in STREAMS:
            return Address("stream", _stream(text))
    raise ValueError(f"{text!r} is no source")


def _stream(text: str) -> str:
    parts = urlsplit(text)
    if not parts.hostname or parts.port == 0:
        raise ValueError(f"{parts.scheme}:// names no host")
    if "@" in parts.netloc:
        raise ValueError("it holds a user or a password, which logs would show")
    if parts.scheme in ("tcp", "udp") and parts.port is None:
        raise ValueError(f"{parts.scheme}:// names no port")
    return text


def _topic_filter(text: str) -> str:
    """A topic filter of MQTT 5 (§4.7): ``+`` and ``#`` stand for whole levels, ``#`` for the last ones."""
    levels = text.split("/")
    odd = any(("+" in level and level != "+") or ("#" in level and level != "#") for level in levels)
    if odd or "#" in levels[:-1] or "\0" in text or len(text) > _LONGEST_TOPIC or text.startswith("$"):
        raise ValueError(f"{text[:80]!r} is no topic filter")
    return text
