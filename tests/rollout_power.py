"""What becomes of releases that fail by chance, in simulated rollouts: how often a plan halts, asks, or lets pass. No assertion."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from rollout_fleet import chance, make_plan, make_world

from outrider_wire.rollout import Group
from outrider_wire.rollout_text import FLOOR

DEVICES = 200
SOAK_S = 720
"""Longer than any of these devices takes."""


class Outcome(NamedTuple):
    """Of many rollouts with one plan at one failure rate."""

    halted: float
    """Share that a threshold halted, at any stage."""
    asked: float
    """Share that a person was asked about, in its first stage."""
    passed: float
    """Share whose second stage began without a person."""
    reach: float
    """Mean share of the fleet that had begun when it was halted, finished, or a person was asked."""


def stages(*shares: float, minimum: int = FLOOR, share: float = 0.6) -> list[Group]:
    """Stages that end when ``share`` of each, or ``minimum`` devices, have finished."""
    return [Group(name=f"stage-{k}", share=each, minimum=minimum, minimum_share=share) for k, each in enumerate(shares)]


def outcome(groups: Sequence[Group], rate: float, *, runs: int, devices: int = DEVICES, **fields: Any) -> Outcome:
    """Rollouts to fleets of which each device fails with probability ``rate``; stopped when a person is asked."""
    ends: Counter[str] = Counter()
    reach = 0.0
    for seed in range(runs):
        usual = {"rollout": f"r-{seed}", "salt": f"a salt of rollout {seed}", "soak_s": SOAK_S}
        plan = make_plan(groups=list(groups), **(usual | fields))
        world = make_world(plan, devices, chance(rate, seed))
        world.run(90, until=lambda world=world: world.progress.state not in ("scheduled", "running"), every=3)
        stage, state = world.progress.stage, world.progress.state
        ends["halted"] += state == "halted"
        ends["asked"] += state == "undecided" and stage == 0
        ends["passed"] += stage > 0
        reach += sum(each.began_ms > 0 for each in world.members.values()) / devices
    return Outcome(ends["halted"] / runs, ends["asked"] / runs, ends["passed"] / runs, reach / runs)
