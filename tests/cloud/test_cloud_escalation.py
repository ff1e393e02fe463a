"""An escalation's way through a running cloud, over a real broker: answered once, correctly, whatever arrives with it."""

import hashlib
import os
from functools import partial
from pathlib import Path

import msgspec
import pytest
from cloud_device import TOPICS, Device, make_escalation, new_id
from cloud_service import HeldModel, account, eventually, get, make_service, ready, request, the_task, write_config

from outrider_cloud.answering import settler
from outrider_link.session import Outgoing
from outrider_wire.codec import JSON, MSGPACK, encode
from outrider_wire.messages import Answer, BlobGone, Presence, Receipt, Refusal

pytestmark = [pytest.mark.broker, pytest.mark.both_brokers]


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


async def test_whoever_knows_a_digest_is_asked_for_the_bytes_and_learns_nothing_of_who_has_sent_them(
    broker: str, tmp_path: Path
) -> None:
    image, task = os.urandom(90_000), partial(the_task, tmp_path)
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "cam-owner") as owner,
        Device(broker, "cam-thief") as thief,
    ):
        await ready(service)
        owner.serve(image)
        await owner.hears(Answer, await owner.escalate(make_escalation(task(), {"image": image, "question": "mine"})))
        guessed = make_escalation(task(), {"image": image, "question": "theirs?"})
        unknown = make_escalation(task(), {"image": os.urandom(90_000), "question": "nobody's?"})
        said = {}
        for sent in (guessed, unknown):
            said[sent.id] = await thief.hears(Refusal, await thief.escalate(sent))
        assert not thief.of(Answer) and thief.wants_served == 2
        told = {
            (each.reason, each.detail.replace(sent.parts[0].sha256[:12], ""))
            for sent in (guessed, unknown)
            for each in [said[sent.id]]
        }
        assert len(told) == 1 and told.pop()[0] == "payload_unavailable", "no word differs by what is here"
        thief.serve(image)
        proven = await thief.escalate(make_escalation(task(), {"image": image, "question": "I have it"}))
        assert (await thief.hears(Answer, proven)).label == "green"
        assert thief.wants_served > 2, "its bytes were pulled, though the same are here"


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
            "no_content_type": broken(),
        }
        for reason, payload in bad.items():
            await device.send_raw(
                payload, coding={"unknown_content_type": "text/plain", "no_content_type": ""}.get(reason, MSGPACK)
            )
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


async def test_what_was_answered_out_of_memory_is_told_again_before_it_is_recorded(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler, "_BEHIND_S", 3.0)
    path = write_config(tmp_path, broker, durability="memory")
    async with make_service(path, HeldModel()) as service, Device(broker, "cam-early") as device:
        await ready(service)
        sent = make_escalation(the_task(tmp_path), {"image": b"1", "question": "?"})
        await device.escalate(sent)
        first = await device.hears(Answer, sent.id)
        await device.escalate(msgspec.structs.replace(sent, offer=2))
        assert await device.hears(Answer, sent.id, count=2) == first


async def test_a_device_that_is_forgotten_must_prove_anew_what_it_has(broker: str, tmp_path: Path) -> None:
    image = os.urandom(90_000)
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "cam-one") as one,
        Device(broker, "cam-two") as two,
    ):
        await ready(service)
        for device in (one, two):  # the file stays for what the other has sent
            device.serve(image)
            offered = make_escalation(the_task(tmp_path), {"image": image, "question": "mine"})
            await device.hears(Answer, await device.escalate(offered))
        assert (await request(service, "POST", "/v1/forget", body={"device": "cam-one"}))[0] == 200
        asked = one.wants_served
        again = make_escalation(the_task(tmp_path), {"image": image, "question": "again"})
        await one.hears(Answer, await one.escalate(again))
        assert one.wants_served > asked
