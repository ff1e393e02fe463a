"""The device on a real broker, with a small cloud that answers, dawdles, forgets and lies."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from edge_cloud import FakeCloud
from edge_entries import make_answer, make_entry, new_id, until
from mosquitto import AnyBroker

from outrider_edge.outbox.outbox import Outbox
from outrider_edge.ports import TaskFigures
from outrider_edge.uplink.uplink import AloneUplink, BrokerAccess, Uplink
from outrider_wire.codec import encode
from outrider_wire.errors import RuleRefusalError
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.messages import Escalation, Message, Receipt, Refusal, Reported
from outrider_wire.report import Account, AnswerReport

pytestmark = pytest.mark.broker
DEVICE = "cam-7"


class Figures:
    """`outrider_edge.ports.FiguresPort` of one idle task."""

    def figures(self) -> list[TaskFigures]:
        """Its figures."""
        return [TaskFigures(task="colours", confidence=[1, 2], edge_ms={"p50": 1.0}, cloud_ms={})]


class Device:
    """One device: outbox and uplink, with what its application was told."""

    def __init__(self, *, folder: Path, url: str) -> None:
        self.finals: dict[str, AnswerReport] = {}
        self.outbox = Outbox(folder=folder, flush_s=0.05)
        self.uplink = Uplink(
            device=DEVICE,
            access=BrokerAccess(url=url),
            outbox=self.outbox,
            figures=Figures(),
            telemetry_every_s=0.2,
            receipt_timer_s=0.3,
            ask_again_s=0.5,
        )
        self.uplink.listen(self._on_final)

    async def _on_final(self, report: AnswerReport) -> None:
        assert report.id not in self.finals, "told twice"
        self.finals[report.id] = report

    async def ask(self, *parts: bytes, count: int = 1, **fields: Any) -> list[str]:
        entries = [make_entry(*parts, **fields) for _ in range(count)]
        for entry in entries:
            self.outbox.arrived(entry.task)
        await asyncio.gather(*(self.uplink.escalate(entry) for entry in entries))
        return [entry.id for entry in entries]

    async def __aenter__(self) -> "Device":
        await self.outbox.start()
        await self.uplink.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.uplink.stop()
        assert self.outbox.account().adds_up
        await self.outbox.stop()


@pytest.fixture
async def cloud(broker: AnyBroker) -> AsyncIterator[FakeCloud]:
    async with FakeCloud(broker.url) as cloud:
        yield cloud


@pytest.fixture
async def device(broker: AnyBroker, cloud: FakeCloud, tmp_path: Path) -> AsyncIterator[Device]:
    async with Device(folder=tmp_path / "outbox", url=broker.url) as device:
        await device.uplink.wait_connected(10)
        yield device


@pytest.mark.both_brokers
async def test_every_escalation_comes_back_answered_once(device: Device, cloud: FakeCloud) -> None:
    ids = await device.ask(count=100)
    await until(lambda: len(device.finals) == 100)
    assert set(device.finals) == set(ids)
    assert {(report.state, report.label) for report in device.finals.values()} == {("cloud", "blue")}
    assert cloud.payloads[ids[0]] == [b"pixels"]
    assert device.outbox.account() == Account(received=100, cloud=100)


async def test_a_large_part_is_pulled_by_the_worker(device: Device, cloud: FakeCloud) -> None:
    large = bytes(range(256)) * (5 * INLINE_BYTES // 256)
    [id_] = await device.ask(b"small", large)
    await until(lambda: device.finals)
    assert cloud.payloads[id_] == [b"small", large]


async def test_without_a_receipt_it_is_offered_until_it_is_answered(device: Device, cloud: FakeCloud) -> None:
    cloud.reply = cloud.silence
    [id_] = await device.ask()
    await until(lambda: cloud.offers[id_] >= 3)
    cloud.reply = cloud.answer
    await until(lambda: device.finals)


async def test_a_lost_answer_is_asked_after_and_comes_again(device: Device, cloud: FakeCloud) -> None:
    cloud.reply = cloud.receipt_only
    [id_] = await device.ask()
    await until(lambda: cloud.offers[id_] >= 1)
    cloud.reply = cloud.answer
    await until(lambda: device.finals)
    assert cloud.offers[id_] >= 2


@pytest.mark.both_brokers
async def test_a_busy_cloud_is_offered_it_again(device: Device, cloud: FakeCloud) -> None:
    cloud.reply = cloud.busy
    [id_] = await device.ask()
    await until(lambda: cloud.offers[id_] >= 2)
    cloud.reply = cloud.answer
    await until(lambda: device.finals)
    assert device.uplink.offering.counts["busy"] >= 2


async def test_a_refusal_for_good_ends_it(device: Device, cloud: FakeCloud) -> None:
    async def refuse(escalation: Escalation) -> list[Message]:
        return [Refusal(id=escalation.id, reason="unknown_task")]

    cloud.reply = refuse
    [id_] = await device.ask()
    await until(lambda: device.finals)
    assert device.finals[id_].state == "refused"


async def test_forged_answers_and_bad_messages_are_counted_and_harm_nothing(device: Device, cloud: FakeCloud) -> None:
    answers = cloud.topics.of("answer", DEVICE)
    await cloud.say(DEVICE, make_answer(new_id()))
    await cloud.say_raw(answers, b"\xff\xff not a message")
    await cloud.say_raw(answers, encode(Reported(slots=[])))
    await cloud.say_raw(cloud.topics.of("blob-down", DEVICE, transfer="x"), encode(Receipt(id=new_id())))
    await until(lambda: device.uplink.counts["bad_messages"] >= 3 and device.uplink.offering.counts["unknown"] >= 1)
    await device.ask()
    await until(lambda: device.finals)


@pytest.mark.both_brokers
async def test_the_device_says_that_it_is_here_how_it_fares_and_that_it_goes(
    broker: AnyBroker, cloud: FakeCloud, tmp_path: Path
) -> None:
    async with Device(folder=tmp_path / "outbox", url=broker.url):
        await until(lambda: cloud.presence and cloud.presence[-1].online)
        await until(lambda: cloud.telemetry)
    await until(lambda: not cloud.presence[-1].online)
    assert {said.device for said in cloud.presence} | {said.device for said in cloud.telemetry} == {DEVICE}
    assert cloud.telemetry[-1].account["received"] == 0


@pytest.mark.both_brokers
async def test_what_was_asked_while_alone_is_answered_when_the_broker_comes(
    own_broker: AnyBroker, tmp_path: Path
) -> None:
    own_broker.stop()  # it keeps its port
    async with Device(folder=tmp_path / "outbox", url=own_broker.url) as device:
        ids = await device.ask(count=20)
        assert device.outbox.account() == Account(received=20, pending=20)
        own_broker.start()
        async with FakeCloud(own_broker.url):
            await until(lambda: len(device.finals) == 20, timeout_s=30)
    assert set(device.finals) == set(ids)


@pytest.mark.both_brokers
async def test_a_broker_that_restarts_in_the_middle_loses_nothing(own_broker: AnyBroker, tmp_path: Path) -> None:
    async with FakeCloud(own_broker.url), Device(folder=tmp_path / "outbox", url=own_broker.url) as device:
        await device.uplink.wait_connected(10)
        ids = []
        for turn in range(6):
            ids += await device.ask(count=20)
            if turn in (2, 4):
                own_broker.stop()
                own_broker.start()
        await until(lambda: len(device.finals) == len(ids), timeout_s=40)
    assert {report.state for report in device.finals.values()} == {"cloud"}


async def test_a_restarted_device_takes_up_what_it_had_asked(
    broker: AnyBroker, cloud: FakeCloud, tmp_path: Path
) -> None:
    cloud.reply = cloud.receipt_only
    async with Device(folder=tmp_path / "outbox", url=broker.url) as device:
        await device.uplink.wait_connected(10)
        ids = await device.ask(count=10)
        await until(lambda: device.uplink.offering.counts["receipts"] >= 10)
    cloud.reply = cloud.answer
    async with Device(folder=tmp_path / "outbox", url=broker.url) as device:
        await until(lambda: len(device.finals) == 10)
    assert set(device.finals) == set(ids)
    assert device.outbox.account() == Account(received=10, cloud=10)


async def test_alone_there_is_nobody_to_ask() -> None:
    alone = AloneUplink()
    assert (alone.enabled, alone.connected) == (False, False)
    with pytest.raises(RuleRefusalError):
        await alone.escalate(make_entry())
