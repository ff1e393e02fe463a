"""Which model a device starts with, whatever has become of its disk."""

import errno
import shutil
from pathlib import Path

import pytest
from edge_releases import TASK, Device

from factory import make_bundle, make_task
from outrider_edge.updates.fetching import _prepare
from outrider_edge.updates.room import SPARE_BYTES
from outrider_edge.updates.rules import Record
from outrider_edge.updates.slots import SlotFolder, open_fitting
from outrider_engine.bundle import open_bundle
from outrider_wire.errors import BundleError, BundleMismatchError, OperatorSetupError


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def install_second(device: Device, **fields: object) -> str:
    """A second release in slot b, active; the first stays in slot a."""
    device.boot()
    slots = device.slots()
    record = slots.record()
    assert record is not None
    bundle = slots.install(make_bundle(device.folder / "second", TASK, seed=2, version="2"), "b")
    slots.save(
        Record(
            **{
                **{name: getattr(record, name) for name in Record.__struct_fields__},
                "slot": "b",
                "running": bundle.digest,
                "version": "2",
                "previous": record.running,
                "previous_version": record.version,
                **fields,
            }
        )
    )
    slots.point("b")
    return bundle.digest


def break_slot(device: Device, slot: str) -> None:
    path = device.folder / "slots" / TASK.name / slot / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_on_the_first_day_the_configured_bundle_is_installed(device: Device) -> None:
    start = device.boot()
    assert (start.record.slot, start.record.state, start.model.digest) == ("a", "idle", start.record.running)
    shutil.rmtree(device.factory)
    assert device.boot().model.digest == start.model.digest


def test_a_start_takes_the_active_slot(device: Device) -> None:
    digest = install_second(device)
    assert device.boot().model.digest == digest


def test_a_damaged_active_slot_gives_way_to_the_other(device: Device) -> None:
    install_second(device)
    break_slot(device, "b")
    start = device.boot()
    assert (start.record.slot, start.record.state, start.model.manifest.version) == ("a", "idle", "1")
    assert "slot b cannot be used" in start.record.reason
    assert device.boot().record.slot == device.slots().pointer() == "a"


def test_a_damaged_release_in_probation_is_rolled_back_and_refused(device: Device) -> None:
    digest = install_second(device, state="probation", offered="?")
    break_slot(device, "b")
    start = device.boot()
    assert (start.record.slot, start.record.state, start.model.manifest.version) == ("a", "refused", "1")
    assert start.record.refused == [digest]
    assert digest != start.record.running


def test_when_both_slots_are_damaged_the_configured_bundle_is_installed_again(device: Device) -> None:
    install_second(device)
    for slot in "ab":
        break_slot(device, slot)
    start = device.boot()
    assert start.model.manifest.version == "1"
    assert device.boot().record == start.record


def test_an_untested_release_is_never_fallen_back_to(device: Device) -> None:
    device.boot()
    slots = device.slots()
    slots.install(make_bundle(device.folder / "second", TASK, seed=2, version="2"), "b")
    record = slots.record()
    assert record is not None
    slots.save(Record(running=record.running, factory=record.factory, state="testing", offered="?", tries=1))
    break_slot(device, "a")
    assert device.boot().model.manifest.version == "1"


def test_with_nothing_that_works_the_start_says_so(device: Device) -> None:
    device.boot()
    break_slot(device, "a")
    shutil.rmtree(device.factory)
    with pytest.raises(BundleError):
        device.boot()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"state": "dancing", "running": "x"}'], ids=["empty", "cut", "unknown"]
)
def test_a_lost_record_is_made_anew_from_the_pointer(device: Device, damage: bytes) -> None:
    digest = install_second(device)
    (device.slots().folder / "state.json").write_bytes(damage)
    start = device.boot()
    assert (start.record.slot, start.model.digest) == ("b", digest)


@pytest.mark.parametrize("damage", [None, b"", b"x"], ids=["gone", "empty", "unknown"])
def test_a_lost_pointer_is_written_anew_from_the_record(device: Device, damage: bytes | None) -> None:
    digest = install_second(device)
    pointer = device.slots().folder / "active"
    pointer.unlink() if damage is None else pointer.write_bytes(damage)
    assert device.boot().model.digest == digest


