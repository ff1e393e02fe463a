"""Whether a stage is done: what it still waits for, and whether its figures permit the next. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime

from outrider_cloud.rollout.ordering import ordering
from outrider_cloud.rollout.records import Look, Member
from outrider_cloud.rollout.states import BAD, BEGAN
from outrider_cloud.rollout.verdict import Verdict
from outrider_wire.rollout import earliest_ms, must_finish

GIVEN_UP_MS = 72 * 3600_000
"""A device gives an update up after so long: one that is still on its way holds up nobody."""
_ON_WAY = ("waiting", "begun")


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
        if each.state in _ON_WAY and each.stage <= progress.stage and not each.silent and each.ordered_ms > late_ms
    ]
    coming = sum(each.state == "begun" or _online(look, each) for each in on_way)
    fresh = ordering(look).members
    done, minimum = finished(look), required(look, progress.stage, fresh)
    if (done < minimum and any(each.stage == progress.stage for each in on_way)) or (last and coming):
        return f"{done} have finished, {minimum} must; {coming} are on their way, {len(on_way) - coming} away"
    return f"{len(fresh)} are yet to be ordered" if fresh and (last or done < minimum) else ""


def required(look: Look, stage: int, fresh: Mapping[str, Member] | None = None) -> int:
    """Devices of a stage that must have finished before the next begins, as the fleet is; ``fresh``: those about to be ordered."""
    of_stage = [
        each
        for each in (*look.members.values(), *(fresh or {}).values())
        if each.stage == stage and (each.state == "waiting" or each.state in BEGAN)
    ]
    forgiven = sum(each.forgiven and each.state in BAD for each in of_stage)
    asleep = sum(_asleep(look, each) for each in of_stage)
    return must_finish(
        look.plan.groups[stage], ordered=len(of_stage) - forgiven, awake=len(of_stage) - forgiven - asleep
    )


def _asleep(look: Look, member: Member) -> bool:
    """Whether a device has not been heard of since it was ordered, and long enough: nobody waits for it, and it proves nothing."""
    if member.state != "waiting" or _online(look, member):
        return False
    seen = look.fleet.get(member.device)
    since_ms = max(member.ordered_ms, look.world.listening_ms)
    unheard = seen is None or seen.seen_ms < member.ordered_ms
    return unheard and look.world.now_ms - since_ms > look.plan.thresholds.silence_s * 1000


def _online(look: Look, member: Member) -> bool:
    return member.device in look.fleet and look.fleet[member.device].online


def undecided(look: Look, verdict: Verdict) -> tuple[str, str] | None:
    """Why a person must decide whether to go on: code and sentence; None: the figures are good."""
    if figure := verdict.doubtful:
        return f"doubtful_{figure.name}", f"{figure.what}, but {figure.n} devices do not prove it"
    group, minimum = look.plan.groups[look.progress.stage], required(look, look.progress.stage)
    if (done := finished(look)) < minimum:
        return "too_few", f"only {done} of the {minimum} devices that stage {group.name} needs could finish"
    return None


def finished(look: Look) -> int:
    """Devices of this stage that run the release for good."""
    return sum(each.stage == look.progress.stage and each.state == "committed" for each in look.members.values())
