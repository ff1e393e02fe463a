"""Escalations over HTTP: the same intake as over the broker, replies as statuses, and the document that says so."""

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import msgspec
import pytest
from cloud_device import Device, make_escalation, new_id
from cloud_service import HeldModel, account, eventually, get, make_service, ready, the_task, write_config

from outrider.processes import any_port
from outrider_cloud.intake.uploads import AT_ONCE
from outrider_cloud.service import CloudService
from outrider_link.broker import EmbeddedBroker
from outrider_wire.codec import JSON, MSGPACK, decode, encode
from outrider_wire.messages import Answer, Escalation, Receipt

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with EmbeddedBroker(port=any_port()) as running:
        yield running.url


async def post(
    service: CloudService,
    sent: Escalation | bytes,
    *,
    device: str = "web-1",
    task: str = "colours",
    coding: str = MSGPACK,
    wait_ms: int | str = 10_000,
) -> tuple[int, Any, dict[str, str]]:
    """Status, body (a message where it is one, else JSON) and headers."""
    body = sent if isinstance(sent, bytes) else encode(sent, coding)
    path = f"{service.url}/v1/devices/{device}/escalations/{task}?wait_ms={wait_ms}"
    async with (
        aiohttp.ClientSession() as client,
        client.post(path, data=body, headers={"Content-Type": coding}) as reply,
    ):
        data = await reply.read()
        said = decode(data, reply.content_type) if reply.status < 300 else msgspec.json.decode(data)["error"]
        return reply.status, said, dict(reply.headers)


async def put(service: CloudService, data: bytes, *, device: str = "web-1", digest: str = "") -> tuple[int, Any]:
    path = f"{service.url}/v1/devices/{device}/blobs/{digest or hashlib.sha256(data).hexdigest()}"
    async with aiohttp.ClientSession() as client, client.put(path, data=data) as reply:
        return reply.status, await reply.json()


@pytest.mark.parametrize("coding", [MSGPACK, JSON])
async def test_an_escalation_is_answered_in_its_own_coding_and_stands(broker: str, tmp_path: Path, coding: str) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service:
        await ready(service)
        sent = make_escalation(the_task(tmp_path), {"image": b"png", "question": "what?"})
        status, answer, headers = await post(service, sent, coding=coding)
        assert (status, answer.id, answer.label, headers["Content-Type"]) == (200, sent.id, "green", coding)
        status, said = await get(service, f"/v1/devices/web-1/escalations/{sent.id}")
        assert (status, msgspec.convert(said, Answer)) == (200, answer)
        assert (await account(service))["cloud"] == 1


