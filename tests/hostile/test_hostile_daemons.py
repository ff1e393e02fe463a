"""The table of attacks against a cloud and an agent that run: real processes, a real broker, real HTTP.

After each test both still answer a good input, both accounts add up, and neither has grown; every refusal was counted by reason.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest
from accounting import wait_for
from attacks import attacks_on, form_field
from cloud_device import TOPICS, Device, make_escalation, new_id, sha256
from raw_mqtt import CONTENT_TYPE, CORRELATION, FORMAT, RESPONSE_TOPIC, USER_PROPERTY, RawClient, text
from under_attack import AGENT, BURST, UnderAttack

from factory import parts_of, sure, unsure
from outrider_link.session import Outgoing
from outrider_wire.codec import MSGPACK, encode
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.messages import (
    Answer,
    BlobBlock,
    BlobGone,
    BlobWant,
    Fact,
    Message,
    Presence,
    Receipt,
    Refusal,
    Reported,
    Telemetry,
)
from outrider_wire.topics import RELEASES

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

LONGEST_STRING = 65_535


async def reaches(count: Callable[[], Awaitable[Counter[str]]], expected: Counter[str], within_s: float = 10) -> None:
    """Waits until a counter has risen by exactly what is expected, and no more comes after it."""
    deadline = time.monotonic() + within_s
    while (found := await count()) != expected and time.monotonic() < deadline:  # noqa: ASYNC110  another process's state
        await asyncio.sleep(0.1)
    assert found == expected
    await asyncio.sleep(0.3)
    assert await count() == expected


def rises(before: Counter[str], by: Counter[str]) -> Counter[str]:
    """What a counter should show."""
    return Counter({reason: before[reason] + by[reason] for reason in before | by})


MESSAGES = [attack for attack in attacks_on("message") if len(attack.coding) <= LONGEST_STRING]


async def test_the_cloud_refuses_every_message_of_the_table(target: UnderAttack) -> None:
    before = await target.dead_letters()
    async with Device(target.system.broker_url, "evil-1") as device:
        for attack in MESSAGES:
            await device.send_raw(attack.data, coding=attack.coding)
        expected = rises(before, Counter(attack.reason for attack in MESSAGES))
        await reaches(target.dead_letters, expected)
    deadline, letters = time.monotonic() + 30, []
    while sum(letter["device"] == "evil-1" for letter in letters) < len(MESSAGES) and time.monotonic() < deadline:
        letters = (await target.get("/v1/dead-letters?limit=1000"))["dead_letters"]  # counted first, then written
        await asyncio.sleep(0.1)
    assert sum(letter["device"] == "evil-1" for letter in letters) == len(MESSAGES)
    assert all(len(letter["head"]) <= 512 and len(letter["detail"]) <= 512 for letter in letters)


ESCALATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown task": ({"task": "nonsense"}, "unknown_task"),
    "no part": ({"parts": {"question": "x"}}, "missing_part"),
    "a part too many": ({"parts": {"image": b"i", "question": "x", "exec": "rm"}}, "extra_part"),
    "an image that is longer than may be": ({"parts": {"image": bytes(200_001), "question": "x"}}, "part_too_large"),
    "a label that is none of the task's": ({"label": "mauve"}, "labels_mismatch"),
    "a distribution over other labels": ({"probabilities": [1.0]}, "labels_mismatch"),
    "no distribution": ({"probabilities": []}, "labels_mismatch"),
    "a fact about nothing": ({"facts": [Fact(name="rain", label="yes", confidence=1.0)]}, "facts_mismatch"),
    "a deadline beyond a day": ({"answer_within_ms": 86_400_001}, "unparsable"),
    "a deadline in the past": ({"answer_within_ms": -1}, "unparsable"),
    "to be kept for a thousand years": ({"keep_for_s": 31_536_000_000}, "unparsable"),
    "to be kept until yesterday": ({"keep_for_s": -86_400}, "unparsable"),
    "offered no times": ({"offer": 0}, "unparsable"),
    "offered too often": ({"offer": 2_000_000}, "unparsable"),
    "an audit that was certain to be one, and more": ({"audit": 1.5}, "unparsable"),
    "a group of 129 letters": ({"group": "g" * 129}, "unparsable"),
    "a model that is no digest": ({"model": "../small"}, "unparsable"),
}


async def test_the_cloud_refuses_escalations_that_do_not_fit_and_says_why(target: UnderAttack) -> None:
    before, expected = await target.dead_letters(), Counter(reason for _, reason in ESCALATIONS.values())
    async with Device(target.system.broker_url, "evil-2") as device:
        for fields, reason in ESCALATIONS.values():
            parts = fields.get("parts") or {"image": unsure(), "question": "x"}
            others = {name: value for name, value in fields.items() if name not in ("parts", "task")}
            sent = make_escalation(target.task, parts, **others)
            task = fields.get("task", "colours")
            await device.send_raw(encode(msgspec.structs.replace(sent, task=task)), task=task)
            assert (await device.hears(Refusal, sent.id)).reason == reason
            assert not device.of(Receipt, sent.id)
        good = make_escalation(target.task, {"image": unsure(), "question": "x"})
        twice = msgspec.structs.replace(good, parts=[good.parts[0], good.parts[0], good.parts[1]])
        damaged = msgspec.structs.replace(good.parts[0], sha256=sha256(b"something else"))
        lies = msgspec.structs.replace(good.parts[0], size=7)
        heavy = msgspec.structs.replace(good.parts[0], inline=bytes(INLINE_BYTES + 1), size=INLINE_BYTES + 1)
        smell = msgspec.structs.replace(good.parts[0], modality="audio")
        for part, reason in (
            (damaged, "part_damaged"),
            (lies, "part_damaged"),
            (heavy, "part_too_large"),
            (smell, "wrong_modality"),
        ):
            sent = msgspec.structs.replace(good, id=new_id(), parts=[part, good.parts[1]])
            await device.escalate(sent)
            assert (await device.hears(Refusal, sent.id)).reason == reason
            expected[reason] += 1
        await device.send_raw(encode(twice))
        await device.send_raw(encode(msgspec.structs.replace(good, id=new_id())), task="other-task")
        await device.send_raw(encode(Receipt(id=good.id)))
        expected += Counter(extra_part=1, task_mismatch=1, wrong_message=1)
        await reaches(target.dead_letters, rises(before, expected))


async def test_the_cloud_refuses_every_topic_of_the_table(target: UnderAttack) -> None:
    """What a broker carries at all: this one takes NUL and wildcards, and delivers all but ``#``; mosquitto closes the connection."""
    before, expected, payload = await target.dead_letters(), 0, encode(Receipt(id=new_id()))
    for attack in attacks_on("topic"):
        levels = attack.data.split(b"/")
        heard = len(levels) == 6 and levels[:2] == [b"outrider", b"1"] and levels[3:5] == [b"up", b"escalate"]
        async with RawClient(target.system.broker_port, "evil-3") as client:
            if len(attack.data) <= LONGEST_STRING and await client.publish(attack.data, payload):
                expected += heard and b"#" not in attack.data
    assert expected >= 8, "a table that no broker carries tests nothing"
    await reaches(target.dead_letters, rises(before, Counter(unknown_topic=expected)))


