"""Releases: taken only whole and sound, assigned with a growing counter, pulled by a device file by file."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cloud_device import TOPICS, Device, make_escalation
from cloud_service import HeldModel, eventually, get, make_service, ready, request, the_task, write_config

from factory import make_bundle
from outrider_cloud.service import CloudService
from outrider_link.envelope import Outgoing
from outrider_wire.errors import PeerError
from outrider_wire.manifest import MANIFEST_FILE, decode_manifest
from outrider_wire.messages import Answer, Desired

pytestmark = pytest.mark.broker


async def put_all(service: CloudService, bundle: Path, leave_out: str = "") -> str:
    """Puts every file of a bundle; the digest of its manifest."""
    files = {file.name: file.read_bytes() for file in bundle.iterdir()}  # noqa: ASYNC240 (a few small files of a test)
    for name, data in files.items():
        if name != leave_out:
            assert (await request(service, "PUT", f"/v1/blobs/{hashlib.sha256(data).hexdigest()}", data=data))[0] == 201
    return hashlib.sha256(files[MANIFEST_FILE]).hexdigest()


async def release(service: CloudService, digest: str) -> tuple[int, Any]:
    return await request(service, "POST", "/v1/releases", body={"manifest": digest})


async def assign(service: CloudService, digest: str, devices: Any) -> tuple[int, Any]:
    return await request(service, "POST", f"/v1/releases/{digest}/assign", body={"devices": devices})


async def is_known(service: CloudService, device: str) -> bool:
    said = (await get(service, "/v1/devices"))[1]["devices"]
    return any(row["device"] == device and row["online"] for row in said)


async def test_an_assigned_release_reaches_the_device_and_every_file_can_be_pulled(broker: str, tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service, Device(broker, "ota-1") as device:
        await ready(service)
        await device.appear()
        await eventually(lambda: is_known(service, "ota-1"))
        bundle = make_bundle(tmp_path / "bundle", the_task(tmp_path))
        digest = await put_all(service, bundle)
        status, said = await release(service, digest)
        assert (status, said["task"], said["version"]) == (201, "colours", "1")
        assert (await assign(service, digest, "all"))[1] == {"release": digest, "counters": {"ota-1": 1}}
        wished = (await device.hears(Desired)).assignments[0]
        assert (wished.task, wished.release, wished.counter) == ("colours", digest, 1)
        manifest = decode_manifest(await device.pull(wished.release, wished.size))
        for entry in manifest.files:
            assert await device.pull(entry.sha256, entry.size) == (bundle / entry.path).read_bytes()
        assert (await get(service, "/v1/releases"))[1]["releases"][0]["devices"] == 1


async def test_each_assignment_counts_up_and_is_retained_for_a_device_that_comes_later(
    broker: str, tmp_path: Path
) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service:
        await ready(service)
        async with Device(broker, "ota-2") as device:
            await device.appear()
            await eventually(lambda: is_known(service, "ota-2"))
        digests = []
        for seed in range(2):
            bundle = make_bundle(tmp_path / f"bundle-{seed}", the_task(tmp_path), seed=seed)
            digests.append(await put_all(service, bundle))
            assert (await release(service, digests[-1]))[0] == 201
            assert (await assign(service, digests[-1], ["ota-2"]))[1]["counters"] == {"ota-2": seed + 1}
        async with Device(broker, "ota-2") as device:
            wished = (await device.hears(Desired)).assignments
            assert [(a.release, a.counter) for a in wished] == [(digests[1], 2)]
            await device.appear()
            await device.hears(Desired, count=2)  # a device that connects is told again
        devices = (await get(service, "/v1/devices"))[1]["devices"]
        mine = next(row for row in devices if row["device"] == "ota-2")
        assert mine["assigned"] == {"colours": {"release": digests[1], "counter": 2}}


async def test_what_is_no_release_is_refused_and_says_why(broker: str, tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service:
        task = the_task(tmp_path)

        async def refusal(digest: str) -> tuple[int, str]:
            status, said = await release(service, digest)
            assert said["error"]["what"] and said["error"]["fix"]
            return status, said["error"]["reason"]

        assert await refusal("0" * 64) == (404, "unknown_blob")
        lacking = make_bundle(tmp_path / "lacking", task, seed=7)
        assert await refusal(await put_all(service, lacking, leave_out="model.onnx")) == (422, "file_missing")
        other = make_bundle(tmp_path / "other", labels=["red", "green"])
        assert await refusal(await put_all(service, other)) == (422, "labels_mismatch")
        damaged = make_bundle(tmp_path / "damaged", task, seed=8)
        digest = await put_all(service, damaged)
        model = hashlib.sha256((damaged / "model.onnx").read_bytes()).hexdigest()
        stored = tmp_path / "data/blobs" / model[:2] / model
        stored.write_bytes(stored.read_bytes()[:-1] + b"?")
        assert await refusal(digest) == (422, "file_damaged")
        text = await request(service, "PUT", f"/v1/blobs/{hashlib.sha256(b'{}').hexdigest()}", data=b"{}")
        assert await refusal(text[1]["sha256"]) == (422, "manifest_unparsable")
        assert (await get(service, "/v1/releases"))[1]["releases"] == []
        assert (await assign(service, digest, "all"))[1]["error"]["reason"] == "unknown_release"


async def test_a_release_goes_to_no_device_that_was_never_heard_of(broker: str, tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service:
        digest = await put_all(service, make_bundle(tmp_path / "bundle", the_task(tmp_path)))
        await release(service, digest)
        status, said = await assign(service, digest, ["typo"])
        assert (status, said["error"]["reason"]) == (404, "unknown_device")
        assert (await assign(service, digest, "some"))[1]["error"]["reason"] == "invalid_body"


async def test_a_device_can_pull_releases_and_nothing_else(broker: str, tmp_path: Path) -> None:
    picture = b"another device's picture" * 5_000
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service, Device(broker, "ota-3") as device:
        await ready(service)
        device.serve(picture)
        sent = make_escalation(the_task(tmp_path), {"image": picture, "question": "?"})
        await device.escalate(sent)
        await device.hears(Answer, sent.id)
        digest = hashlib.sha256(picture).hexdigest()
        with pytest.raises(PeerError, match="has it no more"):
            await device.pull(digest, len(picture))


async def test_a_want_for_a_path_that_is_no_digest_is_parked(broker: str, tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service, Device(broker, "ota-4") as device:
        await ready(service)
        want = {"type": "want", "transfer": "t", "offset": 0, "count": 1, "block": 100, "worker": "releases", "v": 1}
        odd = ["../../data/cloud.db", "/etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"]
        for sha256 in odd:
            topic = TOPICS.of("blob-up", "ota-4", worker="releases", transfer="t")
            await device.session.publish(Outgoing(topic, msgspec.msgpack.encode(want | {"sha256": sha256})))

        async def parked() -> bool:
            letters = (await get(service, "/v1/dead-letters"))[1]["dead_letters"]
            return [letter["reason"] for letter in letters] == ["unparsable"] * len(odd)

        await eventually(parked)
        assert device.said == []


async def test_a_blob_that_is_not_what_its_digest_says_is_not_stored(broker: str, tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service:
        digest = hashlib.sha256(b"right").hexdigest()
        status, said = await request(service, "PUT", f"/v1/blobs/{digest}", data=b"wrong")
        assert (status, said["error"]["reason"]) == (400, "digest_mismatch")
        assert not [file for file in (tmp_path / "data/blobs").rglob("*") if file.is_file()]
        assert (await request(service, "HEAD", f"/v1/blobs/{digest}"))[0] == 404
        results = await asyncio.gather(
            *(request(service, "PUT", f"/v1/blobs/{digest}", data=b"right") for _ in range(5))
        )
        assert {status for status, _ in results} == {201}
        assert (await request(service, "HEAD", f"/v1/blobs/{digest}"))[0] == 200
        assert (await request(service, "PUT", "/v1/blobs/short", data=b"x"))[1]["error"]["reason"] == "invalid_digest"
