"""Blobs through real brokers, in both directions, on the topics of the table."""

import hashlib
import random
from pathlib import Path

import pytest
from mosquitto import AnyBroker

from outrider_link.blobs import BlobHolder, BlobPuller
from outrider_link.session import Incoming, MqttSession
from outrider_wire.blobs import block_size
from outrider_wire.codec import decode
from outrider_wire.messages import BlobBlock, BlobGone, BlobWant
from outrider_wire.topics import RELEASES, Topics

pytestmark = [pytest.mark.broker, pytest.mark.both_brokers]
TOPICS = Topics("test/1")


class Device:
    """Holds inputs, pulls releases."""

    def __init__(self, *, url: str, name: str, inputs: dict[str, bytes]) -> None:
        self.name = name
        self.session = MqttSession(
            url=url,
            client_id=name,
            subscriptions=[TOPICS.of("blob-down", name, transfer="+")],
            on_message=self._on_message,
        )
        self.puller = BlobPuller(publish=self.session.publish, block=block_size(self.session.packet_limit))
        self.holder = BlobHolder(publish=self.session.publish, open_blob=inputs.get)

    async def pull(self, data: bytes, to: Path) -> Path:
        return await self.puller.pull(
            sha256=sha(data),
            size=len(data),
            want_topic=lambda transfer: TOPICS.of("blob-up", self.name, worker=RELEASES, transfer=transfer),
            worker=RELEASES,
            to=to,
        )

    async def _on_message(self, message: Incoming) -> None:
        match decode(message.payload, message.content_type):
            case BlobWant() as want:
                topic = TOPICS.of("blob-up", self.name, worker=want.worker, transfer=want.transfer)
                await self.holder.on_want(want, topic)
            case BlobBlock() | BlobGone() as said:
                self.puller.on_message(said)


class Cloud:
    """Pulls inputs, holds releases."""

    def __init__(self, *, url: str, releases: dict[str, bytes]) -> None:
        self.session = MqttSession(
            url=url,
            client_id="cloud",
            subscriptions=[TOPICS.of("blob-up", "+", worker=worker, transfer="+") for worker in ("cloud", RELEASES)],
            on_message=self._on_message,
        )
        self.puller = BlobPuller(publish=self.session.publish, block=block_size(self.session.packet_limit))
        self.holder = BlobHolder(publish=self.session.publish, open_blob=releases.get)

    async def pull(self, device: str, data: bytes) -> bytes:
        return await self.puller.pull(
            sha256=sha(data),
            size=len(data),
            want_topic=lambda transfer: TOPICS.of("blob-down", device, transfer=transfer),
            worker="cloud",
        )

    async def _on_message(self, message: Incoming) -> None:
        address = TOPICS.parse(message.topic)
        match decode(message.payload, message.content_type):
            case BlobWant() as want:
                topic = TOPICS.of("blob-down", address.device, transfer=want.transfer)
                await self.holder.on_want(want, topic)
            case BlobBlock() | BlobGone() as said:
                self.puller.on_message(said)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [1, 65_536, 300_000, 5_000_000])
async def test_inputs_go_up_and_releases_come_down(broker: AnyBroker, tmp_path: Path, size: int) -> None:
    up, down = random.Random(size).randbytes(size), random.Random(-size).randbytes(size)
    device = Device(url=broker.url, name="cam-1", inputs={sha(up): up})
    cloud = Cloud(url=broker.url, releases={sha(down): down})
    async with device.session, cloud.session:
        await device.session.wait_connected(30)
        await cloud.session.wait_connected(30)
        assert await cloud.pull("cam-1", up) == up
        assert (await device.pull(down, tmp_path / "release")).read_bytes() == down
        assert device.session.connections == cloud.session.connections == 1