async def test_properties_that_no_honest_client_sends_change_nothing(target: UnderAttack) -> None:
    good = make_escalation(target.task, {"image": unsure(), "question": "x"})
    before, coded = await target.dead_letters(), bytes([CONTENT_TYPE]) + text(MSGPACK.encode())
    giants = b"".join(bytes([USER_PROPERTY]) + text(b"k%d" % k) + text(b"v" * 60_000) for k in range(10))
    many = b"".join(bytes([USER_PROPERTY]) + text(b"k%d" % k) + text(b"") for k in range(20_000))
    harmless = (
        giants,
        many,
        bytes([FORMAT, 1]),
        bytes([RESPONSE_TOPIC]) + text(b"outrider/1/victim/down/answer"),
        bytes([RESPONSE_TOPIC]) + text(b"outrider/1/#"),
        bytes([CORRELATION]) + text(b"c" * 256),
    )
    async with (
        Device(target.system.broker_url, "evil-4") as device,
        Device(target.system.broker_url, "victim") as victim,
        RawClient(target.system.broker_port, "evil-4-raw") as client,
    ):
        for properties in harmless:
            sent = msgspec.structs.replace(good, id=new_id())
            await client.publish(
                TOPICS.of("escalate", "evil-4", task="colours").encode(), encode(sent), coded + properties
            )
            assert (await device.hears(Answer, sent.id)).label == "red"
        await client.publish(
            TOPICS.of("escalate", "evil-4", task="colours").encode(),
            encode(msgspec.structs.replace(good, id=new_id())),
            coded + bytes([CORRELATION]) + text(b"c" * 257),
        )
        await reaches(target.dead_letters, rises(before, Counter(correlation_too_long=1)))
        assert victim.said == [], "an answer goes to who asked, whatever response topic was named"


