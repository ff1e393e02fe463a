"""What comes of a rollout at a look at the fleet: its next state, the orders to send, and why not more. Pure: time is an argument.

Whoever runs it may end at any point and begin again from what was stored: a step depends on nothing else, and a second one at the same
moment changes nothing. The cloud only paces and stops; a device checks its own place in the signed plan.
"""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from outrider_cloud.rollout.leaving import by_person, is_last, undecided, waits_for
from outrider_cloud.rollout.members import observe, silent
from outrider_cloud.rollout.ordering import Ordering, ordering, renewals
from outrider_cloud.rollout.records import Blocked, Count, Look, Member, Progress, Seen
from outrider_cloud.rollout.returning import return_step
from outrider_cloud.rollout.states import STATES, Act, State
from outrider_cloud.rollout.verdict import Figure, Verdict, compare, judge
from outrider_wire.rollout import DeviceOrder, RolloutPlan, fraction, frozen

CONTROLS = 200
"""Devices that are remembered to compare with."""
WHOLE_FLEET = 0.5
"""When more than this share of all devices is silent, it is the broker or the network, and no device is blamed."""


class Step(Struct, kw_only=True, frozen=True):
    """What one look came to."""

    progress: Progress
    members: dict[str, Member]
    """Those that are new or changed."""
    orders: list[DeviceOrder] = []
    """To be numbered (they say 0) and signed."""
    withdraw: list[str] = []
    """Devices whose order is taken back."""
    stop: bool = False
    """Whether who is mid-way must be stopped, unless that was said before."""
    figures: list[Figure] = []
    blocked: list[Blocked] = []


def step(look: Look) -> Step:
    """The next step of a rollout."""
    if look.progress.state == "rolling_back":
        progress, moved, orders = return_step(look)
        return Step(progress=progress, members=moved, orders=orders, figures=judge(look.plan, look.members).figures)
    now = replace(look, members=_observed(look))
    changed = {name: each for name, each in now.members.items() if each != look.members.get(name)}
    verdict = judge(look.plan, now.members)
    progress, compared = _next(now, verdict)
    figures = [*verdict.figures, *([compared] if compared else [])]
    now = replace(now, progress=progress)
    if not _orders(now):
        off = _withdrawn(now)
        halted = progress.state == "halted"
        return Step(progress=progress, members=changed | off, withdraw=[*off], stop=halted, figures=figures)
    said = ordering(now) if not frozen(look.plan, look.world.now_ms) else Ordering()
    renewed = renewals(look.plan, now.members, look.world)
    return Step(
        progress=progress,
        members=changed | said.members | {each.device: each for each, _ in renewed},
        orders=[*said.orders, *(order for _, order in renewed)],
        figures=figures,
        blocked=said.blocked,
    )


def act(progress: Progress, wanted: Act, state: State, *, now_ms: int, note: str = "") -> Progress:
    """The progress after a person's word, which `states.ACTS` permits; ``state`` is what it becomes."""
    moved = replace(progress, state=state, reason="", what="")
    if wanted == "approve":
        moved = replace(moved, approved=progress.stage + 1)
    if wanted == "resume" and not progress.began_ms:
        moved = replace(moved, state="scheduled")
    return replace(moved, events=moved.told(now_ms, f"{wanted}: {note}" if note else wanted))


def _orders(look: Look) -> bool:
    """Whether anybody may be ordered now, windows aside."""
    return STATES[look.progress.state].orders and not look.world.superseded and look.world.now_ms < look.plan.expires_ms


def _observed(look: Look) -> dict[str, Member]:
    now = {name: observe(each, look.fleet.get(name), look.plan, look.world) for name, each in look.members.items()}
    if not STATES[look.progress.state].watched or _all_silent(look):
        return now
    return {
        name: replace(each, silent=True)
        if not each.silent and silent(each, look.fleet.get(name), look.plan.thresholds, look.world)
        else each
        for name, each in now.items()
    }


