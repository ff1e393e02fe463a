"""The cloud's HTTP API: health before readiness, a token on everything else, one table behind router and document."""

import asyncio
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest
from cloud_device import TOPICS, Device, make_escalation
from cloud_service import HeldModel, eventually, get, make_service, ready, request, the_task, write_config

from factory import make_bundle, parts_of, sure
from outrider_cloud.config import load_cloud_config
from outrider_cloud.service import CloudService
from outrider_cloud.store import file_dialect
from outrider_link.session import Outgoing
from outrider_wire.codec import encode
from outrider_wire.errors import OperatorConfigError, OperatorSetupError, OutriderError
from outrider_wire.messages import Answer, Refusal, Reported, SlotReport, Telemetry

NOWHERE = "mqtt://127.0.0.1:9"
"""Where no broker listens."""


async def test_alive_without_a_broker_and_ready_only_with_one(tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, NOWHERE), HeldModel()) as service:
        assert await get(service, "/health/live") == (200, {"live": True})
        assert await get(service, "/health/ready") == (503, {"ready": False, "waiting_for": ["broker"]})


@pytest.mark.broker
async def test_ready_when_the_broker_has_granted_everything(broker: str, tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, broker), HeldModel()) as service:
        await ready(service)
        assert await get(service, "/health/ready") == (200, {"ready": True, "waiting_for": []})


async def test_everything_but_health_asks_for_the_token(tmp_path: Path) -> None:
    path = write_config(tmp_path, NOWHERE)
    (tmp_path / "token").write_text("let-me-in\n")
    path.write_text(path.read_text().replace("port = 0", 'port = 0\ntoken_file = "token"'))
    async with make_service(path, HeldModel()) as service:
        paths = (await get(service, "/openapi.json", token="let-me-in"))[1]["paths"]
        for route, operations in paths.items():
            for method, operation in operations.items():
                url = route.replace("{sha256}", "0" * 64).replace("{digest}", "0" * 64).replace("{task}", "colours")
                status, _ = await request(service, method.upper(), url, token="guess")
                if operation["security"]:
                    assert status == 401, route
                else:
                    assert route.startswith("/health/")
        assert (await get(service, "/v1/account"))[1]["error"]["reason"] == "unauthorised"
        assert (await get(service, "/v1/account", token="let-me-in"))[0] == 200


async def test_the_document_lists_every_route_of_the_contract(tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, NOWHERE), HeldModel()) as service:
        paths = (await get(service, "/openapi.json"))[1]["paths"]
    assert {(method, path) for path, operations in paths.items() for method in operations} == {
        ("get", "/health/live"),
        ("get", "/health/ready"),
        ("get", "/v1/tuf/{path}"),
        ("post", "/v1/tuf"),
        ("get", "/v1/devices/{device}/tuf/{path}"),
        ("post", "/v1/rollouts/forecast"),
        ("post", "/v1/rollouts"),
        ("get", "/v1/rollouts"),
        ("get", "/v1/rollouts/{rollout}"),
        ("get", "/v1/rollouts/{rollout}/devices"),
        ("post", "/v1/rollouts/{rollout}/act"),
        ("post", "/v1/stops"),
        ("get", "/metrics"),
        ("get", "/openapi.json"),
        ("get", "/docs"),
        ("get", "/v1/account"),
        ("get", "/v1/devices"),
        ("put", "/v1/blobs/{sha256}"),
        ("head", "/v1/blobs/{sha256}"),
        ("post", "/v1/releases"),
        ("get", "/v1/releases"),
        ("post", "/v1/releases/collect"),
        ("post", "/v1/releases/{digest}/assign"),
        ("get", "/v1/tasks/{task}/examples/stats"),
        ("get", "/v1/dead-letters"),
        ("get", "/v1/dead-letters/{letter}"),
        ("post", "/v1/dead-letters/{letter}/requeue"),
        ("post", "/v1/forget"),
        ("get", "/v1/devices/{device}/blobs/{sha256}"),
        ("put", "/v1/devices/{device}/blobs/{sha256}"),
        ("post", "/v1/devices/{device}/escalations/{task}"),
        ("get", "/v1/devices/{device}/escalations/{id}"),
    }


async def test_errors_are_json_with_a_reason_and_a_way_out(tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, NOWHERE), HeldModel()) as service:
        for method, path, body, expected in [
            ("GET", "/v1/nothing", None, (404, "no_such_route")),
            ("DELETE", "/v1/account", None, (405, "no_such_route")),
            ("GET", "/v1/tasks/typo/examples/stats", None, (404, "unknown_task")),
            ("GET", "/v1/dead-letters?limit=many", None, (400, "invalid_query")),
            ("POST", "/v1/releases", {"manifest": "short"}, (400, "invalid_body")),
            ("POST", "/v1/releases", {"typo": 1}, (400, "invalid_body")),
        ]:
            status, said = await request(service, method, path, body=body)
            assert (status, said["error"]["reason"]) == expected
            assert said["error"]["what"] and said["error"]["fix"]