async def test_a_message_that_is_malformed_is_refused_like_any_other(target: UnderAttack) -> None:
    """A broker should not have carried it (MQTT 5, §1.5.4). The embedded one does; mosquitto does not. Our client reads no property
    of it."""
    before, connections = await target.dead_letters(), target.system.log("cloud").count("session.connected")
    async with RawClient(target.system.broker_port, "evil-5") as client:
        for _ in range(3):
            topic = TOPICS.of("escalate", "evil-5", task="colours").encode()
            assert await client.publish(topic, b"", bytes([CONTENT_TYPE]) + text(b"a\0b"))
        await reaches(target.dead_letters, rises(before, Counter(no_content_type=3)))
    assert target.system.log("cloud").count("session.connected") == connections, "it costs no connection"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
async def test_the_cloud_refuses_every_picture_of_the_table(target: UnderAttack) -> None:
    pictures = [attack for attack in attacks_on("picture") if len(attack.data) <= target.task.inputs[0].max_bytes]
    wanted = {"cloud": ("outrider_inputs_settled_total", "state")}
    before = (await target.count(target.cloud_url, *wanted["cloud"]))["refused"]
    async with Device(target.system.broker_url, "evil-6") as device:
        asked = {}
        for attack in pictures:
            if len(attack.data) > INLINE_BYTES:
                device.serve(attack.data)
            sent = make_escalation(target.task, {"image": attack.data, "question": "what colour is it?"})
            asked[await device.escalate(sent)] = attack
        for input_id, attack in asked.items():
            assert (await device.hears(Refusal, input_id)).reason == attack.reason, attack
    assert (await target.count(target.cloud_url, *wanted["cloud"]))["refused"] == before + len(pictures)


async def restarts(target: UnderAttack) -> int:
    """How many processes the agent's pictures have cost."""
    return (await target.count(target.agent_url, "outrider_decoder_restarts_total", ""))[""]


@pytest.mark.parametrize("surface", ["form", "picture"])
async def test_the_agent_refuses_every_body_and_picture_of_the_table(target: UnderAttack, surface: Any) -> None:
    counted = ("outrider_refusals_total", "reason")
    before, expected = await target.count(target.agent_url, *counted, task="colours"), Counter[str]()
    restarted = await restarts(target)
    async with aiohttp.ClientSession() as client:
        for attack in attacks_on(surface):
            body, coding = attack.data, attack.coding
            if surface == "picture":
                fields = form_field(b"image", attack.data) + form_field(b"question", b"what colour is it?")
                body, coding = fields + b"--x--\r\n", "multipart/form-data; boundary=x"
            reason = (
                "too_large"
                if surface == "picture" and len(attack.data) > target.task.inputs[0].max_bytes
                else attack.reason
            )
            async with client.post(
                f"{target.agent_url}/v1/tasks/colours/answers", data=body, headers={"Content-Type": coding}
            ) as reply:
                said = await reply.json()
                assert 400 <= reply.status < 500, attack
                assert said["error"]["reason"] == reason, attack
            expected[reason] += 1
    assert await target.count(target.agent_url, *counted, task="colours") == rises(before, expected)
    assert (await restarts(target)) == restarted, "a refusal costs no process"


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("name", ["cloud", AGENT])
def test_pictures_are_decoded_in_a_process_of_their_own_that_may_die(target: UnderAttack, name: str) -> None:
    """Killed between two pictures; afterwards both sides must answer good ones, the first of them included."""
    [decoder] = target.decoders(name)
    decoder.kill()
    wait_for("the decoder's end", lambda: has_ended(decoder))
    target.good_inputs()
    [another] = target.decoders(name)
    assert another.pid != decoder.pid


async def test_the_agent_refuses_every_message_of_the_table(target: UnderAttack) -> None:
    before = await target.ignored()
    async with Device(target.system.broker_url, "evil-7") as device:
        for attack in MESSAGES:
            topic = TOPICS.of("answer", AGENT)
            await device.session.publish(Outgoing(topic, attack.data, content_type=attack.coding))
        await reaches(target.ignored, rises(before, Counter(attack.reason for attack in MESSAGES)))


