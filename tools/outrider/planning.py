"""A rollout's plan, made of what its engineer asks for and of what is signed in the working copy. Signs nothing, asks no cloud."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from outrider_wire.decodable import decodable
from outrider_wire.errors import CallerInputError, OperatorConfigError
from outrider_wire.rollout import PlannedRelease, RolloutPlan
from outrider_wire.rollout_text import MINIMUM, parse_freeze, parse_groups, with_minimum

if TYPE_CHECKING:
    from outrider.ota.workplace import Workplace
    from outrider_trust.facts import Canary


class Asked(Struct, kw_only=True, frozen=True):
    """What a person asked for, as text."""

    releases: Sequence[str]
    groups: str = "5%,25%,100%"
    minimum: str = MINIMUM
    soak: str = "2h"
    start: str = ""
    expires: str = "30d"
    freeze: str = ""
    approve_each: bool = False
    rollback_to: Sequence[str] = ()
    name: str = ""
    thresholds: dict[str, float] = {}
    silent_after: str = "6h"
    automatic: bool = False


def make_plan(place: "Workplace", asked: Asked) -> RolloutPlan:
    """The plan.

    Raises:
        CallerInputError: a group, window, duration or share is none.
        CallerUnknownError: a release is not signed here.
        OperatorConfigError: ``canary_missing``: an automatic plan, and no canary group is signed for its task.
    """
    from outrider import durations, rollouts
    from outrider.ota import publishing

    planned = [publishing.find(place, each).planned for each in asked.releases]
    if len({each.task for each in planned}) < len(planned):
        raise CallerInputError("two releases are of one task", reason="invalid_rollout", fix="name one a task")
    now_ms = time.time_ns() // 1_000_000
    start_ms = rollouts.moment_ms(asked.start, now_ms)
    groups, salt = parse_groups(asked.groups, minimum=asked.minimum), publishing.new_salt()
    if asked.automatic:
        canary = canary_of(place, planned[0].task)
        groups, salt = [with_minimum(canary.group, asked.minimum)], canary.salt
    try:
        return msgspec.convert(
            {
                "rollout": asked.name or _name(planned, start_ms),
                "releases": planned,
                "groups": groups,
                "salt": salt,
                "start_ms": start_ms,
                "expires_ms": start_ms + durations.seconds(asked.expires) * 1000,
                "soak_s": durations.seconds(asked.soak),
                "freeze": parse_freeze(asked.freeze),
                "rollback_to": [publishing.find(place, each).planned for each in asked.rollback_to],
                "thresholds": {**asked.thresholds, "silence_s": durations.seconds(asked.silent_after)},
                "approve_each": asked.approve_each,
            },
            decodable(RolloutPlan),
            from_attributes=True,
        )
    except msgspec.ValidationError as error:
        raise CallerInputError(
            f"this is no plan: {error}", reason="invalid_rollout", fix="see: outrider ota rollout --help"
        ) from error


def canary_of(place: "Workplace", task: str) -> "Canary":
    """The canary group that is signed for a task's automatic role.

    Raises:
        OperatorConfigError: ``canary_missing``.
    """
    from outrider_trust.facts import CANARY_FIELD, auto_role, decode_canary

    delegations = place.repository.read("targets").signed.delegations
    role = (delegations.roles or {}).get(auto_role(task)) if delegations else None
    canary = decode_canary(role.unrecognized_fields.get(CANARY_FIELD)) if role else None
    if canary is None:
        raise OperatorConfigError(
            f"no canary group is signed for task {task}", reason="canary_missing", fix="see: outrider ota keys add"
        )
    return canary


def _name(planned: Sequence[PlannedRelease], start_ms: int) -> str:
    at = datetime.fromtimestamp(start_ms / 1000, UTC)
    return f"{planned[0].task[:40]}-{planned[0].counter}-{at:%Y%m%d-%H%M%S}"
