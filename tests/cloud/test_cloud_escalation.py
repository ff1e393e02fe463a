"""An escalation's way through a running cloud, over a real broker: answered once, correctly, whatever arrives with it."""

import asyncio
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from cloud_device import TOPICS, Device, make_escalation, new_id
from cloud_service import HeldModel, eventually, get, make_service, ready, the_task, write_config

from outrider_cloud.clock import now_ms
from outrider_cloud.intake.jobs import new_job
from outrider_cloud.store import inputs
from outrider_cloud.store.store import Store
from outrider_link.broker import EmbeddedBroker
from outrider_link.session import Outgoing
from outrider_wire.codec import JSON, encode
from outrider_wire.messages import Answer, BlobGone, Presence, Receipt, Refusal

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with EmbeddedBroker(port=0) as running:
        yield running.url


async def account(service: object) -> dict[str, int]:
    """The cloud's account, which must add up."""
    status, said = await get(service, "/v1/account")
    assert status == 200 and said["adds_up"]
    offers = said["offers"]
    assert offers["received"] == sum(n for name, n in offers.items() if name != "received")
    return said


async def test_an_inline_escalation_is_answered_with_its_correlation(broker: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, broker)
    async with make_service(path, HeldModel()) as service, Device(broker, "cam-inline") as device:
        await ready(service)
        sent = make_escalation(the_task(tmp_path), {"image": b"png", "question": "what?"})
        await device.escalate(sent, correlation=b"\x00\x01 mine")
        answer = await device.hears(Answer, sent.id)
        assert (answer.label, answer.strategy, answer.model) == ("green", "shunt", "held@1")
        assert answer.probabilities == [0.05, 0.9, 0.05] and answer.confidence == 0.9
        assert {"queue", "model", "total"} <= set(answer.ms)
        assert device.correlations[sent.id] == b"\x00\x01 mine"
        said = await account(service)
        assert (said["received"], said["cloud"], said["pending"]) == (1, 1, 0)


async def test_a_quick_answer_replaces_the_receipt_and_a_slow_one_follows_it(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    async with make_service(write_config(tmp_path, broker), model) as service, Device(broker, "cam-receipt") as device:
        await ready(service)
        task = the_task(tmp_path)
        quick = await device.escalate(make_escalation(task, {"image": b"1", "question": "quick"}))
        await device.hears(Answer, quick)
        assert not device.of(Receipt, quick)
        model.open.clear()
        slow = await device.escalate(make_escalation(task, {"image": b"2", "question": "slow"}))
        await device.hears(Receipt, slow)
        assert not device.of(Answer, slow)
        model.open.set()
        await device.hears(Answer, slow)


async def test_a_large_part_is_pulled_and_kept_by_its_digest(broker: str, tmp_path: Path) -> None:
    image = os.urandom(300_000)
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "cam-blob") as device,
    ):
        await ready(service)
        device.serve(image)
        sent = make_escalation(the_task(tmp_path), {"image": image, "question": "large"})
        await device.escalate(sent)
        answer = await device.hears(Answer, sent.id)
        assert answer.ms["pull"] > 0
        digest = hashlib.sha256(image).hexdigest()
        assert (tmp_path / "data/blobs" / digest[:2] / digest).read_bytes() == image
        again = await device.escalate(make_escalation(the_task(tmp_path), {"image": image, "question": "known"}))
        wants = device.wants_served
        await device.hears(Answer, again)
        assert device.wants_served == wants  # what is here is not pulled twice


async def test_a_task_that_keeps_nothing_leaves_no_trace_of_the_payload(broker: str, tmp_path: Path) -> None:
    secret = b"very private pixels" * 5_000
    path = write_config(tmp_path, broker, keep=False)
    async with make_service(path, HeldModel()) as service, Device(broker, "cam-private") as device:
        await ready(service)
        device.serve(secret)
        for inline in (True, False):
            image = secret if not inline else b"very private pixels"
            sent = make_escalation(the_task(tmp_path), {"image": image, "question": "?"}, inline=inline)
            if not inline:
                parts = [msgspec.structs.replace(p, inline=b"?" if p.name == "question" else None) for p in sent.parts]
                sent = msgspec.structs.replace(sent, parts=parts)
            await device.escalate(sent)
            await device.hears(Answer, sent.id)
        assert (await get(service, "/v1/tasks/colours/examples/stats"))[1]["examples"] == 0
    left = [f for f in (tmp_path / "data").rglob("*") if f.is_file() and b"very private pixels" in f.read_bytes()]
    assert left == []


