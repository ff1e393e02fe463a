"""Audits in the cloud: judged by the large model's own word, kept as evidence, and shown when a device raises the alarm."""

import math
from pathlib import Path

import aiohttp
from cloud_device import TOPICS, Device, make_escalation, sha256
from cloud_service import HeldModel, eventually, get, make_service, ready, the_task, write_config
from msgspec.structs import replace

from outrider_cloud.store import audits
from outrider_cloud.store.store import Store
from outrider_link.session import Outgoing
from outrider_wire.audit_certificate import certify_from_audits
from outrider_wire.codec import encode
from outrider_wire.messages import Answer, Escalation, MonitorFigures, Receipt, Refusal, Telemetry
from outrider_wire.task import Task

SURE = [0.9999, 0.00005, 0.00005]
SMALL = sha256(b"a small model")


def make_audit(task: Task, number: int, **fields: object) -> Escalation:
    plain = make_escalation(task, {"image": b"%d" % number, "question": "what?"})
    said = {"why": "audit", "audit": 0.02, "label": "red", "probabilities": SURE, "model": SMALL}
    return replace(plain, **{**said, **fields})


async def test_an_audit_is_judged_by_the_large_models_own_word_whatever_the_strategy(
    broker: str, tmp_path: Path
) -> None:
    """The large model says green at 0.9; the device is so sure of red that the product of both would say red."""
    path = write_config(tmp_path, broker, strategy="soft-prune")
    path.write_text(path.read_text() + "lambda = 1.5\n")
    async with make_service(path, HeldModel()) as service, Device(broker, "cam-audit") as device:
        await ready(service)
        task = the_task(tmp_path)
        audit = await device.escalate(make_audit(task, 1))
        asked = await device.escalate(make_audit(task, 2, why="requested", audit=0.0))
        told = await device.hears(Answer, audit)
        assert (told.label, told.strategy) == ("green", "shunt")
        fused = await device.hears(Answer, asked)
        assert (fused.label, fused.strategy) == ("red", "soft-prune")  # the control


async def test_the_store_yields_a_tasks_audits_with_score_loss_and_probability(broker: str, tmp_path: Path) -> None:
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "cam-rows") as device,
    ):
        await ready(service)
        task = the_task(tmp_path)
        sent = [
            make_audit(task, 1, label="green", probabilities=[0.1, 0.8, 0.1]),
            make_audit(task, 2),
            make_audit(task, 3, why="unsupported"),
            make_audit(task, 4, model=sha256(b"another")),
            make_audit(task, 5, audit=0.0, why="low_confidence"),
            make_audit(task, 6, audit=0.5, keep_for_s=0),
        ]
        for one in sent:
            await device.escalate(one)
            await device.until(lambda one=one: bool(device.of(Answer, one.id) or device.of(Refusal, one.id)))
    store = Store(url=f"sqlite:///{tmp_path / 'data' / 'cloud.db'}")
    store.open()
    try:
        found = await store.read(lambda c: audits.audits(c, task=task.name, small_model=SMALL))
        assert [(audit.input, audit.score, audit.loss, audit.probability) for audit in found] == [
            (sent[0].id, 0.8, 0, 0.02),
            (sent[1].id, SURE[0], 1, 0.02),
            (sent[2].id, -math.inf, 1, 0.02),
            (sent[5].id, SURE[0], 1, 0.5),  # expired: never answered, and so an error
        ]
        assert {(audit.device, audit.small_model) for audit in found} == {("cam-rows", SMALL)}
        evidence = certify_from_audits([a.score for a in found], [a.loss for a in found], [0.5], risk=0.05, delta=0.05)
        assert (evidence.nearest.audits, evidence.nearest.errors, evidence.threshold) == (3, 2, None)
    finally:
        store.close()


async def test_an_audit_is_claimed_before_it_is_answered_even_where_durability_is_memory(
    broker: str, tmp_path: Path
) -> None:
    model = HeldModel()
    path = write_config(tmp_path, broker, durability="memory")
    async with make_service(path, model) as service, Device(broker, "cam-durable") as device:
        await ready(service)
        model.open.clear()
        asked = await device.escalate(make_audit(the_task(tmp_path), 1, why="requested", audit=0.0))
        audit = await device.escalate(make_audit(the_task(tmp_path), 2))
        await device.hears(Receipt, audit)
        account = (await get(service, "/v1/account"))[1]
        assert (account["received"], account["pending"]) == (1, 1)  # the audit: the other one is stored once answered
        model.open.set()
        await device.hears(Answer, audit)
        await device.hears(Answer, asked)


async def test_an_audit_whose_payload_is_gone_is_refused_in_the_store_and_counts_as_an_error(
    broker: str, tmp_path: Path
) -> None:
    path = write_config(tmp_path, broker)
    async with make_service(path, HeldModel()) as service, Device(broker, "cam-lost") as device:
        await ready(service)
        task = the_task(tmp_path)
        plain = make_escalation(task, {"image": b"x" * 100_000, "question": "?"})
        sent = replace(plain, why="audit", audit=0.02, label="red", probabilities=SURE, model=SMALL)
        await device.escalate(sent)
        assert (await device.hears(Refusal, sent.id)).reason == "payload_unavailable"
        account = (await get(service, "/v1/account"))[1]
        assert (account["received"], account["refused"], account["offers"]["unfetched"]) == (1, 1, 1)
        await device.escalate(replace(sent, offer=2))
        assert (await device.hears(Refusal, sent.id, count=2)).reason == "payload_unavailable"
    store = Store(url=f"sqlite:///{tmp_path / 'data' / 'cloud.db'}")
    store.open()
    try:
        found = await store.read(lambda c: audits.audits(c, task=task.name, small_model=SMALL))
        assert [(audit.input, audit.loss) for audit in found] == [(sent.id, 1)]
    finally:
        store.close()


async def test_a_devices_alarm_shows_in_the_clouds_metrics_and_fleet(broker: str, tmp_path: Path) -> None:
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "cam-alarm") as device,
    ):
        await ready(service)
        task = the_task(tmp_path).name
        figures = MonitorFigures(
            certificate="c" * 16, risk=0.05, statistic=1234.5, limit=1000, audits=60, errors=12, alarm=True
        )
        said = Telemetry(device="cam-alarm", boot_id="b", task=task, uptime_s=1.0, account={}, monitor=figures)
        await device.session.publish(Outgoing(TOPICS.of("telemetry", "cam-alarm"), encode(said)))

        async def shown() -> bool:
            async with aiohttp.ClientSession() as client, client.get(service.url + "/metrics") as response:
                return f'outrider_device_alarms{{task="{task}"}} 1.0' in await response.text()

        await eventually(shown)
        _, fleet = await get(service, "/v1/devices")
        [mine] = [one for one in fleet["devices"] if one["device"] == "cam-alarm"]
        assert (mine["telemetry"][task]["monitor"]["errors"], mine["telemetry"][task]["monitor"]["alarm"]) == (12, True)