@pytest.mark.broker
async def test_metrics_examples_and_fleet_show_what_happened(broker: str, tmp_path: Path) -> None:
    async with (
        make_service(write_config(tmp_path, broker), HeldModel()) as service,
        Device(broker, "cam-api") as device,
    ):
        await ready(service)
        task = the_task(tmp_path)
        await device.appear(capabilities={"cores": "2"})
        slot = SlotReport(task="colours", running="0" * 64, version="1", slot="a", state="committed")
        telemetry = Telemetry(device="cam-api", boot_id="boot-1", task="colours", uptime_s=1.0, account={"received": 3})
        await device.session.publish(Outgoing(TOPICS.of("reported", "cam-api"), encode(Reported(slots=[slot]))))
        await device.session.publish(Outgoing(TOPICS.of("telemetry", "cam-api"), encode(telemetry)))
        for why, audit, group in (
            ("low_confidence", 0.0, "clip-1"),
            ("audit", 0.02, "clip-1"),
            ("unsupported", 0.0, ""),
        ):
            sent = make_escalation(task, {"image": b"1", "question": why}, why=why, audit=audit, group=group)
            await device.escalate(sent)
            await device.hears(Answer, sent.id)
        stats = (await get(service, "/v1/tasks/colours/examples/stats"))[1]
        assert (stats["examples"], stats["groups"], stats["labelled"]) == (3, 2, 0)
        assert stats["sources"] == {"escalation": 2, "audit": 1} and stats["teacher_labels"] == {"green": 3}
        assert sum(stats["roles"].values()) == 3

        async def told() -> bool:
            devices = (await get(service, "/v1/devices"))[1]["devices"]
            mine = next((row for row in devices if row["device"] == "cam-api"), {})
            return bool(mine.get("online") and mine["slots"] and mine["telemetry"] and mine["capabilities"])

        await eventually(told)
        async with aiohttp.ClientSession() as client, client.get(service.url + "/metrics") as response:
            text = await response.text()
        assert 'outrider_offers_total{outcome="claimed",task="colours"} 3.0' in text
        assert 'outrider_inputs_settled_total{state="answered",task="colours"} 3.0' in text
        assert "outrider_ready 1.0" in text


@pytest.mark.broker
async def test_a_real_expert_answers_and_refuses_what_does_not_decode(broker: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, broker, large="onnx:expert", strategy="soft-prune")
    make_bundle(tmp_path / "expert", the_task(tmp_path), certified=False, version="big")
    async with make_service(path) as service, Device(broker, "cam-onnx") as device:
        await ready(service)
        task = the_task(tmp_path)
        bad = await device.escalate(make_escalation(task, {"image": b"no image at all", "question": "?"}))
        sent = [make_escalation(task, parts_of(sure(k % 3, shade=k)), label="red") for k in range(9)]
        await asyncio.gather(*(device.escalate(escalation) for escalation in sent))
        for k, escalation in enumerate(sent):
            answer = await device.hears(Answer, escalation.id)
            assert answer.label == task.labels[k % 3] and answer.model.startswith("big@")
            assert answer.strategy == "soft-prune" and sum(answer.probabilities) == pytest.approx(1.0)
        assert (await device.hears(Refusal, bad)).reason
        said = (await get(service, "/v1/account"))[1]
        assert (said["cloud"], said["refused"], said["adds_up"]) == (9, 1, True)


async def refused(config: Path) -> OutriderError:
    """The error by which a service refuses to start."""
    with pytest.raises(OutriderError) as caught:
        async with CloudService(load_cloud_config(config)):
            pass
    assert caught.value.fix
    return caught.value


async def test_an_occupied_port_is_said_in_one_sentence(tmp_path: Path) -> None:
    path = write_config(tmp_path, NOWHERE)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path.write_text(path.read_text().replace("port = 0", f"port = {port}"))
        error = await refused(path)
    assert isinstance(error, OperatorSetupError) and error.reason == "port_occupied" and str(port) in str(error)


async def test_a_missing_or_unfit_expert_is_said_in_one_sentence(tmp_path: Path) -> None:
    path = write_config(tmp_path, NOWHERE, large="onnx:nowhere")
    error = await refused(path)
    assert isinstance(error, OperatorConfigError) and error.reason == "no_large_model" and "nowhere" in str(error)
    make_bundle(tmp_path / "nowhere", labels=["red", "blue"])
    assert (await refused(path)).reason == "labels_mismatch"
    (tmp_path / "nowhere/model.onnx").write_bytes(b"truncated")
    assert (await refused(path)).exit_code == 3


async def test_a_second_worker_of_the_same_name_does_not_start(tmp_path: Path) -> None:
    path = write_config(tmp_path, NOWHERE)
    async with make_service(path, HeldModel()):
        assert (await refused(path)).reason == "worker_runs_already"
    async with make_service(path, HeldModel()):
        pass  # the name is free again


async def test_a_store_that_is_none_is_said_in_one_sentence(tmp_path: Path) -> None:
    path = write_config(tmp_path, NOWHERE)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cloud.db").write_bytes(b"this is no database" * 1000)
    assert (await refused(path)).reason == "store_unusable"


async def test_a_store_whose_writer_stands_still_names_what_to_look_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config(tmp_path, NOWHERE)
    async with make_service(path, HeldModel()):
        pass  # the tables are made
    pragmas = [*file_dialect._PRAGMAS[:-1], "PRAGMA busy_timeout=50"]
    monkeypatch.setattr(file_dialect, "_PRAGMAS", pragmas)
    with closing(sqlite3.connect(tmp_path / "data/cloud.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        locked = await refused(path)
    assert locked.reason == "store_unusable" and "stopped" in locked.fix
    async with make_service(path, HeldModel()):
        pass  # and nothing else is wrong with it


async def test_people_read_the_document_as_a_page(tmp_path: Path) -> None:
    async with make_service(write_config(tmp_path, NOWHERE), HeldModel()) as service, aiohttp.ClientSession() as client:
        async with client.get(f"{service.url}/docs") as reply:
            page = await reply.text()
            assert (reply.status, reply.content_type) == (200, "text/html")
            assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        paths = (await get(service, "/openapi.json"))[1]["paths"]
    assert all(path in page for path in paths)
    assert "<script" not in page
