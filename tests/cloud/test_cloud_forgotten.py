"""What one worker has forgotten, no other writes down again: marks in the store, and two processes of which one held it in memory."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa
from cloud_device import Device, make_escalation, new_id
from cloud_service import HeldModel, account, eventually, make_service, ready, request, the_task, write_config
from msgspec.structs import replace
from store_rows import ANSWER, CLAIM, do, life

from outrider_cloud.fleet import Fleet
from outrider_cloud.lease_clock import Lease
from outrider_cloud.metrics import Metrics
from outrider_cloud.store import dead_letters, forgotten, inputs
from outrider_cloud.store.dead_letters import DeadLetter
from outrider_cloud.store.forget import Whom, erase
from outrider_cloud.store.forgotten import Said
from outrider_cloud.store.schema import METADATA
from outrider_cloud.store.store import Store
from outrider_link.broker import EmbeddedBroker
from outrider_wire.codec import encode
from outrider_wire.messages import Answer, Receipt, Refusal, Telemetry

CHILD = Path(__file__).parent.parent / "cloud_child.py"


@pytest.fixture
def pair(opens: dict[str, Any]) -> Iterator[tuple[Store, Store]]:
    """Two workers' stores on one database."""
    both = Store(**opens), Store(**opens)
    for store in both:
        store.open()
    yield both
    for store in both:
        store.close()


def named(store: Store, name: str) -> dict[str, int]:
    """Rows a table in which a name stands anywhere."""

    def count(connection: sa.Connection) -> dict[str, int]:
        tables = METADATA.tables.items()
        found = {key: [repr(tuple(row)) for row in connection.execute(sa.select(table))] for key, table in tables}
        return {key: n for key, rows in found.items() if (n := sum(name in row for row in rows))}

    return store.run(count)


def letter(device: str, input_id: str = "1", mark: int = 0) -> DeadLetter:
    about: dict[str, Any] = {"topic": "t", "reason": "r", "detail": "d", "size": 1, "payload": b"p", "received_ms": 1}
    return DeadLetter(device=device, input=input_id, mark=mark, **about)


def test_nothing_that_came_before_is_written_by_another_worker(pair: tuple[Store, Store]) -> None:
    one, two = pair
    do(one, inputs.start, wanted=replace(CLAIM, id="claimed"))
    erased = do(two, erase, whom=Whom(device="cam"), at_ms=1)
    assert [row["id"] for row in erased.open] == ["claimed"]
    assert do(one, inputs.settle, end=replace(ANSWER, id="claimed")) == forgotten.refusal("claimed")
    assert do(one, inputs.start, wanted=CLAIM).reply == forgotten.refusal("1")
    others = [life("2", device="other"), life("3")]
    assert do(one, inputs.record, lives=[life("1"), *others]) == [
        forgotten.refusal("1"), b"reply", forgotten.refusal("3"),
    ]  # fmt: skip
    assert do(one, inputs.record, lives=[life("4")]) == [forgotten.refusal("4")]
    assert one.submit(lambda c: dead_letters.park(c, letter("cam"))).result(10) == 0
    assert named(one, "cam") == {} and set(named(one, "other")) == {"inputs", "examples"}
    said = one.run(inputs.accounts)["t"]
    assert (said.received, said.cloud, said.refused, said.pending) == (2, 1, 1, 0) and said.adds_up


def test_a_device_that_goes_on_speaking_is_heard_and_an_input_stays_forgotten(pair: tuple[Store, Store]) -> None:
    one, two = pair
    number = do(two, erase, whom=Whom(device="cam"), at_ms=1).mark
    assert do(one, inputs.start, wanted=replace(CLAIM, mark=number)).outcome == "claimed"
    assert do(one, erase, whom=Whom(input="1"), at_ms=1).mark == number + 1
    for device in ("cam", "other"):
        late = replace(CLAIM, device=device, mark=number + 1)
        assert do(two, inputs.start, wanted=late).reply == forgotten.refusal("1")
        assert do(two, inputs.start, wanted=replace(late, id="2")).outcome == "claimed"
    do(one, erase, whom=Whom(device="cam", input="2"), at_ms=1)
    assert do(two, inputs.start, wanted=replace(CLAIM, id="2", mark=99)).outcome == "settled"
    assert do(two, inputs.start, wanted=replace(CLAIM, id="2", device="other", mark=99)).outcome == "held"


async def test_what_a_device_said_before_is_not_noted_after(pair: tuple[Store, Store]) -> None:
    one, two = pair
    fleet = Fleet(store=one, devices_max=9, metrics=Metrics())
    told = Telemetry(device="cam", boot_id="b", task="t", uptime_s=1.0, account={})
    await fleet.on_telemetry("cam", told)
    number = do(two, erase, whom=Whom(device="cam"), at_ms=1).mark
    await fleet.on_telemetry("cam", told)  # it has not heard yet, and so cannot know on which side of it this came
    assert named(one, "cam") == {}
    one.forgotten = number
    await fleet.on_telemetry("cam", told)
    assert named(one, "cam") == {"devices": 1}