def test_another_configured_bundle_is_the_operators_wish(device: Device) -> None:
    install_second(device, counter=4)
    shutil.rmtree(device.factory)
    make_bundle(device.factory, TASK, seed=3, version="3")
    start = device.boot()
    assert (start.model.manifest.version, start.record.state, start.record.counter) == ("3", "idle", 4)
    assert device.boot().record == start.record


def test_another_configured_bundle_that_is_damaged_changes_nothing(device: Device) -> None:
    digest = install_second(device)
    manifest = device.factory / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"version": "1"', b'"version": "9"') + b" ")
    (device.factory / "model.onnx").write_bytes(b"no model")
    assert device.boot().model.digest == digest


@pytest.mark.parametrize(
    "other", [make_task("animals"), make_task(labels=("green", "red", "blue"))], ids=["task", "labels"]
)
def test_a_bundle_for_something_else_does_not_fit(tmp_path: Path, other: object) -> None:
    bundle = make_bundle(tmp_path / "bundle", other)  # type: ignore[arg-type]  # a task
    with pytest.raises(BundleMismatchError):
        open_fitting(bundle, TASK)


def test_placing_a_release_replaces_the_slot_whole(tmp_path: Path) -> None:
    slots = SlotFolder(folder=tmp_path, task=TASK)
    for seed in range(3):
        bundle = slots.install(make_bundle(tmp_path / f"source-{seed}", TASK, seed=seed), "b")
        assert open_bundle(slots.path("b")).digest == bundle.digest
    assert {path.name for path in tmp_path.iterdir()} == {"b", "incoming", "source-0", "source-1", "source-2"}
    assert not any((tmp_path / "incoming").iterdir())


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a slot folder can be written any more."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("save", "point", "install"):
        monkeypatch.setattr(SlotFolder, name, full)


@pytest.mark.parametrize("state", ["offered", "fetching", "testing", "armed", "probation", "rollback"])
def test_a_full_disk_keeps_no_device_from_starting(device: Device, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = install_second(device, state=state, offered="c" * 64, spent_s=1.0)
    full_disk(monkeypatch)
    assert device.boot().model.digest == digest


def test_a_full_disk_and_another_configured_bundle_leave_what_runs(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = install_second(device)
    shutil.rmtree(device.factory)
    make_bundle(device.factory, TASK, seed=3, version="3")
    full_disk(monkeypatch)
    assert device.boot().model.digest == digest
    monkeypatch.undo()
    assert device.boot().model.manifest.version == "3", "the next start tries again"


def test_with_a_full_disk_and_both_slots_damaged_the_configured_bundle_answers_from_where_it_lies(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_second(device)
    break_slot(device, "a")
    break_slot(device, "b")
    full_disk(monkeypatch)
    assert device.boot().model.digest == open_bundle(device.factory).digest


async def test_what_is_gathered_already_needs_no_room_and_what_nobody_wants_makes_room(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.boot()
    slots = device.slots()
    bundle = open_bundle(make_bundle(device.folder / "second", TASK, seed=2, version="2"))
    data = (bundle.root / "manifest.json").read_bytes()
    slots.staging("f" * 64).joinpath("model.onnx.part").write_bytes(b"x" * 1000)
    _prepare(slots, bundle.digest, data, bundle.manifest)
    assert [path.name for path in (slots.folder / "incoming").iterdir()] == [bundle.digest]
    part = slots.staging(bundle.digest) / "model.onnx.part"
    needed = sum(entry.size for entry in bundle.manifest.needed)
    part.write_bytes(b"x" * (needed // 2))
    usage = shutil.disk_usage("/")._replace(free=SPARE_BYTES + needed - needed // 2)
    monkeypatch.setattr("outrider_edge.updates.room.shutil.disk_usage", lambda _: usage)
    _prepare(slots, bundle.digest, data, bundle.manifest)
    part.unlink()
    (slots.staging(bundle.digest) / "manifest.json").unlink()
    with pytest.raises(OperatorSetupError):
        _prepare(slots, bundle.digest, data, bundle.manifest)
