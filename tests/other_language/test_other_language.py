"""A device in another language, written from the published document alone, against a real cloud on both brokers."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cloud_service import HeldModel, account, eventually, get, make_service, ready, write_config
from mosquitto import AnyBroker, Mosquitto
from node_device import DOCS, NodeDevice, installed
from other_packages import node

from outrider_cloud.service import CloudService
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.pace import FIRST_BLOCK

pytestmark = pytest.mark.broker
JSON, MSGPACK = "application/json", "application/msgpack"


def asked(question: str, image: Path | None = None) -> list[dict[str, str]]:
    """The parts of a question."""
    picture = {"file": str(image)} if image else {"text": "a small image"}
    return [
        {"name": "image", "modality": "image", "media_type": "image/png", **picture},
        {"name": "question", "modality": "text", "media_type": "text/plain", "text": question},
    ]


async def is_online(service: CloudService, device: str) -> bool | None:
    rows = (await get(service, "/v1/devices"))[1]["devices"]
    return next((row["online"] for row in rows if row["device"] == device), None)


def test_another_language_reads_every_golden_vector(tmp_path: Path) -> None:
    vectors = DOCS / "golden/wire-1.json"
    ran = subprocess.run(
        [node(), str(installed(tmp_path)), "--vectors", str(vectors)], check=True, capture_output=True, text=True
    )
    said = [json.loads(line) for line in ran.stdout.splitlines()]
    names = [vector["name"] for vector in json.loads(vectors.read_text())["vectors"]]
    assert said == [{"event": "vector", "name": name, "same": True, "again": True} for name in names]


@pytest.mark.both_brokers
@pytest.mark.parametrize("coding", [JSON, MSGPACK])
async def test_it_escalates_and_gets_receipt_and_answer(broker: AnyBroker, tmp_path: Path, coding: str) -> None:
    model, name = HeldModel(), f"node-{coding[-4:]}"
    async with make_service(write_config(tmp_path, broker.url), model) as service:
        await ready(service)
        model.open.clear()
        async with NodeDevice(tmp_path / "node", broker.url, name=name, coding=coding) as device:
            id_ = await device.ask(asked("what?"))
            await device.tells("receipt", id_)
            assert await is_online(service, name)
            model.open.set()
            answer = await device.tells("answer", id_)
        assert (answer["label"], answer["confidence"], answer["correlation"]) == ("green", 0.9, id_)
        assert not list((tmp_path / "node/spool").iterdir()), "it owes nothing any more"

        async def has_left() -> bool:
            return await is_online(service, name) is False

        await eventually(has_left)
        said = await account(service)
        assert (said["received"], said["cloud"], said["pending"]) == (1, 1, 0)


async def test_told_to_come_again_it_does_and_a_refused_one_ends(broker: AnyBroker, tmp_path: Path) -> None:
    model = HeldModel()
    async with (
        make_service(write_config(tmp_path, broker.url), model, queue_max=1, retry_after_s=0.3) as service,
        NodeDevice(tmp_path / "node", broker.url, name="node-busy") as device,
    ):
        await ready(service)
        model.open.clear()
        first = await device.ask(asked("first"))
        await device.tells("receipt", first)
        second = await device.ask(asked("second"))
        assert 0.2 < (await device.tells("busy", second))["retry_after_s"] < 0.4
        await device.tells("busy", second, count=2)
        model.open.set()
        for id_ in (first, second):
            assert (await device.tells("answer", id_))["label"] == "green"
        refused = await device.ask(asked("what?"), probabilities=[0.5, 0.5])
        assert (await device.tells("refusal", refused))["reason"] == "labels_mismatch"
        said = await account(service)
        assert (said["received"], said["cloud"], said["pending"]) == (2, 2, 0)
        assert said["offers"]["busy"] >= 2 and said["offers"]["dead_letter"] == 1


async def check_pulled(url: str, folder: Path, size: int) -> list[dict[str, Any]]:
    """A device that escalates in JSON has an image pulled from it; what it served, want by want."""
    image = bytes(range(256)) * (size // 256)
    digest = hashlib.sha256(image).hexdigest()
    (folder / "image").write_bytes(image)
    async with (
        make_service(write_config(folder, url), HeldModel()) as service,
        NodeDevice(folder / "node", url, name="node-blob") as device,
    ):
        await ready(service)
        id_ = await device.ask(asked("what?", folder / "image"))
        assert (await device.tells("answer", id_))["label"] == "green"
        (kept,) = (path for path in (folder / "data/blobs").rglob("*") if path.name.endswith(digest[2:]))
        assert kept.read_bytes() == image
        assert (await account(service))["cloud"] == 1
        assert len(device.of("connected")) == 1
        return device.of("served")


@pytest.mark.both_brokers
async def test_a_worker_pulls_what_is_too_large_to_travel_inline(broker: AnyBroker, tmp_path: Path) -> None:
    size = 4 * INLINE_BYTES
    assert max(served["to"] for served in await check_pulled(broker.url, tmp_path, size)) == size


async def test_a_broker_of_small_packets_carries_it_in_small_blocks(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker", extra="max_packet_size 20000") as broker:
        served = await check_pulled(broker.url, tmp_path, INLINE_BYTES // 2)
    assert served, "it would travel inline on a broker of larger packets"
    blocks = {told["block"] for told in served}
    assert min(blocks) == FIRST_BLOCK < max(blocks) < 20_000, "they grow, and no further than a packet"


@pytest.mark.both_brokers
async def test_what_nobody_heard_is_offered_again_after_a_kill_too_and_answered_once(
    own_broker: AnyBroker, broker_kind: str, tmp_path: Path
) -> None:
    async with NodeDevice(tmp_path / "node", own_broker.url, timer_s=0.2) as device:
        id_ = await device.ask(asked("what?"))
        await device.tells("offered", id_, count=2)
        if broker_kind == "mosquitto":
            await device.tells("unheard")
        await device.kill()
    model = HeldModel()
    async with (
        make_service(write_config(tmp_path, own_broker.url), model) as service,
        NodeDevice(tmp_path / "node", own_broker.url, timer_s=0.2) as device,
    ):
        assert (await device.tells("answer", id_))["label"] == "green"
        own_broker.stop()
        own_broker.start()
        await device.tells("connected", count=2)
        later = await device.ask(asked("and after a restart of the broker?"))
        assert (await device.tells("answer", later))["label"] == "green"
        said = await account(service)
        assert (said["received"], said["cloud"], said["pending"]) == (2, 2, 0)
        assert sorted(model.questions) == ["and after a restart of the broker?", "what?"], "each was asked about once"
        await device.kill()

        async def will_was_sent() -> bool:
            return await is_online(service, "node-1") is False

        await eventually(will_was_sent)