async def test_a_repeat_of_an_answered_input_gets_the_same_answer_again(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    async with make_service(write_config(tmp_path, broker), model) as service, Device(broker, "cam-repeat") as device:
        await ready(service)
        sent = make_escalation(the_task(tmp_path), {"image": b"1", "question": "once"})
        await device.escalate(sent)
        first = await device.hears(Answer, sent.id)
        model.label = 2
        await device.escalate(msgspec.structs.replace(sent, offer=2))
        assert await device.hears(Answer, sent.id, count=2) == first
        assert model.questions == ["once"]
        assert (await account(service))["received"] == 1


async def test_a_repeat_of_a_waiting_input_gets_a_receipt_and_is_asked_about_once(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    async with make_service(write_config(tmp_path, broker), model) as service, Device(broker, "cam-wait") as device:
        await ready(service)
        model.open.clear()
        sent = make_escalation(the_task(tmp_path), {"image": b"1", "question": "once"})
        await device.escalate(sent)
        await device.hears(Receipt, sent.id)
        await device.escalate(msgspec.structs.replace(sent, offer=2))
        await device.hears(Receipt, sent.id, count=2)
        model.open.set()
        await device.hears(Answer, sent.id)
        assert model.questions == ["once"]


async def test_the_same_id_from_two_devices_is_two_inputs(broker: str, tmp_path: Path) -> None:
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "cam-a") as one,
        Device(broker, "cam-b") as other,
    ):
        await ready(service)
        sent = make_escalation(the_task(tmp_path), {"image": b"1", "question": "whose?"})
        await one.escalate(sent)
        await one.hears(Answer, sent.id)
        assert not other.said  # an answer goes to the device whose topic the question came on
        await other.escalate(sent)
        await other.hears(Answer, sent.id)
        assert (await account(service))["received"] == 2


async def test_json_is_answered_in_json(broker: str, tmp_path: Path) -> None:
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "cam-json") as device,
    ):
        await ready(service)
        sent = make_escalation(the_task(tmp_path), {"image": b"1", "question": "json?"})
        await device.escalate(sent, coding=JSON)
        await device.hears(Answer, sent.id)
        assert device.codings == [JSON]


async def test_bad_messages_are_refused_parked_and_counted_and_the_cloud_goes_on(broker: str, tmp_path: Path) -> None:
    task_id = new_id()
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "cam-bad") as device,
    ):
        await ready(service)
        task = the_task(tmp_path)
        good = make_escalation(task, {"image": b"1", "question": "?"})
        fields = msgspec.to_builtins(good, builtin_types=(bytes,))

        def broken(**changes: object) -> bytes:
            return msgspec.msgpack.encode(fields | {"id": task_id} | changes)

        bad = {
            "unparsable": b"\xc1 this is no message",
            "too_large": broken(why="x" * (1024 * 1024)),
            "unsupported_version": broken(v=99),
            "unknown_content_type": b"{}",
            "labels_mismatch": broken(probabilities=[1.0]),
            "missing_part": broken(parts=fields["parts"][:1]),
            "extra_part": broken(parts=[*fields["parts"], fields["parts"][0] | {"name": "sound"}]),
            "part_damaged": broken(parts=[fields["parts"][0] | {"inline": b"2"}, fields["parts"][1]]),
            "wrong_modality": broken(parts=[fields["parts"][0] | {"modality": "audio"}, fields["parts"][1]]),
            "part_too_large": broken(
                parts=[fields["parts"][0] | {"size": 3_000_000, "inline": None}, fields["parts"][1]]
            ),
            "wrong_message": encode(Receipt(id=task_id)),
        }
        for reason, payload in bad.items():
            await device.send_raw(payload, coding="text/plain" if reason == "unknown_content_type" else "")
        await device.send_raw(broken(task="nothing"), task="nothing")
        await device.send_raw(broken(), task="other")
        expected = {*bad, "unknown_task", "task_mismatch"}
        wanted = expected - {"unparsable", "unknown_content_type"}  # these hold no id to answer to
        await device.until(lambda: {m.reason for m in device.of(Refusal)} == wanted)
        assert all(m.retry_after_s is None for m in device.of(Refusal))
        await device.escalate(good)
        await device.hears(Answer, good.id)
        _, said = await get(service, "/v1/dead-letters")
        assert {letter["reason"] for letter in said["dead_letters"]} == expected
        assert (
            bytes.fromhex(next(x["head"] for x in said["dead_letters"] if x["reason"] == "unparsable"))
            == bad["unparsable"]
        )
        assert (await account(service))["offers"]["dead_letter"] == len(expected)


