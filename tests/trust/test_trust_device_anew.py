"""A device that was set up anew without joining: people are told what to do by the commands, do it, and it is believed again."""

import asyncio
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cloud_device import TOPICS, Device
from cloud_service import HeldModel, eventually, get, make_service, ready
from trust_cloud import cloud_config, engineer

from outrider_cloud.service import CloudService
from outrider_edge.updates.ledger import LedgerFile
from outrider_edge.updates.reporting import Reporter, report_key
from outrider_link.broker import EmbeddedBroker
from outrider_link.session import Outgoing
from outrider_wire.codec import encode
from outrider_wire.messages import SlotReport, Telemetry

pytestmark = pytest.mark.broker
SCRIPT = Path(sys.executable).parent / "python"
CAM = "cam-anew"


@pytest.fixture
def broker() -> Iterator[str]:
    with EmbeddedBroker(port=0) as running:
        yield running.url


async def outrider(*arguments: str) -> tuple[int, str, str]:
    """Exit code, and what a command has said, as a person has typed it."""
    process = await asyncio.create_subprocess_exec(
        SCRIPT, "-m", "outrider", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


def reporter(folder: Path) -> Reporter:
    """As the agent makes it on that disk."""
    return Reporter(device=CAM, ledger=LedgerFile(folder / "ledger"), key=partial(report_key, folder, None))


async def tells(device: Device, own: Reporter, running: str) -> None:
    """Its report, then its figures, as its agent says them."""
    slot = SlotReport(task="colours", running=running * 64, version=running, slot="a", state="idle")
    report = await asyncio.to_thread(own.report, [slot], metadata={}, held="")
    figures = Telemetry(device=CAM, boot_id="b", task="colours", uptime_s=1.0, account={"edge": 3})
    for kind, message in (("reported", report), ("telemetry", own.sign(figures))):
        topic = TOPICS.of(kind, CAM)  # type: ignore[arg-type]  # one of the two
        await device.session.publish(Outgoing(topic, encode(message), retain=kind == "reported"))


async def shown(service: CloudService) -> Any:
    """The device as the cloud shows it; None: it is not known."""
    rows = (await get(service, "/v1/devices"))[1]["devices"]
    return next((row for row in rows if row["device"] == CAM), None)


async def test_a_device_set_up_anew_is_forgotten_by_the_command_that_the_status_names(
    broker: str, tmp_path: Path
) -> None:
    config = cloud_config(tmp_path / "cloud", broker, await asyncio.to_thread(engineer, tmp_path / "engineer"))

    async def is_shown(service: CloudService, running: str, refused: bool) -> bool:
        row = await shown(service)
        slot = row and row["slots"].get("colours")
        return bool(slot) and slot["running"][0] == running and ("refused" in row["report"]) == refused

    async with make_service(config, HeldModel()) as service, Device(broker, CAM) as device:
        await ready(service)
        to = ("--cloud", service.url)
        await tells(device, reporter(tmp_path / "before"), "a")
        await eventually(partial(is_shown, service, "a", False))
        anew = reporter(tmp_path / "anew")
        await tells(device, anew, "b")
        await eventually(partial(is_shown, service, "a", True))

        code, out, err = await outrider("ota", "status", *to)
        command = f"outrider cloud forget --device {CAM}"
        assert code == 0 and "report_other_key" in out + err and command in " ".join((out + err).split())
        code, out, _ = await outrider("ota", "status", *to, "--json")
        [row] = json.loads(out)["devices"]
        assert (code, row["refused"]["reason"]) == (0, "report_other_key") and command in row["refused"]["fix"]

        code, _, err = await outrider(*command.split()[1:], *to, "--yes")
        assert code == 0, err
        assert await shown(service) is None
        await tells(device, anew, "c")
        await eventually(partial(is_shown, service, "c", False))

        async def counts() -> bool:
            return bool((await shown(service))["telemetry"].get("colours", {}).get("verified"))

        await eventually(counts)
        code, out, err = await outrider("ota", "status", *to)
        assert code == 0 and "report_other_key" not in out + err and "do not sign" not in out + err
