"""What a release engineer signs, and what the cloud may say within it: plan, order, stop. Pure; both sides judge alike.

The *plan* is a target of The Update Framework, signed with the release keys: which releases, to which groups, how fast at most, and
what a rollback may return to. An *order* is the cloud's word to one device within a plan, and a *stop* its word to all; both are signed
with the online control key, which can neither make a release nor leave the plan (as Uptane's Director, Uptane Standard 2.1 §5.3.2).
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from outrider_wire.fitness import Requires
from outrider_wire.limits import ENTRIES, MANIFEST_BYTES
from outrider_wire.names import Digest, Name

WEEK_MINUTES = 7 * 24 * 60

Fact = Annotated[str, Meta(max_length=64)]
Facts = Annotated[dict[Name, Fact], Meta(max_length=ENTRIES)]
"""What a device says of itself and a group may ask for: ``site``, ``profile``, and the labels of its configuration."""
Milliseconds = Annotated[int, Meta(ge=0, lt=2**53)]
"""UTC, since 1970."""
Number = Annotated[int, Meta(ge=0, lt=2**53)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Limit = Annotated[float, Meta(gt=0.0, lt=1.0)]


class PlannedRelease(Struct, kw_only=True, frozen=True):
    """One task's release within a plan."""

    task: Name
    release: Digest
    """SHA-256 of the bundle's manifest."""
    size: Annotated[int, Meta(ge=1, le=MANIFEST_BYTES)]
    """Bytes of the manifest."""
    counter: Annotated[int, Meta(ge=1, lt=2**53)]
    """The release counter that its signer gave it: it never decreases within a task."""


class Group(Struct, kw_only=True, frozen=True):
    """One stage's devices: those that meet every condition."""

    name: Name
    share: Share = 1.0
    """Cumulative: the devices whose keyed hash lies below it."""
    facts: Facts = {}
    """Each must be what the device says of itself."""
    devices: Annotated[list[Name], Meta(max_length=1024)] = []
    """If any: these alone."""
    minimum: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    """Devices that must have finished before the next stage begins."""
    minimum_share: Share = 0.0
    """If any: this share of the stage's devices must have, and `minimum` of them, or all where the stage has fewer."""


class WeeklyWindow(Struct, kw_only=True, frozen=True):
    """From ``begin`` until ``end``, in minutes since Monday 00:00 UTC; it may run over the end of the week."""

    begin: Annotated[int, Meta(ge=0, lt=WEEK_MINUTES)]
    end: Annotated[int, Meta(ge=0, lt=WEEK_MINUTES)]

    def holds(self, minute: int) -> bool:
        """Whether that minute of the week lies in it."""
        return self.begin <= minute < self.end if self.begin <= self.end else not self.end <= minute < self.begin


class Thresholds(Struct, kw_only=True, frozen=True):
    """When the cloud halts a rollout by itself. Shares are of the devices that began the update, each counted once."""

    failures: Limit = 0.02
    """The highest tolerated rate of devices that could not take it: damaged, failed self-test, no room."""
    rollbacks: Limit = 0.02
    """The same of devices that took it and went back."""
    alarms: Limit = 0.02
    """The same of devices whose audits have broken the new certificate's promise since."""
    silence: Limit = 0.1
    """The same of devices that were not heard of for `silence_s` since they began."""
    silence_s: Annotated[int, Meta(ge=60, le=30 * 86400)] = 6 * 3600
    escalation: Limit = 0.05
    """By how much the share of escalated inputs may rise on them, beyond how it changed on devices that did not begin."""
    confidence: Annotated[float, Meta(ge=0.5, le=0.9999)] = 0.95
    """A release that keeps within all of these is halted with probability at most 1 − confidence, however often one looks."""
    devices: Annotated[int, Meta(ge=3, le=1000)] = 3
    """Fewer distinct devices than this halt nothing."""