async def test_a_slow_one_has_its_receipt_and_is_answered_to_whoever_waits(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    async with make_service(write_config(tmp_path, broker), model) as service:
        await ready(service)
        model.open.clear()
        sent = make_escalation(the_task(tmp_path), {"image": b"1", "question": "slow"})
        status, said, _ = await post(service, sent, wait_ms=300)
        assert (status, said) == (202, Receipt(id=sent.id))
        assert (await get(service, f"/v1/devices/web-1/escalations/{sent.id}"))[0] == 202
        waiting = asyncio.create_task(get(service, f"/v1/devices/web-1/escalations/{sent.id}?wait_ms=20000"))
        await asyncio.sleep(0.05)
        model.open.set()
        status, body = await waiting
        assert (status, body["label"]) == (200, "green")
        assert (await get(service, f"/v1/devices/web-2/escalations/{sent.id}"))[0] == 404  # ids are a device's own


async def test_one_input_offered_both_ways_is_one_input_and_one_bill(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    async with make_service(write_config(tmp_path, broker), model) as service, Device(broker, "both") as device:
        await ready(service)
        model.open.clear()
        first, second = (
            make_escalation(the_task(tmp_path), {"image": b"1", "question": f"number {k}"}) for k in range(2)
        )
        await device.escalate(first)
        await device.hears(Receipt, first.id)
        waiting = [asyncio.create_task(post(service, sent, device="both")) for sent in (first, second)]

        async def both_wait() -> bool:
            return (await get(service, "/v1/account"))[1]["pending"] == 2

        await eventually(both_wait)
        await device.escalate(msgspec.structs.replace(second, offer=2))
        await device.hears(Receipt, second.id)
        model.open.set()
        replies = [await each for each in waiting]
        assert [status for status, _, _ in replies] == [200, 200]
        for sent, (_, answer, _) in zip((first, second), replies, strict=True):
            assert await device.hears(Answer, sent.id) == answer
        assert sorted(model.questions) == ["number 0", "number 1"]
        said = await account(service)
        assert (said["received"], said["cloud"]) == (2, 2)


async def test_a_part_that_was_put_is_not_pulled_and_is_taken_once(broker: str, tmp_path: Path) -> None:
    image = os.urandom(300_000)
    path = write_config(tmp_path, broker, keep=False)
    async with make_service(path, HeldModel()) as service, Device(broker, "web-1") as device:
        await ready(service)
        sent = make_escalation(the_task(tmp_path), {"image": image, "question": "large"})
        status, error, headers = await post(service, sent)
        assert (status, error["reason"], headers["Retry-After"]) == (409, "part_not_here", "1")
        assert (await put(service, image))[0] == 201
        assert (await put(service, image))[0] == 200
        other = make_escalation(the_task(tmp_path), {"image": image, "question": "another's part"})
        assert (await post(service, other, device="web-2"))[0] == 409  # what one device has put is no other's
        status, answer, _ = await post(service, sent)
        assert (status, answer.label) == (200, "green")
        assert (await post(service, sent))[1] == answer  # the reply stands, though the part is gone
        # os.walk, because the folder may go while it is looked into
        assert [file for _, _, files in os.walk(tmp_path / "data/uploads") for file in files] == []
        assert (await put(service, image))[0] == 201
        question = make_escalation(the_task(tmp_path), {"image": image, "question": "over the broker"})
        await device.escalate(question)
        await device.hears(Answer, question.id)
        assert device.wants_served == 0


async def test_whoever_knows_a_digest_cannot_have_anothers_part_answered_about(broker: str, tmp_path: Path) -> None:
    image = os.urandom(100_000)
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service:
        await ready(service)
        assert (await put(service, image))[0] == 201
        own = make_escalation(the_task(tmp_path), {"image": image, "question": "mine"})
        assert (await post(service, own))[0] == 200
        digest = hashlib.sha256(image).hexdigest()
        assert (tmp_path / "data/blobs" / digest[:2] / digest).read_bytes() == image
        other = make_escalation(the_task(tmp_path), {"image": image, "question": "whose?"})
        assert (await post(service, other, device="web-2"))[0] == 409
        fetched = [await get(service, f"/v1/devices/web-2/blobs/{each}") for each in (digest, "0" * 64)]
        assert [(status, said["error"]["reason"]) for status, said in fetched] == [(404, "unknown_blob")] * 2
        assert (await put(service, image, device="web-2"))[0] == 201, "what another has put is not here for it"
        assert (await post(service, other, device="web-2"))[0] == 200


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"task": "other"}, (400, "task_mismatch")),
        ({"probabilities": [1.0]}, (400, "labels_mismatch")),
        ({"v": 99}, (400, "unsupported_version")),
        ({"parts": []}, (400, "unparsable")),
    ],
)
async def test_what_is_no_escalation_is_refused_and_parked(
    broker: str, tmp_path: Path, changes: dict[str, Any], expected: tuple[int, str]
) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service:
        await ready(service)
        good = make_escalation(the_task(tmp_path), {"image": b"1", "question": "?"})
        fields = msgspec.to_builtins(good, builtin_types=(bytes,)) | changes
        status, error, _ = await post(service, msgspec.msgpack.encode(fields))
        assert (status, error["reason"]) == expected
        letters = (await get(service, "/v1/dead-letters"))[1]["dead_letters"]
        assert [(x["reason"], x["device"], x["input"]) for x in letters] == [(expected[1], "web-1", good.id)]


