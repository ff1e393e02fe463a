"""What ``[[sinks]]`` of ``edge.toml`` may say. Sends nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from msgspec import Meta, Struct
from msgspec.structs import replace

from outrider_edge.webhooks.rules import key_of
from outrider_link.settings import is_loopback, read_secret
from outrider_wire.errors import OperatorConfigError
from outrider_wire.names import Name


class SinkSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One receiver of final reports."""

    name: Name
    """Under it the agent remembers how far it has come."""
    url: str
    """``https://…``; plain ``http://`` to this machine, or with ``allow_plain``."""
    secret_file: str = ""
    """What reports are signed with, as `outrider_edge.webhooks.rules.key_of` reads it; empty: they are not signed."""
    ca_file: str = ""
    """PEM of who signs the receiver's certificate; empty: the system's list."""
    allow_plain: bool = False
    """Whether reports may go over plain HTTP to another machine, readable to whoever listens on the way."""
    answers: Literal["escalated", "all"] = "escalated"
    """``escalated``: of inputs that the cloud was asked about, over restarts of either side. ``all``: also what was answered
    here, as long as the agent runs."""
    tasks: Annotated[list[Name], Meta(max_length=64)] = []
    """Of these only; empty: of all."""
    late: bool = False
    """Only answers that came after their caller's deadline."""
    timeout_s: Annotated[float, Meta(gt=0, le=300)] = 10.0
    """For one post."""
    retry_for_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 86_400.0
    """A report that the receiver has not taken by then is given up."""
    queue: Annotated[int, Meta(ge=1, le=100_000)] = 1_000
    """Answers given here that may wait to be posted; then the oldest makes way."""

    def anchored(self, anchor: Callable[[str], str]) -> Self:
        """The same with every path absolute."""
        return replace(self, secret_file=anchor(self.secret_file), ca_file=anchor(self.ca_file))

    def check(self, source: str) -> None:
        """What the types cannot say.

        Raises:
            OperatorConfigError: the address is none, holds a secret, or is open to whoever listens on the way.
        """
        parts = urlsplit(self.url)
        plain = parts.scheme == "http" and (self.allow_plain or is_loopback(parts.hostname))
        if "@" in parts.netloc or parts.fragment or not parts.hostname or not (plain or parts.scheme == "https"):
            raise OperatorConfigError(
                f"{source}: url of sink {self.name!r} is no address that reports may be posted to",
                reason="invalid_sink_url",
                fix="write https://host/path without user, or set allow_plain = true for plain http",
            )

    @property
    def key(self) -> bytes | None:
        """What reports are signed with; None: nothing.

        Raises:
            OperatorConfigError: the file is missing, empty, or holds too short a secret.
        """
        if not self.secret_file:
            return None
        try:
            return key_of(read_secret(Path(self.secret_file), "secret of a sink"))
        except ValueError as error:
            raise OperatorConfigError(
                f"{self.secret_file} holds no secret to sign with: {error}",
                reason="weak_secret",
                fix="put whsec_ and 24 to 64 random bytes as base64 in it: echo whsec_$(openssl rand -base64 32)",
            ) from error


def check_sinks(sinks: Sequence[SinkSettings], source: str) -> None:
    """All of them, and that each has a name of its own.

    Raises:
        OperatorConfigError: as `SinkSettings.check`.
    """
    names = [sink.name for sink in sinks]
    for sink in sinks:
        sink.check(source)
        if names.count(sink.name) > 1:
            raise OperatorConfigError(
                f"{source}: sink {sink.name!r} stands twice", reason="duplicate_name", fix="give each a name of its own"
            )
