"""What must have finished before the next stage begins: a share of the stage, which no dead or sleeping device holds up for ever."""

from typing import Any

import pytest
from msgspec.structs import replace
from rollout_fleet import DAY, MONDAY, FleetWorld, Manner, make_plan, make_seen, make_world
from rollout_power import Outcome, outcome, stages

from outrider_cloud.rollout import leaving, verdict
from outrider_cloud.rollout.forecast import Carriage, Forecast, forecast
from outrider_cloud.rollout.records import Look, Progress, World
from outrider_wire.rollout import Group, stage_of

HOUR = 60
"""In minutes."""


def asleep(world: FleetWorld, name: str) -> None:
    """It has been away since before the rollout, and stays so."""
    world.manners[name] = Manner(end="never")
    world.fleet[name] = make_seen(name, online=False, seen_ms=MONDAY - DAY)


def fleet(devices: int, *, away: float, groups: list[Group] | None = None, salt: str = "a salt of this rollout") -> Any:
    """A fleet of which every device of a share ``away`` never comes; by its place, so that the share is the same in every run."""
    world = make_world(make_plan(groups=groups or stages(0.2, 1.0), salt=salt), devices)
    for k in range(devices):
        if (k * 7919) % devices < away * devices:
            asleep(world, f"cam-{k}")
    return world


def first_stage(world: FleetWorld) -> list[str]:
    """The names of its devices."""
    return [name for name in world.fleet if stage_of(world.plan, name, {}) == 0]


def ended(world: FleetWorld) -> bool:
    return world.progress.state not in ("scheduled", "running")


# --- it ends


@pytest.mark.parametrize("seed", range(4))
def test_two_in_a_hundred_dead_devices_hold_no_stage_up(seed: int) -> None:
    world = fleet(100, away=0.02, salt=f"a salt of rollout {seed}")
    world.run(10 * HOUR, until=lambda: ended(world), every=5)
    assert world.progress.state == "finished" and world.count("committed") == 98


@pytest.mark.parametrize("away", [0.5, 0.7, 0.9])
def test_a_group_that_mostly_sleeps_is_waited_for_until_the_silence_counts_and_no_longer(away: float) -> None:
    world = fleet(200, away=away)
    world.run(5 * HOUR, every=5)
    assert world.progress.stage == 0, "who sleeps may yet come"
    world.run(4 * HOUR, until=lambda: world.progress.stage == 1, every=5)
    assert world.progress.stage == 1 and world.progress.state == "running"
    late = next(name for name in first_stage(world) if world.manners[name].end == "never")
    world.manners[late] = Manner()
    world.fleet[late] = replace(world.fleet[late], online=True)
    world.run(HOUR, every=2)
    assert world.members[late].state == "committed", "it is offered the release when it wakes"


def test_the_negative_control_of_that_rule_waits_three_days_and_then_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "_asleep", lambda *_: False)
    world = fleet(200, away=0.7)
    world.run(71 * HOUR, every=60)
    assert (world.progress.state, world.progress.stage) == ("running", 0)
    world.run(3 * HOUR, until=lambda: ended(world), every=30)
    assert (world.progress.state, world.progress.reason) == ("undecided", "too_few")


def test_where_fewer_come_than_a_threshold_needs_a_person_is_asked_once_for_all() -> None:
    """Two of the stage's devices are awake: less than three prove nothing. That orders are made anew wakes no hope again."""
    world = fleet(60, away=0.0)
    for name in first_stage(world)[2:]:
        asleep(world, name)
    states = set[str]()
    world.run(73 * HOUR, until=lambda: ended(world), every=60)
    assert (world.progress.state, world.progress.reason) == ("undecided", "too_few")
    world.run(100 * HOUR, until=lambda: bool(states.add(world.progress.state)), every=60)
    assert states == {"undecided"}
    world.act("approve")
    world.run(HOUR, until=lambda: world.progress.stage == 1, every=2)
    assert world.progress.stage == 1


def test_a_device_that_came_and_went_is_not_taken_for_one_that_sleeps() -> None:
    """A release that ends the agent before it says a word: the devices were heard of since they were ordered, and are no more."""
    world = fleet(100, away=0.0)
    for name in first_stage(world)[1:]:
        world.manners[name] = Manner(end="never")
    world.run(2)
    for name in first_stage(world)[1:]:
        world.fleet[name] = replace(world.fleet[name], online=False, seen_ms=world.now_ms)
    world.run(80 * HOUR, until=lambda: ended(world), every=60)
    assert (world.progress.state, world.progress.stage, world.progress.reason) == ("undecided", 0, "too_few")


