"""Many devices at once: a fleet that comes back after an outage, one device that floods, a worker that stands still."""

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from cloud_device import Device, make_escalation
from cloud_fleet import Fleet
from cloud_service import HeldModel, account, eventually, make_service, ready, request, the_task, write_config

from outrider.processes import any_port
from outrider_cloud.service import CloudService
from outrider_cloud.store import inputs
from outrider_cloud.store.store import Store
from outrider_link.broker import EmbeddedBroker
from outrider_wire.messages import Answer, Receipt, Refusal
from outrider_wire.report import Account

pytestmark = pytest.mark.broker
TESTS = Path(__file__).parent.parent


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(port=any_port()) as running:
        yield running


class Cloud:
    """A cloud process, its API found in its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    async def metric(self, name: str) -> float:
        """The sum of a metric's samples; waits for the API."""
        text = await asyncio.to_thread(self._metrics)
        return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{name}[{{ ]", line))

    async def lag_s(self) -> float:
        """The least bound that 99 of 100 turns of its event loop kept."""
        text = await asyncio.to_thread(self._metrics)
        buckets = re.findall(r'outrider_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', text)
        total = float(buckets[-1][1])
        return next(float(bound) for bound, n in buckets if float(n) >= 0.99 * total)

    def _metrics(self) -> str:
        until = time.monotonic() + 20
        while True:
            port = re.findall(r"outrider.test.port=(\d+)", self._log.read_text())
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port[-1]}/metrics", timeout=5) as reply:
                    return str(reply.read().decode())
            except (IndexError, OSError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)


@contextmanager
def cloud(config: Path, pause_s: float) -> Iterator[Cloud]:
    """A cloud process whose model takes ``pause_s`` a batch."""
    log = config.with_suffix(".log")
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, TESTS / "cloud_child.py", config, str(pause_s)], stdout=file, stderr=file
        )
    try:
        yield Cloud(process, log)
    finally:
        process.kill()
        process.wait()


def stored(folder: Path) -> Account:
    """The account that stands in the store."""
    store = Store(url=f"sqlite:///{folder / 'data/cloud.db'}")
    store.open()
    try:
        return store.run(inputs.accounts)["colours"]
    finally:
        store.close()