async def test_an_absurd_message_on_any_topic_is_parked(broker: str, tmp_path: Path) -> None:
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "cam-spoof") as device,
    ):
        await ready(service)
        spoof = Presence(device="somebody-else", online=True, boot_id="b")
        gone = BlobGone(transfer="t", sha256="0" * 64, reason="gone")
        for topic, payload in {
            TOPICS.of("presence", "cam-spoof"): encode(spoof),
            TOPICS.of("reported", "cam-spoof"): b"\xff",
            TOPICS.of("telemetry", "cam-spoof"): encode(spoof),
            TOPICS.of("blob-up", "cam-spoof", worker="releases", transfer="t"): encode(gone),
        }.items():
            await device.session.publish(Outgoing(topic, payload))

        async def letters() -> list[dict[str, str]]:
            return (await get(service, "/v1/dead-letters"))[1]["dead_letters"]

        async def all_parked() -> bool:
            return len(await letters()) == 4

        await eventually(all_parked)
        assert sorted(x["reason"] for x in await letters()) == [
            "unparsable",
            "wrong_device",
            "wrong_message",
            "wrong_message",
        ]
        assert (await get(service, "/v1/devices"))[1]["devices"] == []


async def test_a_full_queue_refuses_as_busy_and_still_repeats_answers(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    path = write_config(tmp_path, broker)
    async with (
        make_service(path, model, queue_max=2, retry_after_s=3.0) as service,
        Device(broker, "cam-busy") as device,
    ):
        await ready(service)
        task = the_task(tmp_path)
        early = make_escalation(task, {"image": b"0", "question": "early"})
        await device.escalate(early)
        await device.hears(Answer, early.id)
        model.open.clear()
        held = [make_escalation(task, {"image": b"1", "question": f"held {k}"}) for k in range(2)]
        for sent in held:
            await device.escalate(sent)
            await device.hears(Receipt, sent.id)
        late = await device.escalate(make_escalation(task, {"image": b"1", "question": "late"}))
        refusal = await device.hears(Refusal, late)
        assert (refusal.reason, refusal.retry_after_s) == ("busy", 3.0)
        await device.escalate(msgspec.structs.replace(early, offer=2))
        await device.hears(Answer, early.id, count=2)
        model.open.set()
        for sent in held:
            await device.hears(Answer, sent.id)
        assert (await account(service))["offers"]["busy"] == 1


async def test_a_flood_is_refused_message_by_message_and_the_line_stays_up(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    path = write_config(tmp_path, broker)
    async with make_service(path, model, queue_max=1) as service, Device(broker, "cam-flood") as device:
        await ready(service)
        task = the_task(tmp_path)
        model.open.clear()
        held = await device.escalate(make_escalation(task, {"image": b"0", "question": "held"}))
        await device.hears(Receipt, held)
        flood = [make_escalation(task, {"image": b"1", "question": "flood"}) for _ in range(1200)]
        await asyncio.gather(*(device.escalate(escalation) for escalation in flood))
        sent = {escalation.id for escalation in flood}
        await device.until(lambda: {refusal.id for refusal in device.of(Refusal)} == sent, within_s=30)
        model.open.set()
        await device.hears(Answer, held)
        offers = (await account(service))["offers"]  # a broker may deliver a message twice
        assert offers["claimed"] == 1
        assert offers["busy"] == offers["received"] - 1 >= len(sent)


async def test_one_input_that_the_model_fails_on_does_not_fail_its_batch(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    async with make_service(write_config(tmp_path, broker), model) as service, Device(broker, "cam-poison") as device:
        await ready(service)
        task = the_task(tmp_path)
        model.open.clear()
        first = await device.escalate(make_escalation(task, {"image": b"0", "question": "holds the line"}))
        await device.hears(Receipt, first)
        ids = {
            q: await device.escalate(make_escalation(task, {"image": b"1", "question": q}))
            for q in ("good", "explode", "refuse")
        }
        for input_id in ids.values():
            await device.hears(Receipt, input_id)
        model.open.set()
        await device.hears(Answer, ids["good"])
        assert (await device.hears(Refusal, ids["refuse"])).reason == "undecodable_image"
        assert (await device.hears(Refusal, ids["explode"])).reason == "large_model_failed"
        assert model.batches[:2] == [1, 3]
        said = await account(service)
        assert (said["cloud"], said["refused"], said["pending"]) == (2, 2, 0)


async def test_what_nobody_wants_any_more_expires(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    async with make_service(write_config(tmp_path, broker), model) as service, Device(broker, "cam-late") as device:
        await ready(service)
        task = the_task(tmp_path)
        model.open.clear()
        await device.escalate(make_escalation(task, {"image": b"0", "question": "holds the line"}))
        late = make_escalation(task, {"image": b"1", "question": "late"}, keep_for_s=4)
        await device.escalate(late)
        await device.hears(Receipt, late.id)
        await asyncio.sleep(4.1)
        model.open.set()
        assert (await device.hears(Refusal, late.id)).reason == "expired"
        assert (await account(service))["expired"] == 1
        assert "late" not in model.questions


async def test_a_device_that_does_not_have_the_part_is_told_so(broker: str, tmp_path: Path) -> None:
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "cam-gone") as device,
    ):
        await ready(service)
        sent = make_escalation(the_task(tmp_path), {"image": os.urandom(100_000), "question": "?"})
        await device.escalate(sent)
        assert (await device.hears(Refusal, sent.id)).reason == "payload_unavailable"
        assert (await account(service))["offers"]["unfetched"] == 1


async def test_an_offer_that_met_a_store_that_cannot_be_read_is_taken_when_it_comes_again(
    broker: str, tmp_path: Path
) -> None:
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "cam-unread") as device,
    ):
        await ready(service)
        image = os.urandom(100_000)
        device.serve(image)
        sent = make_escalation(the_task(tmp_path), {"image": image, "question": "?"})
        with sqlite3.connect(tmp_path / "data/cloud.db") as store:
            store.execute("ALTER TABLE inputs RENAME TO hidden")
        await device.escalate(sent)

        async def failed() -> bool:
            return service.offers().get("failed") == 1

        await eventually(failed)
        with store:
            store.execute("ALTER TABLE hidden RENAME TO inputs")
        store.close()
        await device.escalate(msgspec.structs.replace(sent, offer=2))
        await device.hears(Answer, sent.id)


