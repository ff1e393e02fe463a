"""What ``[[sources]]`` and ``[local_broker]`` of ``edge.toml`` may say. Opens nothing."""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from msgspec import Meta, Struct
from msgspec.structs import replace

from outrider_edge.sources.address import FORMS, Address, parse_address
from outrider_link.envelope import Tls
from outrider_link.settings import is_loopback, read_secret
from outrider_wire.errors import OperatorConfigError
from outrider_wire.names import Name

Share = Annotated[float, Meta(gt=0.0, le=1.0)]


class MotionSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """When something happens before a camera: `outrider_edge.video.motion`, on grey frames of 64 × 36."""

    share: Share = 0.01
    """Share of the picture that must differ from what it usually shows."""
    contrast: Annotated[int, Meta(ge=1, le=255)] = 14
    """By so many of 255 grey levels, at least; where the picture flickers by itself, by four times as much as it does."""
    scene_share: Share = 0.7
    """When so much differs at once, it is another scene: the light, or where the camera looks."""
    look_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.5
    """The model is asked so long after an event began, about the frame in which most differed until then."""
    settle_s: Annotated[float, Meta(gt=0.0, le=600.0)] = 2.0
    """An event ends when nothing has moved for so long."""
    longest_s: Annotated[float, Meta(gt=0.0, le=86_400.0)] = 60.0
    """It ends after so long in any case, and what is there by then is what the picture usually shows."""
    adapt_s: Annotated[float, Meta(gt=0.0, le=3_600.0)] = 10.0
    """How fast it is learnt what the picture usually shows: a slower change is none."""


class SourceSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One source of inputs."""

    url: str
    """``dir:PATH``, ``camera:N``, ``csi:N``, ``file:PATH``, ``mqtt:TOPIC`` or a stream's URL."""
    name: Name
    task: str = ""
    """Empty: the only one."""
    part: str = ""
    """Which part of the input it gives; empty: the only one that it can."""
    parts: dict[str, Annotated[str, Meta(max_length=65_536)]] = {}
    """The input's other parts, as texts that stay the same."""
    max_fps: Annotated[float, Meta(gt=0.0, le=240.0)] = 5.0
    """Frames a second that are looked at, or messages that are asked about; of those between, the newest wins."""
    gate: Literal["motion", "none"] = "motion"
    """Of cameras. ``motion``: one question an event; ``none``: one a frame."""
    motion: MotionSettings = MotionSettings()
    username: str = ""
    password_file: str = ""
    """Of a stream."""
    width: Annotated[int, Meta(ge=0, le=16_384)] = 0
    height: Annotated[int, Meta(ge=0, le=16_384)] = 0
    """What ``camera:`` and ``csi:`` are asked for; 0: the camera's choice (``csi:``: 1280 × 720)."""
    pixel_format: Annotated[str, Meta(pattern=r"^[a-z0-9_]{0,32}$")] = ""
    """``mjpeg``, ``yuyv422``, …: what ``camera:`` is asked for."""
    pipeline: str = ""
    """What GStreamer gets frames of ``csi:`` from, as of ``gst-launch-1.0``; empty: ``nvarguscamerasrc`` and ``nvvidconv``."""
    transport: Literal["tcp", "udp"] = "tcp"
    """Of ``rtsp://``."""
    stall_s: Annotated[float, Meta(ge=1.0, le=3_600.0)] = 10.0
    """Without a frame for so long, a camera is connected to anew."""
    quality: Annotated[int, Meta(ge=1, le=95)] = 90
    """Of the JPEG that the model is asked about."""
    queue: Annotated[int, Meta(ge=1, le=10_000)] = 16
    """Messages of ``mqtt:`` that may wait; then the oldest makes way."""
    done: str = ""
    """Where files of ``dir:`` go once they are answered; empty: they stay."""

    @property
    def address(self) -> Address:
        """`url`, taken apart; `check` has seen that it can be."""
        return parse_address(self.url)

    @property
    def password(self) -> str:
        """What the password's file holds; '' without one.

        Raises:
            OperatorConfigError: it is missing or empty.
        """
        return read_secret(Path(self.password_file), "password of a source") if self.password_file else ""

    def anchored(self, anchor: Callable[[str], str]) -> Self:
        """The same with every path absolute."""
        scheme, _, place = self.url.partition(":")
        url = f"{scheme}:{anchor(place)}" if scheme in ("dir", "file") and place else self.url
        return replace(self, url=url, done=anchor(self.done), password_file=anchor(self.password_file))

    def check(self, source: str) -> None:
        """What the types cannot say.

        Raises:
            OperatorConfigError: the address is none, or a setting belongs to another kind of source.
        """
        try:
            kind = parse_address(self.url).kind
        except ValueError as error:
            fix = "set username and password_file" if "password" in str(error) else f"write {FORMS}"
            raise self._wrong(source, f"url: {error}", fix) from error
        for setting, given, kinds in (
            ("done", self.done, ("dir",)),
            ("username", self.username, ("stream",)),
            ("password_file", self.password_file, ("stream",)),
            ("pipeline", self.pipeline, ("csi",)),
            ("pixel_format", self.pixel_format, ("camera",)),
            ("width", self.width, ("camera", "csi")),
            ("height", self.height, ("camera", "csi")),
        ):
            if given and kind not in kinds:
                raise self._wrong(source, f"{setting} means nothing to {kind}:", f"leave {setting} out")
        if bool(self.width) != bool(self.height):
            raise self._wrong(source, "width and height belong together", "give both, or neither")
        try:
            shlex.split(self.pipeline)
        except ValueError as error:
            raise self._wrong(source, f"pipeline: {error}", "close the quotation") from error

    def _wrong(self, source: str, what: str, fix: str) -> OperatorConfigError:
        return OperatorConfigError(f"{source}: source {self.name!r}: {what}", reason="invalid_source", fix=fix)


class LocalBrokerSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The broker of this machine, or of its site: sources ``mqtt:`` read from it, events are told to it. It is not the cloud's."""

    url: str = ""
    """``mqtt://host:port`` or ``mqtts://host:port``; empty: none."""
    events: str = "outrider/events"
    """Events are published below it, as ``…/DEVICE/SOURCE``; empty: they are not."""
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    allow_plain: bool = False
    """Whether another machine's broker may be spoken to in plain, readable to whoever listens on the way."""

    def anchored(self, anchor: Callable[[str], str]) -> Self:
        """The same with every path absolute."""
        names = ("password_file", "ca_file", "cert_file", "key_file")
        return replace(self, **{name: anchor(getattr(self, name)) for name in names})

    def check(self, source: str) -> None:
        """What the types cannot say.

        Raises:
            OperatorConfigError: the address is none of a broker, or open to whoever listens on the way; the topic is none.
        """
        if not self.url:
            return
        plain = self.url.startswith("mqtt://") and not (self.allow_plain or is_loopback(urlsplit(self.url).hostname))
        if plain or not re.fullmatch(r"mqtts?://[^\s/@]+", self.url):
            raise OperatorConfigError(
                f"{source}: local_broker.url {self.url!r} is no broker that events may be told to",
                reason="invalid_broker_url",
                fix="write mqtt://127.0.0.1:1883 or mqtts://host:8883, or set allow_plain = true",
            )
        if any(mark in self.events for mark in "+#\0") or self.events.startswith(("$", "/")) or len(self.events) > 256:
            raise OperatorConfigError(
                f"{source}: local_broker.events {self.events!r} is no topic",
                reason="invalid_value",
                fix="write levels as in outrider/events",
            )

    @property
    def password(self) -> str | None:
        """What the password's file holds; None without one.

        Raises:
            OperatorConfigError: it is missing or empty.
        """
        return read_secret(Path(self.password_file), "local broker's password") if self.password_file else None

    @property
    def tls(self) -> Tls | None:
        """The files of a protected connection; None: it is in plain."""
        if not self.url.startswith("mqtts://"):
            return None
        ca, cert, key = (Path(name) if name else None for name in (self.ca_file, self.cert_file, self.key_file))
        return Tls(ca_file=ca, cert_file=cert, key_file=key)


def check_sources(sources: Sequence[SourceSettings], broker: LocalBrokerSettings, source: str) -> None:
    """All of them, that each has a name of its own, and that topics have a broker.

    Raises:
        OperatorConfigError: as `SourceSettings.check` and `LocalBrokerSettings.check`.
    """
    broker.check(source)
    names = [each.name for each in sources]
    for each in sources:
        each.check(source)
        if names.count(each.name) > 1:
            raise OperatorConfigError(
                f"{source}: source {each.name!r} stands twice",
                reason="duplicate_name",
                fix="give each a name of its own",
            )
        if each.address.kind == "mqtt" and not broker.url:
            raise OperatorConfigError(
                f"{source}: source {each.name!r} reads a topic, and no local broker is named",
                reason="no_local_broker",
                fix='set url = "mqtt://127.0.0.1:1883" in [local_broker]',
            )
