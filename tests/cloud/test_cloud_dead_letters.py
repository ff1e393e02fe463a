"""Messages that could not be taken: kept whole up to a bound, shown, taken in again; a flood of them fills nothing."""

import asyncio
import base64
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cloud_device import TOPICS, Device, make_escalation
from cloud_service import HeldModel, account, eventually, get, make_service, ready, request, the_task, write_config

from outrider.processes import any_port
from outrider_cloud.service import CloudService
from outrider_cloud.store import dead_letters
from outrider_cloud.store.store import Store
from outrider_link.broker import EmbeddedBroker
from outrider_link.session import Outgoing
from outrider_wire.codec import MSGPACK, encode
from outrider_wire.messages import Answer, Refusal, Telemetry

pytestmark = pytest.mark.broker
SCRIPT = Path(sys.executable).parent / "outrider"


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with EmbeddedBroker(port=any_port()) as running:
        yield running.url


async def outrider(service: CloudService, *arguments: str) -> tuple[int, Any]:
    """Exit code and JSON of ``outrider cloud …`` against a running cloud."""
    code, out = await printed(service, *arguments, "--json")
    return code, json.loads(out)


async def printed(service: CloudService, *arguments: str) -> tuple[int, str]:
    """Exit code and what a person reads."""
    process = await asyncio.create_subprocess_exec(
        SCRIPT, "cloud", *arguments, "--cloud", service.url, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, out.decode()


async def letters(service: CloudService) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await get(service, "/v1/dead-letters"))[1]["dead_letters"]
    return found


async def until_parked(service: CloudService, count: int = 1) -> None:
    async def parked() -> bool:
        return len(await letters(service)) >= count

    await eventually(parked)


async def test_what_was_dead_for_want_of_a_task_is_taken_in_when_the_task_is_served(
    broker: str, tmp_path: Path
) -> None:
    """The whole command, from a letter to an answer that its device hears."""
    path = write_config(tmp_path, broker)
    served = path.read_text()
    other = write_config(tmp_path, broker, name="colours-2", worker="other")
    async with Device(broker, "cam-dead") as device:
        async with make_service(other, HeldModel()) as service:
            await ready(service)
            (tmp_path / "task.toml").write_text((tmp_path / "task.toml").read_text().replace("colours-2", "colours"))
            sent = make_escalation(the_task(tmp_path), {"image": b"1", "question": "what?"})
            await device.escalate(sent, correlation=b"mine")
            assert (await device.hears(Refusal, sent.id)).reason == "unknown_task"
            await until_parked(service)
            code, said = await outrider(service, "dead-letters", "requeue", "1", "--dry-run")
            assert (code, said["outcomes"][0]["outcome"], said["outcomes"][0]["reason"]) == (
                3,
                "refused",
                "unknown_task",
            )
            code, said = await outrider(service, "dead-letters", "requeue", "1", "--yes")
            assert (code, said["error"]["reason"]) == (3, "unknown_task")
            assert len(await letters(service)) == 1, "what is refused again stays where it is, once"
        path.write_text(served)
        async with make_service(path, HeldModel()) as service:
            await ready(service)
            code, said = await outrider(service, "dead-letters", "ls")
            [letter] = said["dead_letters"]
            assert (code, letter["input"], letter["reason"], letter["whole"]) == (0, sent.id, "unknown_task", True)
            code, said = await outrider(service, "dead-letters", "show", str(letter["id"]))
            assert (
                base64.b64decode(said["payload"]) == encode(sent) and base64.b64decode(said["correlation"]) == b"mine"
            )
            code, text = await printed(service, "dead-letters", "show", str(letter["id"]))
            assert code == 0 and "what to do" in text and "operator of the cloud" in " ".join(text.split())
            code, said = await outrider(service, "dead-letters", "requeue", str(letter["id"]), "--dry-run")
            assert (code, said["outcomes"][0]["outcome"]) == (0, "claimed")
            assert (await account(service))["received"] == 0 and len(await letters(service)) == 1
            code, said = await outrider(service, "dead-letters", "requeue", "--all", "--yes")
            assert (code, said["outcomes"][0]["outcome"]) == (0, "claimed")
            answer = await device.hears(Answer, sent.id)
            assert answer.label == "green" and device.correlations[sent.id] == b"mine"
            assert await letters(service) == []
            said = await account(service)
            assert (said["received"], said["cloud"], said["pending"]) == (1, 1, 0)
            code, said = await outrider(service, "dead-letters", "requeue", "99", "--yes")
            assert (code, said["error"]["reason"]) == (1, "unknown_letter")


async def test_a_letter_too_large_to_be_kept_whole_is_shown_and_not_taken(broker: str, tmp_path: Path) -> None:
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "cam-big") as device,
    ):
        await ready(service)
        await device.send_raw(b"\xc1" * (dead_letters.PAYLOAD_BYTES + 1))
        await until_parked(service)
        [letter] = await letters(service)
        assert (letter["whole"], letter["size"], len(letter["head"])) == (
            False,
            dead_letters.PAYLOAD_BYTES + 1,
            2 * dead_letters.HEAD_BYTES,
        )
        status, said = await request(
            service, "POST", f"/v1/dead-letters/{letter['id']}/requeue", body={"dry_run": True}
        )
        assert (status, said["outcome"], said["reason"]) == (200, "refused", "not_whole")
        status, said = await request(service, "POST", f"/v1/dead-letters/{letter['id']}/requeue", body={})
        assert (status, said["error"]["reason"]) == (409, "not_whole")
        for wrong, expected in (("nothing", 400), ("9" * 99, 400), ("99", 404)):
            assert (await get(service, f"/v1/dead-letters/{wrong}"))[0] == expected