async def test_rows_that_cannot_be_read_do_not_keep_the_cloud_from_starting(broker: str, tmp_path: Path) -> None:
    path, model = write_config(tmp_path, broker), HeldModel()
    task = the_task(tmp_path)
    async with Device(broker, "cam-damaged") as device:
        async with make_service(path, model, max_size=1) as service:
            await ready(service)
            answered = await device.escalate(make_escalation(task, {"image": b"0", "question": "answered"}))
            await device.hears(Answer, answered)
        stamp = now_ms()
        claims = [
            new_job(
                device="cam-damaged",
                task=task,
                escalation=make_escalation(task, {"image": b"1", "question": question}),
                content_type="",
                correlation=None,
                now=0.0,
                received_ms=stamp,
            ).claim(worker="one", lease_s=0)
            for question in ("damaged", "sound")
        ]
        store = Store(url=f"sqlite:///{tmp_path / 'data/cloud.db'}")
        store.open()
        for claim in (msgspec.structs.replace(claims[0], request=b"\xc1"), claims[1]):
            await store.write(partial(inputs.start, wanted=claim))
        await store.write(
            lambda c: c.execute(sa.text("UPDATE inputs SET reply = x'c1', sent = 0 WHERE reply IS NOT NULL"))
        )
        store.close()
        async with make_service(path, model) as service:
            await ready(service)
            await device.hears(Answer, claims[1].id)
            assert (await device.hears(Refusal, claims[0].id)).reason == "stored_unreadable"
            said = await account(service)
            assert (said["received"], said["cloud"], said["refused"], said["pending"]) == (3, 2, 1, 0)


