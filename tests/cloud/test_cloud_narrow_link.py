"""A device behind 20 kB/s, with a large pull under way in each direction: questions and answers do not wait behind them."""

import asyncio
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud_device import Device, make_escalation
from cloud_releases import offered
from cloud_service import HeldModel, make_service, ready, the_task, write_config
from link_peers import Relay

from outrider.processes import any_port
from outrider_link.broker import EmbeddedBroker
from outrider_wire.messages import Answer, Refusal
from outrider_wire.pace import LEAST_WINDOW

pytestmark = pytest.mark.broker

RATE = 20_000
BOUND_S = 1.5


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(port=any_port()) as running:
        yield running


async def test_a_round_trip_stays_short_while_two_megabytes_go_each_way(broker: EmbeddedBroker, tmp_path: Path) -> None:
    task_file = write_config(tmp_path, broker.url)
    async with (
        make_service(task_file, HeldModel()) as service,
        Relay(broker.port, bytes_per_s=RATE) as link,
        Device(link.url, "cam-narrow") as device,
    ):
        await ready(service)
        release = await offered(service, device, tmp_path, os.urandom(2_000_000))
        image, task = os.urandom(1_900_000), the_task(tmp_path)
        device.serve(image)
        await device.escalate(make_escalation(task, {"image": image, "question": "large"}))
        pulling = asyncio.create_task(device.pull(hashlib.sha256(release).hexdigest(), len(release)))
        await asyncio.sleep(2)
        carried, began = list(link.carried), time.monotonic()
        took = []
        for number in range(6):
            sent = make_escalation(task, {"image": os.urandom(500), "question": f"small {number}"})
            asked = time.monotonic()
            await device.escalate(sent)
            await device.hears(Answer, sent.id)
            took.append(time.monotonic() - asked)
        seconds = time.monotonic() - began
        rates = [(now - before) / seconds for now, before in zip(link.carried, carried, strict=True)]
        pulling.cancel()
        device.blobs.clear()
        assert (await device.hears(Refusal)).reason == "payload_unavailable"
        print(f"round trips {[round(each, 2) for each in took]} s, carried {[round(rate) for rate in rates]} bytes/s")
        assert sorted(took)[-2] < BOUND_S
        assert min(rates) > 0.5 * RATE  # and the link is not left idle for it


async def test_the_cap_of_the_configuration_holds_on_a_wide_link(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """All but the last want is paid for in time; that one is of the window, which is never more than came before it and its least."""
    cap, size = 250_000, 200_000
    paid = (size - LEAST_WINDOW) / 2
    path = write_config(tmp_path, broker.url)
    path.write_text(path.read_text().replace("[api]", f"blob_bytes_per_s = {cap}\n[api]"))
    image = os.urandom(size)
    async with make_service(path, HeldModel()) as service, Device(broker.url, "cam-capped") as device:
        await ready(service)
        device.serve(image)
        sent = make_escalation(the_task(tmp_path), {"image": image, "question": "capped"})
        await device.escalate(sent)
        assert (await device.hears(Answer, sent.id)).ms["pull"] > 1000 * paid / cap
