"""How a rollout is taken back: whoever has the release, or may have, is ordered to what the plan permits. Pure."""

from msgspec.structs import replace

from outrider_cloud.rollout.members import observe, returned
from outrider_cloud.rollout.ordering import ORDER_LIFE_MS
from outrider_cloud.rollout.records import Look, Member, Progress, World, target
from outrider_wire.rollout import DeviceOrder, PlannedRelease, RolloutPlan

_HAVE_IT = frozenset({"waiting", "withdrawn", "begun", "committed"})


def return_step(look: Look) -> tuple[Progress, dict[str, Member], list[DeviceOrder]]:
    """One look at a rollout that is being taken back: the next state, the members that changed, the orders to send."""
    plan, progress, world = look.plan, look.progress, look.world
    changed: dict[str, Member] = {}
    orders: list[DeviceOrder] = []
    out = stuck = 0
    for name, member in look.members.items():
        seen = look.fleet.get(name)
        releases = back_to(plan, member, world)
        after = returned(observe(member, seen, plan, world), seen, target(releases), world)
        if after.state in _HAVE_IT and releases and _wants_order(plan, after, world):
            orders.append(_order(plan, after, releases, world))
            after = replace(after, back=True, ordered_ms=world.now_ms, expires_ms=orders[-1].expires_ms)
        stuck += after.state in _HAVE_IT and not releases
        out += after.state in _HAVE_IT and bool(releases) and seen is not None and seen.online
        if after != member:
            changed[name] = after
    left = f"; {stuck} cannot be ordered back: nothing is signed of what they ran before" if stuck else ""
    if out:
        return replace(progress, what=f"{out} that can be reached are not back yet{left}"), changed, orders
    done = replace(progress, state="rolled_back", what=f"everybody who can be reached is back{left}")
    return replace(done, events=done.told(world.now_ms, done.what)), changed, orders


def back_to(plan: RolloutPlan, member: Member, world: World) -> list[PlannedRelease]:
    """What a member is ordered back to: as the plan says, else what it ran before; nothing where that is not here any more."""
    if plan.rollback_to:
        return plan.rollback_to
    known = [world.known.get(release) for release in member.before.values()]
    return [each for each in known if each is not None] if member.before and all(known) else []


def _wants_order(plan: RolloutPlan, member: Member, world: World) -> bool:
    late = member.expires_ms - world.now_ms < ORDER_LIFE_MS // 2 and member.expires_ms < plan.expires_ms
    return not member.back or late


def _order(plan: RolloutPlan, member: Member, releases: list[PlannedRelease], world: World) -> DeviceOrder:
    return DeviceOrder(
        device=member.device,
        number=0,
        rollout=plan.rollout,
        stage=member.stage,
        kind="rollback",
        releases=releases,
        issued_ms=world.now_ms,
        expires_ms=min(world.now_ms + ORDER_LIFE_MS, plan.expires_ms),
    )