def _all_silent(look: Look) -> bool:
    """Whether most of the devices that were there since the rollout began are silent."""
    there = [each for each in look.fleet.values() if each.seen_ms >= look.plan.start_ms]
    long_ago = look.world.now_ms - look.plan.thresholds.silence_s * 1000
    return sum(each.seen_ms < long_ago for each in there) > WHOLE_FLEET * len(there)


def _next(look: Look, verdict: Verdict) -> tuple[Progress, Figure | None]:
    """The next state, and the comparison of escalation shares where one was due."""
    progress, about = look.progress, STATES[look.progress.state]
    if look.world.superseded:
        return progress, None
    if about.watched and (figure := verdict.exceeded):
        return _moved(look, "halted", figure.name, figure.what), None
    if look.world.now_ms >= look.plan.expires_ms and not about.over and progress.state != "halted":
        return _moved(look, "expired", "plan_expired", "the plan's time ran out"), None
    if progress.state == "scheduled":
        return _begun(look), None
    return _leave(look, verdict) if progress.state in ("running", "undecided") else (progress, None)


def _begun(look: Look) -> Progress:
    if look.world.now_ms < look.plan.start_ms or frozen(look.plan, look.world.now_ms):
        return look.progress
    control = _control(look.plan, look.fleet)
    begun = replace(look.progress, state="running", began_ms=look.world.now_ms, control=control, since=control)
    return replace(begun, events=begun.told(look.world.now_ms, f"stage {look.plan.groups[0].name} begins"))


def _leave(look: Look, verdict: Verdict) -> tuple[Progress, Figure | None]:
    """What becomes of a rollout whose stage may be done."""
    if waits := waits_for(look):
        return _moved(look, "running", "", waits), None
    if not by_person(look) and (found := undecided(look, verdict)):
        return _moved(look, "undecided", *found), None
    figure = None
    if look.progress.looks <= look.progress.stage:
        figure = compare(look)
        look = replace(look, progress=replace(look.progress, looks=look.progress.stage + 1))
        if figure.says == "exceeded":
            return _moved(look, "halted", figure.name, figure.what), figure
    if is_last(look):
        return _moved(look, "finished", "", "the last stage is done"), figure
    name = look.plan.groups[look.progress.stage].name
    if look.plan.approve_each and not by_person(look):
        what = f"stage {name} is done; the next needs: outrider ota approve {look.plan.rollout}"
        return _moved(look, "awaiting_approval", "", what), figure
    following = replace(
        look.progress,
        state="running",
        stage=look.progress.stage + 1,
        began_ms=look.world.now_ms,
        reason="",
        what="",
        since={each: look.fleet[each].counts for each in look.progress.control if each in look.fleet},
    )
    what = f"stage {look.plan.groups[following.stage].name} begins"
    return replace(following, events=following.told(look.world.now_ms, what)), figure


def _moved(look: Look, state: State, reason: str, what: str) -> Progress:
    """The progress in that state; an event where it is another one, or for another reason."""
    moved = replace(look.progress, state=state, reason=reason, what=what)
    if (look.progress.state, look.progress.reason) == (state, reason):
        return moved
    return replace(moved, events=moved.told(look.world.now_ms, what))


def _withdrawn(look: Look) -> dict[str, Member]:
    """Those that have not begun and shall not."""
    return {
        name: replace(each, state="withdrawn", ended_ms=look.world.now_ms)
        for name, each in look.members.items()
        if each.state == "waiting"
    }


def _control(plan: RolloutPlan, fleet: Mapping[str, Seen]) -> dict[str, dict[str, Count]]:
    """The devices that are treated last, with their counts: of the plan's tasks, the highest hashes."""
    tasks = {each.task for each in plan.releases}
    able = [each for each in fleet.values() if tasks & each.counts.keys()]
    last = sorted(able, key=lambda each: fraction(plan, each.device), reverse=True)[:CONTROLS]
    return {each.device: {task: each.counts[task] for task in sorted(tasks & each.counts.keys())} for each in last}
