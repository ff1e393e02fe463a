"""What a person does at the device: pins it, brings a folder, keeps and returns. Real metadata, real bundles, real slots."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from trust_world import SALT
from update_world import TASKS, World

from outrider_edge.updates.record import Record
from outrider_wire.errors import OutriderError, RuleRefusalError
from outrider_wire.messages import Desired
from outrider_wire.rollout import Group

COLOURS = TASKS[0]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.boot()
    yield world
    await world.updater.stop()


async def test_a_pin_holds_what_comes_over_restarts_until_it_is_lifted(world: World) -> None:
    await world.hands.pin(pinned=True, reason="audit")
    await world.updater.stop()
    await world.boot()
    await world.order(world.site.planned(world.release(1)))
    await world.until(lambda: world.slot().code == "pinned")
    assert world.slot().state == "offered" and not world.shelf.pulled
    await world.hands.pin(pinned=False)
    await world.to_state("committed", COLOURS)


async def test_a_person_installs_from_a_folder_with_the_same_checks(world: World, tmp_path: Path) -> None:
    plan = world.site.planned(world.release(1))
    stick = tmp_path / "stick"
    shutil.copytree(world.site.repository.folder, stick)
    shutil.copytree(world.folder / "bundles", stick / "bundles")
    world.shelf.blobs.clear()
    assert (await world.hands.install(stick, dry_run=True)).releases == {COLOURS: plan.releases[0].release}
    assert world.slot().state == "idle"
    await world.hands.install(stick)
    await world.to_state("committed", COLOURS)
    assert world.slot().running == plan.releases[0].release


async def test_a_person_s_folder_counts_though_the_last_order_ended_ill(world: World, tmp_path: Path) -> None:
    world.bad.add(COLOURS)
    await world.order(world.site.planned(world.release(1)), number=7)
    await world.until(lambda: world.slot().state == "refused")
    world.bad.clear()
    plan = world.site.planned(world.release(2), rollout="mended")
    stick = tmp_path / "stick"
    shutil.copytree(world.site.repository.folder, stick)
    shutil.copytree(world.folder / "bundles", stick / "bundles")
    await world.hands.install(stick, rollout="mended")
    await world.to_state("committed", COLOURS)
    assert world.slot().running == plan.releases[0].release


async def test_an_order_that_was_carried_out_does_not_undo_what_a_person_brought_since(
    world: World, tmp_path: Path
) -> None:
    said = await world.order(world.site.planned(world.release(1)))
    await world.to_state("committed", COLOURS)
    newer = world.site.planned(world.release(2), rollout="newer").releases[0].release
    stick = tmp_path / "stick"
    shutil.copytree(world.site.repository.folder, stick)
    shutil.copytree(world.folder / "bundles", stick / "bundles")
    await world.hands.install(stick, rollout="newer")
    await world.until(lambda: world.slot().running == newer)
    await world.to_state("committed", COLOURS)
    await world.updater.stop()
    await world.boot()
    world.updater.on_desired(Desired(assignments=[], order=said))
    await world.until(lambda: world.updater._judged == said)
    assert (world.slot().running, world.slot().state) == (newer, "committed")


async def test_what_a_person_brought_and_failed_with_its_companion_is_not_begun_again_and_again(
    world: World, tmp_path: Path
) -> None:
    world.bad.add(COLOURS)
    world.site.planned(world.release(1), world.release(1, task=TASKS[1]))
    stick = tmp_path / "stick"
    shutil.copytree(world.site.repository.folder, stick)
    shutil.copytree(world.folder / "bundles", stick / "bundles")
    await world.hands.install(stick)
    await world.until(lambda: all(world.slot(task).outcome in ("refused", "companion") for task in TASKS))
    companion = world.updater.tasks[TASKS[1]]
    written: list[Record] = []
    keep = companion.folder.save
    companion.folder.save = lambda record: written.append(record) or keep(record)  # type: ignore[method-assign,func-returns-value]
    await asyncio.sleep(20 * world.terms.ask_s)
    assert (companion.record.state, written) == ("refused", [])


@pytest.mark.parametrize("case", ["no_plan", "foreign", "forged", "pinned", "no_folder"])
async def test_a_folder_that_may_not_be_installed_is_refused(world: World, tmp_path: Path, case: str) -> None:
    group = Group(name="other", devices=["cam-9"]) if case == "foreign" else Group(name="all")
    world.site.planned(world.release(1), groups=[group], salt=SALT)
    stick = tmp_path / "stick"
    shutil.copytree(world.site.repository.folder, stick)
    if case == "no_plan":
        shutil.rmtree(stick / "targets" / COLOURS / "plans")
    if case == "forged":
        path = next((stick / "metadata").glob(f"*.{COLOURS}.json"))
        for path in (stick / "metadata").glob(f"*.{COLOURS}.json"):
            path.write_bytes(path.read_bytes().replace(b'"1.1"', b'"6.6"'))
    if case == "pinned":
        await world.hands.pin(pinned=True)
    with pytest.raises(OutriderError) as raised:
        await world.hands.install(stick if case != "no_folder" else stick / "nothing")
    codes = {
        "no_plan": "no_plan",
        "foreign": "not_in_group",
        "pinned": "updates_held",
        "no_folder": "no_such_folder",
    }
    assert getattr(raised.value, "reason", "").startswith(codes.get(case, "metadata_"))
    assert world.slot().state == "idle"


async def test_a_person_keeps_and_returns_by_hand(world: World) -> None:
    before = world.slot().running
    await world.order(world.site.planned(world.release(1)))
    await world.to_state("probation", COLOURS)
    assert await world.hands.commit(COLOURS) == [COLOURS]
    await world.until(lambda: world.slot().state == "committed")
    new = world.slot().running
    assert await world.hands.rollback(COLOURS, "too slow") == before
    await world.until(lambda: world.slot().state == "refused")
    assert (world.runtimes[COLOURS].model.digest, world.slot().refused) == (before, [new])
    with pytest.raises(RuleRefusalError, match="nothing that has run"):
        await world.hands.rollback(COLOURS)
    with pytest.raises(RuleRefusalError, match="nothing of"):
        await world.hands.commit(COLOURS)
