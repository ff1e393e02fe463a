"""Whom a rollout orders to update now, and whom it does not, with the reason. Pure."""

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from outrider_cloud.rollout.records import Blocked, Look, Member, Seen, World
from outrider_wire.fitness import Requires, misfit
from outrider_wire.rollout import DeviceOrder, RolloutPlan, stage_of

ORDER_LIFE_MS = 7 * 86_400_000
"""How long an order is good for; it is made anew when half of that is over and the device has not begun."""

ORDERS_AT_ONCE = 500
"""Devices that are ordered in one step; the others in the next. Each order is signed, and a fleet need not fetch all at once."""


class Ordering(Struct, kw_only=True, frozen=True):
    """Who is ordered, and who is not."""

    members: dict[str, Member] = {}
    orders: list[DeviceOrder] = []
    blocked: list[Blocked] = []


def ordering(look: Look) -> Ordering:
    """The devices of the stages so far that have no order yet."""
    plan, members, world = look.plan, look.members, look.world
    new: dict[str, Member] = {}
    orders: list[DeviceOrder] = []
    blocked: list[Blocked] = []
    for name in sorted(look.fleet):
        if name in members and members[name].state != "withdrawn":
            continue
        seen = look.fleet[name]
        stage = members[name].stage if name in members else stage_of(plan, name, seen.facts)
        if stage is None or stage > look.progress.stage:
            continue
        if found := obstacle(plan, seen, world, look.asks):
            blocked.append(found)
        elif runs_it(plan, seen):
            new[name] = Member(device=name, stage=stage, state="present", ordered_ms=world.now_ms)
        elif len(orders) < ORDERS_AT_ONCE:
            order = _order(plan, name, stage, world)
            orders.append(order)
            new[name] = _member(plan, seen, order, members.get(name))
    return Ordering(members=new, orders=orders, blocked=blocked)


def renewals(plan: RolloutPlan, members: Mapping[str, Member], world: World) -> list[tuple[Member, DeviceOrder]]:
    """New orders for devices that have not begun, where the old one is about to run out."""
    found = []
    for each in members.values():
        late = each.expires_ms - world.now_ms < ORDER_LIFE_MS // 2 and each.expires_ms < plan.expires_ms
        if each.state == "waiting" and late:
            order = _order(plan, each.device, each.stage, world)
            found.append((replace(each, expires_ms=order.expires_ms), order))
    return found


def obstacle(plan: RolloutPlan, seen: Seen, world: World, asks: Sequence[Requires] = ()) -> Blocked | None:
    """What keeps a device from being ordered; None: nothing. Asked before the first byte is sent."""
    for requires in (plan.requires, *asks):
        if found := misfit(requires, agent=seen.agent, facts=seen.facts):
            return Blocked(device=seen.device, reason=found.reason, what=found.what)
    for each in plan.releases:
        slot = seen.slots.get(each.task)
        if slot is None:
            return Blocked(device=seen.device, reason="no_such_task", what=f"it has no task {each.task}")
        if each.release in slot.refused:
            what = f"it has refused {each.release[:12]}… of task {each.task} before"
            return Blocked(device=seen.device, reason="refused_before", what=what)
    if other := world.busy.get(seen.device):
        return Blocked(device=seen.device, reason="busy_elsewhere", what=f"it is on its way in rollout {other}")
    return None


def runs_it(plan: RolloutPlan, seen: Seen) -> bool:
    """Whether it runs all of it already."""
    return all(each.task in seen.slots and seen.slots[each.task].running == each.release for each in plan.releases)


def _order(plan: RolloutPlan, device: str, stage: int, world: World) -> DeviceOrder:
    return DeviceOrder(
        device=device,
        number=0,
        rollout=plan.rollout,
        stage=stage,
        releases=plan.releases,
        issued_ms=world.now_ms,
        expires_ms=min(world.now_ms + ORDER_LIFE_MS, plan.expires_ms),
    )


def _member(plan: RolloutPlan, seen: Seen, order: DeviceOrder, old: Member | None) -> Member:
    tasks = [each.task for each in plan.releases]
    return Member(
        device=seen.device,
        stage=order.stage,
        ordered_ms=order.issued_ms,
        expires_ms=order.expires_ms,
        before={task: seen.slots[task].running for task in tasks},
        alarms={task: seen.alarms[task] for task in tasks if task in seen.alarms},
        base={task: seen.counts[task] for task in tasks if task in seen.counts},
        forgiven=old.forgiven if old else False,
    )
