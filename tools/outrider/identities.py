"""Invitations and identities, as the operator asks the cloud about them over its API. Prints nothing."""

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from outrider.exchange import decoded
from outrider.releases import CLOUD, DEFAULT_CLOUD
from outrider.transport import Transport
from outrider_link.settings import read_secret
from outrider_wire.errors import CallerUnknownError

T = TypeVar("T")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared with, not bound to


class Place(NamedTuple):
    """Where a cloud is, and how to be its operator."""

    address: str
    token_file: Path | None
    ca_file: Path | None


class IdentityRow(Struct, kw_only=True):
    """One device that asked to join."""

    device: str
    state: str
    group: str = ""
    serial: str = ""
    not_after_ms: int = 0
    asked_ms: int = 0
    changed_ms: int = 0
    online: bool = False
    seen_ms: int | None = None


class Invited(Struct, kw_only=True):
    """A join line, as it was made."""

    line: str
    invitation: str
    expires_s: int


class Revoked(Struct, kw_only=True):
    """What came of a revocation."""

    device: str
    broker_told: bool


class _Identities(Struct):
    identities: list[IdentityRow]


class _State(Struct):
    device: str
    state: str


def find(cloud: str, token_file: Path | None, ca_file: Path | None, config: Path | None) -> Place:
    """The cloud that the flags name; what they do not say, ``cloud.toml`` says, when there is one.

    Raises:
        OperatorConfigError: that file is not right.
    """
    usual = config or Path("cloud.toml")
    if cloud or not (config or usual.exists()):
        return Place(cloud or DEFAULT_CLOUD, token_file, ca_file)
    from outrider.settings_files import FileKind, environment_of
    from outrider_cloud.config import load_cloud_config

    found = load_cloud_config(usual, environment_of(FileKind.CLOUD))
    api, access = found.api, found.access
    host = _EVERYWHERE.get(api.host, api.host)
    shown = f"[{host}]" if ":" in host else host
    address = api.public_url or f"http{'s' if api.cert_file else ''}://{shown}:{api.port}"
    trusted = access.ca_file or api.client_ca_file
    return Place(
        address,
        token_file or (Path(api.token_file) if api.token_file else None),
        ca_file or (Path(trusted) if trusted else None),
    )


class IdentityApi:
    """Every method raises what `outrider.exchange.error_of` makes of a refusal."""

    def __init__(self, place: Place, *, timeout_s: float = 30.0) -> None:
        token = read_secret(place.token_file, "token of the cloud") if place.token_file else ""
        self._http = Transport(
            place.address,
            what=CLOUD,
            start="outrider cloud serve",
            timeout_s=timeout_s,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            ca_file=place.ca_file,
        )

    def invite(self, *, count: int, expires_s: int, group: str, ask: bool, device: str) -> Invited:
        """Makes a join line."""
        wanted = {"count": count, "expires_s": expires_s, "group": group, "ask": ask, "device": device}
        return self._post("/v1/invitations", wanted, Invited)

    def all(self) -> list[IdentityRow]:
        """Everyone who asked, by name."""
        reply = self._http.request("GET", "/v1/identities")
        return decoded(reply.status, reply.body, _Identities, what=CLOUD).identities

    def one(self, device: str) -> IdentityRow:
        """One of them; raises `CallerUnknownError` for one who never asked."""
        row = next((row for row in self.all() if row.device == device), None)
        if row is None:
            raise CallerUnknownError(
                f"no device {device!r} has asked to join", reason="unknown_device", fix="see: outrider cloud devices ls"
            )
        return row

    def accept(self, device: str) -> str:
        """Lets a waiting one in; its state."""
        return self._post(f"/v1/identities/{device}/accept", {}, _State).state

    def revoke(self, device: str) -> Revoked:
        """Puts one out."""
        return self._post(f"/v1/identities/{device}/revoke", {}, Revoked)

    def _post(self, path: str, body: dict[str, Any], kind: type[T]) -> T:
        reply = self._http.request(
            "POST", path, body=msgspec.json.encode(body), headers={"Content-Type": "application/json"}
        )
        return decoded(reply.status, reply.body, kind, what=CLOUD)
