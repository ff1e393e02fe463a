"""How the fleet is divided into stages. Pure.

A model that fails on one profile fails on few devices of a canary that is drawn from all: with 200 devices, of which 30 are of that
profile, 10 % of all hold three of them, and three distinct devices are the least that halts a rollout. The honest plan has a canary of
each profile first, just large enough to halt, and lets the fleet in only after the last of them.
"""

from collections.abc import Mapping, Sequence

from outrider_wire.rollout import Group, PlannedRelease, RolloutPlan, Thresholds, fraction, stage_of

PROFILES: Mapping[str, float] = {"day": 0.6, "dusk": 0.25, "night": 0.15}
"""Profile → its share of the fleet; canaries come in this order."""
CANARIES = 3
"""Devices of each profile that go first: as few as can halt a rollout (`Thresholds.devices`)."""
SOAK_S = 300
SILENCE_S = 2700
DAY_MS = 86_400_000


def profiles_of(devices: Sequence[str]) -> dict[str, str]:
    """Device → profile, by the shares of `PROFILES`; of each at least one, while there are enough devices."""
    found: dict[str, str] = {}
    for place, device in enumerate(devices):
        at, below = (place + 0.5) / len(devices), 0.0
        for profile, share in PROFILES.items():
            below += share
            if at < below or profile == list(PROFILES)[-1]:
                found[device] = profile
                break
    return found


def by_profile(
    rollout: str, release: PlannedRelease, fleet: Mapping[str, str], *, salt: str, now_ms: int
) -> RolloutPlan:
    """`CANARIES` devices of each profile that there is, profile by profile; then a tenth of the rest, then all.

    A stage is done when all but one of its canaries have finished: if two of three go back, nothing follows without a person.

    Args:
        rollout: its name.
        release: what is brought.
        fleet: device → profile: the engineer's inventory.
        salt: of the plan.
        now_ms: when it may begin.
    """
    plan = _plan(rollout, release, [Group(name="all")], salt=salt, now_ms=now_ms)
    groups = []
    for profile in PROFILES:
        if not (devices := [device for device, its in fleet.items() if its == profile]):
            continue
        share = _share_of(plan, devices, CANARIES)
        minimum = max(1, min(CANARIES, len(devices)) - 1)
        groups.append(Group(name=f"canary-{profile}", share=share, facts={"profile": profile}, minimum=minimum))
    first = _plan(rollout, release, groups, salt=salt, now_ms=now_ms)
    left = [device for device, profile in fleet.items() if stage_of(first, device, {"profile": profile}) is None]
    share = _share_of(plan, left, max(1, round(0.1 * len(left)))) if left else 1.0
    return _plan(
        rollout, release, [*groups, Group(name="tenth", share=share), Group(name="all")], salt=salt, now_ms=now_ms
    )


def naive(rollout: str, release: PlannedRelease, fleet: Mapping[str, str], *, salt: str, now_ms: int) -> RolloutPlan:
    """1 % of all, 10 % of all, all: what is often done. The negative control."""
    plan = _plan(rollout, release, [Group(name="all")], salt=salt, now_ms=now_ms)
    first = max(1, round(0.01 * len(fleet)))
    groups = [
        Group(name="percent", share=_share_of(plan, list(fleet), first), minimum=first),
        Group(name="tenth", share=_share_of(plan, list(fleet), max(2, round(0.1 * len(fleet)))), minimum=first),
        Group(name="all"),
    ]
    return _plan(rollout, release, groups, salt=salt, now_ms=now_ms)


def reach_at_most(plan: RolloutPlan, fleet: Mapping[str, str]) -> int:
    """Devices that the canary stages of a plan have, all together."""
    last = sum(group.name.startswith("canary-") for group in plan.groups)
    stages = (stage_of(plan, device, {"profile": profile}) for device, profile in fleet.items())
    return sum(stage is not None and stage < last for stage in stages)


def _share_of(plan: RolloutPlan, devices: Sequence[str], wanted: int) -> float:
    """The share below which just so many of these devices lie, by the plan's keyed hash."""
    places = sorted(fraction(plan, device) for device in devices)
    return 1.0 if wanted >= len(places) else (places[wanted - 1] + places[wanted]) / 2


def _plan(rollout: str, release: PlannedRelease, groups: list[Group], *, salt: str, now_ms: int) -> RolloutPlan:
    return RolloutPlan(
        rollout=rollout,
        releases=[release],
        groups=groups,
        salt=salt,
        start_ms=now_ms,
        expires_ms=now_ms + 30 * DAY_MS,
        soak_s=SOAK_S,
        thresholds=Thresholds(silence_s=SILENCE_S),
    )