async def test_a_repeat_and_a_full_queue_are_foreseen(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    async with (
        make_service(write_config(tmp_path, broker), model, queue_max=1) as service,
        Device(broker, "cam-again") as device,
    ):
        await ready(service)
        task = the_task(tmp_path)
        answered = make_escalation(task, {"image": b"1", "question": "answered"})
        await device.escalate(answered)
        await device.hears(Answer, answered.id)
        unknown = make_escalation(task, {"image": b"1", "question": "unknown"})
        store = Store(url=f"sqlite:///{tmp_path / 'data/cloud.db'}")
        store.open()
        for sent in (answered, unknown):  # as if they had been dead once
            letter = dead_letters.DeadLetter(
                received_ms=1,
                topic=TOPICS.of("escalate", "cam-again", task="colours"),
                device="cam-again",
                input=sent.id,
                reason="unknown_task",
                detail="",
                size=len(encode(sent)),
                payload=encode(sent),
                content_type=MSGPACK,
            )
            store.submit(lambda c, letter=letter: dead_letters.park(c, letter)).result(10)
        store.close()
        model.open.clear()
        await device.escalate(make_escalation(task, {"image": b"1", "question": "holds the line"}))
        await eventually(lambda: _asked(model, "holds the line"))
        would = [
            (await request(service, "POST", f"/v1/dead-letters/{n}/requeue", body={"dry_run": True}))[1]["outcome"]
            for n in (1, 2)
        ]
        assert would == ["repeated", "busy"]
        status, said = await request(service, "POST", "/v1/dead-letters/2/requeue", body={})
        assert (status, said["error"]["reason"]) == (503, "busy")
        model.open.set()
        assert len(await letters(service)) == 2


async def _asked(model: HeldModel, question: str) -> bool:
    return question in model.questions


async def test_any_message_can_be_taken_in_again_and_stays_where_it_is_refused_again(
    broker: str, tmp_path: Path
) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service, Device(broker, "cam-t") as device:
        await ready(service)
        foreign = Telemetry(device="cam-u", boot_id="b", task="colours", uptime_s=1.0, account={})
        await device.session.publish(Outgoing(TOPICS.of("telemetry", "cam-t"), encode(foreign)))
        await until_parked(service)
        [letter] = await letters(service)
        status, said = await request(service, "POST", f"/v1/dead-letters/{letter['id']}/requeue", body={})
        assert (status, said["error"]["reason"]) == (409, "wrong_device")
        assert len(await letters(service)) == 1 and (await get(service, "/v1/devices"))[1]["devices"] == []
        own = Telemetry(device="cam-t", boot_id="b", task="colours", uptime_s=1.0, account={})
        store = Store(url=f"sqlite:///{tmp_path / 'data/cloud.db'}")
        store.open()
        mended = dead_letters.DeadLetter(
            received_ms=1,
            topic=TOPICS.of("telemetry", "cam-t"),
            device="cam-t",
            input="",
            reason="unparsable",
            detail="",
            size=len(encode(own)),
            payload=encode(own),
            content_type=MSGPACK,
        )
        store.submit(lambda c: dead_letters.park(c, mended)).result(10)
        store.close()
        status, said = await request(service, "POST", "/v1/dead-letters/2/requeue", body={})
        assert (status, said["outcome"]) == (200, "taken")
        [row] = (await get(service, "/v1/devices"))[1]["devices"]
        assert row["device"] == "cam-t" and [each["id"] for each in await letters(service)] == [1]


async def test_a_flood_of_bad_messages_fills_neither_table_nor_log_nor_memory(
    broker: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    more = "[limits]\ndead_letters_per_s = 0.001\ndead_letters_burst = 7\n"
    async with make_service(write_config(tmp_path, broker, more=more), HeldModel()) as service:
        async with Device(broker, "cam-bad") as device:
            await ready(service)
            flood = [b"\x93 not a message %d" % k for k in range(600)]
            await asyncio.gather(*(device.send_raw(payload) for payload in flood))

            async def all_met() -> bool:
                return service.offers()["received"] >= len(flood)

            await eventually(all_met, 30)
            sent = make_escalation(the_task(tmp_path), {"image": b"1", "question": "still there?"})
            await device.escalate(sent)
            await device.hears(Answer, sent.id)
        assert len(await letters(service)) == 7
        offers = (await account(service))["offers"]
        assert offers["dead_letter"] == offers["received"] - offers["claimed"]
    assert sum(record.msg == "message.dead" for record in caplog.records) <= 30


def test_the_table_is_bounded_in_bytes_and_says_how_many_went(opens: dict[str, Any]) -> None:
    store = Store(**opens)
    store.open()
    letter = dead_letters.DeadLetter(
        received_ms=0, topic="t", device="", input="", reason="unparsable", detail="", size=1000, payload=b"x" * 1000
    )
    gone = [store.submit(lambda c: dead_letters.park(c, letter, kept_bytes=10_000)).result(10) for _ in range(12)]
    rows = store.run(lambda c: dead_letters.latest(c, 100))
    store.close()
    assert [row["id"] for row in rows] == [12, 11, 10, 9, 8, 7], "six of 1000 bytes and their rows"
    assert sum(gone) == 6


def test_a_letter_of_no_bytes_is_shown_like_any_other(opens: dict[str, Any]) -> None:
    store = Store(**opens)
    store.open()
    empty = dead_letters.DeadLetter(
        received_ms=0, topic="t", device="", input="", reason="unparsable", detail="", size=0, payload=b""
    )
    store.submit(lambda c: dead_letters.park(c, empty)).result(10)
    [row] = store.run(lambda c: dead_letters.latest(c, 9))
    store.close()
    assert (row["head"], row["whole"]) == ("", True)