async def stands_still(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Stops a process as a whole, where it holds no lock on the store: a file is locked for all, for as long as its writer stands."""
    while True:
        process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WSTOPPED)
        store = sqlite3.connect(folder / "data/cloud.db", timeout=0, isolation_level=None)
        try:
            store.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.05)
        else:
            return
        finally:
            store.close()


async def comes_back(broker: EmbeddedBroker, folder: Path, *, devices: int, each: int, within_s: float) -> str:
    """A fleet that loses broker and cloud in the middle, and gets them back; what was measured, in words."""
    total = devices * each
    config = write_config(folder, broker.url, more="lease_s = 5")
    config.write_text(config.read_text() + "[batch]\nqueue_max = 200\nmax_size = 64\nretry_after_s = 0.5\n")
    async with Fleet(broker.url, the_task(folder), devices=devices, each=each) as fleet:
        with cloud(config, 0.2) as first:
            await fleet.until(total * 3 // 4, within_s)
            asked_before = await first.metric("outrider_batch_size_sum")
            first.process.send_signal(signal.SIGKILL)
        broker.stop()
        await asyncio.sleep(1.0)
        broker.start()
        with cloud(config, 0.2) as second:
            answered_before = stored(folder).cloud
            took_s = await fleet.until(0, within_s)
            process = psutil.Process(second.process.pid)
            rss_mb, lag_s = process.memory_info().rss / 2**20, await second.lag_s()
            asked = await second.metric("outrider_batch_size_sum")
            shed = await second.metric("outrider_shed_total")
        for member in fleet.members:
            for told in member.answers.values():
                assert told and len({(answer.label, answer.model) for answer in told}) == 1
    said = stored(folder)
    assert (said.received, said.cloud, said.pending) == (total, total, 0) and said.adds_up
    assert asked <= total - answered_before, "an input that stands answered is asked about no more"
    return (
        f"{devices} devices, {total} escalations: {took_s:.1f} s after the restart, {asked_before:.0f} + {asked:.0f} asked, "
        f"{shed:.0f} put off, {rss_mb:.0f} MB, 99 % of loop turns late by at most {lag_s * 1000:g} ms"
    )


@pytest.mark.slow
async def test_a_small_fleet_that_loses_everything_at_once_is_answered_when_it_is_back(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    await comes_back(broker, tmp_path, devices=20, each=3, within_s=40)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_fleet_of_three_hundred_that_reconnects_at_once_does_not_bring_the_cloud_down(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    measured = await comes_back(broker, tmp_path, devices=300, each=4, within_s=150)
    print(measured)
    assert float(re.findall(r"(\d+) MB", measured)[0]) < 400


async def test_one_device_that_floods_keeps_no_other_from_its_answers(broker: EmbeddedBroker, tmp_path: Path) -> None:
    model = HeldModel()
    path = write_config(tmp_path, broker.url)
    async with (
        make_service(path, model, queue_max=40, retry_after_s=5.0) as service,
        Device(broker.url, "cam-flood") as flood,
        Device(broker.url, "cam-quiet") as quiet,
    ):
        await ready(service)
        task = the_task(tmp_path)
        model.open.clear()
        offers = [make_escalation(task, {"image": b"1", "question": "flood"}) for _ in range(200)]
        await asyncio.gather(*(flood.escalate(each) for each in offers))
        await flood.until(lambda: len(flood.of(Receipt)) + len(flood.of(Refusal)) >= 200)
        assert 30 <= len(flood.of(Receipt)) <= 40
        own = [make_escalation(task, {"image": b"1", "question": "quiet"}) for _ in range(2)]
        for each in own:
            await quiet.escalate(each)
        assert await quiet.hears(Receipt, own[0].id)
        text = await _metrics(service)
        assert 'outrider_shed_total{reason="queue_full",task="colours"}' in text
        assert float(_sample(text, 'outrider_waiting{task="colours"}')) >= 38
        assert float(_sample(text, 'outrider_waiting_bytes{task="colours"}')) > 0
        assert float(_sample(text, 'outrider_waiting_oldest_seconds{task="colours"}')) > 0
        model.open.set()
        await quiet.hears(Answer, own[0].id)
        assert all((refusal.retry_after_s or 0) >= 3.75 for refusal in flood.of(Refusal))
        assert (await account(service))["adds_up"]


async def test_offers_above_the_rate_are_put_off_unread_and_have_places_in_line(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    more = "[limits]\ndevice_per_s = 0.01\ndevice_burst = 3\n"
    path = write_config(tmp_path, broker.url, more=more)
    async with make_service(path, HeldModel()) as service, Device(broker.url, "cam-fast") as device:
        await ready(service)
        task = the_task(tmp_path)
        for k in range(6):
            await device.escalate(make_escalation(task, {"image": b"1", "question": str(k)}))
        await device.until(lambda: len(device.of(Answer)) + len(device.of(Refusal)) >= 6)
        told = device.of(Refusal)
        assert {(each.reason, each.detail) for each in told} == {("busy", "device_rate")} and len(told) == 3
        await device.send_raw(b"\xc1 no id to answer to")

        async def all_met() -> bool:
            return service.offers().get("busy") == 4

        await eventually(all_met)
        other, status = await request(service, "GET", "/v1/dead-letters")
        assert (other, status["dead_letters"]) == (200, [])


@pytest.mark.slow
async def test_a_worker_that_stood_still_does_not_pay_again_for_what_another_answered(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    """One process is stopped as a whole, longer than its lease; the other answers; then the first goes on."""
    configs = [write_config(tmp_path, broker.url, worker=name, more="lease_s = 1") for name in ("one", "two")]
    for config in configs:
        config.write_text(config.read_text() + "[batch]\nmax_size = 1\n")
    task = the_task(tmp_path)
    async with Device(broker.url, "cam-still") as device:
        with cloud(configs[0], 0.4) as one:
            sent = [make_escalation(task, {"image": b"1", "question": str(k % 3)}) for k in range(6)]
            await one.metric("outrider_ready")
            for each in sent:
                while not device.of(Receipt, each.id) and not device.of(Answer, each.id):
                    await device.escalate(each)
                    await asyncio.sleep(0.2)
            await stands_still(one.process, tmp_path)
            with cloud(configs[1], 0.1) as two:
                for each in sent:
                    await device.hears(Answer, each.id, within_s=60)
                asked_two = await two.metric("outrider_batch_size_sum")
                os.kill(one.process.pid, signal.SIGCONT)
                await asyncio.sleep(1.5)
                asked_one = await one.metric("outrider_batch_size_sum")
            assert asked_one + asked_two <= len(sent) + 1, "but for the batch that was in hand"
            labels = {each.id: {answer.label for answer in device.of(Answer, each.id)} for each in sent}
            assert labels == {each.id: {task.labels[k % 3]} for k, each in enumerate(sent)}
    said = stored(tmp_path)
    assert (said.received, said.cloud, said.pending) == (6, 6, 0)


async def _metrics(service: CloudService) -> str:
    def read() -> str:
        with urllib.request.urlopen(f"{service.url}/metrics", timeout=5) as reply:  # noqa: S310  our own
            return str(reply.read().decode())

    return await asyncio.to_thread(read)


def _sample(text: str, name: str) -> str:
    [line] = [line for line in text.splitlines() if line.startswith(name)]
    return line.split()[-1]
