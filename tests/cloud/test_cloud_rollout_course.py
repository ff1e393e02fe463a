"""A rollout's course, on a fleet without a wire: its times, a person's word, the way back, whom it orders, and restarts."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from rollout_fleet import (
    DAY,
    MONDAY,
    NEW,
    OLD,
    OLDER,
    Manner,
    chance,
    make_plan,
    make_seen,
    make_world,
    planned,
)

from outrider_cloud.rollout.members import observe
from outrider_cloud.rollout.records import End, Member, Progress, Seen, Slot, World
from outrider_cloud.rollout.states import ACTS, STATES
from outrider_wire.fitness import Requires
from outrider_wire.rollout import Group, WeeklyWindow

# --- time


def test_a_stage_soaks_and_no_stage_begins_before_the_plan_permits() -> None:
    plan = make_plan(0.5, 1.0, soak_s=3600)
    world = make_world(plan, 10)
    world.run(59)
    assert world.progress.stage == 0 and "soaks until 1970-01-05 01:00:00" in world.progress.what
    world.run(30, until=lambda: world.progress.stage == 1)
    assert world.progress.stage == 1 and world.progress.began_ms >= plan.start_ms + 3600_000


def test_before_its_start_and_in_a_frozen_week_end_nobody_is_ordered() -> None:
    frozen = WeeklyWindow(begin=4 * 1440 + 16 * 60, end=8 * 60)  # Friday 16:00 to Monday 08:00
    world = make_world(make_plan(1.0, start_ms=MONDAY + DAY, freeze=[frozen]), 5)
    world.look()
    assert (world.progress.state, world.orders) == ("scheduled", [])
    world.now_ms = MONDAY + 4 * DAY + 17 * 3600_000
    world.look()
    assert world.progress.state == "scheduled"
    world.now_ms = MONDAY + 7 * DAY + 8 * 3600_000
    world.look()
    assert world.progress.state == "running" and len(world.orders) == 5


def test_a_window_that_comes_meanwhile_holds_back_who_has_no_order_yet() -> None:
    frozen = WeeklyWindow(begin=3 * 60, end=5 * 60)
    world = make_world(make_plan(0.5, 1.0, soak_s=2 * 3600, freeze=[frozen]), 20)
    world.run(60)
    first = len(world.orders)
    world.now_ms = MONDAY + 3 * 3600_000
    world.run(100)
    assert world.progress.stage == 1 and len(world.orders) == first
    world.now_ms = MONDAY + 5 * 3600_000
    world.look()
    assert len(world.orders) == 20


def test_a_plan_that_runs_out_orders_nobody_more_and_takes_back_what_waits() -> None:
    world = make_world(make_plan(1.0, minimum=9, expires_ms=MONDAY + 3600_000), 10, lambda k: Manner(end="never"))
    world.run(30)
    world.now_ms = MONDAY + 3600_000
    done = world.look()
    assert (world.progress.state, len(done.withdraw)) == ("expired", 10)
    assert world.look().orders == [] and STATES["expired"].over


def test_an_order_that_is_about_to_run_out_is_made_anew() -> None:
    world = make_world(make_plan(1.0, minimum=9), 10, lambda k: Manner(end="never"))
    world.run(5)
    world.now_ms += 4 * DAY
    renewed = world.look().orders
    assert len(renewed) == 10 and all(order.issued_ms == world.now_ms for order in renewed)
    assert world.look().orders == []


# --- people


def test_each_stage_waits_for_a_person_where_the_plan_says_so() -> None:
    world = make_world(make_plan(0.2, 0.6, 1.0, approve_each=True), 40)
    for stage in (0, 1):
        world.run(60)
        assert (world.progress.state, world.progress.stage) == ("awaiting_approval", stage)
        world.act("approve")
    world.run(60)
    assert world.progress.state == "finished"


def test_a_pause_takes_back_what_has_not_begun_and_resuming_orders_it_again() -> None:
    world = make_world(make_plan(1.0), 10, lambda k: Manner(end="never" if k < 4 else "committed"))
    world.run(3)
    world.act("pause")
    assert len(world.look().withdraw) == 4 and world.count("withdrawn") == 4
    world.run(20)
    assert world.progress.state == "paused" and world.count("committed") == 6, "who had begun goes on"
    world.act("resume")
    again = world.look().orders
    assert sorted(order.device for order in again) == [f"cam-{k}" for k in range(4)]


def test_a_pause_before_the_start_is_resumed_to_wait_for_it() -> None:
    world = make_world(make_plan(1.0, start_ms=MONDAY + DAY), 2)
    world.act("pause")
    world.look()
    world.act("resume")
    assert world.progress.state == "scheduled"


def test_thresholds_hold_while_it_is_paused() -> None:
    world = make_world(make_plan(1.0), 20, lambda k: Manner(end="failed"))
    world.run(3)
    world.act("pause")
    world.run(20)
    assert world.progress.state == "halted"


def test_every_state_says_what_may_be_done_in_it_and_no_act_leads_nowhere() -> None:
    states = set(STATES)
    assert all(set(where) <= states and set(where.values()) <= states for where in ACTS.values())
    dead_ends = {state for state in states if not any(state in where for where in ACTS.values())}
    assert dead_ends == {"rolled_back", "expired"}


# --- rolling back


def rolled(plan: Any) -> Any:
    world = make_world(plan, 20, lambda k: Manner(end="never" if k == 19 else "committed"))
    world.run(20)
    world.world = {"known": {OLD: planned(OLD, counter=1)}}
    world.act("rollback")
    return world


def test_a_rollback_orders_everybody_back_to_what_it_ran() -> None:
    world = rolled(make_plan(1.0, minimum=5))
    orders = world.look().orders
    assert {order.kind for order in orders} == {"rollback"}
    assert {order.releases[0].release for order in orders} == {OLD}
    world.run(20, until=lambda: world.progress.state == "rolled_back")
    assert world.progress.state == "rolled_back" and world.running_new() == 0
    assert len(orders) == 20, "also who may have begun unheard"


def test_a_rollback_goes_where_the_plan_permits() -> None:
    world = rolled(make_plan(1.0, rollback_to=[planned(OLDER, counter=1)]))
    assert {order.releases[0].release for order in world.look().orders} == {OLDER}
    world.run(20)
    assert {seen.slots["colours"].running for name, seen in world.fleet.items() if name != "cam-19"} == {OLDER}


def test_a_rollback_to_what_is_not_here_any_more_orders_nobody() -> None:
    world = rolled(make_plan(1.0, minimum=5))
    world.world = {"known": {}}
    assert world.look().orders == []


def test_who_cannot_be_reached_does_not_keep_a_rollback_from_its_end() -> None:
    world = rolled(make_plan(1.0, minimum=5))
    world.fleet["cam-19"] = replace(world.fleet["cam-19"], online=False)
    world.run(20, until=lambda: world.progress.state == "rolled_back")
    assert world.progress.state == "rolled_back"


# --- whom it orders


BLOCKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "agent_too_old": ({"agent": "0.0.9"}, {"requires": Requires(agent="0.1")}),
    "wrong_arch": ({"facts": {"arch": "x86_64"}}, {"requires": Requires(arch=["aarch64"])}),
    "wrong_profile": ({"facts": {"profile": "pi"}}, {"requires": Requires(profiles=["orin-nano"])}),
    "too_little_memory": ({"facts": {"memory_mb": "512"}}, {"requires": Requires(memory_mb=1024)}),
    "no_such_task": ({"slots": {"other": Slot(running=OLD)}}, {}),
    "refused_before": ({"slots": {"colours": Slot(running=OLD, refused=[NEW])}}, {}),
}


@pytest.mark.parametrize("reason", BLOCKED)
def test_who_cannot_take_it_is_not_ordered_and_it_is_said_why(reason: str) -> None:
    device, plan = BLOCKED[reason]
    world = make_world(make_plan(1.0, **plan), 0)
    world.manners = {"cam-1": Manner()}
    world.fleet = {"cam-1": make_seen("cam-1", **device)}
    done = world.look()
    assert done.orders == [] and [each.reason for each in done.blocked] == [reason]


def test_who_says_nothing_of_what_is_asked_is_not_ordered() -> None:
    plan = make_plan(1.0, requires=Requires(arch=["aarch64"], memory_mb=1))
    world = make_world(plan, 3)
    assert world.look().orders == []


def test_who_is_on_its_way_in_another_rollout_waits() -> None:
    world = make_world(make_plan(1.0), 2)
    world.world = {"busy": {"cam-0": "r-other"}}
    done = world.look()
    assert [order.device for order in done.orders] == ["cam-1"]
    assert [(each.device, each.reason) for each in done.blocked] == [("cam-0", "busy_elsewhere")]
    world.world = {}
    assert [order.device for order in world.look().orders] == ["cam-0"]


def test_who_runs_it_already_is_not_ordered_and_proves_nothing() -> None:
    world = make_world(make_plan(1.0, minimum=3), 3)
    world.fleet = {name: replace(seen, slots={"colours": Slot(running=NEW)}) for name, seen in world.fleet.items()}
    world.run(5)
    assert world.count("present") == 3 and world.orders == []
    assert world.last is not None and all(figure.n == 0 for figure in world.last.figures)
    assert (world.progress.state, world.progress.reason) == ("undecided", "too_few")


def test_a_group_that_shrinks_is_left_to_a_person() -> None:
    """The devices of the first stage are relabelled after its start: they keep their orders, and too few are left to finish."""
    groups = [Group(name="berlin", facts={"site": "berlin"}, minimum=4), Group(name="all")]
    world = make_world(make_plan(groups=groups), 8, lambda k: Manner(end="never" if k >= 2 else "committed"))
    world.fleet = {name: replace(seen, facts={"site": "berlin"}) for name, seen in world.fleet.items()}
    world.look()
    world.act("pause")
    world.look()  # those that have not begun are called off
    for name in [*world.fleet][2:]:
        world.fleet.pop(name)  # they are forgotten, or have another site
        world.members.pop(name)
    world.act("resume")
    world.run(30)
    assert (world.progress.state, world.progress.reason, world.progress.stage) == ("undecided", "too_few", 0)


def test_who_comes_late_is_ordered_after_the_end_unless_a_later_rollout_is_there() -> None:
    world = make_world(make_plan(1.0), 5)
    world.run(60, until=lambda: world.progress.state == "finished")
    world.manners["late"], world.fleet["late"] = Manner(), make_seen("late")
    assert [order.device for order in world.look().orders] == ["late"]
    world.fleet["later"], world.manners["later"] = make_seen("later"), Manner()
    world.world = {"superseded": True}
    assert world.look().orders == []


def test_a_later_release_on_a_committed_device_is_not_taken_for_a_rollback() -> None:
    world = make_world(make_plan(1.0), 5)
    world.run(60, until=lambda: world.progress.state == "finished")
    for name, seen in world.fleet.items():
        world.fleet[name] = replace(seen, slots={"colours": Slot(running=OLDER)})
    world.run(5)
    assert world.count("committed") == 5
    for name, seen in world.fleet.items():
        world.fleet[name] = replace(seen, slots={"colours": Slot(running=OLD)})
    world.run(5)
    assert world.count("rolled_back") == 5 and world.progress.state == "halted", "back to what it ran before is one"


def test_several_tasks_are_done_when_all_are_and_bad_when_one_is() -> None:
    plan = make_plan(1.0, releases=[planned(), planned("a" * 64, task="sounds")])
    world = make_world(plan, 3, lambda k: Manner(end="never"))
    both = {"colours": Slot(running=OLD), "sounds": Slot(running=OLD)}
    world.fleet = {name: replace(seen, slots=both) for name, seen in world.fleet.items()}
    world.look()
    done = {"colours": Slot(running=NEW), "sounds": Slot(running="a" * 64)}
    half = done | {"sounds": Slot(running=OLD)}
    bad = {
        "colours": Slot(running=OLD),
        "sounds": Slot(running=OLD, state="refused", offered="a" * 64, refused=["a" * 64]),
    }
    for name, slots in zip(world.fleet, (done, half, bad), strict=True):
        world.fleet[name] = replace(world.fleet[name], slots=slots)
    world.look()
    assert [world.members[f"cam-{k}"].state for k in range(3)] == ["committed", "begun", "failed"]


# --- restarts


def test_a_step_from_what_is_stored_is_the_same_step() -> None:
    """Everything that is kept goes through JSON and back at each look, as if the process had ended."""
    plan = make_plan(0.3, 1.0, minimum=3, soak_s=600)
    kept, fresh = (make_world(plan, 40, chance(0.05, 5)) for _ in range(2))
    for _ in range(80):
        kept.look()
        kept.pass_time()
        fresh.progress = msgspec.json.decode(msgspec.json.encode(fresh.progress), type=Progress)
        fresh.members = msgspec.json.decode(msgspec.json.encode(fresh.members), type=dict[str, Member])
        fresh.fleet = msgspec.json.decode(msgspec.json.encode(fresh.fleet), type=dict[str, Seen])
        fresh.look()
        fresh.pass_time()
    assert (kept.progress, kept.members, kept.orders) == (fresh.progress, fresh.members, fresh.orders)


def test_a_second_look_at_the_same_moment_changes_nothing() -> None:
    world = make_world(make_plan(0.3, 1.0, minimum=3), 40, chance(0.3, 5))
    for _ in range(60):
        world.look()
        again = world.look()
        while again.members or again.orders:  # a stage may begin at each look; then there is nothing more
            again = world.look()
        before = (world.progress, dict(world.members))
        assert (world.look().orders, (world.progress, world.members)) == ([], before)
        world.pass_time()


# --- devices that tell orders apart

ORDER = 7


def told(outcome: str, *, order: int = ORDER, running: str = OLD, **slot: Any) -> Seen:
    said = Slot(running=running, order=order, outcome=outcome, reason="so it ended", **slot)
    return make_seen("cam-1", slots={"colours": said})


ENDS: dict[str, str] = {
    "committed": "committed",
    "refused": "failed",
    "gave_up": "failed",
    "companion": "failed",
    "rolled_back": "rolled_back",
    "stopped": "withdrawn",
    "replaced": "withdrawn",
    "something new": "waiting",
}


def observed(seen: Seen, **fields: Any) -> Member:
    member = Member(
        **({"device": "cam-1", "stage": 0, "order": ORDER, "first": ORDER, "before": {"colours": OLD}} | fields)
    )
    return observe(member, seen, make_plan(1.0), World(now_ms=MONDAY))


@pytest.mark.parametrize("outcome", ENDS)
def test_the_end_of_an_order_is_taken_as_the_device_tells_it(outcome: str) -> None:
    member = observed(told(outcome, running=NEW if outcome == "committed" else OLD))
    assert member.state == ENDS[outcome]
    assert member.reason == ("so it ended" if member.state in ("failed", "rolled_back") else "")


def test_the_end_of_an_older_order_is_not_taken_for_this_one() -> None:
    assert observed(told("refused", order=ORDER - 1)).state == "waiting"
    ends = [End(task="colours", order=ORDER - 1, outcome="refused")]
    assert observed(replace(told("", order=ORDER - 1), ends=ends)).state == "waiting"


def test_an_end_that_a_newer_order_has_overtaken_is_heard_all_the_same() -> None:
    ends = [End(task="colours", order=ORDER, outcome="rolled_back", reason="the new model was slow")]
    later = replace(told("", order=ORDER), ends=ends)
    member = observed(later)
    assert (member.state, member.reason) == ("rolled_back", "the new model was slow")


def test_who_was_stopped_and_goes_on_is_on_its_way_again() -> None:
    stopped = observed(told("stopped"))
    again = told("", state="fetching", offered=NEW)
    assert observe(stopped, again, make_plan(1.0), World(now_ms=MONDAY)).state == "begun"


def test_a_large_stage_is_ordered_part_by_part() -> None:
    world = make_world(make_plan(1.0), 1200, lambda k: Manner(end="never"))
    assert [len(world.look().orders) for _ in range(4)] == [500, 500, 200, 0]
