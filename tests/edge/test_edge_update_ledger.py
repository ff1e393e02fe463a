"""What a device must not forget of updates: two copies, numbers that only rise, and a refusal to begin anew when both are damaged."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from edge_releases import TASK, Device
from msgspec.structs import replace
from trust_world import a_plan
from update_world import TASKS, World

from factory import make_bundle
from outrider_edge.updates.device import metadata_of
from outrider_edge.updates.ledger import Halt, LedgerFile, TaskLedger
from outrider_edge.updates.record import Record
from outrider_wire.manifest import MANIFEST_FILE

COPIES = ("ledger.json", "ledger.copy.json")


@pytest.fixture
def ledger(tmp_path: Path) -> LedgerFile:
    file = LedgerFile(tmp_path / "updates")
    file.keep(lambda now: replace(now, order=7, halt=Halt(number=3, standing=True)))
    file.keep_task("t", TaskLedger(floor=5, refused=["x"]))
    return file


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("damage", [b"", b"junk", None, "flip"], ids=["empty", "junk", "gone", "flipped"])
def test_one_whole_copy_is_enough(ledger: LedgerFile, copy: str, damage: bytes | str | None) -> None:
    path = ledger.folder / copy
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage if isinstance(damage, bytes) else path.read_bytes().replace(b'"order":7', b'"order":1'))
    found = LedgerFile(ledger.folder)
    assert (found.now.order, found.now.halt.number, found.task("t").floor) == (7, 3, 5)
    found.keep(lambda now: replace(now, order=8))
    assert {LedgerFile(ledger.folder).now.order for _ in COPIES} == {8}


def test_of_two_whole_copies_the_newer_one_counts(ledger: LedgerFile) -> None:
    old = (ledger.folder / COPIES[1]).read_bytes()
    ledger.keep(lambda now: replace(now, order=9))
    (ledger.folder / COPIES[1]).write_bytes(old)  # the power went between the two
    assert LedgerFile(ledger.folder).now.order == 9


def test_when_both_are_damaged_it_does_not_begin_anew(ledger: LedgerFile) -> None:
    for copy in COPIES:
        (ledger.folder / copy).write_bytes(b"rot")
    found = LedgerFile(ledger.folder)
    assert found.now.damaged
    found.keep(lambda now: replace(now, order=1))
    assert (ledger.folder / COPIES[0]).read_bytes() == b"rot"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield World(tmp_path)


async def test_a_device_whose_ledger_is_damaged_answers_and_takes_nothing_and_says_so(world: World) -> None:
    await world.boot()
    await world.until(lambda: len(world.ledger.now.tasks) == len(TASKS))
    await world.updater.stop()
    for copy in COPIES:
        (world.folder / "device/updates" / copy).write_bytes(b"rot")
    await world.boot()
    plan = world.site.planned(world.release(1))
    from trust_world import an_order

    from outrider_wire.messages import Desired

    world.updater.on_desired(Desired(assignments=[], order=world.site.order(an_order(plan, device="cam-1", stage=1))))
    told = await world.updater.reported()
    assert "cannot be read" in str(told.held) and not told.sequence and not told.signed
    assert world.slot().state == "idle" and world.runtimes[TASKS[0]].model is not None
    await world.updater.stop()
    assert metadata_of(None) == {} and a_plan(*plan.releases).rollout


def test_a_slot_edited_by_hand_is_not_run(tmp_path: Path) -> None:
    device = Device(tmp_path)
    first = device.boot().model.digest
    other = make_bundle(tmp_path / "other", TASK, seed=9, version="9")
    slot = device.slots().path("a")
    for path in other.iterdir():  # whole, and consistent in itself: but nobody put it there
        (slot / path.name).write_bytes(path.read_bytes())
    assert (slot / MANIFEST_FILE).exists()
    start = device.boot()
    assert start.model.digest == first
    assert device.slots().open(start.record.slot).digest == first


def test_a_lost_record_is_made_anew_only_of_what_has_run_here(tmp_path: Path) -> None:
    device = Device(tmp_path)
    first = device.boot().model.digest
    slots = device.slots()
    slots.install(make_bundle(tmp_path / "second", TASK, seed=2, version="2"), "b")
    slots.point("b")
    (slots.folder / "state.json").write_bytes(b"{")
    kept = TaskLedger(floor=4, refused=["d" * 64], ran=[first])
    from edge_releases import load

    from outrider_edge.updates.starting import start_slots

    start = start_slots(folder=slots, factory=device.factory, load=load, kept=kept)
    assert (start.model.digest, start.record.floor, start.record.refused) == (first, 4, ["d" * 64])
    assert isinstance(slots.record(), Record)
