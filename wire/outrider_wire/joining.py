"""How a device is let in: the join line that a person carries to it, and what it and the cloud say over HTTPS. Pure.

A join line is ``https://HOST:PORT#INVITATION.SECRET.FINGERPRINT``. The fingerprint is SHA-256 over the authorities' certificates
(DER, in the order of their file), so that the device trusts what the person was given, and nothing else.
"""

import re
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from outrider_wire.errors import CallerInputError
from outrider_wire.names import END, NAME_PATTERN, Name

RESERVED = ("outrider-", "releases", "all")
"""No device is called so, nor (with a dash at the end) anything beginning so: the cloud's own identities, and levels of topics."""
CONTROL = "outrider-control"
"""Identity that may change the broker's rules, and do nothing else there."""
WORKER_PREFIX = "outrider-cloud-"
"""Before a worker's name, its identity."""
PEM_BYTES = 16 * 1024
"""Largest certificate, request or list of authorities that either side reads."""
MAX_LINE = 2048
ROOT_BYTES = 48 * 1024
"""Largest root of trust that a device is given when it joins."""

Pem = Annotated[str, Meta(max_length=PEM_BYTES)]
Secret = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9_-]{{22,128}}{END}")]
InvitationId = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{8,32}}{END}")]


class JoinRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Device → cloud. Sent again with the same key it gets the same reply, and uses the invitation up only once."""

    invitation: InvitationId
    secret: Secret
    device: Name
    request: Pem
    """A certificate signing request (PKCS #10) in the device's name; the private key stays on the device."""


class RenewRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Device → cloud, over a connection made with the certificate that is to be replaced."""

    request: Pem


class JoinReply(Struct, kw_only=True, frozen=True):
    """Cloud → device. All but the first two are empty while a person has still to accept it."""

    device: Name
    state: Literal["accepted", "waiting"]
    certificate: str = ""
    """PEM."""
    broker: str = ""
    """Address of the broker."""
    root: str = ""
    """What every topic begins with."""
    group: str = ""
    trust: Annotated[str, Meta(max_length=ROOT_BYTES)] = ""
    """Root metadata of The Update Framework: from then on the device believes releases by nothing else. Empty: they are not signed."""


class JoinLine(NamedTuple):
    """What the person carries."""

    url: str
    invitation: str
    secret: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.url}#{self.invitation}.{self.secret}.{self.fingerprint}"

    def __repr__(self) -> str:
        return f"JoinLine(url={self.url!r}, invitation={self.invitation!r})"  # the secret is for str() alone


_PARTS = re.compile(r"([0-9a-f]{8,32})\.([A-Za-z0-9_-]{22,128})\.([0-9a-f]{64})")


def parse_join_line(text: str) -> JoinLine:
    """A join line taken apart.

    Raises:
        CallerInputError: it is none; what it holds is not repeated, for it may hold a secret.
    """
    address, _, rest = text.strip().partition("#")
    found = _PARTS.fullmatch(rest) if len(text) <= MAX_LINE else None
    if not found or not is_https(address):
        raise CallerInputError(
            "that is no join line",
            reason="invalid_join_line",
            fix="copy the whole line that `outrider cloud invite` printed: https://HOST:PORT#…",
        )
    return JoinLine(address.rstrip("/"), *found.groups())


def is_https(address: str) -> bool:
    """Whether it is ``https://HOST[:PORT]`` and nothing more."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        return False
    plain = parts.path in ("", "/") and not parts.query and not parts.fragment and "@" not in parts.netloc
    return parts.scheme == "https" and bool(parts.hostname) and plain


def check_device_name(name: str) -> None:
    """Whether a device may be called so.

    Raises:
        CallerInputError: it fits no topic, or is reserved.
    """
    reserved = any(name == word or (word.endswith("-") and name.startswith(word)) for word in RESERVED)
    if reserved or not re.fullmatch(NAME_PATTERN, name):
        raise CallerInputError(
            f"{name[:80]!r} can be no device's name",
            reason="reserved_device" if reserved else "invalid_device",
            fix=f"use 1 to 64 of a-z, 0-9 and -, not starting with - or {RESERVED[0]!r}",
        )
