"""A disk that fills while a release is fetched, rebuilt from a delta, placed or tested: said, waited for, and held against nobody."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from delta_pairs import bundle_with, model_of, sha, some_weights
from edge_entries import until
from edge_releases import TASK, Device, ShelfSource
from small_disk import SmallDisk, small_disk

from outrider_edge.updates.room import SPARE_BYTES
from outrider_engine.delta.make import make_delta
from outrider_engine.selftest import SelfTestReport
from outrider_link.files import write_durably

BEFORE = some_weights(1, rows=600)
OLD = model_of(BEFORE)
NEW = model_of(BEFORE | {"layer.3.weight": BEFORE["layer.3.weight"] + BEFORE["layer.3.weight"].dtype.type(1e-3)})
STEPS = ("manifest", "file", "delta", "test")


class FillingShelf(ShelfSource):
    """A shelf whose reader's disk fills at one step."""

    def __init__(self, disk: SmallDisk, step: str, new: Path) -> None:
        super().__init__(new)
        self._disk = disk
        self._step = step

    def at(self, step: str) -> None:
        if step == self._step:
            self._step = ""
            self._disk.fill()

    async def pull_manifest(self, *, sha256: str, size: int) -> bytes:
        data = await super().pull_manifest(sha256=sha256, size=size)
        self.at("manifest")
        return data

    async def pull_file(self, *, sha256: str, size: int, to: Path) -> Path:
        self.pulled[sha256] += 1
        self.at("file")
        write_durably(to, self.blobs[sha256])
        return to


class FillingDeltas(FillingShelf):
    """The same with a delta."""

    async def pull_delta(self, *, sha256: str, size: int, bases: Sequence[str], to: Path) -> str | None:
        if sha256 != sha(NEW):
            return None
        write_durably(to, make_delta(OLD, NEW))
        self.at("delta")
        return sha(OLD)


@pytest.mark.parametrize("step", STEPS)
async def test_a_disk_that_fills_at_any_step_holds_an_update_up_and_refuses_nothing(tmp_path: Path, step: str) -> None:
    with small_disk(tmp_path / "disk", megabytes=48) as disk:
        new = bundle_with(tmp_path / "new", TASK, NEW, "2")
        bundle_with(disk.path / "factory", TASK, OLD, "1")
        source = (FillingDeltas if step == "delta" else FillingShelf)(disk, step, new)
        device = Device(disk.path, source)

        def selftest(_: Path) -> SelfTestReport:
            source.at("test")
            return SelfTestReport(ok=True)

        updater = device.run(selftest=selftest)
        updater.assign(device.wish(new))
        await until(lambda: updater.report().code in ("disk_full", "slots_unwritable"))
        await asyncio.sleep(0.2)
        assert updater.record.refused == [] and updater.record.state in ("fetching", "testing")
        disk.empty()
        await until(lambda: updater.record.state == "probation")
        assert (device.slots().path("b") / "large.onnx").read_bytes() == NEW
        await updater.stop()


async def test_a_delta_with_no_room_beside_its_file_is_left_out(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=48) as disk:
        new = bundle_with(tmp_path / "new", TASK, NEW, "2")
        bundle_with(disk.path / "factory", TASK, OLD, "1")
        source = FillingDeltas(disk, "", new)
        device = Device(disk.path, source)
        updater = device.run()
        disk.fill(leave=SPARE_BYTES + len(NEW) * 3 // 2)
        updater.assign(device.wish(new))
        await until(lambda: updater.record.state == "probation")
        assert source.pulled[sha(NEW)] == 1
        await updater.stop()