def answer(input_id: str, **fields: Any) -> Answer:
    usual = {"task": "colours", "label": "red", "confidence": 0.9, "probabilities": [0.9, 0.05, 0.05]}
    return Answer(id=input_id, strategy="shunt", model="evil", **(usual | fields))


async def test_the_agent_is_told_nothing_about_inputs_that_it_never_asked_about(target: UnderAttack) -> None:
    before, account = await target.ignored(), target.client.account()
    digest = sha256(b"nothing")
    want = {"transfer": "t", "sha256": digest, "count": 256, "block": 65_536, "worker": "evil-8"}
    told: tuple[tuple[str, Message, str], ...] = (
        ("answer", answer(new_id()), "unknown"),
        ("answer", answer("0" * 16), "unknown"),
        ("answer", Refusal(id=new_id(), reason="unknown_task"), "unknown"),
        ("answer", Refusal(id=new_id(), reason="busy", retry_after_s=86_400), "unknown"),
        ("answer", Receipt(id=new_id()), "idle_receipts"),
        ("blob-down", BlobBlock(transfer="t", offset=0, data=bytes(65_536)), "unasked_block"),
        ("blob-down", BlobGone(transfer="t", sha256=digest, reason="gone"), "unasked_block"),
        ("answer", BlobWant(offset=0, **want), "wrong_topic"),
        ("blob-down", BlobWant(offset=0, **want), ""),
        ("blob-down", BlobWant(offset=256 << 20, **want), ""),
    )  # fmt: skip
    async with Device(target.system.broker_url, "evil-8") as device:
        for kind, message, _ in told:
            topic = TOPICS.of("blob-down", AGENT, transfer="t") if kind == "blob-down" else TOPICS.of("answer", AGENT)
            await device.session.publish(Outgoing(topic, encode(message)))
        await reaches(target.ignored, rises(before, Counter(reason for *_, reason in told if reason)))
    assert target.client.account() == account


async def test_an_answer_that_no_large_model_can_have_given_leaves_its_question_open(target: UnderAttack) -> None:
    """Forged while the question is open, with its true id: it is refused, and the true answer still comes."""
    before = await target.ignored()
    target.system.processes.stop("cloud")
    asked = await asyncio.to_thread(
        target.client.ask, "colours", parts_of(unsure(shade=next(target.shades))), wait=False
    )
    async with Device(target.system.broker_url, "evil-9") as device:
        for forged in (
            answer(asked.id, label="mauve"),
            answer(asked.id, probabilities=[1.0]),
            answer(asked.id, task="other-task"),
        ):
            await device.session.publish(Outgoing(TOPICS.of("answer", AGENT), encode(forged)))
        await reaches(target.ignored, rises(before, Counter(unfit=3)))
    assert target.client.get(asked.id).state == "pending"
    target.system.start_cloud()
    target.began_with["cloud"] = target.resident("cloud")
    async with asyncio.timeout(60):
        while (report := target.client.get(asked.id)).state == "pending":  # noqa: ASYNC110  another process's state
            await asyncio.sleep(0.2)
    assert (report.state, report.label) == ("cloud", "red")


async def test_one_id_from_two_devices_is_two_inputs_and_a_replay_is_none(target: UnderAttack) -> None:
    stated = ("outrider_inputs_settled_total", "state")
    before = (await target.count(target.cloud_url, *stated))["answered"]
    sent = make_escalation(target.task, {"image": unsure(), "question": "x"})
    async with (
        Device(target.system.broker_url, "twin-a") as first,
        Device(target.system.broker_url, "twin-b") as second,
    ):
        await first.escalate(sent, correlation=b"a's own")
        await first.hears(Answer, sent.id)
        await second.escalate(sent, correlation=b"a's own")
        await second.hears(Answer, sent.id)
        for _ in range(5):
            await first.escalate(sent, correlation=b"forged")
        await first.hears(Answer, sent.id, count=2)
        await asyncio.sleep(0.5)
        assert len(second.of(Answer, sent.id)) == 1
    assert (await target.count(target.cloud_url, *stated))["answered"] == before + 2


