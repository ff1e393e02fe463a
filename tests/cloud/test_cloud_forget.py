"""Forgetting and retention: no row, no file, no retained message and no byte of what was to be forgotten is left."""

import asyncio
import json
import os
import random
import sqlite3
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cloud_device import TOPICS, Device, make_escalation, sha256
from cloud_service import HeldModel, account, eventually, get, make_service, ready, request, the_task, write_config

from outrider.processes import any_port
from outrider_cloud.service import CloudService
from outrider_cloud.store import examples, inputs, retention
from outrider_cloud.store.forget import Whom, erase, find
from outrider_cloud.store.retention import Retention
from outrider_cloud.store.schema import (
    METADATA,
    assignments,
    certifications,
    certified_groups,
    devices,
    releases,
    rounds,
)
from outrider_cloud.store.store import Store
from outrider_link.broker import EmbeddedBroker
from outrider_link.session import Incoming, MqttSession, Outgoing
from outrider_wire.codec import encode
from outrider_wire.messages import Answer, Receipt, Refusal, Reported, SlotReport, Telemetry

pytestmark = pytest.mark.broker
MARK = "what-nobody-else-may-know"
SCRIPT = Path(sys.executable).parent / "outrider"


@pytest.fixture
def broker() -> Iterator[str]:
    with EmbeddedBroker(port=any_port()) as running:
        yield running.url


def traces(folder: Path, *marks: bytes) -> list[str]:
    """Files under a folder in whose names or bytes a mark stands."""
    return [
        f"{path.relative_to(folder)}: {mark!r}"
        for path in folder.rglob("*")
        for mark in marks
        if mark in str(path).encode() or (path.is_file() and mark in path.read_bytes())
    ]


async def speak(device: Device) -> None:
    """Everything that a device can leave at the broker and in the fleet's table."""
    await device.appear(capabilities={"note": MARK})
    slot = SlotReport(task="colours", running="0" * 64, version=MARK, slot="a", state="committed")
    told = Telemetry(device=device.name, boot_id=MARK, task="colours", uptime_s=1.0, account={MARK: 3})
    for kind, message in (("reported", Reported(slots=[slot])), ("telemetry", told)):
        topic = TOPICS.of(kind, device.name)  # type: ignore[arg-type]  # one of the two
        await device.session.publish(Outgoing(topic, encode(message), retain=kind == "reported"))


def leave_learning(store: Path, group: str) -> None:
    """Writes what learning would have left in the ledger, and an assignment."""
    release = {"digest": "1" * 64, "task": "colours", "version": "1", "size": 1, "certificate": "", "created_ms": 1}
    rows: list[tuple[sa.Table, dict[str, Any]]] = [
        (releases, release),
        (assignments, {"device": "cam-secret", "task": "colours", "release": "1" * 64, "counter": 1, "assigned_ms": 1}),
        (
            certifications,
            {
                "task": "colours",
                "data_digest": "2" * 64,
                "use": 1,
                "delta": 0.05,
                "risk": 0.05,
                "n": 1,
                "bundle": "3" * 64,
                "created_ms": 1,
            },
        ),
        (certified_groups, {"certification": 1, "group": group}),
        (
            rounds,
            {"task": "colours", "state": "promoted", "deployed": "4" * 64, "candidate": "5" * 64, "started_ms": 2**42},
        ),
    ]
    opened = Store(url=f"sqlite:///{store}")
    opened.open()
    for table, row in rows:
        opened.submit(lambda c, table=table, row=row: c.execute(sa.insert(table).values(row))).result(10)
    opened.close()


async def retained_of(url: str, device: str) -> list[str]:
    """Topics on which a newcomer is told something of a device."""
    heard: list[str] = []

    async def on_message(incoming: Incoming) -> None:
        if incoming.payload and incoming.retained:
            heard.append(incoming.topic)

    async with MqttSession(
        url=url, client_id="newcomer", subscriptions=[f"{TOPICS.root}/{device}/#"], on_message=on_message
    ) as session:
        await session.wait_connected(10)
        await asyncio.sleep(0.3)
    return sorted(heard)


