"""Deltas in the cloud: made once in a child, told to whom the file is assigned, pulled as any blob, and to nobody else."""

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cloud_device import TOPICS, Device
from cloud_releases import offered
from cloud_service import HeldModel, eventually, make_service, ready, request, write_config
from delta_pairs import model_of, rebuilt, sha, some_weights

from outrider_cloud.service import CloudService
from outrider_link.envelope import Outgoing
from outrider_wire.codec import encode
from outrider_wire.errors import PeerError
from outrider_wire.messages import BlobGone, DeltaFound, DeltaWant
from outrider_wire.topics import RELEASES

pytestmark = pytest.mark.broker
BEFORE = some_weights(1)
OLD = model_of(BEFORE)
NEW = model_of(BEFORE | {"layer.3.weight": BEFORE["layer.3.weight"] + np.float32(1e-3)})
FAR = np.random.default_rng(3).bytes(50_000)


async def told(device: Device, transfer: str) -> DeltaFound | BlobGone:
    async def is_told() -> bool:
        return transfer in device.told_of

    await eventually(is_told)
    return device.told_of[transfer]


async def asked(device: Device, target: bytes, *bases: bytes, number: int = 0) -> DeltaFound | BlobGone:
    """What the cloud says; a delta that is being made is waited for."""
    while True:
        number += 1
        transfer = f"ask-{number}-{sha(target)[:8]}-{sha(bases[0])[:8]}"
        want = DeltaWant(transfer=transfer, sha256=sha(target), bases=[sha(base) for base in bases])
        topic = TOPICS.of("blob-up", device.name, worker=RELEASES, transfer=transfer)
        await device.session.publish(Outgoing(topic, encode(want)))
        said = await told(device, transfer)
        if not isinstance(said, BlobGone) or said.reason != "delta_pending":
            return said
        await asyncio.sleep(0.1)


def made(folder: Path) -> list[Path]:
    return list((folder / "data" / "deltas").glob("*.json"))


async def reason(device: Device, target: bytes, *bases: bytes, number: int = 0) -> str:
    said = await asked(device, target, *bases, number=number)
    assert isinstance(said, BlobGone)
    return said.reason


async def test_a_device_is_told_of_a_delta_and_pulls_it(broker: str, tmp_path: Path, store_toml: str) -> None:
    async with (
        make_service(write_config(tmp_path, broker, more=store_toml), HeldModel()) as service,
        Device(broker, "ota-1") as device,
    ):
        await ready(service)
        await offered(service, device, tmp_path, OLD)
        await offered(service, device, tmp_path, NEW)
        said = await asked(device, NEW, FAR, OLD)
        assert isinstance(said, DeltaFound)
        assert (said.sha256, said.base) == (sha(NEW), sha(OLD))
        assert said.size < 0.5 * len(NEW)
        delta = await device.pull(said.delta, said.size)
        assert rebuilt(tmp_path, OLD, delta, NEW) == NEW
        again = await asked(device, NEW, OLD, number=100)
        assert isinstance(again, DeltaFound) and again.delta == said.delta
        assert len(made(tmp_path)) == 1
        status, body = await get_blob(service, device.name, said.delta)
        assert (status, body) == (200, delta)


async def get_blob(service: CloudService, device: str, digest: str) -> tuple[int, bytes]:
    """Over HTTP, as a device pulls."""
    import aiohttp

    async with aiohttp.ClientSession() as http, http.get(f"{service.url}/v1/devices/{device}/blobs/{digest}") as reply:
        return reply.status, await reply.read()


async def test_a_device_gets_no_delta_to_or_from_what_is_not_its_own(broker: str, tmp_path: Path) -> None:
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "ota-2") as mine,
        Device(broker, "ota-3") as other,
    ):
        await ready(service)
        await offered(service, mine, tmp_path, OLD)
        await offered(service, mine, tmp_path, NEW)
        await offered(service, other, tmp_path, FAR)
        said = await asked(mine, NEW, OLD)
        assert isinstance(said, DeltaFound)
        assert await reason(other, NEW, OLD) == "no_base", "the file is not assigned to it"
        with pytest.raises(PeerError):
            await other.pull(said.delta, said.size)
        assert (await get_blob(service, other.name, said.delta))[0] == 404
        stranger = b"a blob of no release" * 2_000
        assert (await request(service, "PUT", f"/v1/blobs/{sha(stranger)}", data=stranger))[0] == 201
        assert await reason(mine, NEW, stranger) == "no_base", "it is here, but of no release"


async def test_a_delta_that_is_no_smaller_is_refused_and_remembered_over_a_restart(broker: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, broker)
    for _ in range(2):
        async with make_service(config, HeldModel()) as service, Device(broker, "ota-4") as device:
            await ready(service)
            await offered(service, device, tmp_path, OLD)
            await offered(service, device, tmp_path, FAR)
            assert await reason(device, FAR, OLD) == "delta_not_worth"
            assert [msgspec.json.decode(path.read_bytes()) for path in made(tmp_path)] == [{"delta": "", "size": 0}]


async def test_a_swept_delta_is_made_again(broker: str, tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service, Device(broker, "ota-5") as device:
        await ready(service)
        await offered(service, device, tmp_path, OLD)
        await offered(service, device, tmp_path, NEW)
        said = await asked(device, NEW, OLD)
        assert isinstance(said, DeltaFound)
        kept = tmp_path / "data" / "blobs" / said.delta[:2] / said.delta
        kept.unlink()
        again = await asked(device, NEW, OLD, number=100)
        assert isinstance(again, DeltaFound) and kept.is_file()