async def test_a_time_in_an_id_is_nobodys_clock(target: UnderAttack) -> None:
    """Ids of 1970 and of the year 10889: ids sort, they do not say when anything is over."""
    async with Device(target.system.broker_url, "evil-10") as device:
        for input_id in ("00000000-0000-7000-8000-000000000000", "ffffffff-ffff-7fff-bfff-ffffffffffff"):
            sent = make_escalation(target.task, {"image": unsure(), "question": "x"}, id=input_id)
            await device.escalate(sent)
            assert (await device.hears(Answer, input_id)).label == "red"
        over = make_escalation(target.task, {"image": unsure(), "question": "x"}, keep_for_s=0, answer_within_ms=0)
        await device.escalate(over)
        assert (await device.hears(Refusal, over.id)).reason == "expired"


async def test_a_device_that_offers_what_it_will_not_send_is_asked_and_given_up(target: UnderAttack) -> None:
    async with Device(target.system.broker_url, "evil-11") as device:
        absent = make_escalation(target.task, {"image": bytes(70_000), "question": "x"})
        await device.escalate(absent)
        assert (await device.hears(Refusal, absent.id, within_s=60)).reason == "payload_unavailable"
        other = make_escalation(target.task, {"image": b"1" * 70_000, "question": "x"})
        device.blobs[other.parts[0].sha256] = b"2" * 70_000
        await device.escalate(other)
        assert (await device.hears(Refusal, other.id, within_s=60)).reason == "payload_unavailable"


async def test_a_device_learns_of_files_only_by_their_release(target: UnderAttack) -> None:
    """Wants of an input that another device sent, of nothing, and beyond every end."""
    async with Device(target.system.broker_url, "evil-12") as device:
        stored = sha256(sure(2))
        for transfer, digest, offset in (("w1", stored, 0), ("w2", "0" * 64, 0), ("w3", "0" * 64, 256 << 20)):
            want = BlobWant(transfer=transfer, sha256=digest, offset=offset, count=256, block=65_536, worker=RELEASES)
            topic = TOPICS.of("blob-up", "evil-12", worker=RELEASES, transfer=transfer)
            await device.session.publish(Outgoing(topic, encode(want)))
        await asyncio.sleep(0.5)
        assert device.said == []


async def test_a_device_may_only_speak_for_itself_and_not_without_end(target: UnderAttack) -> None:
    before = await target.dead_letters()

    def telemetry(task: str, device: str = "evil-13") -> bytes:
        return encode(Telemetry(device=device, boot_id="b", task=task, uptime_s=1.0, account={"received": 2**52}))

    async with Device(target.system.broker_url, "evil-13") as device:

        async def say(kind: Any, payload: bytes) -> None:
            await device.session.publish(Outgoing(TOPICS.of(kind, "evil-13"), payload))

        await say("presence", encode(Presence(device="cam-1", online=False, boot_id="b")))
        await say("telemetry", telemetry("colours", device="cam-1"))
        await say("presence", encode(Reported(slots=[])))
        await say("reported", telemetry("colours"))
        for number in range(70):
            await say("telemetry", telemetry(f"made-up-{number}"))
        expected = Counter(wrong_device=2, wrong_message=2, too_many_tasks=6)
        await reaches(target.dead_letters, rises(before, expected))
    page = await target.count(target.cloud_url, "outrider_device_alarms", "task")
    assert not any(task.startswith("made-up") for task in page), "a device must not invent labels of a metric"


async def test_a_device_that_floods_is_put_off_and_the_others_are_not(target: UnderAttack) -> None:
    async with (
        Device(target.system.broker_url, "flood") as flood,
        Device(target.system.broker_url, "quiet") as quiet,
    ):
        for _ in range(2 * BURST):
            await flood.escalate(make_escalation(target.task, {"image": unsure(), "question": "x"}))
        asked = [make_escalation(target.task, {"image": unsure(), "question": "x"}) for _ in range(10)]
        for each in asked:
            await quiet.escalate(each)
        for each in asked:
            assert await quiet.hears(Answer, each.id, within_s=20)
        assert {refusal.reason for refusal in flood.of(Refusal)} == {"busy"}
        assert all(refusal.retry_after_s for refusal in flood.of(Refusal))
        assert not quiet.of(Refusal)


def test_what_was_thrown_at_them_stands_in_no_log(whole: UnderAttack, tmp_path: Path) -> None:
    """A hostile value is quoted short, or not at all; no process has told of a defect of its own."""
    for name in ("cloud", AGENT):
        log = whole.system.log(name)
        assert "Traceback" not in log, name
        assert max(map(len, log.splitlines()), default=0) < 5_000, name
