"""A device's uplink and a real cloud, with HTTP beside the broker: each does what the other does not."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from cloud_device import Device
from cloud_releases import offered
from cloud_service import HeldModel, account, make_service, ready, write_config
from edge_entries import make_entry, until
from link_peers import Relay

from outrider.processes import any_port
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.ports import OutboxEntry, OutboxPart, TaskFigures
from outrider_edge.uplink.uplink import BrokerAccess, Uplink
from outrider_link.broker import EmbeddedBroker
from outrider_link.http import CloudHttp
from outrider_wire.report import AnswerReport

pytestmark = pytest.mark.broker
NAME = "cam-http"


class Figures:
    """`outrider_edge.ports.FiguresPort` of nothing."""

    def figures(self) -> list[TaskFigures]:
        return []


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(port=any_port()) as running:
        yield running


@asynccontextmanager
async def edge(folder: Path, broker_url: str, http_url: str) -> AsyncIterator[tuple[Uplink, dict[str, AnswerReport]]]:
    """An uplink with its outbox, and what its application was told."""
    finals: dict[str, AnswerReport] = {}
    outbox = Outbox(folder=folder / "outbox", flush_s=0.05)
    http = CloudHttp(url=http_url, device=NAME)
    uplink = Uplink(
        device=NAME, access=BrokerAccess(url=broker_url), outbox=outbox, figures=Figures(), receipt_timer_s=1, http=http
    )

    async def on_final(report: AnswerReport) -> None:
        finals[report.id] = report

    uplink.listen(on_final)
    await outbox.start()
    await uplink.start()
    try:
        yield uplink, finals
    finally:
        await uplink.stop()
        await outbox.stop()


def entry(image: bytes) -> OutboxEntry:
    parts = [
        OutboxPart(name="image", modality="image", media_type="image/png", data=image),
        OutboxPart(name="question", modality="text", media_type="text/plain", data=b"what?"),
    ]
    return msgspec.structs.replace(make_entry(b"x", answer_within_ms=20_000), parts=parts)


async def asked(uplink: Uplink, finals: dict[str, AnswerReport], image: bytes) -> None:
    """Escalates, and waits for the answer."""
    one = entry(image)
    uplink._outbox.arrived(one.task)
    await uplink.escalate(one)
    await until(lambda: one.id in finals)
    assert finals[one.id].state == "cloud"


async def test_a_large_part_goes_over_http_and_over_the_broker_when_http_is_away(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    async with make_service(write_config(tmp_path, broker.url), HeldModel()) as service:
        await ready(service)
        api = int(service.url.rsplit(":", 1)[1])
        async with (
            Relay(broker.port) as link,
            Relay(api) as web,
            edge(tmp_path, link.url, web.url.replace("mqtt", "http")) as (uplink, finals),
        ):
            await uplink.wait_connected(10)
            await asked(uplink, finals, os.urandom(500_000))
            assert web.carried[0] > 500_000 > link.carried[0]
            web.cut()
            await asked(uplink, finals, os.urandom(500_000))
            assert link.carried[0] > 500_000
            assert (await account(service))["cloud"] == 2


async def test_a_release_comes_over_http_and_over_the_broker_when_http_is_away(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    async with make_service(write_config(tmp_path, broker.url), HeldModel()) as service:
        await ready(service)
        async with Device(broker.url, NAME) as known:
            data = await offered(service, known, tmp_path, os.urandom(700_000))
        api = int(service.url.rsplit(":", 1)[1])
        async with (
            Relay(broker.port) as link,
            Relay(api, bytes_per_s=1_000_000) as web,
            edge(tmp_path, link.url, web.url.replace("mqtt", "http")) as (uplink, _),
        ):
            await uplink.wait_connected(10)
            ask = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            assert (await uplink.pull_file(**ask, to=tmp_path / "one")).read_bytes() == data
            assert web.carried[1] > len(data) > link.carried[1]
            pulling = asyncio.create_task(uplink.pull_file(**ask, to=tmp_path / "two"))
            await until(lambda: web.carried[1] > len(data) + 300_000)
            web.cut()  # in the middle: the broker brings the rest
            assert (await pulling).read_bytes() == data
            assert 100_000 < link.carried[1] < 600_000


async def test_a_release_comes_over_http_while_the_broker_is_away(broker: EmbeddedBroker, tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, broker.url), HeldModel()) as service:
        await ready(service)
        async with Device(broker.url, NAME) as known:
            data = await offered(service, known, tmp_path, os.urandom(100_000))
        async with edge(tmp_path, "mqtt://127.0.0.1:9", service.url) as (uplink, _):
            digest = hashlib.sha256(data).hexdigest()
            assert await uplink.pull_manifest(sha256=digest, size=len(data)) == data
