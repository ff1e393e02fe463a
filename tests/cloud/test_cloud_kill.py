"""A cloud process that dies: what it had acknowledged is answered by the next one, once and correctly."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cloud_device import Device, make_escalation
from cloud_service import eventually, the_task, write_config
from link_peers import Relay

from outrider_cloud.store import inputs
from outrider_cloud.store.store import Store
from outrider_wire.messages import Answer, Escalation, Receipt
from outrider_wire.report import Account

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]
TESTS = Path(__file__).parent.parent
STARTS_S = 90
"""A process of the cloud is killed and started meanwhile, some seconds each on a busy machine."""


@contextmanager
def cloud(config: Path, pause_s: float = 0.7) -> Iterator[subprocess.Popen[bytes]]:
    """A cloud process, whose model takes that long for a batch; killed in the end if it still runs."""
    with (config.parent / "cloud.log").open("ab") as log:
        command = [sys.executable, TESTS / "cloud_child.py", config, str(pause_s)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def account(folder: Path) -> Account:
    """The account that stands in the store."""
    store = Store(url=f"sqlite:///{folder / 'data/cloud.db'}")
    store.open()
    try:
        return store.run(inputs.accounts)["colours"]
    finally:
        store.close()


async def offer_until_received(device: Device, escalation: Escalation) -> None:
    """Offers again and again, as an outbox does, until there is a receipt or an answer."""

    async def received() -> bool:
        if device.of(Receipt, escalation.id) or device.of(Answer, escalation.id):
            return True
        await device.escalate(escalation)
        await asyncio.sleep(0.3)
        return False

    await eventually(received, STARTS_S)


async def test_killed_between_receipt_and_answer_the_next_process_answers_without_being_asked(
    broker: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, broker)
    image = os.urandom(200_000)
    async with Device(broker, "cam-kill") as device:
        device.serve(image)
        sent = [
            make_escalation(the_task(tmp_path), {"image": picture, "question": str(k % 3)})
            for k, picture in enumerate([b"small", image, b"third", b"fourth"])
        ]
        with cloud(config) as process:
            for escalation in sent:
                await offer_until_received(device, escalation)
            assert not any(device.of(Answer, escalation.id) for escalation in sent[2:])
            process.send_signal(signal.SIGKILL)
            process.wait()
        device.blobs.clear()  # a receipt lets the device forget the payload
        with cloud(config) as process:
            for escalation in sent:
                await device.hears(Answer, escalation.id, within_s=30)
            await asyncio.sleep(1.5)  # replies are noted as sent within a second
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        answers = {e.id: {answer.label for answer in device.of(Answer, e.id)} for e in sent}
        labels = the_task(tmp_path).labels
        assert answers == {e.id: {labels[k % 3]} for k, e in enumerate(sent)}
        said = account(tmp_path)
        assert (said.received, said.cloud, said.pending) == (4, 4, 0) and said.adds_up
        with cloud(config):
            before = len(device.said)
            again = make_escalation(the_task(tmp_path), {"image": b"new", "question": "1"})
            await offer_until_received(device, again)
            await device.hears(Answer, again.id)
            told = [m for m in device.said[before:] if isinstance(m, Answer)]
            assert [m.id for m in told] == [again.id]  # what was told once is not told again by a later start


@pytest.mark.slow
async def test_killed_in_the_middle_of_a_pull_the_next_process_goes_on_where_it_stopped(
    broker: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, broker)
    image = os.urandom(600_000)
    async with Device(broker, "cam-cut") as device, Relay(int(broker.rsplit(":", 1)[1]), bytes_per_s=150_000) as link:
        config.write_text(config.read_text().replace(broker, link.url))
        device.serve(image)
        sent = make_escalation(the_task(tmp_path), {"image": image, "question": "1"})
        parts = tmp_path / "data/incoming/one"

        def arrived() -> int:
            return sum(file.stat().st_size for file in parts.glob("*.part"))

        async def half() -> bool:
            return parts.is_dir() and arrived() > 200_000

        with cloud(config) as process:
            offering = asyncio.create_task(offer_until_received(device, sent))
            await eventually(half, STARTS_S)
            process.send_signal(signal.SIGKILL)
            process.wait()
        there, before = arrived(), link.carried[1]
        with cloud(config):
            await offering
            assert (await device.hears(Answer, sent.id, within_s=30)).label == the_task(tmp_path).labels[1]
        assert link.carried[1] - before < len(image) - there + 150_000


async def test_a_terminated_process_finishes_its_batch_and_leaves_the_rest_to_the_next(
    broker: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, broker, more="lease_s = 600")
    config.write_text(config.read_text() + "[batch]\nmax_size = 1\n")
    async with Device(broker, "cam-term") as device:
        sent = [make_escalation(the_task(tmp_path), {"image": b"1", "question": str(k)}) for k in range(3)]
        with cloud(config, 3.0) as process:
            for escalation in sent:
                await offer_until_received(device, escalation)
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0
        said = account(tmp_path)
        assert 0 < said.cloud < 3
        assert (said.received, said.pending) == (3, 3 - said.cloud)
        await device.until(
            lambda: len({answer.id for answer in device.of(Answer)}) == said.cloud
        )  # what was committed was told
        other = write_config(tmp_path, broker, worker="two")  # another worker need not wait for the lease to run out
        with cloud(other):
            for k, escalation in enumerate(sent):
                assert (await device.hears(Answer, escalation.id, within_s=30)).label == the_task(tmp_path).labels[k]
        assert account(tmp_path).adds_up


async def test_a_few_hundred_inputs_and_two_kills_end_in_one_state_each(broker: str, tmp_path: Path) -> None:
    config = write_config(tmp_path, broker)
    async with Device(broker, "cam-many") as device:
        sent = [make_escalation(the_task(tmp_path), {"image": b"x", "question": str(k % 3)}) for k in range(240)]

        async def drive() -> None:
            for start in range(0, len(sent), 20):
                await asyncio.gather(*(offer_until_received(device, e) for e in sent[start : start + 20]))

        driver = asyncio.create_task(drive())
        for _ in range(2):
            with cloud(config):
                heard = len(device.of(Answer))
                await device.until(lambda heard=heard: len(device.of(Answer)) > heard + 25, within_s=STARTS_S)
        with cloud(config):
            await driver
            for escalation in sent:
                await device.hears(Answer, escalation.id, within_s=STARTS_S)
        labels = the_task(tmp_path).labels
        assert all({a.label for a in device.of(Answer, e.id)} == {labels[k % 3]} for k, e in enumerate(sent))
        said = account(tmp_path)
        assert (said.received, said.cloud, said.pending) == (240, 240, 0) and said.adds_up
