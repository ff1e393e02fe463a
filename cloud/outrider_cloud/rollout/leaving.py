"""Whether a stage is done: what it still waits for, and whether its figures permit the next. Pure."""

from datetime import UTC, datetime

from outrider_cloud.rollout.ordering import ordering
from outrider_cloud.rollout.records import Look
from outrider_cloud.rollout.verdict import Verdict
from outrider_wire.rollout import earliest_ms

GIVEN_UP_MS = 72 * 3600_000
"""A device gives an update up after so long: one that is still on its way holds up nobody."""


def is_last(look: Look) -> bool:
    """Whether no stage follows."""
    return look.progress.stage + 1 == len(look.plan.groups)


def by_person(look: Look) -> bool:
    """Whether a person has said that the next stage may begin."""
    return look.progress.approved > look.progress.stage


def waits_for(look: Look) -> str:
    """What the stage waits for, in words; '' for nothing more."""
    progress, last = look.progress, is_last(look)
    soaked_ms = progress.began_ms + look.plan.soak_s * 1000
    soaked_ms = soaked_ms if last else max(soaked_ms, earliest_ms(look.plan, progress.stage + 1))
    if look.world.now_ms < soaked_ms:
        return f"it soaks until {datetime.fromtimestamp(soaked_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if by_person(look):
        return ""
    late_ms = look.world.now_ms - GIVEN_UP_MS
    on_way = [
        each
        for each in look.members.values()
        if each.stage <= progress.stage and not each.silent and each.ordered_ms > late_ms
    ]
    waiting = [each for each in on_way if each.state == "waiting"]
    begun = sum(each.state == "begun" for each in on_way)
    coming = begun + sum(each.device in look.fleet and look.fleet[each.device].online for each in waiting)
    done, minimum = finished(look), look.plan.groups[progress.stage].minimum
    if (done < minimum and (coming or waiting)) or (last and coming):
        return f"{done} have finished, {minimum} must; {coming} are on their way, {begun + len(waiting) - coming} away"
    fresh = len(ordering(look).members)
    return f"{fresh} are yet to be ordered" if fresh and (last or done < minimum) else ""


def undecided(look: Look, verdict: Verdict) -> tuple[str, str] | None:
    """Why a person must decide whether to go on: code and sentence; None: the figures are good."""
    if figure := verdict.doubtful:
        return f"doubtful_{figure.name}", f"{figure.what}, but {figure.n} devices do not prove it"
    group = look.plan.groups[look.progress.stage]
    if (done := finished(look)) < group.minimum:
        return "too_few", f"only {done} of the {group.minimum} devices that stage {group.name} needs could finish"
    return None


def finished(look: Look) -> int:
    """Devices of this stage that run the release for good."""
    return sum(each.stage == look.progress.stage and each.state == "committed" for each in look.members.values())
