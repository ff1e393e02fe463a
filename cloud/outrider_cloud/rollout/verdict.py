"""Whether the devices so far speak against a release. Pure: the plan's thresholds against counts of distinct devices.

The promise on false halts is divided over the figures: each may be wrong with (1 − confidence) / 5 over the whole rollout, however
often it is looked at; escalation shares are compared once a stage, the k-th time at 6/(π²k²) of its part.
"""

import math
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from outrider_cloud.rollout import bounds
from outrider_cloud.rollout.members import change
from outrider_cloud.rollout.records import Look, Member
from outrider_cloud.rollout.states import BEGAN
from outrider_wire.rollout import RolloutPlan

FIGURES = ("failures", "rollbacks", "alarms", "silence", "escalation")
DOUBTED = 2
"""So many devices may call a person where they are too few to halt: of few canaries, two that fail are no chance. One device never may."""
INPUTS = 30
"""Inputs that a device must have seen before and after, to be compared."""
COMPARED = 200
"""Devices of either side that are compared at most."""

Says = Literal["ok", "doubt", "exceeded", "not_compared"]


class Figure(Struct, kw_only=True, frozen=True):
    """One threshold and what was found."""

    name: str
    bad: int
    n: int
    limit: float
    lower: float
    """The true rate is above, at the plan's confidence, by one look; for people."""
    upper: float
    says: Says
    what: str = ""


class Verdict(Struct, kw_only=True, frozen=True):
    """All of them."""

    figures: list[Figure]

    @property
    def exceeded(self) -> Figure | None:
        """The first that is above its threshold."""
        return next((each for each in self.figures if each.says == "exceeded"), None)

    @property
    def doubtful(self) -> Figure | None:
        """The first that looks above it, without proof."""
        return next((each for each in self.figures if each.says == "doubt"), None)


def alpha(plan: RolloutPlan) -> float:
    """What one figure may be wrong with."""
    return (1.0 - plan.thresholds.confidence) / len(FIGURES)


def judge(plan: RolloutPlan, members: Mapping[str, Member]) -> Verdict:
    """The rates, as often as one likes."""
    counted = [each for each in members.values() if each.state in BEGAN and not each.forgiven]
    n = dict.fromkeys(FIGURES, len(counted)) | {"alarms": sum(each.verified for each in counted)}
    limits = plan.thresholds
    bad = {
        "failures": sum(each.state == "failed" for each in counted),
        "rollbacks": sum(each.state == "rolled_back" for each in counted),
        "alarms": sum(each.alarmed and each.verified for each in counted),
        "silence": sum(each.silent for each in counted),
    }
    return Verdict(figures=[_figure(plan, name, bad[name], n[name], getattr(limits, name)) for name in bad])


def _figure(plan: RolloutPlan, name: str, bad: int, n: int, limit: float) -> Figure:
    limits = plan.thresholds
    lower = bounds.lower_rate(bad, n, limits.confidence)
    says: Says = "ok"
    if bounds.exceeds(bad, n, limit, alpha=alpha(plan), devices=limits.devices):
        says = "exceeded"
    elif (bad >= limits.devices and bad > limit * n) or (bad >= DOUBTED and lower > limit):
        says = "doubt"
    upper = bounds.upper_rate(bad, n, limits.confidence)
    what = f"{name}: {bad} of {n} devices, more than {limit:.1%} is tolerated" if says != "ok" else ""
    return Figure(name=name, bad=bad, n=n, limit=limit, lower=lower, upper=upper, says=says, what=what)


def compare(look: Look) -> Figure:
    """The share of escalated inputs against the devices that have not begun; of several tasks, the one that speaks loudest.

    Each device is held against its own past first, so that sites that differ are no finding; then the changes of both sides are ranked.
    """
    plan, limits = look.plan, look.plan.thresholds
    level = alpha(plan) * 6 / (math.pi**2 * (look.progress.looks + 1) ** 2) / len(plan.releases)
    found = []
    for each in plan.releases:
        treated, control = _changes(each.task, look)
        enough = min(len(treated), len(control)) >= limits.devices
        p = bounds.raised(treated, control, limits.escalation) if enough else 1.0
        found.append((p, each.task, treated, control, enough))
    p, task, treated, control, enough = min(found, key=lambda row: (row[0], not row[4]))
    above = [value for value in treated if control and value > limits.escalation + max(control)]
    exceeded = enough and p <= level and len(treated) >= limits.devices
    what = (
        f"escalation: task {task}: p = {p:.2g} that its share rose by at most {limits.escalation:.0%}" if enough else ""
    )
    return Figure(
        name="escalation",
        bad=len(above),
        n=len(treated),
        limit=limits.escalation,
        lower=0.0,
        upper=1.0,
        says="exceeded" if exceeded else "ok" if enough else "not_compared",
        what=what
        or f"escalation: too few devices to compare ({len(treated)} with the release, {len(control)} without)",
    )


def _changes(task: str, look: Look) -> tuple[list[float], list[float]]:
    """How the share changed on this stage's devices, and on those that never began, both since about the stage's begin."""
    treated: list[float] = []
    control: list[float] = []
    for name, member in look.members.items():
        of_stage = member.stage == look.progress.stage and member.ran and not member.forgiven
        if of_stage and name in look.fleet and len(treated) < COMPARED:
            value = change(member.base, member.swapped, look.fleet[name].counts, task, INPUTS)
            treated += [] if value is None else [value]
    for name, base in look.progress.control.items():
        untouched = name not in look.members or look.members[name].state in ("waiting", "withdrawn")
        if untouched and name in look.fleet:
            value = change(base, look.progress.since.get(name, base), look.fleet[name].counts, task, INPUTS)
            control += [] if value is None else [value]
    return treated, control
