"""An update over a real broker: desired, pulled in blocks, self-tested in a child, swapped, reported."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from edge_cloud import FakeCloud
from edge_entries import until
from edge_releases import TASK, Device, load, whole_updater
from mosquitto import AnyBroker
from msgspec import UNSET
from msgspec.structs import replace

from factory import make_bundle, parts_of, sure
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.metrics import Metrics
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.updates.updater import TaskUpdater, UpdateTerms
from outrider_edge.uplink.uplink import BrokerAccess, Uplink
from outrider_trust.reports import open_telemetry, read_key
from outrider_wire.errors import TrustRefusedError
from outrider_wire.messages import SlotReport

pytestmark = pytest.mark.broker
DEVICE = "cam-7"


@pytest.fixture
async def cloud(broker: AnyBroker) -> AsyncIterator[FakeCloud]:
    async with FakeCloud(broker.url) as cloud:
        yield cloud


@pytest.fixture
async def runtime(broker: AnyBroker, tmp_path: Path) -> AsyncIterator[TaskRuntime]:
    """The model in use on a device whose updater is connected."""
    outbox = Outbox(folder=tmp_path / "outbox")
    await outbox.start()
    uplink = Uplink(
        device=DEVICE,
        access=BrokerAccess(url=broker.url),
        outbox=outbox,
        figures=Metrics(tasks=[TASK.name]),
        telemetry_every_s=0.2,
    )
    start = Device(tmp_path).boot()
    runtime = TaskRuntime(task=TASK, model=start.model)
    task = TaskUpdater(
        start=start,
        runtime=runtime,
        source=uplink,
        load=load,
        changed=uplink.report,
        terms=UpdateTerms(probation_answers=5, probation_least_s=0.0, probation_s=60.0, retry_s=0.1),
    )
    updater = whole_updater(tmp_path, [task], changed=uplink.report)
    uplink.attach(updater)
    updater.start()
    await uplink.start()
    yield runtime
    await updater.stop()
    await uplink.stop()
    await outbox.stop()


def newest(cloud: FakeCloud) -> SlotReport | None:
    return cloud.reported[-1].slots[0] if cloud.reported else None


async def test_a_device_updates_over_the_air_while_it_answers(
    runtime: TaskRuntime, cloud: FakeCloud, tmp_path: Path
) -> None:
    second = make_bundle(tmp_path / "second", TASK, seed=2, version="2")
    release = cloud.publish_release(second)
    await until(lambda: newest(cloud))
    await cloud.desire(DEVICE, TASK.name, release, counter=1)
    versions = []
    async with asyncio.timeout(30):
        while (report := newest(cloud)) is None or report.state != "committed":
            versions.append((await runtime.ask(parts_of(sure()))).model.manifest.version)
            await asyncio.sleep(0.01)
    assert (report.running, report.version, report.slot, report.counter) == (release, "2", "b", 1)
    assert versions == sorted(versions)
    assert set(versions) == {"1", "2"}
    await until(lambda: cloud.presence[-1].releases == {TASK.name: release})


async def test_a_release_with_a_flipped_byte_is_refused_and_the_old_model_stays(
    runtime: TaskRuntime, cloud: FakeCloud, tmp_path: Path
) -> None:
    second = make_bundle(tmp_path / "second", TASK, seed=2, version="2")
    release = cloud.publish_release(second)
    cloud.corrupt(next(digest for digest in cloud._releases if digest != release))
    await cloud.desire(DEVICE, TASK.name, release, counter=2)
    await until(lambda: (report := newest(cloud)) is not None and report.state == "refused")
    report = newest(cloud)
    assert report is not None
    assert (report.refused, report.version) == ([release], "1")
    assert (await runtime.ask(parts_of(sure()))).model.manifest.version == "1"


async def test_the_figures_bear_the_signature_of_the_reports(runtime: TaskRuntime, cloud: FakeCloud) -> None:
    await until(lambda: any(each.signed for each in cloud.telemetry) and newest(cloud))
    said = next(each for each in cloud.telemetry if each.signed)
    key = cloud.reported[-1].key  # the broker may have kept one of another device of that name
    told = open_telemetry(said.signed or b"", read_key(key or b""), device=DEVICE)
    assert told == replace(said, signed=UNSET) and told.sequence
    with pytest.raises(TrustRefusedError):
        open_telemetry(said.signed or b"", read_key(key or b""), device="cam-8")
    assert runtime.model.manifest.version == "1"
