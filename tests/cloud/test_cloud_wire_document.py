"""What the AsyncAPI document says of the cloud, and what the cloud does: its subscriptions, and how it takes a foreign version."""

from pathlib import Path

import pytest
from cloud_device import TOPICS, Device, make_escalation
from cloud_service import HeldModel, eventually, get, make_service, ready, the_task, write_config
from msgspec.structs import replace

from outrider_cloud.hub import Hub
from outrider_link.session import Outgoing
from outrider_wire.asyncapi import document
from outrider_wire.codec import encode
from outrider_wire.messages import Answer, Presence, Receipt, Refusal
from outrider_wire.topics import WORKERS


def test_the_cloud_subscribes_to_what_the_document_says() -> None:
    hub = Hub(name="w1", topics=TOPICS, intake=None, fleet=None, releases=None, pulls=None)  # type: ignore[arg-type]  # subscriptions need none
    said = {
        each.replace("{worker}", "w1")
        for name, operation in document()["operations"].items()
        if name.startswith("cloud-receives-")
        for each in operation["x-subscriptions"]
    }
    assert said == set(hub.subscriptions(WORKERS))


@pytest.mark.broker
async def test_a_device_of_a_foreign_version_is_seen_told_and_not_answered(broker: str, tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service, Device(broker, "cam-v9") as device:
        await ready(service)
        for hello in (
            Presence(device="cam-v9", online=True, boot_id="b", wire=[8, 9], v=9),
            Presence(device="cam-v12", online=True, boot_id="b", wire=[1, 2], v=2),
            Presence(device="cam-short-spoken", online=True, boot_id="b"),
        ):
            await device.session.publish(Outgoing(TOPICS.of("presence", hello.device), encode(hello)))

        async def seen() -> bool:
            rows = (await get(service, "/v1/devices"))[1]["devices"]
            speaks = {row["device"]: (row["wire"], row["speaks"]) for row in rows}
            return speaks == {"cam-v9": ([8, 9], None), "cam-v12": ([1, 2], 1), "cam-short-spoken": ([1], 1)}

        await eventually(seen)
        offered = make_escalation(the_task(tmp_path), {"image": b"1", "question": "what?"})
        await device.escalate(replace(offered, v=9))
        refusal = await device.hears(Refusal, offered.id)
        assert (refusal.reason, refusal.retry_after_s) == ("unsupported_version", None)
        assert "speak one of 1" in refusal.detail
        assert not device.of(Answer) and not device.of(Receipt)
        await device.escalate(offered)
        await device.hears(Answer, offered.id)
