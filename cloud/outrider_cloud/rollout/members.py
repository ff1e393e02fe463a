"""What a device's own reports make of it in a rollout. Pure; believes a device only about itself, and only once.

What went wrong stays wrong: a device that fails and then commits is counted as failed, until a person forgives it.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from outrider_cloud.rollout.records import Count, Member, Seen, Slot, World
from outrider_cloud.rollout.states import BEGAN, MemberState
from outrider_wire.rollout import RolloutPlan, Thresholds

UNDER_WAY = frozenset({"offered", "fetching", "staged", "testing", "armed", "probation"})
OUTCOMES = {
    "committed": "done",
    "refused": "bad",
    "gave_up": "bad",
    "companion": "bad",
    "rolled_back": "back",
    "stopped": "off",
    "replaced": "off",
}
"""How an order may end (`outrider_wire.messages`), and what that says of the release: who was stopped says nothing."""
_SETTLED = frozenset({"idle", "committed"})
_MOVE = frozenset({"waiting", "withdrawn", "begun", "committed"})
"""States that a report changes; one who was called off may have begun before it heard."""


def observe(member: Member, seen: Seen | None, plan: RolloutPlan, world: World) -> Member:
    """The member after what its device last said."""
    if seen is None or member.state == "present":
        return member
    if member.state in _MOVE:
        member = _moved(member, seen, plan, world.now_ms)
    return _watched(member, seen, plan)


def returned(member: Member, seen: Seen | None, back_to: Mapping[str, str], world: World) -> Member:
    """The same while it is ordered back: whether it runs what it is to (task → release)."""
    if seen is None or member.state not in _MOVE or not member.back:
        return member
    slots = [(seen.slots.get(task, Slot()), release) for task, release in back_to.items()]
    if slots and all(slot.running == release and slot.state not in UNDER_WAY for slot, release in slots):
        return replace(member, state="returned", ended_ms=world.now_ms)
    return member


def silent(member: Member, seen: Seen | None, thresholds: Thresholds, world: World) -> bool:
    """Whether a device that began has not been heard of for too long, as far as the cloud could hear."""
    if member.state not in BEGAN or not member.began_ms:
        return False
    heard = max(seen.seen_ms if seen else 0, member.began_ms, world.listening_ms)
    return world.now_ms - heard > thresholds.silence_s * 1000


def _moved(member: Member, seen: Seen, plan: RolloutPlan, now_ms: int) -> Member:
    found = {each.task: _said(seen, each.task, each.release, member) for each in plan.releases}
    states = set(found.values())
    if states & {"running", "done"} and not member.ran:
        member = replace(member, ran=True, swapped=dict(seen.counts))
    if states <= {""}:
        return member
    began_ms = member.began_ms or now_ms
    if bad := [task for task, said in found.items() if said in ("bad", "back")]:
        state: MemberState = "rolled_back" if member.ran or "back" in states else "failed"
        why = next(filter(None, (_why(seen, task, member) for task in bad)), "")
        return replace(member, state=state, began_ms=began_ms, ended_ms=now_ms, reason=why[:512])
    if states == {"done"} or (states <= {"running", "done"} and not _probing(seen, plan)):
        if member.state == "committed":
            return member
        swapped = member.swapped or dict(seen.counts)
        return replace(member, state="committed", began_ms=began_ms, ended_ms=now_ms, ran=True, swapped=swapped)
    if "off" in states:
        return member if member.state == "withdrawn" else replace(member, state="withdrawn", ended_ms=now_ms)
    return replace(member, state="begun", began_ms=began_ms) if member.state in ("waiting", "withdrawn") else member


def _said(seen: Seen, task: str, release: str, member: Member) -> str:
    """What a device says of the release: ``bad``, ``back`` (it ran), ``running``, ``done``, ``off``, ``way`` (to it); '' for nothing."""
    slot = seen.slots.get(task)
    if slot is None:
        return ""
    if member.state == "committed":
        return "bad" if slot.running == member.before.get(task) != release else ""
    return OUTCOMES.get(_outcome(seen, slot, task, member), "") or _told(slot, release, member)


def _told(slot: Slot, release: str, member: Member) -> str:
    """The same by the slot's state alone: of an order that has not ended, or of a device that tells of none."""
    if slot.order and slot.order < member.first:
        return ""  # it speaks of an older order
    if slot.running == release:
        return "running"
    if release in slot.refused or (slot.offered == release and slot.state in ("refused", "rollback")):
        return "bad"
    return "way" if slot.offered == release and slot.state in UNDER_WAY else ""


def _outcome(seen: Seen, slot: Slot, task: str, member: Member) -> str:
    """How this member's order ended for a task, where the device tells orders apart."""
    if not member.first:
        return ""
    if slot.outcome and slot.order >= member.first:
        return slot.outcome
    ended = (each.outcome for each in reversed(seen.ends) if each.task == task and each.order >= member.first)
    return next(ended, "") if slot.order <= member.order else ""


def _why(seen: Seen, task: str, member: Member) -> str:
    said = (each.reason for each in reversed(seen.ends) if each.task == task and each.order >= member.first > 0)
    return next(said, "") or seen.slots[task].reason


def _probing(seen: Seen, plan: RolloutPlan) -> bool:
    """Whether one of the tasks has not settled on its release yet."""
    return any(seen.slots[each.task].state not in _SETTLED for each in plan.releases if each.task in seen.slots)


def _watched(member: Member, seen: Seen, plan: RolloutPlan) -> Member:
    """Whether its figures speak at all, and an alarm that was raised since, while the release runs."""
    tasks = [each.task for each in plan.releases]
    if not member.verified and any(task in seen.counts for task in tasks):
        member = replace(member, verified=True)
    if member.alarmed or not member.ran:
        return member
    raised = any(task in seen.alarms and seen.alarms[task] != member.alarms.get(task) for task in tasks)
    return replace(member, alarmed=True) if raised else member


def share(before: Count, after: Count, least: int) -> float | None:
    """The share that was sent between two counts; None: too few inputs, or the counts began anew."""
    inputs, sent = after.inputs - before.inputs, after.sent - before.sent
    return sent / inputs if inputs >= least and 0 <= sent <= inputs else None


def change(
    base: Mapping[str, Count], since: Mapping[str, Count], now: Mapping[str, Count], task: str, least: int
) -> float | None:
    """How a device's own share of sent inputs changed: from before ``base`` to after ``since``; None: too few inputs."""
    zero = Count()
    was = share(zero, base.get(task, zero), least)
    became = share(since.get(task, zero), now.get(task, zero), least)
    return None if was is None or became is None else became - was