def test_marks_are_few_and_go_in_time_and_what_is_older_than_all_of_them_is_not_written(
    pair: tuple[Store, Store],
) -> None:
    store, _ = pair
    for at in range(1, 7):
        assert do(store, forgotten.mark, device=f"cam-{at}", input_id="", at_ms=at) == at
    assert do(store, forgotten.delete_older, before_ms=3) == 2
    assert [store.run(partial(forgotten.covers, said=Said("new", mark=mark))) for mark in (1, 2)] == [True, False]
    assert do(store, forgotten.delete_older, before_ms=0, most=2) == 2
    assert store.run(partial(forgotten.covered, said=[Said("cam-6", mark=4), Said("cam-6", mark=6)])) == {0}
    assert do(store, forgotten.delete_older, before_ms=99) == 1
    left = store.run(lambda c: [tuple(row) for row in c.execute(sa.select(METADATA.tables["forgotten"]))])
    assert left == [(6, "", "", 6)], "the number goes on, and tells of nobody"
    assert do(store, forgotten.mark, device="cam-7", input_id="", at_ms=9) == 7


def test_a_mark_holds_no_name(pair: tuple[Store, Store]) -> None:
    store, _ = pair
    for whom in (Whom(device="cam-secret"), Whom(device="cam-secret"), Whom(device="cam-secret", input="0123456789")):
        do(store, erase, whom=whom, at_ms=1)
    assert named(store, "cam-secret") == {} and named(store, "0123456789") == {}
    hashes = store.run(lambda c: list(c.execute(sa.select(METADATA.tables["forgotten"].c.hash)).scalars()))
    assert len(set(hashes)) == 3, "the same name twice looks like two"


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with EmbeddedBroker(port=0) as running:
        yield running.url


async def takes_offers(log: Path, taken: int = 0) -> bool:
    """Whether the child is ready, and has taken so many."""
    if (port := re.search(rb"outrider\.test\.port=(\d+)", log.read_bytes())) is None:  # noqa: ASYNC240  a few lines
        return False
    url = f"http://127.0.0.1:{int(port[1])}"
    async with aiohttp.ClientSession() as client:
        async with client.get(f"{url}/health/ready") as reply:
            is_ready = reply.status == 200
        async with client.get(f"{url}/v1/account") as reply:
            offers = (await reply.json())["offers"]
    return is_ready and offers.get("claimed", 0) >= taken


@pytest.mark.broker
@pytest.mark.parametrize("durability", ["memory", pytest.param("disk", marks=pytest.mark.slow)])
async def test_a_process_that_stood_still_with_an_input_in_memory_writes_nothing_of_it(
    broker: str, tmp_path: Path, store_toml: str, durability: str
) -> None:
    config = partial(write_config, tmp_path, broker, more=store_toml, durability=durability)
    with (tmp_path / "two.log").open("wb") as log:
        child = subprocess.Popen([sys.executable, CHILD, config(worker="two"), "4"], stdout=log, stderr=log)  # noqa: ASYNC220  a test's own
    try:
        async with Device(broker, "cam-secret") as device, Device(broker, "cam-other") as other:
            held = {
                each: make_escalation(the_task(tmp_path), {"image": b"x", "question": "1"}) for each in (device, other)
            }
            await eventually(partial(takes_offers, tmp_path / "two.log"), 60)
            for each, sent in held.items():
                await each.escalate(sent)
            await eventually(partial(takes_offers, tmp_path / "two.log", taken=2), 60)
            child.send_signal(signal.SIGSTOP)
            async with make_service(config(worker="one"), HeldModel()) as service:
                await ready(service)
                status, said = await request(service, "POST", "/v1/forget", body={"device": "cam-secret"})
                assert (status, said["found"]["unanswered"]) == (200, int(durability == "disk"))
                child.send_signal(signal.SIGCONT)
                await other.hears(Answer, held[other].id, within_s=60)
                child.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(child.wait, 60) == 0, "all that it held is settled"
                store = service._store
                assert store is not None
                assert named(store, "cam-secret") == {}
                assert set(named(store, "cam-other")) == {"inputs", "examples"}, "it has written what it may"
                assert (await account(service))["pending"] == 0
            if durability == "disk":
                assert device.of(Refusal, held[device].id)[0].reason == "forgotten"
                assert not device.of(Answer)
    finally:
        child.kill()
        child.wait()


@pytest.mark.broker
async def test_a_worker_that_hears_of_it_lets_go_and_hears_the_device_again(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    model.open.clear()
    async with (
        make_service(write_config(tmp_path, broker, worker="holder"), model) as holder,
        Device(broker, "cam-heard") as device,
    ):
        await ready(holder)
        sent = make_escalation(the_task(tmp_path), {"image": b"x", "question": "?"}, answer_within_ms=60_000)
        await device.hears(Receipt, await device.escalate(sent))
        other = Store(url=f"sqlite:///{tmp_path / 'data/cloud.db'}")
        other.open()
        do(other, erase, whom=Whom(device="cam-heard"), at_ms=1)
        [heed] = [chore for chore in holder.chores if chore.name == "heed"]
        kept = replace(CLAIM, device="cam-heard", id=new_id(), mark=1, lease=Lease("gone", 1, 1), task="colours")
        escalation = make_escalation(the_task(tmp_path), {"image": b"x", "question": "since"}, id=kept.id)
        do(
            other,
            inputs.start,
            wanted=replace(kept, request=encode(escalation), keep_until_ms=2**50, answer_by_ms=2**50),
        )
        [take_over] = [chore for chore in holder.chores if chore.name == "take_over"]
        await take_over.work()  # what another had claimed of it since
        await heed.work()
        assert [job.key for worker in holder._forgetting._workers for job in worker.jobs] == [("cam-heard", kept.id)]  # type: ignore[union-attr]  # it runs
        model.open.set()
        again = make_escalation(the_task(tmp_path), {"image": b"x", "question": "again"})
        await device.hears(Answer, await device.escalate(again))
        assert not device.of(Answer, sent.id)
        assert named(other, sent.id) == {} and set(named(other, again.id)) == {"inputs", "examples"}
        other.close()
