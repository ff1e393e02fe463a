"""What an operator asks of a running cloud: its dead letters, and to forget. Talks to the cloud's API alone; decides nothing."""

import base64
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from outrider.exchange import decoded
from outrider.releases import CLOUD
from outrider.transport import Transport
from outrider_link.settings import read_secret

T = TypeVar("T")

_SHOWN = 2000
_KEPT = {
    None: "it never asked to join",
    "waiting": "it waits to be let in",
    "accepted": "it is let in: its name, key and certificates stay until it is revoked",
    "revoked": "it stays revoked: its name, its key's digest and the numbers of its certificates are kept for that",
}
"""What is left of a device's identity, by its state."""


class Letter(Struct, kw_only=True):
    """A message that could not be taken, in brief."""

    id: int
    received_ms: int
    topic: str
    device: str
    input: str
    reason: str
    detail: str
    size: int
    whole: bool
    """Whether all its bytes were kept: only then can it be taken in again."""
    head: str = ""
    content_type: str = ""


class Whole(Letter, kw_only=True):
    """One with its bytes."""

    payload: bytes
    correlation: bytes


class Outcome(Struct, kw_only=True):
    """What a second try came to, or would."""

    id: int
    dry_run: bool
    outcome: str
    reason: str = ""
    detail: str = ""


class Use(Struct, kw_only=True):
    """A round or a certificate that has seen what is to be forgotten."""

    kind: str
    id: int
    task: str
    examples: int
    what: str
    roles: dict[str, int] = {}


class Standing(Struct, kw_only=True):
    """What the cloud knows of a device's being let in."""

    state: str | None
    invitations: int


class Found(Struct, kw_only=True):
    """What there is to forget."""

    inputs: int
    unanswered: int
    examples: int
    payloads: int
    files: int
    dead_letters: int
    devices: int
    assignments: int
    access: Standing | None = None
    retained: list[str]
    used: list[Use]


class Forgotten(Struct, kw_only=True):
    """What was forgotten, or would be."""

    dry_run: bool
    device: str
    input: str
    found: Found
    not_cleared: dict[str, str] = {}
    compacted: bool = False
    remains: str = ""


class _Letters(Struct):
    dead_letters: list[Letter]


class OperatorApi:
    """The cloud's HTTP API, as far as these go. Every method raises what `outrider.exchange.error_of` makes of a refusal."""

    def __init__(self, address: str, *, token_file: Path | None = None, timeout_s: float = 600.0) -> None:
        headers = {"Authorization": f"Bearer {read_secret(token_file, 'token of the cloud')}"} if token_file else {}
        self._http = Transport(address, what=CLOUD, start="outrider cloud serve", timeout_s=timeout_s, headers=headers)

    def letters(self, limit: int) -> list[Letter]:
        """The newest dead letters."""
        return self._get(f"/v1/dead-letters?limit={limit}", _Letters).dead_letters

    def letter(self, number: int) -> Whole:
        """One of them."""
        return self._get(f"/v1/dead-letters/{number}", Whole)

    def requeue(self, number: int, *, dry_run: bool) -> Outcome:
        """Takes one in again."""
        return self._post(f"/v1/dead-letters/{number}/requeue", {"dry_run": dry_run}, Outcome)

    def forget(self, *, device: str, input_id: str, dry_run: bool) -> Forgotten:
        """Forgets a device, or an input; waits until the store's files are written anew."""
        whom: dict[str, Any] = {"input": input_id, "dry_run": dry_run}
        return self._post("/v1/forget", whom | ({"device": device} if device else {}), Forgotten)

    def _get(self, path: str, kind: type[T]) -> T:
        reply = self._http.request("GET", path)
        return decoded(reply.status, reply.body, kind, what=CLOUD)

    def _post(self, path: str, body: object, kind: type[T]) -> T:
        reply = self._http.request(
            "POST", path, body=msgspec.json.encode(body), headers={"Content-Type": "application/json"}
        )
        return decoded(reply.status, reply.body, kind, what=CLOUD)


def payload_text(letter: Whole) -> str:
    """A payload as a person reads it: as JSON where it is MessagePack or JSON, else as hexadecimal digits; its beginning."""
    try:
        said: Any = (msgspec.json if letter.content_type == "application/json" else msgspec.msgpack).decode(
            letter.payload
        )
        text = msgspec.json.encode(said, enc_hook=lambda value: base64.b64encode(value).decode()).decode()
    except (msgspec.MsgspecError, RecursionError, ValueError, TypeError):
        text = letter.payload.hex(" ")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(letter.payload)} bytes)"


def lines(said: Forgotten) -> list[tuple[str, str]]:
    """What was forgotten, or would be, as rows of a table."""
    found = said.found
    rows = [
        ("inputs", f"{found.inputs}, {found.unanswered} of them unanswered"),
        ("examples", f"{found.examples}, with {found.payloads} payloads and {found.files} files"),
        ("dead letters", str(found.dead_letters)),
    ]
    if said.device and not said.input:
        rows.append(("device", f"{found.devices}, with {found.assignments} assignments"))
        if found.access is not None:
            rows.append(("access", f"{found.access.invitations} invitations; {_KEPT[found.access.state]}"))
        rows.append(("retained at the broker", ", ".join(found.retained)))
    for use in found.used:
        roles = ", ".join(f"{n} {role}" for role, n in use.roles.items())
        rows.append((f"seen by {use.kind} {use.id}", f"task {use.task}: {roles or use.examples} ({use.what})"))
    rows += [(f"not cleared: {topic}", why) for topic, why in said.not_cleared.items()]
    return rows
