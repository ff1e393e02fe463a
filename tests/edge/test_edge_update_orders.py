"""Signed orders on a whole device: real metadata, real bundles, real slots; one task or several together."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from edge_releases import DEVICE
from update_world import TASKS, World

from factory import make_bundle, make_task, parts_of, sure
from outrider_edge.updates.waiting import WhenTerms
from outrider_trust.reports import open_report
from outrider_wire.errors import TrustRefusedError
from outrider_wire.manifest import MANIFEST_FILE, manifest_digest
from outrider_wire.messages import Assignment, Desired
from outrider_wire.rollout import WEEK_MINUTES, Stop, WeeklyWindow

COLOURS, SHAPES = TASKS


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.boot()
    yield world
    await world.updater.stop()


async def committed(world: World, counter: int = 1, number: int = 1, **more: Any) -> str:
    """One task's signed release, carried out."""
    release = world.release(counter)
    await world.order(world.site.planned(release, rollout=f"r{number}", **more), number=number)
    await world.carried_out(number)
    return release.release


async def test_a_signed_order_is_carried_out_and_told_under_the_devices_signature(world: World) -> None:
    release = await committed(world)
    slot = world.slot()
    assert (slot.running, slot.order, slot.outcome, slot.release_counter) == (release, 1, "committed", 1)
    assert world.slot(SHAPES).state == "idle"
    first, told = await world.updater.reported(), await world.updater.reported()
    assert told.sequence == first.sequence + 1
    assert (told.order, told.device, told.metadata["root"], [end.outcome for end in told.ends]) == (
        1,
        DEVICE,
        1,
        ["committed"],
    )
    key = load_pem_private_key((world.folder / "device/updates/report.key").read_bytes(), None).public_key()
    opened = open_report(told.signed, key, device=DEVICE)
    assert opened.slots == told.slots and opened.sequence == told.sequence
    with pytest.raises(TrustRefusedError):
        open_report(told.signed.replace(b"ey", b"eY", 1), key, device=DEVICE)


async def test_with_a_root_of_trust_nothing_unsigned_is_heeded(world: World) -> None:
    release = world.release(1)
    wish = Assignment(task=COLOURS, release=release.release, size=release.size, counter=9)
    world.updater.on_desired(Desired(assignments=[wish]))
    await asyncio.sleep(0.1)
    assert (world.slot().state, world.shelf.pulled) == ("idle", {})


async def test_an_order_signed_by_another_key_is_refused_and_told_as_an_attack(world: World) -> None:
    plan = world.site.planned(world.release(1))
    world.site.control, real = world.site.targets, world.site.control
    await world.order(plan)
    world.site.control = real
    assert world.slot().state == "idle"
    assert (await world.updater.reported()).attack == "envelope_unsigned"


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ({"stage": 0}, "not_in_group"),
        ({"releases": "half"}, "order_partial"),
        ({"kind": "rollback"}, "rollback_not_permitted"),
    ],
)
async def test_an_order_that_leaves_its_plan_is_refused_before_a_byte_is_fetched(
    world: World, order: dict[str, Any], code: str
) -> None:
    plan = world.site.planned(world.release(1), world.release(1, task=SHAPES))
    if order.get("releases"):
        order = {"releases": plan.releases[:1]}
    await world.order(plan, **order)
    await world.until(lambda: world.slot().code == code)
    assert (world.slot().outcome, world.slot().order, world.slot().state) == ("refused", 1, "idle")
    assert not world.shelf.pulled
    assert world.ledger.now.ends[-1].code == code


async def test_two_tasks_of_one_order_change_together(world: World) -> None:
    plan = world.site.planned(world.release(1), world.release(1, task=SHAPES))
    await world.order(plan)
    await world.to_state("probation")
    world.serve(COLOURS)
    await asyncio.sleep(0.2)
    assert world.slot(COLOURS).state == "probation"  # it waits for the other
    await world.to_state("committed")
    await world.until(lambda: [end.outcome for end in world.ledger.now.ends] == ["committed", "committed"])


