"""A device's blobs over HTTP from a real cloud: ranges, resumption into the file of a broker's pull, and whose blobs they are."""

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cloud_device import TOPICS, Device
from cloud_releases import offered
from cloud_service import HeldModel, make_service, ready, write_config

from outrider.processes import any_port
from outrider_cloud.releases import WANTS_AT_ONCE
from outrider_cloud.service import CloudService
from outrider_link.blobs import BlobPuller
from outrider_link.broker import EmbeddedBroker
from outrider_link.envelope import Outgoing
from outrider_link.http import CloudHttp
from outrider_link.sinks import MemorySink
from outrider_wire.codec import encode
from outrider_wire.errors import PeerError, UnreachableError
from outrider_wire.messages import BlobWant
from outrider_wire.topics import RELEASES

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with EmbeddedBroker(port=any_port()) as running:
        yield running.url


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def no_broker(_: Outgoing) -> bool:
    raise UnreachableError("there is none", reason="broker_unreachable")


def puller(http: CloudHttp) -> BlobPuller:
    """A puller whose broker is away."""
    return BlobPuller(publish=no_broker, timeout_s=0.01, retries=0, beside=http.fetch)


async def pulled(one: BlobPuller, data: bytes, to: Path) -> bytes:
    path = await one.pull(sha256=sha(data), size=len(data), want_topic=lambda _: "t", worker="releases", to=to)
    return path.read_bytes()


async def fetched(service: CloudService, data: bytes, **headers: str) -> tuple[int, bytes, Any]:
    url = f"{service.url}/v1/devices/ota-http/blobs/{sha(data)}"
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as reply:
        return reply.status, await reply.read(), reply.headers


async def test_a_release_is_fetched_without_a_broker_and_resumes_a_pull(broker: str, tmp_path: Path) -> None:
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "ota-http") as device,
    ):
        await ready(service)
        data = await offered(service, device, tmp_path, os.urandom(500_000))
        http = CloudHttp(url=service.url, device="ota-http")
        try:
            assert await pulled(puller(http), data, tmp_path / "whole") == data
            (tmp_path / "half.part").write_bytes(data[:300_001])
            assert await pulled(puller(http), data, tmp_path / "half") == data
            (tmp_path / "wrong.part").write_bytes(bytes(300_001))
            with pytest.raises(
                UnreachableError
            ):  # what is wrong is pulled again over the broker alone, and there is none
                await pulled(puller(http), data, tmp_path / "wrong")
        finally:
            await http.close()


async def test_ranges_are_exact(broker: str, tmp_path: Path) -> None:
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "ota-http") as device,
    ):
        await ready(service)
        data = await offered(service, device, tmp_path, os.urandom(100_000))
        status, body, headers = await fetched(service, data)
        assert (status, body, headers["Accept-Ranges"]) == (200, data, "bytes")
        status, body, headers = await fetched(service, data, Range="bytes=70000-")
        assert (status, body, headers["Content-Range"]) == (206, data[70_000:], "bytes 70000-99999/100000")
        assert (await fetched(service, data, Range="bytes=5-9"))[1] == data[5:10]
        assert (await fetched(service, data, Range="bytes=99999-5000000"))[1] == data[-1:]
        status, _, headers = await fetched(service, data, Range="bytes=100000-")
        assert (status, headers["Content-Range"]) == (416, "bytes */100000")
        for odd in ("bytes=-5", "bytes=a-", "lines=1-", "bytes=1-2,5-6", f"bytes={'9' * 30}-"):
            assert (await fetched(service, data, Range=odd))[0] == 400


async def test_only_what_is_assigned_to_a_device_is_served_to_it_over_either_way(broker: str, tmp_path: Path) -> None:
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "ota-http") as device,
        Device(broker, "stranger") as stranger,
    ):
        await ready(service)
        data = await offered(service, device, tmp_path, os.urandom(10_000))
        assert await device.pull(sha(data), len(data)) == data
        with pytest.raises(PeerError, match="has it no more"):
            await stranger.pull(sha(data), len(data))
        for name, digest in (("stranger", sha(data)), ("ota-http", "0" * 64)):
            http = CloudHttp(url=service.url, device=name)
            with pytest.raises(PeerError) as caught:
                await pulled_by(http, digest, len(data))
            assert caught.value.reason == "http_refused"
            await http.close()


async def pulled_by(http: CloudHttp, digest: str, size: int) -> None:
    await http.fetch(digest, size, MemorySink())


async def test_a_device_that_asks_for_everything_again_and_again_is_served_at_its_rate(
    broker: str, tmp_path: Path
) -> None:
    path = write_config(tmp_path, broker)
    path.write_text(path.read_text().replace("[api]", "[devices]\nserve_bytes_per_s = 200000\n[api]"))
    async with make_service(path, HeldModel()) as service, Device(broker, "ota-http") as device:
        await ready(service)
        data = await offered(service, device, tmp_path, os.urandom(250_000))
        blocks = 0

        class Counting(BlobPuller):
            def on_message(self, message: Any) -> None:
                nonlocal blocks
                blocks += 1

        began = asyncio.get_running_loop().time()
        device.puller = Counting(publish=device.session.publish)
        for number in range(40):  # ten megabytes
            want = BlobWant(
                transfer=f"again-{number}", sha256=sha(data), offset=0, count=250, block=1000, worker=RELEASES
            )
            topic = TOPICS.of("blob-up", device.name, worker=RELEASES, transfer=want.transfer)
            await device.session.publish(Outgoing(topic, encode(want)))
            await asyncio.sleep(0.02)
        await device.until(lambda: blocks >= 250)
        seconds = asyncio.get_running_loop().time() - began
        assert blocks <= 1000 + 200 * seconds + 50  # a burst of four seconds' worth, and what came meanwhile


async def test_one_device_is_served_only_so_much_at_once(broker: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, broker)
    path.write_text(path.read_text().replace("[api]", "[devices]\nserve_bytes_per_s = 50000\n[api]"))
    async with make_service(path, HeldModel()) as service, Device(broker, "ota-http") as device:
        await ready(service)
        data = await offered(service, device, tmp_path, os.urandom(300_000))
        slow = [asyncio.create_task(fetched(service, data)) for _ in range(WANTS_AT_ONCE)]
        await asyncio.sleep(0.3)
        status, _, headers = await fetched(service, data)
        assert (status, headers["Retry-After"]) == (429, "2")
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
