"""How a rollout looks to people and to `outrider ota`: shapes of the API's replies, made of what is stored. Decides nothing."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from outrider_cloud.rollout.controller import Step
from outrider_cloud.rollout.leaving import required
from outrider_cloud.rollout.records import Blocked, Event, Look, Member
from outrider_cloud.rollout.states import ACTS, STATES
from outrider_cloud.rollout.verdict import Figure
from outrider_cloud.store.rollouts import Kept
from outrider_wire.rollout import PlannedRelease, RolloutPlan, stage_of
from outrider_wire.rollout_text import freeze_text, group_text, minimum_text

SHOWN = 100
"""Blocked devices that are named."""


class RolloutBrief(Struct, kw_only=True, frozen=True):
    """One rollout in a line."""

    rollout: str
    state: str
    means: str
    over: bool
    may: list[str]
    """What a person may do now."""
    stage: int
    stages: int
    group: str
    """The stage's group."""
    began_ms: int
    automatic: bool
    releases: list[PlannedRelease]
    members: dict[str, int]
    """Devices by what became of them."""
    reason: str
    what: str
    created_ms: int
    changed_ms: int
    expires_ms: int


class StageView(Struct, kw_only=True, frozen=True):
    """One stage."""

    name: str
    group: str
    minimum: int
    """Devices of it that must have finished, as the fleet is now."""
    asked: str
    """What the plan asks for: a count, or a share."""
    members: dict[str, int]
    belongs: int
    """Devices that are of it now, ordered or not."""


class RolloutDetail(RolloutBrief, kw_only=True, frozen=True):
    """One rollout with all that people decide by."""

    stopped: bool
    """Whether the newest emergency stop is of it."""
    approve_each: bool
    soak_s: int
    freeze: list[str]
    groups: list[StageView]
    figures: list[Figure]
    blockers: dict[str, int]
    blocked: list[Blocked]
    """Some of them."""
    events: list[Event]


class DeviceInRollout(Struct, kw_only=True, frozen=True):
    """One device."""

    device: str
    stage: int
    state: str
    online: bool
    reason: str
    silent: bool
    alarmed: bool
    forgiven: bool
    ordered_ms: int
    began_ms: int
    ended_ms: int
    seen_ms: int


def brief(kept: Kept, members: Mapping[str, Member]) -> RolloutBrief:
    """In a line."""
    return RolloutBrief(**_common(kept, members))


def detail(kept: Kept, look: Look, shown: Step, *, stopped: bool) -> RolloutDetail:
    """With all that people decide by."""
    plan = kept.plan
    places = Counter(stage_of(plan, name, seen.facts) for name, seen in look.fleet.items())
    return RolloutDetail(
        **_common(kept, look.members),
        stopped=stopped,
        approve_each=plan.approve_each,
        soak_s=plan.soak_s,
        freeze=[freeze_text(window) for window in plan.freeze],
        groups=[
            StageView(
                name=group.name,
                group=group_text(group),
                minimum=required(look, index),
                asked=minimum_text(group),
                members=dict(Counter(each.state for each in look.members.values() if each.stage == index)),
                belongs=places[index],
            )
            for index, group in enumerate(plan.groups)
        ],
        figures=shown.figures,
        blockers=dict(Counter(each.reason for each in shown.blocked)),
        blocked=shown.blocked[:SHOWN],
        events=kept.progress.events,
    )


def member_views(look: Look) -> list[DeviceInRollout]:
    """The devices of a rollout, by name."""
    return [
        DeviceInRollout(
            device=name,
            stage=each.stage,
            state=each.state,
            online=name in look.fleet and look.fleet[name].online,
            reason=each.reason,
            silent=each.silent,
            alarmed=each.alarmed,
            forgiven=each.forgiven,
            ordered_ms=each.ordered_ms,
            began_ms=each.began_ms,
            ended_ms=each.ended_ms,
            seen_ms=look.fleet[name].seen_ms if name in look.fleet else 0,
        )
        for name, each in sorted(look.members.items())
    ]


def _common(kept: Kept, members: Mapping[str, Member]) -> dict[str, Any]:
    plan: RolloutPlan = kept.plan
    progress, about = kept.progress, STATES[kept.progress.state]
    return {
        "rollout": plan.rollout,
        "state": progress.state,
        "means": about.means,
        "over": about.over,
        "may": [act for act, where in ACTS.items() if progress.state in where],
        "stage": progress.stage,
        "stages": len(plan.groups),
        "group": plan.groups[progress.stage].name,
        "began_ms": progress.began_ms,
        "automatic": kept.automatic,
        "releases": plan.releases,
        "members": dict(Counter(each.state for each in members.values())),
        "reason": progress.reason,
        "what": progress.what,
        "created_ms": kept.created_ms,
        "changed_ms": kept.changed_ms,
        "expires_ms": plan.expires_ms,
    }
