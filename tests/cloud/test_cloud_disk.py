"""The cloud's disk is full, or its database damaged: it says so, promises nothing, and goes on by itself when there is room."""

import asyncio
import ctypes
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_device import Device, make_escalation
from cloud_service import HeldModel, account, eventually, get, make_service, ready, the_task, write_config
from msgspec.structs import replace

from outrider.processes import any_port
from outrider_cloud.config import load_cloud_config
from outrider_cloud.service import CloudService
from outrider_link.broker import EmbeddedBroker
from outrider_wire.errors import OperatorSetupError
from outrider_wire.messages import Answer, Receipt, Refusal

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with EmbeddedBroker(port=any_port()) as running:
        yield running.url


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB of its own."""
    folder = tmp_path / "data"
    folder.mkdir()
    if os.geteuid() or ctypes.CDLL(None, use_errno=True).mount(b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=3m"):
        pytest.skip("only root may mount a small disk to fill")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Takes every byte that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


async def waiting_for(service: CloudService) -> list[str]:
    said: list[str] = (await get(service, "/health/ready"))[1]["waiting_for"]
    return said


async def test_a_full_disk_is_said_gives_no_receipt_and_is_over_when_there_is_room(
    broker: str, tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    model = HeldModel()
    path = write_config(tmp_path, broker)
    async with make_service(path, model) as service, Device(broker, "cam-full") as device:
        await ready(service)
        task = the_task(tmp_path)
        model.open.clear()
        before = make_escalation(task, {"image": b"0", "question": "was stored before"})
        await device.escalate(before)
        await device.hears(Receipt, before.id)
        ballast = fill(small_disk)
        after = [
            make_escalation(task, {"image": os.urandom(60_000), "question": f"comes too late {k}"}) for k in range(3)
        ]
        for sent in after:
            await device.escalate(sent)
            refusal = await device.hears(Refusal, sent.id)
            assert (refusal.reason, refusal.detail) == ("busy", "store") and refusal.retry_after_s
        assert await waiting_for(service) == ["store (database or disk is full)"]
        picture = os.urandom(200_000)
        device.serve(picture)
        pulled = make_escalation(task, {"image": picture, "question": "does not fit"})
        await device.escalate(pulled)
        assert (await device.hears(Refusal, pulled.id)).detail == "store"
        model.open.set()  # what is answered now waits until it can be written
        await asyncio.sleep(1.5)
        assert not device.of(Receipt, after[0].id) and not device.of(Answer)
        ballast.unlink()
        await device.hears(Answer, before.id)
        await eventually(lambda: _well(service))
        for sent in [*after, pulled]:
            await device.escalate(replace(sent, offer=2))
            await device.hears(Answer, sent.id)
        said = await account(service)
        assert (said["received"], said["cloud"], said["pending"]) == (5, 5, 0)
    assert "store.failed" in {record.msg for record in caplog.records}


async def _well(service: CloudService) -> bool:
    return await waiting_for(service) == []


async def test_a_quick_answer_that_cannot_be_written_is_given_once_it_can(
    broker: str, tmp_path: Path, small_disk: Path
) -> None:
    """The quick path, where claim and answer share a commit: nothing is told before that commit stands."""
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service, Device(broker, "cam-q") as device:
        await ready(service)
        task = the_task(tmp_path)
        warm = await device.escalate(make_escalation(task, {"image": b"0", "question": "warm"}))
        await device.hears(Answer, warm)
        ballast = fill(small_disk)
        sent = make_escalation(task, {"image": os.urandom(60_000), "question": "quick"})
        await device.escalate(sent)
        await eventually(lambda: _offers(service, "failed", 1))
        assert not device.of(Answer, sent.id) and not device.of(Receipt, sent.id)
        other = make_escalation(task, {"image": os.urandom(60_000), "question": "is not kept waiting by it"})
        await device.escalate(other)
        await eventually(lambda: _offers(service, "failed", 2))
        ballast.unlink()
        for each in (sent, other):
            await device.hears(Answer, each.id)
        assert (await account(service))["cloud"] == 3


async def _offers(service: CloudService, outcome: str, count: int) -> bool:
    return service.offers().get(outcome) == count


async def test_a_database_that_is_damaged_while_it_is_used_is_said_and_promises_nothing(
    broker: str, tmp_path: Path
) -> None:
    path = write_config(tmp_path, broker)
    async with make_service(path, HeldModel()) as service, Device(broker, "cam-bad") as device:
        await ready(service)
        task = the_task(tmp_path)
        first = await device.escalate(make_escalation(task, {"image": b"0", "question": "sound"}))
        await device.hears(Answer, first)
        store = service._store
        assert store is not None and await asyncio.to_thread(store.compact)
        database = tmp_path / "data/cloud.db"
        sound = database.read_bytes()
        database.write_bytes(sound[:4096] + b"\xff" * (len(sound) - 4096))
        sent = make_escalation(task, {"image": b"0", "question": "damaged"})

        async def said() -> bool:
            await device.escalate(sent)
            return any("malformed" in what for what in await waiting_for(service))

        await eventually(said)
        await device.hears(Refusal, sent.id)
        assert not device.of(Receipt, sent.id) and not device.of(Answer, sent.id)
        assert (await get(service, "/health/live"))[0] == 200
    with pytest.raises(OperatorSetupError, match="restore the file from a copy") as caught:
        async with CloudService(load_cloud_config(path)):
            pass
    assert caught.value.reason == "store_unusable"
    database.write_bytes(sound)
    for name in ("cloud.db-wal", "cloud.db-shm"):
        database.with_name(name).unlink(missing_ok=True)
    async with make_service(path, HeldModel()) as service, Device(broker, "cam-bad") as device:
        await ready(service)
        await device.escalate(replace(sent, offer=2))
        await device.hears(Answer, sent.id)
