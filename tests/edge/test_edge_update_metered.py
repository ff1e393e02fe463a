"""A link that becomes metered in the middle of a file: not a byte more is asked for until it is not, and then the rest of it."""

import asyncio
from pathlib import Path

import pytest
from delta_pairs import bundle_with, model_of, sha, some_weights
from edge_cloud import FakeCloud
from edge_entries import until
from edge_releases import TASK, Device, ShelfSource, load
from mosquitto import AnyBroker

from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.metrics import Metrics
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.updates.folder import FolderSource
from outrider_edge.updates.polite import polite
from outrider_edge.updates.updater import TaskUpdater, UpdateTerms
from outrider_edge.updates.waiting import Surroundings, WhenTerms, hold
from outrider_edge.uplink.uplink import BrokerAccess, Uplink
from outrider_engine.selftest import SelfTestReport
from outrider_wire.errors import PeerError

LARGE = model_of(some_weights(3, rows=600))
BYTES_PER_S = 200_000.0


@pytest.mark.broker
async def test_a_pull_pauses_in_the_middle_of_a_file_and_goes_on_from_there(broker: AnyBroker, tmp_path: Path) -> None:
    new = bundle_with(tmp_path / "new", TASK, LARGE, "2")
    device, metered = Device(tmp_path), False
    start = device.boot()
    outbox = Outbox(folder=tmp_path / "outbox")
    await outbox.start()
    async with FakeCloud(broker.url) as cloud:
        access = BrokerAccess(url=broker.url, blob_cap=BYTES_PER_S)
        uplink = Uplink(device="cam-7", access=access, outbox=outbox, figures=Metrics(tasks=[TASK.name]))
        updater = TaskUpdater(
            start=start,
            runtime=TaskRuntime(task=TASK, model=start.model),
            source=uplink,
            load=load,
            changed=lambda: None,
            terms=UpdateTerms(probation_s=3600.0, retry_s=0.1, ask_s=0.02),
            hold=lambda record: hold(record, Surroundings(now_ms=0, metered=metered), WhenTerms()),
            selftest=lambda _: SelfTestReport(ok=True),
        )
        await uplink.start()
        updater.start()
        cloud.publish_release(new)
        updater.assign(device.wish(new))
        part = start.folder.folder / "incoming" / device.wish(new).release / "large.onnx.part"
        await until(lambda: part.exists() and part.stat().st_size > 0)
        metered = True
        await until(lambda: updater.report().code == "metered_link")
        begun, wants = part.stat().st_size, len(cloud.offsets[sha(LARGE)])
        assert 0 < begun < len(LARGE)
        await asyncio.sleep(0.5)
        assert part.stat().st_size == begun
        metered = False
        await until(lambda: updater.record.state == "probation")
        assert min(cloud.offsets[sha(LARGE)][wants:]) >= begun
        assert (start.folder.path("b") / "large.onnx").read_bytes() == LARGE
        await updater.stop()
        await uplink.stop()
    await outbox.stop()


async def test_whatever_goes_wrong_in_a_pull_is_said_as_it_is(tmp_path: Path) -> None:
    async def at_once() -> None: ...

    source = polite(ShelfSource(), may_go_on=at_once, stands=lambda: False, look_s=0.01)
    with pytest.raises(PeerError, match="not here"):
        await source.pull_manifest(sha256="0" * 64, size=1)


async def test_a_folder_is_asked_whatever_the_link_costs(tmp_path: Path) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    source = FolderSource(tmp_path)
    assert polite(source, may_go_on=never, stands=lambda: True, look_s=0.01) is source
