"""What the API's bodies look like, for its document: one struct a shape. Sends nothing; a test holds every reply against its own."""

from typing import Any

from msgspec import Struct

from outrider_wire.messages import SlotReport
from outrider_wire.report import Account


class ErrorView(Struct, kw_only=True, frozen=True):
    """What is wrong, and the way out."""

    reason: str
    """Stable code."""
    what: str
    fix: str
    part: str
    """The guilty part, where there is one."""


class ErrorReply(Struct, kw_only=True, frozen=True):
    """The body of every reply that is a refusal."""

    error: ErrorView


class LiveReply(Struct, kw_only=True, frozen=True):
    """The process runs."""

    live: bool


class ReadyReply(Struct, kw_only=True, frozen=True):
    """Whether escalations are taken."""

    ready: bool
    waiting_for: list[str]


class AccountReply(Account, kw_only=True, frozen=True):
    """Where every escalation ended, in all and by task."""

    adds_up: bool
    tasks: dict[str, Account]
    offers: dict[str, int]
    """Since the start: ``received``, and how many had each outcome."""


class TrustedReply(Struct, kw_only=True, frozen=True):
    """What signed metadata has become."""

    timestamp: int
    """Version of the timestamp that covers it."""


class AssignedView(Struct, kw_only=True, frozen=True):
    """What a slot should hold."""

    release: str
    counter: int


class DeviceView(Struct, kw_only=True, frozen=True):
    """A device as it describes itself."""

    device: str
    online: bool
    boot_id: str
    agent: str
    wire: list[int]
    capabilities: dict[str, str]
    slots: dict[str, SlotReport]
    report: dict[str, Any]
    """Of the last report, beside the slots: order and stop heeded, versions of metadata, how orders ended."""
    telemetry: dict[str, dict[str, Any]]
    """The last of each task."""
    first_seen_ms: int
    seen_ms: int
    assigned: dict[str, AssignedView]


class DevicesReply(Struct, kw_only=True, frozen=True):
    """The fleet."""

    devices: list[DeviceView]


class StatsReply(Struct, kw_only=True, frozen=True):
    """What there is to learn from."""

    task: str
    examples: int
    groups: int
    labelled: int
    roles: dict[str, int]
    sources: dict[str, int]
    teacher_labels: dict[str, int]


class DeadLetterView(Struct, kw_only=True, frozen=True):
    """One message that could not be taken."""

    id: int
    received_ms: int
    topic: str
    device: str
    input: str
    reason: str
    detail: str
    size: int
    head: str
    """Its first bytes, in hexadecimal."""
    content_type: str
    whole: bool
    """Whether all its bytes were kept: only then can it be taken in again."""


class DeadLetterReply(Struct, kw_only=True, frozen=True):
    """One message that could not be taken, with its bytes in base64."""

    id: int
    received_ms: int
    topic: str
    device: str
    input: str
    reason: str
    detail: str
    size: int
    content_type: str
    whole: bool
    payload: str
    correlation: str


class DeadLettersReply(Struct, kw_only=True, frozen=True):
    """The newest of them, newest first."""

    dead_letters: list[DeadLetterView]


class BlobReply(Struct, kw_only=True, frozen=True):
    """A file that is stored."""

    sha256: str
    size: int


class ReleaseView(Struct, kw_only=True, frozen=True):
    """One release."""

    digest: str
    task: str
    version: str
    size: int
    parent: str | None
    certificate: str
    created_ms: int


class ListedRelease(ReleaseView, kw_only=True, frozen=True):
    """One release, and how many devices it is assigned to."""

    devices: int


class ReleasesReply(Struct, kw_only=True, frozen=True):
    """All releases, newest first."""

    releases: list[ListedRelease]


class AssignedReply(Struct, kw_only=True, frozen=True):
    """The counter of each device that a release was assigned to."""

    release: str
    counters: dict[str, int]


class InvitedReply(Struct, kw_only=True, frozen=True):
    """A join line."""

    line: str
    invitation: str
    expires_s: int


class IdentityView(Struct, kw_only=True, frozen=True):
    """A device that asked to join."""

    device: str
    state: str
    group: str
    serial: str
    not_after_ms: int
    asked_ms: int
    changed_ms: int
    online: bool
    seen_ms: int | None


class IdentitiesReply(Struct, kw_only=True, frozen=True):
    """All of them, by name."""

    identities: list[IdentityView]


class StateReply(Struct, kw_only=True, frozen=True):
    """What a device is now: waiting, accepted or revoked."""

    device: str
    state: str


class RevokedReply(StateReply, kw_only=True, frozen=True):
    """Whether the broker knows it already."""

    broker_told: bool