async def test_when_one_of_two_is_unfit_neither_changes(world: World) -> None:
    before = {task: world.slot(task).running for task in TASKS}
    world.bad.add(SHAPES)
    plan = world.site.planned(world.release(1), world.release(1, task=SHAPES))
    await world.order(plan)
    await world.to_state("refused")
    assert {task: world.slot(task).running for task in TASKS} == before
    assert world.slot(SHAPES).refused == [plan.releases[1].release]
    assert (world.slot(COLOURS).refused, world.slot(COLOURS).outcome) == ([], "companion")
    world.bad.clear()
    again = world.site.planned(plan.releases[0], rollout="r2")
    await world.order(again, number=2)  # nothing was said against the first
    await world.to_state("committed", COLOURS)


async def test_when_one_of_two_fails_on_live_input_both_go_back(world: World) -> None:
    before = {task: world.slot(task).running for task in TASKS}
    await world.order(world.site.planned(world.release(1), world.release(1, task=SHAPES)))
    await world.to_state("probation")
    world.serve(COLOURS)
    await asyncio.sleep(0.1)
    world.runtimes[SHAPES].failed += 1
    await world.to_state("refused")
    assert {task: world.runtimes[task].model.digest for task in TASKS} == before
    assert {world.slot(task).outcome for task in TASKS} == {"rolled_back", "companion"}


async def test_a_stop_ends_what_is_under_way_and_is_remembered_and_lifted(world: World) -> None:
    world.shelf.away = 10**9
    plan = world.site.planned(world.release(1))
    await world.order(plan)
    await world.until(lambda: world.slot().state == "fetching")
    stop = world.site.stop(Stop(number=4, reason="smoke", issued_ms=1))
    world.updater.on_stop(stop)
    await world.until(lambda: world.slot().outcome == "stopped")
    assert world.slot().state in ("idle", "offered")  # the order stands, and waits until the stop is lifted
    await asyncio.sleep(0.2)
    assert world.slot().state in ("idle", "offered") and world.slot().code == "stopped"
    await world.updater.stop()

    await world.boot()
    assert "smoke" in world.updater.held
    await world.order(plan, number=2)
    world.updater.on_stop(world.site.stop(Stop(number=3, lifted=True, issued_ms=2)))  # an older word
    await asyncio.sleep(0.1)
    assert world.slot().state != "fetching" and world.updater.held
    world.shelf.away = 0
    world.updater.on_stop(world.site.stop(Stop(number=5, lifted=True, issued_ms=3)))
    await world.to_state("committed", COLOURS)
    assert (await world.updater.reported()).stop == 5


async def test_a_stop_in_a_probation_returns_to_the_model_before(world: World) -> None:
    before = world.slot().running
    await world.order(world.site.planned(world.release(1)))
    await world.to_state("probation", COLOURS)
    world.updater.on_stop(world.site.stop(Stop(number=1, rollouts=["r1"], issued_ms=1)))
    await world.until(lambda: world.slot().outcome == "stopped")
    assert world.slot().state in ("idle", "offered")  # the order stands, and waits until the stop is lifted
    await asyncio.sleep(0.2)
    assert world.slot().state in ("idle", "offered") and world.slot().code == "stopped"
    assert (world.runtimes[COLOURS].model.digest, world.slot().refused) == (before, [])


async def test_a_forged_stop_stops_nothing(world: World) -> None:
    world.updater.on_stop(world.site.stop(Stop(number=9, issued_ms=1), signers=[world.site.targets]))
    await world.until(lambda: world.ledger.now.attack == "envelope_unsigned")
    assert not world.ledger.now.halt.standing


