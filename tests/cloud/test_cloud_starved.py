"""A cloud whose memory ran out for a moment: the worker goes on, and every input that it had in hand still has its end."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from cloud_device import Device, make_escalation
from cloud_service import HeldModel, account, eventually, make_service, ready, the_task, write_config
from failing_log import no_memory_for_the_log_of

from outrider_wire.messages import Answer, Escalation, Receipt, Refusal

pytestmark = pytest.mark.broker


class NamelessModel(HeldModel):
    """There is no memory for its name once, at that look from now on: the first is behind a batch, the second for an answer."""

    fails_at = 0

    @property
    def name(self) -> str:  # type: ignore[override]
        self.fails_at -= 1
        if self.fails_at == 0:
            raise MemoryError
        return "nameless@1"


def short_leases(folder: Path, broker: str) -> Path:
    """A configuration by which what is in nobody's hand is found within a second."""
    return write_config(folder, broker, more="lease_s = 1")


LOOKS = pytest.mark.parametrize("look", [1, 2], ids=["behind a batch", "for an answer"])


def the_escalation(folder: Path, question: str) -> Escalation:
    return make_escalation(the_task(folder), {"image": b"0", "question": question})


async def test_a_failure_whose_log_cannot_be_written_does_not_end_the_worker(broker: str, tmp_path: Path) -> None:
    async with (
        make_service(short_leases(tmp_path, broker), HeldModel()) as service,
        Device(broker, "cam-1") as device,
    ):
        await ready(service)
        poison = the_escalation(tmp_path, "explode")
        with no_memory_for_the_log_of("outrider_cloud.answering.worker") as log:
            await device.escalate(poison)
            await until(lambda: "large_model.failed" in log.events)
            harmless = await device.escalate(the_escalation(tmp_path, "what colour?"))
            await device.hears(Answer, harmless)
        await offer_until(lambda: bool(device.of(Refusal, poison.id)), device, poison)
        assert device.of(Refusal, poison.id)[0].reason == "large_model_failed"


@LOOKS
async def test_what_has_no_receipt_is_answered_when_it_is_offered_again(broker: str, tmp_path: Path, look: int) -> None:
    model = NamelessModel()
    async with make_service(short_leases(tmp_path, broker), model) as service, Device(broker, "cam-1") as device:
        await ready(service)
        early = await device.escalate(the_escalation(tmp_path, "early"))
        await device.hears(Answer, early)  # the next may be asked about before it is claimed
        question = the_escalation(tmp_path, "what colour?")
        model.fails_at = look
        await device.escalate(question)
        await until(lambda: model.fails_at <= 0)
        await offer_until(lambda: bool(device.of(Answer, question.id)), device, question)
        assert (await account(service))["pending"] == 0


@LOOKS
async def test_what_has_its_receipt_is_answered_without_being_offered_again(
    broker: str, tmp_path: Path, look: int
) -> None:
    model = NamelessModel()
    async with make_service(short_leases(tmp_path, broker), model) as service, Device(broker, "cam-1") as device:
        await ready(service)
        model.open.clear()
        sent = await device.escalate(the_escalation(tmp_path, "what colour?"))
        await device.hears(Receipt, sent)
        model.fails_at = look
        model.open.set()
        await device.hears(Answer, sent, within_s=60)
        assert (await account(service))["pending"] == 0


async def test_what_is_in_hand_is_not_taken_back(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    async with make_service(short_leases(tmp_path, broker), model) as service, Device(broker, "cam-1") as device:
        await ready(service)
        model.open.clear()
        sent = await device.escalate(the_escalation(tmp_path, "what colour?"))
        await device.hears(Receipt, sent)
        (take_back,) = [chore.work for chore in service.chores if chore.name == "take_back"]
        for _ in range(3):
            await take_back()
        with closing(sqlite3.connect(tmp_path / "data/cloud.db")) as store:
            assert store.execute("SELECT claims FROM inputs").fetchall() == [(1,)]
        model.open.set()
        await device.hears(Answer, sent)
        assert model.batches == [1]


async def until(true: Callable[[], bool]) -> None:
    async def is_true() -> bool:
        return true()

    await eventually(is_true, 60)


async def offer_until(true: Callable[[], bool], device: Device, question: Escalation) -> None:
    """Offers it again and again, as a device does."""
    async with asyncio.timeout(60):
        while not true():
            question = msgspec.structs.replace(question, offer=question.offer + 1)
            await device.escalate(question)
            await asyncio.sleep(0.2)
