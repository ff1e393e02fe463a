"""What a stolen cloud, a broker, or a cloud that is away can do to a device's updates, and what a person at it can do all the same."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from edge_releases import DEVICE
from trust_world import NOW_S, an_order
from update_world import TASKS, World

from outrider_edge.updates import device as device_module
from outrider_edge.updates.asked import Asked
from outrider_edge.updates.ledger import DAY_MS, kept_number
from outrider_wire.errors import UnreachableError
from outrider_wire.messages import Desired
from outrider_wire.rollout import Stop

COLOURS = TASKS[0]
NOW_MS = round(NOW_S * 1000)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.boot()
    yield world
    await world.updater.stop()


def stick_of(world: World) -> Path:
    stick = world.folder / "stick"
    shutil.rmtree(stick, ignore_errors=True)
    shutil.copytree(world.site.repository.folder, stick)
    shutil.copytree(world.folder / "bundles", stick / "bundles")
    return stick


class Away:
    """A source of metadata that does not answer."""

    def fetch(self, path: str, most: int) -> bytes:
        raise UnreachableError("the cloud does not answer", reason="metadata_timed_out")


# --- stops, and what waits


async def test_a_stop_does_not_wait_until_metadata_is_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "RETRY_S", 3600.0)
    plan = world.site.planned(world.release(1))
    await asyncio.to_thread(world.updater.judge.refresh)  # type: ignore[union-attr]
    world.updater.judge._source = Away()  # type: ignore[union-attr]
    await world.order(plan)
    assert "does not answer" in world.updater.trouble
    world.updater.on_stop(world.site.stop(Stop(number=1, issued_ms=1, reason="a fire")))
    await world.until(lambda: world.ledger.now.halt.standing, within_s=10)


async def test_what_waits_is_bounded_and_the_newest_of_its_kind() -> None:
    asked_for = Asked()
    for k in range(1000):
        asked_for.put("order", b"%d" % k)
        asked_for.put("stop", b"%d" % k)
    asked_for.put_again("order", b"older")
    assert [await asked_for.get() for _ in range(2)] == [("stop", b"999"), ("order", b"999")]
    assert not await asked_for.within(0.01)


async def test_what_kept_an_order_from_being_judged_is_not_told_once_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "RETRY_S", 0.01)
    plan = world.site.planned(world.release(1))
    source = world.updater.judge._source  # type: ignore[union-attr]
    world.updater.judge._source = Away()  # type: ignore[union-attr]
    await world.order(plan)
    assert world.updater.held
    world.updater.judge._source = source  # type: ignore[union-attr]
    await world.carried_out(1)
    assert world.updater.held == ""


def test_a_stop_of_the_highest_number_of_all_can_be_lifted() -> None:
    assert kept_number(2**53 - 1, NOW_MS) == NOW_MS + DAY_MS
    assert kept_number(NOW_MS, NOW_MS) == NOW_MS
    assert kept_number(NOW_MS, 1_000) == NOW_MS, "a clock that was never set says nothing"


async def test_an_order_of_the_highest_number_of_all_is_refused_and_leaves_room_for_others(world: World) -> None:
    plan = world.site.planned(world.release(1))
    world.updater.on_desired(
        Desired(assignments=[], order=world.site.order(an_order(plan, device=DEVICE, stage=1, number=2**53 - 1)))
    )
    await world.until(lambda: world.ledger.now.attack == "order_ahead")
    assert world.ledger.now.order == 0
    await world.order(plan)
    await world.carried_out(1)


# --- what an order may ask for


async def test_the_highest_counter_outlives_a_ledger_that_is_lost(world: World) -> None:
    newer, older = world.release(2), world.release(1)
    await world.order(world.site.planned(newer), number=1)
    await world.carried_out(1)
    await world.until(lambda: world.ledger.now.ends and world.updater.judge._trusted.counter(COLOURS) == 2)  # type: ignore[union-attr]
    await world.updater.stop()
    shutil.rmtree(world.folder / "device/updates")  # as the fix of a damaged one says
    shutil.rmtree(world.folder / "device/slots")
    await world.boot()
    await world.order(world.site.planned(older, rollout="r2"), number=2)
    await world.until(lambda: world.ledger.now.ends)
    assert world.ledger.now.ends[-1].code == "counter_older"


async def test_an_attack_is_told_until_the_device_starts_anew(world: World) -> None:
    world.updater.on_stop(b"forged")
    await world.until(lambda: world.ledger.now.attack == "envelope_invalid")
    await world.updater.stop()
    await world.boot()
    await world.until(lambda: world.ledger.now.attack == "")


# --- a person at the device


async def test_a_stick_is_taken_while_the_cloud_is_away(world: World) -> None:
    plan = world.site.planned(world.release(1))
    world.updater.trouble = "the cloud did not answer"
    await world.hands.install(stick_of(world))
    await world.to_state("committed", COLOURS)
    assert world.slot().running == plan.releases[0].release


async def test_a_stick_is_taken_after_the_last_order_ended_badly(world: World) -> None:
    bad, good = world.release(1), world.release(2)
    world.bad.add(COLOURS)
    await world.order(world.site.planned(bad), number=1)
    await world.to_state("refused", COLOURS)
    world.bad.clear()
    world.site.planned(good, rollout="r2")
    await world.hands.install(stick_of(world), rollout="r2")
    await world.to_state("committed", COLOURS)
    assert world.slot().running == good.release


async def test_of_a_whole_repository_the_plan_that_may_be_carried_out_is_taken(world: World) -> None:
    first, second = world.release(1), world.release(2)
    await world.order(world.site.planned(first, rollout="a-first"), number=1)
    await world.carried_out(1)
    world.site.planned(second, rollout="b-second")
    world.site.planned(first, rollout="a-older", expires_ms=round(world.site.clock() * 1000) - 1)
    planned_now = await world.hands.install(stick_of(world))
    assert planned_now.rollout in ("a-first", "b-second")


async def test_two_tasks_change_together_from_a_stick_on_a_device_that_never_had_an_order(world: World) -> None:
    both = [world.release(1, task=task) for task in TASKS]
    world.site.planned(*both)
    await world.hands.install(stick_of(world))
    await world.to_state("committed", *TASKS)
    assert [world.slot(task).running for task in TASKS] == [each.release for each in both]


async def test_a_stick_brings_nothing_of_a_rollout_that_is_stopped(world: World) -> None:
    world.site.planned(world.release(1))
    await asyncio.to_thread(world.updater.judge.refresh)  # type: ignore[union-attr]
    await world.updater.halt(Stop(number=1, rollouts=["r1"], issued_ms=1))
    await world.hands.install(stick_of(world))
    await world.until(lambda: world.slot().code == "stopped")
    assert world.slot().state == "offered"