async def test_hostile_requests_have_statuses(broker: str, tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service:
        await ready(service)
        good = make_escalation(the_task(tmp_path), {"image": b"1", "question": "?"})
        raw = encode(good)
        assert (await post(service, raw, coding="text/plain"))[0] == 415
        assert (await post(service, b"\xc1"))[0] == 400
        assert (await post(service, bytes(2_000_000)))[0] == 413
        assert (await post(service, msgspec.structs.replace(good, task="nothing"), task="nothing"))[0] == 404
        assert (await post(service, good, task="UPPER"))[0] == 400
        assert (await post(service, good, device="A+"))[0] == 400
        assert (await post(service, good, wait_ms="-1"))[0] == 400
        assert (await get(service, f"/v1/devices/web-1/escalations/{new_id()}"))[0] == 404
        assert (await get(service, "/v1/devices/web-1/escalations/nothing"))[0] == 400
        refused = make_escalation(the_task(tmp_path), {"image": b"1", "question": "refuse"})
        status, error, headers = await post(service, refused)
        assert (status, error["reason"]) == (422, "undecodable_image")
        assert "Retry-After" not in headers
        assert (await get(service, f"/v1/devices/web-1/escalations/{refused.id}"))[0] == 422


async def test_a_full_cloud_says_when_to_come_again(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    async with make_service(write_config(tmp_path, broker), model, queue_max=1, retry_after_s=2.5) as service:
        await ready(service)
        model.open.clear()
        one, two = (make_escalation(the_task(tmp_path), {"image": b"1", "question": f"{k}"}) for k in range(2))
        assert (await post(service, one, wait_ms=200))[0] == 202
        status, error, headers = await post(service, two)
        assert (status, error["reason"]) == (503, "busy")
        assert headers["Retry-After"] in ("2", "3", "4")  # 2.5 s, a quarter more or less by chance, in whole seconds
        model.open.set()


async def test_uploads_are_few_small_right_and_swept(broker: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, broker)
    path.write_text(path.read_text().replace("[api]", "[devices]\nupload_bytes = 250000\n[api]"))
    async with make_service(path, HeldModel()) as service:
        await ready(service)
        assert (await put(service, b"right", digest="0" * 64))[1]["error"]["reason"] == "digest_mismatch"
        assert (await put(service, b"right", digest="../" + "0" * 61))[0] == 404
        assert (await put(service, b"right", digest="0" * 63))[1]["error"]["reason"] == "invalid_digest"
        assert (await put(service, bytes(2_000_001)))[0] == 413
        assert [(await put(service, os.urandom(100_000)))[0] for _ in range(3)] == [201, 201, 429]
        assert (await put(service, os.urandom(100_000), device="web-2"))[0] == 201
        url = f"{service.url}/v1/devices/web-2/blobs/{'1' * 64}"
        async with aiohttp.ClientSession() as client:

            async def endless() -> Any:
                yield b"x"

            async with client.put(url, data=endless()) as reply:
                assert reply.status == 411
        files = [file for file in (tmp_path / "data/uploads").rglob("*") if file.is_file()]
        assert len(files) == 3
        os.utime(files[0], (1, 1))
        for file in files[1:]:
            assert file.exists()
    async with make_service(path, HeldModel()) as service:  # the first round of housekeeping sweeps

        async def swept() -> bool:
            return not files[0].exists()

        await eventually(swept)
        assert all(file.exists() for file in files[1:])


async def test_the_document_describes_what_is_taken_and_given(broker: str, tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service:
        await ready(service)
        document = (await get(service, "/openapi.json"))[1]
        operation = document["paths"]["/v1/devices/{device}/escalations/{task}"]["post"]
        assert set(operation["requestBody"]["content"]) == {JSON, MSGPACK}
        assert {"200", "202", "409", "503"} <= set(operation["responses"])
        sent = make_escalation(the_task(tmp_path), {"image": b"1", "question": "?"})
        _, answer, _ = await post(service, sent, coding=JSON)
        for message, content in (
            (sent, operation["requestBody"]["content"]),
            (answer, operation["responses"]["200"]["content"]),
            (Receipt(id=sent.id), operation["responses"]["202"]["content"]),
        ):
            schema = content[JSON]["schema"] | {"components": document["components"]}
            jsonschema.validate(msgspec.json.decode(encode(message, JSON)), schema)
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({"id": 1}, schema)


async def test_one_device_puts_only_so_many_parts_at_once(broker: str, tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service, aiohttp.ClientSession() as client:
        await ready(service)
        go_on = asyncio.Event()

        async def slow(data: bytes) -> Any:
            yield data[:10]
            await go_on.wait()
            yield data[10:]

        async def put_slowly(device: str) -> int:
            data = os.urandom(1000)
            url = f"{service.url}/v1/devices/{device}/blobs/{hashlib.sha256(data).hexdigest()}"
            async with client.put(url, data=slow(data), headers={"Content-Length": "1000"}) as reply:
                return reply.status

        many = [asyncio.create_task(put_slowly("web-1")) for _ in range(AT_ONCE)]
        under_way = tmp_path / "data/uploads/web-1"

        async def all_begun() -> bool:
            return under_way.is_dir() and sum(file.is_file() for file in under_way.rglob(".*")) == AT_ONCE

        await eventually(all_begun)
        assert await put_slowly("web-1") == 429
        go_on.set()
        assert await asyncio.gather(*many, put_slowly("web-2")) == [201] * (AT_ONCE + 1)