def test_a_cloud_that_hears_nobody_takes_nobody_for_asleep() -> None:
    world = fleet(200, away=0.7)
    for _ in range(80):
        world.world = {"listening_ms": world.now_ms - 60_000}
        world.look()
        world.pass_time(10)
    assert world.progress.stage == 0


def test_a_slow_device_is_waited_for_where_more_must_finish() -> None:
    """The first to finish are those on which the release works: sixty in a hundred must have, and one need not be the first."""
    world = make_world(make_plan(groups=stages(0.5, 1.0)), 40, lambda k: Manner(minutes=5 if k % 3 == 0 else 60))
    world.run(30)
    assert world.progress.stage == 0 and "must" in world.progress.what
    world.run(60, until=lambda: world.progress.stage == 1)
    assert world.progress.stage == 1


def test_what_a_person_has_forgiven_need_not_finish() -> None:
    world = make_world(make_plan(groups=stages(0.5, 1.0)), 60)
    for name in first_stage(world)[::2]:
        world.manners[name] = Manner(end="failed")
    world.run(60, until=lambda: world.progress.state == "halted")
    world.members = {name: replace(each, forgiven=each.state == "failed") for name, each in world.members.items()}
    world.act("resume")
    world.run(60, until=lambda: world.progress.stage == 1)
    assert world.progress.stage == 1


# --- a few canaries


def test_two_canaries_that_fail_call_a_person_and_one_never_does() -> None:
    for failing, expected in ((2, ("undecided", 0)), (1, ("running", 1))):
        world = make_world(make_plan(groups=stages(0.1, 1.0), soak_s=3600), 100)
        for name in first_stage(world)[:failing]:
            world.manners[name] = Manner(end="failed")
        world.run(90, until=lambda world=world: world.progress.stage == 1 or ended(world))
        assert (world.progress.state, world.progress.stage) == expected
        assert world.stops == 0


RUNS = 30


@pytest.fixture(scope="module")
def bad() -> Outcome:
    return outcome(stages(0.05, 0.25, 1.0), 0.3, runs=RUNS)


def test_a_release_that_fails_on_three_in_ten_is_kept_from_the_second_stage(bad: Outcome) -> None:
    assert bad.passed <= 0.4 and bad.reach <= 0.12


def test_the_negative_control_of_these_rules_lets_it_pass(monkeypatch: pytest.MonkeyPatch, bad: Outcome) -> None:
    """One device ends a stage at once, and nobody asks about two that fail."""
    monkeypatch.setattr(verdict, "DOUBTED", 1000)
    before = outcome(stages(0.05, 0.25, 1.0, minimum=1, share=0.0), 0.3, runs=RUNS, soak_s=0)
    assert before.passed >= 2 * bad.passed and before.reach >= 1.5 * bad.reach


@pytest.mark.slow
def test_a_release_within_its_limits_is_neither_halted_nor_asked_about_more_often_than_the_page_says() -> None:
    good = outcome(stages(0.05, 0.25, 1.0), 0.01, runs=100)
    assert good.halted <= 0.05 and good.asked <= 0.05 and good.passed >= 0.95


# --- what is foretold


def foretold(devices: int, groups: list[Group]) -> Forecast:
    plan = make_plan(groups=groups, soak_s=8 * 3600)
    seen = {f"cam-{k}": make_seen(f"cam-{k}") for k in range(devices)}
    return forecast(
        Look(plan=plan, progress=Progress(), members={}, fleet=seen, world=World(now_ms=MONDAY)), Carriage()
    )


def test_the_forecast_says_what_must_finish_and_warns_of_a_minimum_that_rules_out_little() -> None:
    said = foretold(200, stages(0.05, 1.0))
    canary = said.stages[0]
    assert canary.asked == "60%" and canary.minimum == -(-canary.devices * 6 // 10)
    assert canary.ruled_out_at_minimum > 0.25
    assert any(f"may end with {canary.minimum} devices (--min 60%)" in each for each in said.warnings)


def test_a_minimum_that_rules_out_enough_is_not_warned_of() -> None:
    said = foretold(200, stages(0.3, 1.0))
    assert said.stages[0].ruled_out_at_minimum < 0.1
    assert not any("--min" in each for each in said.warnings)