async def test_a_device_that_has_let_its_payload_go_still_gets_its_answer(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    path = write_config(tmp_path, broker)
    async with make_service(path, model) as service, Device(broker, "cam-let-go") as device:
        await ready(service)
        image = os.urandom(100_000)
        device.serve(image)
        sent = make_escalation(the_task(tmp_path), {"image": image, "question": "?"})
        await device.escalate(sent)
        first = await device.hears(Answer, sent.id)
        device.blobs.clear()
        await device.escalate(msgspec.structs.replace(sent, offer=2))
        assert await device.hears(Answer, sent.id, count=2) == first
        model.open.clear()
        device.serve(image)
        sent = make_escalation(the_task(tmp_path), {"image": image, "question": "again"})
        await device.escalate(sent)
        await device.hears(Receipt, sent.id)
        device.blobs.clear()
        await device.escalate(msgspec.structs.replace(sent, offer=2))
        await device.hears(Receipt, sent.id, count=2)
        model.open.set()
        await device.hears(Answer, sent.id)
        assert not device.of(Refusal)


async def test_two_workers_share_the_work_and_answer_each_input_once(broker: str, tmp_path: Path) -> None:
    models = [HeldModel(), HeldModel()]
    paths = [write_config(tmp_path, broker, worker=name) for name in ("one", "two")]
    async with (
        make_service(paths[0], models[0]) as one,
        make_service(paths[1], models[1]) as two,
        Device(broker, "cam-share") as device,
    ):
        await ready(one)
        await ready(two)
        task = the_task(tmp_path)
        sent = [make_escalation(task, {"image": b"1", "question": f"number {k}"}) for k in range(40)]
        for escalation in sent:
            await device.escalate(escalation)
        for escalation in sent:
            await device.hears(Answer, escalation.id)
        assert all(model.questions for model in models)
        assert sorted(models[0].questions + models[1].questions) == sorted(f"number {k}" for k in range(40))
        for repeat in sent[:8]:
            await device.escalate(msgspec.structs.replace(repeat, offer=2))
        for repeat in sent[:8]:
            await device.hears(Answer, repeat.id, count=2)  # whichever worker it reaches
        for service in (one, two):
            said = await account(service)
            assert (said["received"], said["cloud"]) == (40, 40)


async def test_memory_durability_answers_at_once_and_records_it_all_the_same(broker: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, broker, durability="memory")
    async with make_service(path, HeldModel()) as service, Device(broker, "cam-memory") as device:
        await ready(service)
        sent = make_escalation(the_task(tmp_path), {"image": b"1", "question": "?"})
        await device.escalate(sent)
        first = await device.hears(Answer, sent.id)

        async def recorded() -> bool:
            return (await account(service))["cloud"] == 1

        await eventually(recorded)
        await device.escalate(msgspec.structs.replace(sent, offer=2))
        assert await device.hears(Answer, sent.id, count=2) == first