async def test_an_order_waits_for_its_stage_its_freeze_and_the_devices_window(world: World) -> None:
    now_ms = round(world.site.clock() * 1000)
    minute = (now_ms // 60_000 + 3 * 1440) % WEEK_MINUTES
    freeze = [WeeklyWindow(begin=minute, end=(minute + 120) % WEEK_MINUTES)]
    plan = world.site.planned(world.release(1), start_ms=now_ms, soak_s=3600, freeze=freeze)
    await world.order(plan, expires_ms=now_ms + 10**9)
    await world.until(lambda: world.slot().code == "too_early")
    world.site.clock.at_s += 3601
    await world.until(lambda: world.slot().code == "frozen")
    assert not world.shelf.pulled
    world.site.clock.at_s += 3600
    await world.to_state("committed", COLOURS)


async def test_outside_its_own_window_a_device_begins_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    minute = (round(world.site.clock() * 1000) // 60_000 + 3 * 1440) % WEEK_MINUTES
    world.when = WhenTerms(
        windows=(WeeklyWindow(begin=(minute + 60) % WEEK_MINUTES, end=(minute + 90) % WEEK_MINUTES),)
    )
    await world.boot()
    await world.order(world.site.planned(world.release(1)), expires_ms=round(world.site.clock() * 1000) + 10**9)
    await world.until(lambda: world.slot().code == "outside_window")
    world.site.clock.at_s += 3700
    await world.to_state("committed", COLOURS)
    await world.updater.stop()


async def test_an_order_that_runs_out_before_it_could_begin_is_given_up(world: World) -> None:
    await world.hands.pin(pinned=True)
    await world.order(world.site.planned(world.release(1)))
    await world.until(lambda: world.slot().state == "offered")
    world.site.clock.at_s += 3601
    await world.hands.pin(pinned=False)
    await world.until(lambda: world.slot().outcome == "gave_up")
    assert world.slot().code == "order_expired"


async def test_a_stuck_order_never_blocks_the_next(world: World) -> None:
    bundle = make_bundle(world.folder / "nowhere", make_task(COLOURS), seed=77, version="77")
    await world.order(world.site.planned(world.site.bundle(bundle.with_name("gone"), 1, seed=78)))
    await world.until(lambda: world.slot().code == "blob_gone")
    await committed(world, counter=2, number=2)


async def test_an_older_counter_comes_back_only_by_the_plans_own_permission(world: World) -> None:
    old = await committed(world, counter=5, number=1)
    await committed(world, counter=7, number=2)
    older = world.release(6)
    await world.order(world.site.planned(older, rollout="r3"), number=3)
    await world.until(lambda: world.slot().code == "counter_older")
    assert world.slot().order == 3
    back = world.site.planned(world.release(8), rollout="r4", rollback_to=[older])
    await world.order(back, number=4, kind="rollback", releases=[older])
    await world.until(lambda: world.slot().running == older.release)
    await world.to_state("committed", COLOURS)
    assert world.ledger.task(COLOURS).floor == 7
    assert old != older.release


async def test_a_rollback_order_returns_to_what_ran_before_without_fetching_it(world: World) -> None:
    first = world.release(1)
    await world.order(world.site.planned(first, rollout="r1"), number=1)
    await world.to_state("committed", COLOURS)
    second = world.release(2)
    plan = world.site.planned(second, rollout="r2")
    await world.order(plan, number=2)
    await world.carried_out(2)
    pulled = dict(world.shelf.pulled)
    await world.order(plan, number=3, kind="rollback", releases=[first])
    await world.until(lambda: world.slot().running == first.release)
    await world.to_state("committed", COLOURS)
    assert dict(world.shelf.pulled) == pulled
    assert world.slot().refused == []


async def test_the_same_counter_or_version_with_another_digest_is_refused(world: World) -> None:
    await committed(world, counter=5, number=1)
    twin = world.release(5, name="-twin", seed=50)
    await world.order(world.site.planned(twin, rollout="r2"), number=2)
    await world.until(lambda: world.slot().code == "counter_reused")
    same = world.release(6, version="1.5")
    await world.order(world.site.planned(same, rollout="r3"), number=3)
    await world.until(lambda: world.slot().code == "version_reused")
    assert world.ledger.now.attack == "version_reused"


async def test_a_refused_release_stays_refused_whatever_order_brings_it(world: World) -> None:
    world.bad.add(COLOURS)
    release = world.release(1)
    await world.order(world.site.planned(release, rollout="r1"), number=1)
    await world.to_state("refused", COLOURS)
    await world.until(lambda: world.ledger.now.ends)
    world.bad.clear()
    await world.updater.stop()
    (world.slots(COLOURS).folder / "state.json").unlink()  # even when its record is lost
    await world.boot()
    await world.order(world.site.planned(release, rollout="r2"), number=2)
    await world.until(lambda: world.slot().code == "refused_before")
    await committed(world, counter=2, number=3)


async def test_an_order_older_than_the_last_is_ignored_and_another_of_the_same_number_refused(world: World) -> None:
    await committed(world, counter=1, number=5)
    plan = world.site.planned(world.release(2), rollout="r9")
    await world.order(plan, number=4)
    await world.order(plan, number=5)
    await world.until(lambda: world.ledger.now.attack == "order_reused")
    assert world.slot().release_counter == 1


async def test_a_device_that_was_away_for_long_keeps_its_model_and_takes_fresh_metadata(world: World) -> None:
    await committed(world)
    running = world.slot().running
    world.site.clock.at_s += 30 * 86400
    await world.updater.stop()
    await world.boot()
    plan = world.site.planned(
        world.release(2),
        rollout="r2",
        start_ms=round(world.site.clock() * 1000),
        expires_ms=round(world.site.clock() * 1000) + 10**9,
    )
    world.site.clock.at_s += 30 * 86400  # everything that was just signed has expired again
    now_ms = round(world.site.clock() * 1000)
    await world.order(plan, number=2, issued_ms=now_ms, expires_ms=now_ms + 10**9)
    assert "expired" in world.updater.trouble and world.slot().running == running
    for task in TASKS:
        world.site.publish_role(task)
    world.site.sign_targets()
    world.site.online()
    fresh = world.site.planned(world.release(3), rollout="r3", start_ms=now_ms, expires_ms=now_ms + 10**9)
    world.updater.on_newer(10**6)
    await world.order(fresh, number=3, issued_ms=now_ms, expires_ms=now_ms + 10**9)
    await world.until(lambda: world.ledger.now.order == 3)
    await world.to_state("committed", COLOURS)


async def test_a_swap_and_a_rollback_under_load_refuse_no_input(world: World) -> None:
    runtime, stop, answered = world.runtimes[COLOURS], asyncio.Event(), []

    async def asks() -> None:
        while not stop.is_set():
            answered.append((await runtime.ask(parts_of(sure()))).model.digest)
            await asyncio.sleep(0)

    callers = [asyncio.create_task(asks()) for _ in range(8)]
    before = world.slot().running
    await world.order(world.site.planned(world.release(1)))
    await world.until(lambda: world.slot().state in ("probation", "committed"))
    await world.to_state("committed", COLOURS)
    await world.hands.rollback(COLOURS)
    await world.until(lambda: world.slot().state == "refused")
    stop.set()
    await asyncio.gather(*callers)  # an input that was refused raises here
    assert set(answered) == {before, world.slot().refused[0]} and len(answered) > 100


def test_the_world_publishes_real_bundles(tmp_path: Path) -> None:
    world = World(tmp_path)
    planned = world.release(1)
    data = (tmp_path / "bundles" / f"{COLOURS}-1" / MANIFEST_FILE).read_bytes()
    assert planned.release == manifest_digest(data)


async def test_an_order_that_is_said_again_is_judged_once(world: World) -> None:
    """The cloud says what stands at every word from a device: were each answered with a word, neither would ever be silent."""
    await committed(world)
    said = await world.order(world.site.planned(world.release(2), rollout="r2"), number=2)
    await world.carried_out(2)
    words: list[str] = []
    world.updater._changed = lambda: words.append("report")
    for _ in range(3):
        world.updater.on_desired(Desired(assignments=[], order=said))
    await asyncio.sleep(0.2)
    assert words == []
