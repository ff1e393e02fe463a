"""The controller of a rollout, on a fleet without a wire: when it goes on, when it stops, whom it orders, and that nobody can push it."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from rollout_fleet import (
    MINUTE,
    MONDAY,
    NEW,
    OLD,
    Manner,
    chance,
    make_plan,
    make_seen,
    make_world,
)

from outrider_cloud.rollout.records import Count, Progress, Slot, World
from outrider_wire.rollout import fraction, stage_of


def good(_: int) -> Manner:
    return Manner()


def test_a_good_release_reaches_all_stage_by_stage() -> None:
    world = make_world(make_plan(0.1, 0.5, 1.0, minimum=3), 100)
    reached: list[int] = []
    world.run(200, until=lambda: reached.append(world.progress.stage) or world.progress.state == "finished")
    assert world.progress.state == "finished" and world.count("committed") == 100
    assert sorted(set(reached)) == [0, 1, 2] and reached == sorted(reached)
    assert world.stops == 0
    assert world.progress.events[0].what == "stage stage-0 begins"


def test_nobody_is_ordered_before_the_stage_it_belongs_to() -> None:
    plan = make_plan(0.1, 0.5, 1.0, minimum=1000)
    world = make_world(plan, 200)
    world.run(60)
    expected = {name for name in world.fleet if fraction(plan, name) < 0.1}
    assert world.members.keys() == expected and world.progress.state == "undecided"
    assert world.progress.reason == "too_few"


def test_every_device_is_ordered_once_and_keeps_its_place() -> None:
    plan = make_plan(0.2, 1.0)
    world = make_world(plan, 50)
    world.run(100, until=lambda: world.progress.state == "finished")
    assert len(world.orders) == len({order.device for order in world.orders}) == 50
    assert all(order.stage == stage_of(plan, order.device, {}) for order in world.orders)
    assert all(order.expires_ms <= plan.expires_ms and order.kind == "update" for order in world.orders)


# --- thresholds


@pytest.mark.parametrize("end", ["failed", "rolled_back"])
def test_a_bad_release_is_halted_in_its_first_stage_and_who_is_mid_way_stops(end: str) -> None:
    world = make_world(make_plan(0.1, 1.0, minimum=5), 200, chance(0.6, 1, end))
    world.run(200, until=lambda: world.progress.state == "halted")
    assert (world.progress.state, world.progress.stage, world.stops) == ("halted", 0, 1)
    assert world.progress.reason == {"failed": "failures", "rolled_back": "rollbacks"}[end]
    assert len(world.members) < 40 and world.count("waiting") == 0
    before = len(world.orders)
    world.run(50)
    assert len(world.orders) == before and world.stops == 1, "it says so once, and orders nobody more"


@pytest.mark.parametrize("runs", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_a_release_within_its_limits_is_halted_no_more_often_than_stated(runs: int) -> None:
    """Both rates at once at their limits, 100 devices a rollout, looked at every minute."""
    halted = 0
    for seed in range(runs):
        plan = make_plan(0.3, 1.0, limits={"failures": 0.05, "rollbacks": 0.05}, rollout=f"r-{seed}")
        world = make_world(plan, 100, chance(0.05, seed))
        world.run(40, until=lambda world=world: world.progress.state not in ("scheduled", "running"), every=2)
        halted += world.progress.state == "halted"
    assert halted / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


@pytest.mark.parametrize("runs", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_a_release_at_the_rate_that_the_forecast_names_is_halted_as_often_as_it_says(runs: int) -> None:
    from outrider_cloud.rollout.forecast import Carriage, forecast
    from outrider_cloud.rollout.records import Look

    halted = 0
    plan = make_plan(1.0, limits={"failures": 0.05})
    fleet = {f"cam-{k}": make_seen(f"cam-{k}") for k in range(60)}
    look = Look(plan=plan, progress=Progress(), members={}, fleet=fleet, world=World(now_ms=MONDAY))
    rate = forecast(look, Carriage()).stages[0].halted_above
    assert rate is not None and 0.1 < rate < 0.5
    for seed in range(runs):
        world = make_world(plan, 60, chance(rate, seed))
        world.run(30, until=lambda world=world: world.progress.state not in ("scheduled", "running"), every=2)
        halted += world.progress.state == "halted"
    assert halted / runs >= 0.95 - 3 * (0.95 * 0.05 / runs) ** 0.5


@pytest.mark.parametrize("lie", ["failed", "rolled_back", "dark"])
def test_two_compromised_devices_do_not_stop_a_rollout(lie: str) -> None:
    world = make_world(make_plan(0.2, 1.0, minimum=2), 30, lambda k: Manner(end=lie if k < 2 else "committed"))
    world.run(900, until=lambda: world.progress.state == "finished", every=2)
    assert world.progress.state == "finished" and world.stops == 0


def test_a_device_that_is_on_its_way_for_ever_holds_up_nobody() -> None:
    world = make_world(make_plan(0.5, 1.0), 10, lambda k: Manner(minutes=10**6 if k == 3 else 5))
    world.run(80 * 60, until=lambda: world.progress.state == "finished", every=60)
    assert world.progress.state == "finished" and world.count("begun") == 1


def test_one_device_is_counted_once_whatever_it_says_and_however_often() -> None:
    world = make_world(make_plan(1.0), 8, lambda k: Manner(end="never"))
    for turn in range(60):
        world.look()
        world.now_ms += MINUTE
        state = ("refused", "probation", "idle")[turn % 3]
        refused = [NEW] if state == "refused" else []
        running = NEW if state == "probation" else OLD
        slot = Slot(running=running, state=state, offered=NEW, refused=refused)
        world.fleet["cam-1"] = replace(world.fleet["cam-1"], slots={"colours": slot}, seen_ms=world.now_ms)
    assert world.last is not None
    assert {figure.name: figure.bad for figure in world.last.figures} == {
        "failures": 1,
        "rollbacks": 0,
        "alarms": 0,
        "silence": 0,
    }
    assert world.progress.state == "running"


def test_one_device_cannot_push_a_stage_on() -> None:
    world = make_world(make_plan(0.5, 1.0, minimum=5), 20, lambda k: Manner() if k == 0 else Manner(end="never"))
    world.run(200)
    assert world.progress.stage == 0 and world.count("committed") <= 1


def test_a_device_that_was_not_ordered_counts_for_nothing() -> None:
    plan = make_plan(0.2, 1.0, minimum=50)
    world = make_world(plan, 100, lambda k: Manner(end="never"))
    for name, seen in world.fleet.items():
        if fraction(plan, name) >= 0.2:  # they say that it runs, or that it failed: nobody has asked them
            liar = (
                Slot(running=NEW) if fraction(plan, name) < 0.6 else Slot(running=OLD, state="refused", refused=[NEW])
            )
            world.fleet[name] = replace(seen, slots={"colours": liar})
    world.run(30)
    assert world.last is not None and all(figure.n == 0 for figure in world.last.figures)
    assert world.progress.stage == 0


def test_doubt_is_for_a_person_and_more_devices_end_it() -> None:
    limits = {"failures": 0.1}
    world = make_world(
        make_plan(0.5, 1.0, limits=limits), 40, lambda k: Manner(end="failed" if k in (1, 2, 3) else "committed")
    )
    inside = [k for k in range(40) if fraction(world.plan, f"cam-{k}") < 0.5]
    ends = {f"cam-{k}": Manner(end="failed") for k in inside[:3]}
    world.manners = {name: ends.get(name, Manner()) for name in world.manners}
    world.run(60)
    assert (world.progress.state, world.progress.reason) == ("undecided", "doubtful_failures")
    assert len(inside) == len(world.members), "nobody of the next stage is ordered"
    world.act("approve")
    world.run(60, until=lambda: world.progress.stage == 1)
    assert world.progress.stage == 1


def test_alarms_since_halt_and_alarms_before_do_not() -> None:
    world = make_world(make_plan(1.0, limits={"alarms": 0.05}), 20, lambda k: Manner(alarm=True))
    world.run(60, until=lambda: world.progress.state == "halted")
    assert (world.progress.state, world.progress.reason) == ("halted", "alarms")
    old = make_world(make_plan(1.0, limits={"alarms": 0.05}), 20)
    old.fleet = {name: replace(seen, alarms={"colours": "certificate-1"}) for name, seen in old.fleet.items()}
    old.run(60, until=lambda: old.progress.state == "finished")
    assert old.progress.state == "finished"


def test_a_device_that_signs_no_figures_counts_neither_for_a_release_nor_against_it() -> None:
    plan = make_plan(1.0, limits={"alarms": 0.05})
    for signing, n in ((0, 20), (10, 10), (20, 0)):
        world = make_world(plan, 20, lambda k, signing=signing: Manner(signs=k >= signing))
        world.run(40)
        assert world.last is not None and world.progress.state == "finished"
        assert {each.name: each.n for each in world.last.figures} == {
            "failures": 20, "rollbacks": 20, "alarms": n, "silence": 20,
        }  # fmt: skip
    lying = make_world(plan, 20, lambda _: Manner(alarm=True, signs=False))
    lying.run(40)
    assert lying.progress.state == "finished", "an alarm that nobody signed is none"
    for unsigned, state in ((0, "undecided"), (16, "halted")):  # three of 20, or of the four whose word is known
        some = make_world(plan, 20, lambda k, unsigned=unsigned: Manner(alarm=k >= 17, signs=k >= unsigned))
        some.run(40)
        assert some.progress.state == state


# --- silence


def test_devices_that_go_dark_with_it_halt_it() -> None:
    limits = {"silence": 0.1, "silence_s": 3600}
    world = make_world(make_plan(0.2, 1.0, minimum=2, limits=limits, soak_s=3 * 3600), 100, chance(0.8, 3, "dark"))
    world.run(300, until=lambda: world.progress.state == "halted", every=5)
    assert (world.progress.state, world.progress.reason, world.progress.stage) == ("halted", "silence", 0)


def silent_world(**world: Any) -> Any:
    made = make_world(make_plan(0.2, 1.0, minimum=2, limits={"silence": 0.1, "silence_s": 3600}, soak_s=7200), 60)
    made.world = world
    made.run(30)
    return made


def test_a_broker_that_is_away_blames_no_device() -> None:
    world = silent_world()
    for _ in range(40):  # nobody is heard of: the devices work on, and their words are lost
        world.now_ms += 5 * MINUTE
        world.look()
    assert world.progress.state == "running" and not any(each.silent for each in world.members.values())


def test_a_cloud_that_was_down_blames_no_device() -> None:
    world = silent_world()
    world.now_ms += 5 * 3600_000
    silenced = set(world.members)
    world.fleet = {
        name: seen if name in silenced else replace(seen, seen_ms=world.now_ms) for name, seen in world.fleet.items()
    }
    world.world = {"listening_ms": world.now_ms}
    world.look()
    assert not any(each.silent for each in world.members.values())
    world.world = {}
    world.look()
    assert all(world.members[name].silent for name in silenced), "the same without a break in listening"


# --- escalation


def shares(sent: float) -> Callable[[int], Manner]:
    return lambda _: Manner(sent=sent)


def test_a_release_that_escalates_more_than_the_others_is_halted() -> None:
    world = make_world(make_plan(0.3, 1.0, minimum=5, soak_s=3600), 120, shares(0.6))
    world.run(240, until=lambda: world.progress.state == "halted", every=5)
    assert (world.progress.state, world.progress.reason, world.progress.stage) == ("halted", "escalation", 0)


def test_one_within_the_margin_goes_on() -> None:
    world = make_world(make_plan(0.3, 1.0, minimum=5, soak_s=3600), 120, shares(0.22))
    world.run(240, until=lambda: world.progress.stage == 1, every=5)
    assert world.progress.stage == 1 and world.progress.looks == 1


def test_a_rise_on_all_devices_alike_is_no_finding() -> None:
    """A busy day: everybody escalates more, with the release or without."""
    world = make_world(make_plan(0.3, 1.0, minimum=5, soak_s=3600), 120, shares(0.6))
    world.look()
    assert len(world.progress.control) == 120
    original = world.pass_time

    def busy(minutes: int = 1) -> None:
        original(minutes)
        for name, seen in world.fleet.items():
            count = seen.counts["colours"]
            more = Count(inputs=count.inputs, sent=count.sent + (4 * minutes if name not in world.members else 0))
            world.fleet[name] = replace(seen, counts={"colours": more})

    world.pass_time = busy  # type: ignore[method-assign]  # the day itself
    world.run(240, until=lambda: world.progress.stage == 1 or world.progress.state == "halted", every=5)
    assert world.progress.stage == 1


def test_few_devices_are_not_compared_and_it_is_said() -> None:
    world = make_world(make_plan(1.0), 2, shares(1.0))
    world.run(60, until=lambda: world.progress.state == "finished")
    figure = next(each for each in world.last.figures if each.name == "escalation") if world.last else None
    assert figure is not None and figure.says == "not_compared" and "too few" in figure.what
