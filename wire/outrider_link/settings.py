"""What every process that talks to a broker is configured with, and the files that an operator names. Opens no socket.

The edge's and the cloud's configuration are built on these, so that a broker is described alike on both sides.
"""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Self

from msgspec import Meta, Struct
from msgspec.structs import replace

from outrider_link.envelope import Tls
from outrider_wire.errors import OperatorConfigError
from outrider_wire.topics import DEFAULT_ROOT


class BrokerSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where the broker is, and who we are to it."""

    url: str = ""
    """``mqtt://host:port`` or ``mqtts://host:port``."""
    root: Annotated[str, Meta(min_length=1, max_length=128)] = DEFAULT_ROOT
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    """PEM of who signs the broker's certificate; empty: the system's list. For ``mqtts`` only, like the next two."""
    cert_file: str = ""
    key_file: str = ""
    blob_bytes_per_s: Annotated[int, Meta(ge=0)] = 0
    """The most that blobs take of the link in a second, in each direction; 0: what it carries, less what is said beside."""

    def anchored(self, anchor: Callable[[str], str]) -> Self:
        """The same with every path absolute."""
        names = ("password_file", "ca_file", "cert_file", "key_file")
        return replace(self, **{name: anchor(getattr(self, name)) for name in names})

    def check(self, source: str) -> None:
        """What the types cannot say.

        Raises:
            OperatorConfigError: the address is none of a broker.
        """
        if self.url and not re.fullmatch(r"mqtts?://[^\s/]+", self.url):
            raise OperatorConfigError(
                f"{source}: broker.url {self.url!r} is no broker's address",
                reason="invalid_broker_url",
                fix="write mqtt://host:1883 or mqtts://host:8883",
            )

    @property
    def password(self) -> str | None:
        """What the password's file holds.

        Raises:
            OperatorConfigError: the file is missing or empty.
        """
        return read_secret(Path(self.password_file), "broker's password") if self.password_file else None

    @property
    def blob_cap(self) -> float | None:
        """`blob_bytes_per_s`; None without one."""
        return self.blob_bytes_per_s or None

    @property
    def tls(self) -> Tls:
        """The files of a protected connection."""
        files = (Path(name) if name else None for name in (self.ca_file, self.cert_file, self.key_file))
        ca_file, cert_file, key_file = files
        return Tls(ca_file=ca_file, cert_file=cert_file, key_file=key_file)


def is_loopback(host: str | None) -> bool:
    """Whether only this machine can reach ``host``; a name other than localhost is taken for open."""
    try:
        return host == "localhost" or (host is not None and ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


def read_text(path: Path) -> str:
    """The text of a file that the operator named.

    Raises:
        OperatorConfigError: it is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise OperatorConfigError(
            f"{path} cannot be read: {what}", reason="unreadable_file", fix="name an existing text file"
        ) from error


def read_secret(path: Path, what: str) -> str:
    """The one line that a secret's file holds.

    Raises:
        OperatorConfigError: it is missing, empty or not printable.
    """
    secret = read_text(path).strip()
    if not secret or not secret.isprintable():
        raise OperatorConfigError(f"{path} holds no {what}", reason="empty_secret", fix=f"put the {what} in it")
    return secret