async def outrider(service: CloudService, *arguments: str) -> tuple[int, Any]:
    process = await asyncio.create_subprocess_exec(
        SCRIPT, "cloud", "forget", *arguments, "--cloud", service.url, "--json", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, json.loads(out)


async def rows_of(service: CloudService, device: str) -> dict[str, int]:
    """Rows a table in which a device's name stands anywhere."""
    store = service._store
    assert store is not None

    def count(connection: sa.Connection) -> dict[str, int]:
        found = {}
        for name, table in METADATA.tables.items():
            rows = connection.execute(sa.select(table)).all()
            found[name] = sum(device in repr(tuple(row)) for row in rows)
        return {name: n for name, n in found.items() if n}

    return await store.read(count)


async def test_forgetting_a_device_leaves_no_byte_of_it(broker: str, tmp_path: Path) -> None:
    model, data = HeldModel(), tmp_path / "data"
    large, shared = MARK.encode() + os.urandom(100_000), os.urandom(90_000)
    task_of = partial(make_escalation, answer_within_ms=60_000)
    async with make_service(write_config(tmp_path, broker), model) as service:
        await ready(service)
        task = the_task(tmp_path)
        async with Device(broker, "cam-secret") as device, Device(broker, "cam-other") as other:
            await speak(device)
            for speaker, picture in ((device, large), (device, shared), (other, shared)):
                speaker.serve(picture)
                question = f"{MARK} asks" if speaker is device else "the other asks"
                sent = task_of(task, {"image": picture, "question": question}, group=f"clip-of-{speaker.name}")
                await speaker.escalate(sent, correlation=sent.id.encode())
                await speaker.hears(Answer, sent.id)
            await device.send_raw(f"{MARK} is no message".encode())
            leave_learning(data / "cloud.db", "clip-of-cam-secret")
            model.open.clear()
            held = task_of(task, {"image": b"1", "question": f"{MARK} waits"})
            await device.escalate(held)
            await device.hears(Receipt, held.id)
            unfinished = data / f"incoming/one/cam-secret.{'7' * 64}.part"
            unfinished.write_bytes(MARK.encode())
            put = MARK.encode() + os.urandom(100)
            status, _ = await request(service, "PUT", f"/v1/devices/cam-secret/blobs/{sha256(put)}", data=put)
            assert status in (200, 201)

            before = await rows_of(service, "cam-secret")
            assert set(before) >= {"inputs", "examples", "devices", "assignments", "dead_letters", "certified_groups"}
            assert traces(data, MARK.encode(), b"cam-secret")
            retained = [TOPICS.of(kind, "cam-secret") for kind in ("presence", "reported")]  # type: ignore[arg-type]  # two of the kinds
            assert await retained_of(broker, "cam-secret") == retained
            code, said = await outrider(service, "--device", "cam-secret", "--dry-run")
            assert (code, said["dry_run"], said["compacted"]) == (0, True, False)
            found = said["found"]
            assert (found["inputs"], found["unanswered"], found["examples"]) == (3, 1, 2)
            assert (found["dead_letters"], found["devices"], found["assignments"]) == (1, 1, 1)
            assert [use["kind"] for use in found["used"]] == ["round", "certification"]
            assert found["used"][0]["examples"] == 2 and "promoted" in found["used"][0]["what"]
            assert await rows_of(service, "cam-secret") == before, "a dry run changes nothing"

            code, said = await outrider(service, "--device", "cam-secret", "--yes")
            assert (code, said["found"] | {"files": 0}, said["not_cleared"], said["compacted"]) == (
                0,
                found | {"files": 0},
                {},
                True,
            )
            assert (await device.hears(Refusal, held.id)).reason == "forgotten"
            model.open.set()
            await asyncio.sleep(0.3)
        assert await rows_of(service, "cam-secret") == {}
        assert await retained_of(broker, "cam-secret") == []
        # of a device that shared a picture, nothing is missing
        assert (await get(service, "/v1/tasks/colours/examples/stats"))[1]["examples"] == 1
        assert len(traces(data, shared)) == 1
        said = await account(service)
        assert (said["received"], said["cloud"], said["refused"], said["pending"]) == (4, 3, 1, 0)
        assert traces(data, b"cam-secret", MARK.encode(), large[:1000]) == []
        assert traces(data, b"clip-of-cam-other") and traces(data, b"forgotten-")
    assert traces(data, b"cam-secret", MARK.encode(), large[:1000]) == []


async def test_forgetting_one_input_leaves_the_device_its_others(broker: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service, Device(broker, "cam-1") as device:
        await ready(service)
        await device.appear()
        ids = []
        for question in ("the secret one", "the plain one"):
            sent = make_escalation(the_task(tmp_path), {"image": question.encode(), "question": question})
            ids.append(await device.escalate(sent))
            await device.hears(Answer, sent.id)
        status, said = await request(service, "POST", "/v1/forget", body={"input": ids[0]})
        assert (status, said["found"]["inputs"], said["found"]["examples"], said["found"]["payloads"]) == (200, 1, 1, 1)
        assert said["found"]["retained"] == [] and said["compacted"]
        assert traces(data, b"the secret one", ids[0].encode()) == []
        assert traces(data, b"the plain one") and len((await get(service, "/v1/devices"))[1]["devices"]) == 1
        for body, reason in (({}, "invalid_body"), ({"device": "+"}, "invalid_body"), ({"typo": 1}, "invalid_body")):
            status, said = await request(service, "POST", "/v1/forget", body=body)
            assert (status, said["error"]["reason"]) == (400, reason)


async def test_what_is_being_pulled_is_abandoned_and_not_written_down(broker: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service, Device(broker, "cam-1") as device:
        await ready(service)
        picture = os.urandom(1_500_000)
        sent = make_escalation(the_task(tmp_path), {"image": picture, "question": "?"})
        wants = device._holder.on_want
        device.serve(picture)

        async def first_block(want: Any, topic: str) -> None:
            if want.offset == 0:
                await wants(want, topic)

        device._holder.on_want = first_block  # type: ignore[method-assign]  # a device that dies in the middle
        await device.escalate(sent)

        async def has_begun() -> bool:
            return begun(data)

        await eventually(has_begun)
        status, said = await request(service, "POST", "/v1/forget", body={"device": "cam-1"})
        assert (status, said["found"]["files"]) == (200, 1)
        assert not begun(data) and traces(data, picture[:1000]) == []
        offers = (await account(service))["offers"]
        assert offers == {"received": 1, "unfetched": 1}


def begun(data: Path) -> bool:
    """Whether a worker has some of a part."""
    return any(path.stat().st_size > 0 for path in data.glob("incoming/*/*.part"))


def test_an_import_is_no_devices_and_can_be_forgotten_by_its_own_id(opens: dict[str, Any]) -> None:
    store = Store(**opens)
    store.open()
    row = examples.NewExample(
        task="t", group="g", role="train", source="import", parts={"q": "d"}, payloads={"d": b"x"}, created_ms=1,
        device="import", input="row",
    )  # fmt: skip
    store.submit(partial(examples.add, new=row)).result(10)
    assert store.run(partial(find, whom=Whom(device="import"))).examples == 0
    store.submit(partial(erase, whom=Whom(device="import"), at_ms=1)).result(10)
    assert store.run(partial(examples.stats, task="t"))["examples"] == 1
    store.submit(partial(erase, whom=Whom(input="row"), at_ms=1)).result(10)
    assert store.run(partial(examples.stats, task="t"))["examples"] == 0
    assert store.run(partial(examples.payload, sha256="d")) is None
    store.close()


DAY = 86_400_000


def test_what_is_older_than_it_may_be_goes_and_nothing_else(opens: dict[str, Any]) -> None:
    store = Store(**opens)
    store.open()

    def example(name: str, source: Any, day: int) -> examples.NewExample:
        return examples.NewExample(
            task="t", group=name, role="train", source=source, parts={"q": f"p-{name}", "r": "p-both"},
            payloads={f"p-{name}": b"x", "p-both": b"y"}, created_ms=day * DAY, device="cam", input=name,
        )  # fmt: skip

    for new in (example("old", "escalation", 1), example("young", "audit", 90), example("imported", "import", 1)):
        store.submit(partial(examples.add, new=new)).result(10)
    for name, day in (("silent", 1), ("heard", 99)):
        row = {
            "device": name, "online": False, "boot_id": "", "agent": "", "wire": [], "capabilities": {}, "slots": {},
            "telemetry": {"t": 1}, "first_seen_ms": 1, "seen_ms": day * DAY,
        }  # fmt: skip
        store.submit(lambda c, row=row: c.execute(sa.insert(devices).values(row))).result(10)
    terms = Retention(examples=30, answers=1, dead_letters=30, telemetry=30)
    keep = partial(retention.delete_older, retention=terms, now_ms=100 * DAY)
    gone = store.submit(keep).result(10)
    assert gone == {"inputs": 0, "examples": 1, "payloads": 1, "dead_letters": 0, "forgotten": 0, "telemetry": 1}
    assert store.submit(keep).result(10) == dict.fromkeys(gone, 0)
    assert store.run(partial(examples.payload, sha256="p-both")) == b"y"
    told = store.run(lambda c: dict(c.execute(sa.select(devices.c.device, devices.c.telemetry)).all()))
    assert told == {"silent": {}, "heard": {"t": 1}}
    forever = partial(retention.delete_older, retention=Retention(), now_ms=100_000 * DAY)
    assert "examples" not in store.submit(forever).result(10)
    assert store.run(partial(examples.stats, task="t"))["examples"] == 2
    store.close()


async def test_files_that_nothing_names_any_more_go_when_they_are_old(broker: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    more = "[retention]\nexamples = 0\n"
    async with make_service(write_config(tmp_path, broker, more=more), HeldModel()) as service:
        await ready(service)
        async with Device(broker, "cam-1") as device:
            picture = os.urandom(100_000)
            device.serve(picture)
            sent = make_escalation(the_task(tmp_path), {"image": picture, "question": "?"})
            await device.escalate(sent)
            await device.hears(Answer, sent.id)
        status, said = await request(service, "PUT", f"/v1/blobs/{'0' * 64}", data=b"not it")
        assert status == 400 and said["error"]["reason"] == "digest_mismatch"
        [blob] = [path for path in (data / "blobs").rglob("*") if path.is_file()]
        keeper = next(chore for chore in service.chores if chore.name == "keep")
        await keeper.work()
        assert blob.exists(), "it may belong to an input that is just being claimed"
        os.utime(blob, (1, 1))
        gone = await keeper.work()
        assert not blob.exists() and isinstance(gone, dict) and gone["blobs"] == 1
        assert (await get(service, "/v1/tasks/colours/examples/stats"))[1]["examples"] == 0
        again = await _settled(service)
        assert again == 1, "an answer that may still be asked for is kept"


async def _settled(service: CloudService) -> int:
    store = service._store
    assert store is not None
    counted = sa.select(sa.func.count()).select_from(inputs.inputs)
    n: int = await store.read(lambda c: c.execute(counted).scalar_one())
    return n


def _traced(path: Path, seed: int) -> int:
    """Fills a table and deletes what is marked; how often the mark is left, in spite of ``secure_delete``."""
    chance = random.Random(seed)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute("DROP TABLE IF EXISTS t")
    connection.execute("CREATE TABLE t (device TEXT, id TEXT, body BLOB, PRIMARY KEY (device, id))")
    connection.execute("CREATE INDEX t_by_id ON t (id)")
    connection.execute("BEGIN")
    for k in range(400):
        word = b"MARKER" if k % 3 == 0 else b"plain!"
        device = "cam-secret" if k % 3 == 0 else f"cam-{chance.randrange(50)}"
        row = (device, word.decode() + chance.randbytes(8).hex(), word * chance.randrange(1, 300))
        connection.execute("INSERT INTO t VALUES (?, ?, ?)", row)
        if k % 3 == 0:
            connection.execute("UPDATE t SET body = NULL WHERE rowid = ?", (chance.randrange(1, k + 2),))
    connection.execute("COMMIT")
    connection.execute("DELETE FROM t WHERE device = 'cam-secret'")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.read_bytes().count(b"MARKER")


def test_what_secure_delete_leaves_behind_is_gone_once_the_file_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "cloud.db"
    store = Store(url=f"sqlite:///{path}")
    store.open()
    left = next((n for seed in range(60) if (n := _traced(path, seed))), 0)
    if not left:
        pytest.skip("this SQLite leaves nothing behind")
    assert store.compact()
    assert traces(tmp_path, b"MARKER") == []
    store.close()
