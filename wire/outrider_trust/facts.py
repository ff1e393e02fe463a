"""What signed metadata says of releases and plans, and the paths it says it at. Pure: no signature is looked at here."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from outrider_wire import fitness
from outrider_wire.decodable import decodable
from outrider_wire.errors import TrustRefusedError
from outrider_wire.names import Digest, Name
from outrider_wire.rollout import Group, RolloutPlan

CONTROL = "control"
"""The delegated role whose keys sign orders and stops; it has no targets."""
CONTROL_PATH = "control/*"
FILE = "file"
"""Scheme of the URI of a key in a file."""
SIGNED_FIELD = "x-outrider-signed-s"
"""In every file of ours: when it was signed, UTC in seconds; a device's clock cannot rightly be before it."""
CANARY_FIELD = "x-outrider-canary"
"""In the delegation to a task's automatic role: the only group, and salt, that its plans may have, as text (canonical JSON has no
fractions)."""


Requires = fitness.Requires
"""What a device must be to run a release."""


class ReleaseFacts(Struct, kw_only=True, frozen=True):
    """What a release's signer says of it beside its digest: the ``custom`` of its target."""

    task: Name
    version: Annotated[str, Meta(min_length=1, max_length=128)]
    counter: Annotated[int, Meta(ge=1, lt=2**53)]
    """Never decreases within a task; no two releases of a task have the same."""
    parent: Digest | None = None
    requires: Requires = Requires()


class SignedRelease(Struct, kw_only=True, frozen=True):
    """A release that a role may speak of has signed."""

    digest: Digest
    """SHA-256 of its manifest's bytes."""
    size: int
    """Bytes of its manifest."""
    facts: ReleaseFacts
    automatic: bool
    """From the learning loop's role: for its canary group only."""


class SignedPlan(Struct, kw_only=True, frozen=True):
    """A plan, and the releases that it names, all signed and in agreement."""

    plan: RolloutPlan
    releases: list[SignedRelease]
    automatic: bool


class Canary(Struct, kw_only=True, frozen=True):
    """Whom an automatic plan may name, as signed offline: always the same devices, whatever the plan."""

    group: Group
    salt: Annotated[str, Meta(min_length=16, max_length=64)]


class Versions(Struct, kw_only=True, frozen=True):
    """Of the metadata that a device believes."""

    root: int
    timestamp: int
    snapshot: int
    targets: int
    roles: dict[str, int]
    """Of every delegated role that the snapshot lists."""
    expires_s: float
    """When the timestamp expires, UTC."""
    signed_s: float
    """When it was signed, as far as it says; else 0."""


def auto_role(task: str) -> str:
    """The automatic role of a task."""
    return f"{task}-auto"


def task_paths(task: str) -> list[str]:
    """What a task's role may speak of. (A glob does not cross ``/``.)"""
    return [f"{task}/*", f"{task}/plans/*"]


def auto_paths(task: str) -> list[str]:
    """What a task's automatic role may speak of."""
    return [f"{task}/auto/*", f"{task}/auto/plans/*"]


def release_path(task: str, digest: str, *, automatic: bool = False) -> str:
    """A release's target path."""
    return f"{task}/auto/{digest}.json" if automatic else f"{task}/{digest}.json"


def plan_path(task: str, rollout: str, *, automatic: bool = False) -> str:
    """A plan's target path."""
    return f"{task}/auto/plans/{rollout}.json" if automatic else f"{task}/plans/{rollout}.json"


def release_facts(custom: Mapping[str, Any] | None, *, task: str) -> ReleaseFacts:
    """The facts of a release from its target's ``custom``.

    Raises:
        TrustRefusedError: ``release_invalid``: they are missing, damaged, or of another task.
    """
    try:
        facts = msgspec.convert(custom, decodable(ReleaseFacts))
    except (msgspec.ValidationError, RecursionError) as error:
        raise TrustRefusedError(
            f"what is signed of a release does not parse: {error}", reason="release_invalid"
        ) from error
    if facts.task != task:
        raise TrustRefusedError(f"the release is one of task {facts.task}, not {task}", reason="release_invalid")
    return facts


def decode_plan(data: bytes) -> RolloutPlan:
    """A plan from its bytes.

    Raises:
        TrustRefusedError: ``plan_invalid``.
    """
    try:
        return msgspec.json.decode(data, type=decodable(RolloutPlan))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise TrustRefusedError(f"the plan does not parse: {error}", reason="plan_invalid") from error


def encode_canary(canary: Canary) -> str:
    """As the delegation holds it."""
    return msgspec.json.encode(canary).decode()


def decode_canary(said: object) -> Canary | None:
    """The canary group that a delegation holds; None: none that can be used."""
    try:
        return msgspec.json.decode(said, type=decodable(Canary)) if isinstance(said, str) else None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def canary_fault(plan: RolloutPlan, canary: Canary | None) -> str:
    """Why an automatic role may not sign that plan; '' when it may."""
    if canary is None:
        return "no canary group is signed for it"
    if len(plan.groups) != 1:
        return f"it has {len(plan.groups)} groups, and the automatic role may have the canary group alone"
    group, limit = plan.groups[0], canary.group
    faults = {
        "it has another salt than the canary group, and would choose other devices": plan.salt != canary.salt,
        f"its group {group.name} ({group.share:.3%}) is beyond {limit.name} ({limit.share:.3%})": group.name
        != limit.name
        or group.share > limit.share,
        "its group asks for less than the canary group does": any(
            group.facts.get(name) != value for name, value in limit.facts.items()
        ),
        "its group has devices beyond the canary group": bool(limit.devices)
        and not (group.devices and set(group.devices) <= set(limit.devices)),
    }
    return next((fault for fault, found in faults.items() if found), "")
