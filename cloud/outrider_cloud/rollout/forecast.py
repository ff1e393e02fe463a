"""What a plan would come to on the fleet as it is: devices, what each stage can detect, bytes, time, blockers. Pure; changes nothing."""

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct

from outrider_cloud.rollout import bounds
from outrider_cloud.rollout.ordering import obstacle, runs_it
from outrider_cloud.rollout.records import Blocked, Look, Seen, World
from outrider_cloud.rollout.verdict import alpha
from outrider_wire.rollout import Group, RolloutPlan, must_finish, stage_of
from outrider_wire.rollout_text import group_text, minimum_text

HIGH = 0.25
"""A stage whose minimum rules out only rates above this is warned of: it may let a release pass that fails on every fourth device."""
SHOWN = 20
"""Blocked devices that are named, a stage."""


class Carriage(Struct, kw_only=True, frozen=True):
    """What there is to carry, and how fast."""

    files: dict[str, dict[str, int]] = {}
    """Release → its files' digests and sizes."""
    device_bytes_per_s: float = 8 * 1024 * 1024
    fleet_bytes_per_s: float | None = None


class StageForecast(Struct, kw_only=True, frozen=True):
    """One stage."""

    name: str
    group: str
    devices: int
    """That would be ordered."""
    present: int
    """That run it already."""
    online: int
    minimum: int
    """That must finish before the next stage, were all of them to come."""
    asked: str
    """What the plan asks for: a count, or a share."""
    ruled_out_at_minimum: float
    """As `ruled_out`, when no more have finished than must."""
    tested: int
    """Devices that will have been ordered when it is done, those of the stages before it included."""
    ruled_out: float
    """When none of them fails, only failure rates above this are ruled out, at the plan's confidence."""
    halted_above: float | None
    """From this failure rate on it is halted with the plan's confidence; None: never, they are too few."""
    detects: str
    bytes: int
    seconds: float
    """At least: the soak, or what the bytes take."""
    blockers: dict[str, int]
    blocked: list[Blocked]
    """Some of them."""


class Forecast(Struct, kw_only=True, frozen=True):
    """All of a plan."""

    rollout: str
    stages: list[StageForecast]
    devices: int
    bytes: int
    seconds: float
    outside: int
    """Devices that no stage is of."""
    warnings: list[str]


def forecast(look: Look, carriage: Carriage) -> Forecast:
    """The stages in order, as if the rollout began now."""
    plan = look.plan
    placed: dict[int | None, list[Seen]] = {}
    for seen in look.fleet.values():
        placed.setdefault(stage_of(plan, seen.device, seen.facts), []).append(seen)
    stages: list[StageForecast] = []
    tested = least = 0
    for index, group in enumerate(plan.groups):
        stages.append(_stage(look, group, placed.get(index, []), before=tested, least=least, carriage=carriage))
        tested, least = stages[-1].tested, least + min(stages[-1].minimum, stages[-1].devices)
    return Forecast(
        rollout=plan.rollout,
        stages=stages,
        devices=sum(each.devices for each in stages),
        bytes=sum(each.bytes for each in stages),
        seconds=sum(each.seconds for each in stages),
        outside=len(placed.get(None, [])),
        warnings=_warnings(plan, stages, look.world),
    )


def _stage(
    look: Look, group: Group, members: list[Seen], *, before: int, least: int, carriage: Carriage
) -> StageForecast:
    plan = look.plan
    blocked = [found for each in members if (found := obstacle(plan, each, look.world, look.asks))]
    names = {each.device for each in blocked}
    able = [each for each in members if each.device not in names and not runs_it(plan, each)]
    sizes = [_missing(plan, each, carriage.files) for each in able]
    tested, minimum = before + len(able), must_finish(group, ordered=len(able), awake=len(able))
    limits = plan.thresholds
    ruled_out = bounds.ruled_out(tested, limits.confidence)
    halted = bounds.halted_above(
        tested, limits.failures, alpha=alpha(plan), devices=limits.devices, power=limits.confidence
    )
    slowest = max(sizes, default=0) / carriage.device_bytes_per_s
    together = sum(sizes) / carriage.fleet_bytes_per_s if carriage.fleet_bytes_per_s else 0.0
    return StageForecast(
        name=group.name,
        group=group_text(group),
        devices=len(able),
        present=sum(each.device not in names and runs_it(plan, each) for each in members),
        online=sum(each.online for each in able),
        minimum=minimum,
        asked=minimum_text(group),
        ruled_out_at_minimum=bounds.ruled_out(least + min(minimum, len(able)), limits.confidence),
        tested=tested,
        ruled_out=ruled_out,
        halted_above=halted,
        detects=_detects(tested, ruled_out, halted),
        bytes=sum(sizes),
        seconds=max(float(plan.soak_s), slowest, together),
        blockers=dict(Counter(each.reason for each in blocked)),
        blocked=blocked[:SHOWN],
    )


def _detects(tested: int, ruled_out: float, halted: float | None) -> str:
    if not tested:
        return "nobody is tested"
    rate = f"{ruled_out:.0%}" if ruled_out >= 0.1 else f"{ruled_out:.1%}"
    way = f"halts from {halted:.0%} on" if halted is not None else "too few to be halted"
    return f"{tested} device{'s' * (tested != 1)}: only failure rates above {rate}; {way}"


def _missing(plan: RolloutPlan, seen: Seen, files: Mapping[str, Mapping[str, int]]) -> int:
    """Bytes of the files that the device does not run already: a bundle is content-addressed."""
    total = 0
    for each in plan.releases:
        has = files.get(seen.slots[each.task].running, {})
        total += sum(size for digest, size in files.get(each.release, {}).items() if digest not in has)
    return total


def _warnings(plan: RolloutPlan, stages: list[StageForecast], world: World) -> list[str]:
    found = [
        f"stage {each.name}: {each.devices} devices, and {each.minimum} must finish before the next"
        for each in stages
        if each.devices < each.minimum
    ]
    found += [
        f"stage {each.name} may end with {each.minimum} devices (--min {each.asked}), and when none of them fails only failure "
        f"rates above {each.ruled_out_at_minimum:.0%} are ruled out"
        for each in stages[:-1]
        if each.devices >= each.minimum and each.ruled_out_at_minimum > HIGH
    ]
    if plan.soak_s < plan.thresholds.silence_s and len(plan.groups) > 1:
        found.append(
            f"a stage may end after {plan.soak_s} s, and a silent device is noticed after {plan.thresholds.silence_s} s"
        )
    if plan.start_ms + plan.soak_s * 1000 * len(plan.groups) >= plan.expires_ms:
        found.append("the plan runs out before its last stage has soaked")
    if plan.expires_ms <= world.now_ms:
        found.append("the plan has run out")
    if not plan.rollback_to:
        found.append("no release to roll back to is named: devices return to what they ran before")
    return found
