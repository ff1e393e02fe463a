"""Where an escalation meets trouble: a full queue, a failing model, an unreadable store, a device that lets go."""

import asyncio
import os
import sqlite3
from functools import partial
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from cloud_device import Device, make_escalation
from cloud_service import HeldModel, account, eventually, make_service, ready, the_task, write_config

from outrider_cloud.clock import now_ms
from outrider_cloud.intake.jobs import new_job
from outrider_cloud.lease_clock import lease
from outrider_cloud.store import inputs
from outrider_cloud.store.store import Store
from outrider_wire.messages import Answer, Receipt, Refusal

pytestmark = pytest.mark.broker


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
        assert (refusal.reason, refusal.detail) == ("busy", "queue_full")
        assert refusal.retry_after_s is not None and refusal.retry_after_s >= 0.75 * 3.0
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
        first = await device.escalate(make_escalation(task, {"image": b"0", "question": "holds the line"}))
        await device.hears(Receipt, first)  # else both may make one batch
        late = make_escalation(task, {"image": b"1", "question": "late"}, keep_for_s=4)
        await device.escalate(late)
        await device.hears(Receipt, late.id)
        await asyncio.sleep(4.1)
        model.open.set()
        assert (await device.hears(Refusal, late.id)).reason == "expired"
        assert (await account(service))["expired"] == 1
        assert "late" not in model.questions


async def test_a_model_that_hangs_keeps_no_device_waiting_beyond_its_time(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    async with make_service(write_config(tmp_path, broker), model) as service, Device(broker, "cam-hang") as device:
        await ready(service)
        task = the_task(tmp_path)
        model.open.clear()
        sent = [
            make_escalation(task, {"image": b"0", "question": place}, keep_for_s=2, answer_within_ms=1000)
            for place in ("in hand", "behind it")
        ]
        for each in sent:
            await device.escalate(each)
            await device.hears(Receipt, each.id)
        for each in sent:
            assert (await device.hears(Refusal, each.id)).reason == "expired"
        said = await account(service)
        assert (said["received"], said["expired"], said["pending"]) == (2, 2, 0)
        model.open.set()  # it answers after all: what stands, stands
        after = await device.escalate(make_escalation(task, {"image": b"1", "question": "after"}))
        await device.hears(Answer, after)
        assert not device.of(Answer, sent[0].id) and "behind it" not in model.questions
        said = await account(service)
        assert (said["received"], said["expired"], said["cloud"]) == (3, 2, 1)


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
            ).claim(worker="one", lease=lease(0))
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


async def test_a_first_offer_that_comes_again_after_its_answer_is_not_paid_for_again(
    broker: str, tmp_path: Path
) -> None:
    model = HeldModel()
    path = write_config(tmp_path, broker)
    async with make_service(path, model) as service, Device(broker, "cam-again") as device:
        await ready(service)
        task = the_task(tmp_path)
        for question in ("first", "second"):  # from the second on the model is known to be quick
            sent = make_escalation(task, {"image": b"1", "question": question})
            await device.escalate(sent)
            await device.hears(Answer, sent.id)
        await device.escalate(sent)  # its device died before it wrote down that it had offered it
        await device.hears(Answer, sent.id, count=2)
        assert model.questions == ["first", "second"]
        offers = (await account(service))["offers"]
        assert (offers["claimed"], offers["repeated"]) == (2, offers["received"] - 2)