class RolloutPlan(Struct, kw_only=True, frozen=True):
    """What the release engineer signs."""

    rollout: Name
    releases: Annotated[list[PlannedRelease], Meta(min_length=1, max_length=16)]
    """Of several tasks: all or none of them run on a device."""
    groups: Annotated[list[Group], Meta(min_length=1, max_length=32)]
    """Stages, in their order."""
    salt: Annotated[str, Meta(min_length=16, max_length=64)]
    """Its own for each rollout, so that nobody chooses to be a canary."""
    start_ms: Milliseconds
    expires_ms: Milliseconds
    soak_s: Annotated[int, Meta(ge=0, le=365 * 86400)] = 0
    """The least time between the beginnings of two stages; a device checks it too."""
    freeze: Annotated[list[WeeklyWindow], Meta(max_length=32)] = []
    """When no device begins an update."""
    rollback_to: Annotated[list[PlannedRelease], Meta(max_length=16)] = []
    """What an order may return to, whatever its counter; empty: only what the device itself ran before."""
    thresholds: Thresholds = Thresholds()
    approve_each: bool = False
    """Whether a person approves each stage after the first."""
    requires: Requires = Requires()
    """What a device must be to be offered it, beside what each release asks for."""
    schema: Literal[1] = 1


class DeviceOrder(Struct, kw_only=True, frozen=True):
    """The cloud's word to one device; it holds within the plan that it names."""

    device: Name
    number: Number
    """Grows with every order to this device. The time in milliseconds, or a number after the last: further ahead it is refused."""
    rollout: Name
    stage: Annotated[int, Meta(ge=0, lt=32)]
    kind: Literal["update", "rollback"] = "update"
    releases: Annotated[list[PlannedRelease], Meta(min_length=1, max_length=16)]
    issued_ms: Milliseconds
    expires_ms: Milliseconds


class Stop(Struct, kw_only=True, frozen=True):
    """The emergency stop: what is under way of these rollouts ends at the next safe point, and nothing of them begins."""

    number: Number
    """Grows with every stop; a device keeps the newest."""
    rollouts: Annotated[list[Name], Meta(max_length=1024)] = []
    """Those that are stopped; none named: all."""
    lifted: bool = False
    """What the numbers before stopped may go on."""
    reason: Annotated[str, Meta(max_length=512)] = ""
    issued_ms: Milliseconds


def fraction(plan: RolloutPlan, device: str) -> float:
    """Where a device stands in this rollout, in [0, 1): a keyed hash, the same on both sides."""
    digest = hashlib.blake2b(device.encode(), key=plan.salt.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def stage_of(plan: RolloutPlan, device: str, facts: Mapping[str, str]) -> int | None:
    """The first stage that the device belongs to; None: the plan is not for it."""
    place = fraction(plan, device)
    for stage, group in enumerate(plan.groups):
        named = not group.devices or device in group.devices
        if named and place < group.share and all(facts.get(name) == value for name, value in group.facts.items()):
            return stage
    return None


def must_finish(group: Group, *, ordered: int, awake: int) -> int:
    """Devices that must have finished that stage before the next begins.

    Args:
        group: The stage.
        ordered: Its devices that have an order, or had one.
        awake: Those of them that were not asleep all the while: who never came says nothing of a release.
    """
    if not group.minimum_share:
        return group.minimum
    return max(1, min(group.minimum, ordered), math.ceil(group.minimum_share * awake - 1e-9))


def earliest_ms(plan: RolloutPlan, stage: int) -> int:
    """When that stage may begin, UTC in milliseconds: earlier it may not, whoever says so."""
    return plan.start_ms + stage * plan.soak_s * 1000


def frozen(plan: RolloutPlan, at_ms: int) -> bool:
    """Whether no device begins an update then."""
    return any(window.holds(minute_of_week(at_ms)) for window in plan.freeze)


def minute_of_week(at_ms: int) -> int:
    """Minutes since Monday 00:00 UTC. (1970 began on a Thursday.)"""
    return (at_ms // 60_000 + 3 * 24 * 60) % WEEK_MINUTES
