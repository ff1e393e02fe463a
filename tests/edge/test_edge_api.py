"""The local HTTP API: both codings, both waits, and what a caller who errs is told."""

import asyncio
import base64
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, FormData, UnixConnector, web
from aiohttp.test_utils import TestClient, TestServer
from edge_agents import QUIET, Bench, running_agent
from edge_releases import whole_updater
from msgspec.structs import replace

from factory import make_task, sure, unsure
from outrider_edge.exposition import AgentCollector, page
from outrider_edge.local_api.api import Api, body_limit
from outrider_edge.local_api.docs_route import DocsRoute
from outrider_edge.local_api.ended_route import EndedRoute
from outrider_edge.local_api.events_route import EventsRoute
from outrider_edge.local_api.kserve.routes import KserveRoutes
from outrider_edge.local_api.outbox_routes import OutboxRoutes
from outrider_edge.local_api.updates_routes import UpdatesRoutes
from outrider_edge.local_api.views import StatusView, task_view
from outrider_edge.sources.events import EventLog
from outrider_edge.updates.hands import Hands
from outrider_wire.report import AnswerReport

ASK = "/v1/tasks/colours/answers"


class Served:
    """An agent, and a client to its API."""

    def __init__(self, *, bench: Bench, client: TestClient[web.Request, web.Application], app: web.Application) -> None:
        self.agent = bench.agent
        self.uplink = bench.uplink
        self.client = client
        self.app = app

    async def ask(self, image: bytes, **query: str) -> tuple[int, AnswerReport]:
        """Status and report of an image, sent as a form."""
        form = FormData()
        form.add_field("image", image, filename="a.png", content_type="image/png")
        form.add_field("question", "what colour is it?")
        async with self.client.post(ASK, data=form, params=query) as reply:
            return reply.status, msgspec.json.decode(await reply.read(), type=AnswerReport)

    async def error(self, body: bytes, kind: str, path: str = ASK) -> tuple[int, dict[str, str]]:
        """Status and error of a body."""
        async with self.client.post(path, data=body, headers={"Content-Type": kind}) as reply:
            error: dict[str, str] = (await reply.json())["error"]
            return reply.status, error

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a path."""
        async with self.client.get(path) as reply:
            return reply.status, await reply.json()


@asynccontextmanager
async def served(folder: Path, **about: Any) -> AsyncIterator[Served]:
    """An agent whose API is open on a free port."""
    async with running_agent(folder, **about) as bench:
        agent = bench.agent
        collector = AgentCollector(
            metrics=bench.metrics,
            accounts=lambda: {"colours": agent.account("colours")},
            connected=lambda: bench.uplink.connected,
        )

        def status() -> StatusView:
            tasks = [task_view(runtime, agent.promise(runtime)) for runtime in agent.runtimes.values()]
            return StatusView(
                device="cam-7",
                agent="1",
                uptime_s=1.0,
                broker="connected",
                bytes_up=0,
                account=agent.account(),
                tasks=tasks,
                slots=[],
            )

        groups = [
            OutboxRoutes(outbox=bench.outbox, uplink=bench.uplink),
            UpdatesRoutes(Hands(whole_updater(folder, []))),
            EndedRoute(feed=bench.outbox.feed, stopping=lambda: agent.stopping, keep_alive_s=0.05),
            EventsRoute(events=EventLog(), stopping=lambda: bench.agent.stopping),
            DocsRoute(),
            KserveRoutes(agent=agent, version="1"),
        ]
        app = Api(agent=agent, status=status, metrics=lambda: page(collector), groups=groups).application()
        async with TestClient(TestServer(app)) as client:
            yield Served(bench=bench, client=client, app=app)


def as_json(**parts: str | bytes) -> bytes:
    """A JSON body: bytes as base64."""
    coded = {
        name: value if isinstance(value, str) else {"base64": base64.b64encode(value).decode()}
        for name, value in parts.items()
    }
    return json.dumps({"parts": coded}).encode()


async def test_a_form_and_json_of_the_same_input_get_the_same_answer(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        status, report = await api.ask(sure(2))
        assert (status, report.label, report.state) == (200, "blue", "edge")
        body = as_json(image=sure(2), question="what colour is it?")
        async with api.client.post(ASK, data=body, headers={"Content-Type": "application/json"}) as reply:
            other = msgspec.json.decode(await reply.read(), type=AnswerReport)
        assert (other.label, other.probabilities) == (report.label, report.probabilities)


async def test_waiting_gives_the_final_answer_of_the_large_model(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        asked = asyncio.create_task(api.ask(unsure(), group="clip-3"))
        entry = await api.uplink.sent.get()
        assert entry.group == "clip-3"
        await api.uplink.answer(entry.id)
        status, report = await asked
        assert (status, report.state, report.label) == (200, "cloud", "blue")


async def test_the_provisional_answer_comes_at_once_and_the_final_one_by_id(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        status, report = await api.ask(unsure(), wait="provisional")
        assert (status, report.final, report.state) == (202, False, "pending")
        assert (await api.get(f"/v1/answers/{report.id}"))[0] == 202
        waiting = asyncio.create_task(api.get(f"/v1/answers/{report.id}?wait_ms=5000"))
        await asyncio.sleep(0.02)
        await api.uplink.answer(report.id)
        assert [(status, body["label"]) for status, body in [await waiting]] == [(200, "blue")]


async def test_at_the_deadline_the_reply_is_final_for_its_caller(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        status, report = await api.ask(unsure(), answer_within_ms="30")
        assert (status, report.final, report.state) == (200, True, "pending")


async def test_events_are_the_provisional_and_then_the_final_answer(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        _, report = await api.ask(unsure(), wait="provisional")
        async with api.client.get(f"/v1/answers/{report.id}/events") as stream:
            first = await stream.content.readuntil(b"\n\n")
            await api.uplink.answer(report.id)
            rest = await stream.content.read()
        assert stream.content_type == "text/event-stream"
        assert [chunk.split(b"\n")[0] for chunk in (first, rest)] == [b"event: provisional", b"event: final"]
        final = msgspec.json.decode(rest.split(b"data: ")[1], type=AnswerReport)
        assert (final.label, final.state) == ("blue", "cloud")
        async with api.client.get(f"/v1/answers/{report.id}/events") as stream:
            assert (await stream.content.read()).startswith(b"event: final")


FORM = "multipart/form-data; boundary=x"
IHDR = b"IHDR" + (65_536).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
HUGE = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\r"
    + IHDR
    + zlib.crc32(IHDR).to_bytes(4, "big")
    + b"\x00\x00\x00\x00IDAT\x35\xaf\x06\x1e"
)
"""The header of a PNG of 65,536 × 65,536 pixels, and nothing behind it."""


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        (b"", "application/json", (400, "empty_body", "")),
        (b"", FORM, (400, "empty_body", "")),
        (b"hello", "text/plain", (415, "unsupported_media_type", "")),
        (b"not json", "application/json", (400, "damaged_body", "")),
        (b'{"parts": {"question": NaN}}', "application/json", (400, "damaged_body", "")),
        (b'{"parts": {"question": 3}}', "application/json", (400, "damaged_body", "")),
        (b'{"parts": {"image": {"base64": "%%%"}}}', "application/json", (400, "damaged_body", "")),
        (b'{"parts": {}, "extra": 1}', "application/json", (400, "damaged_body", "")),
        (b"[" * 100_000, "application/json", (400, "damaged_body", "")),
        (b"garbage", FORM, (400, "damaged_body", "")),
        (as_json(question="is it red?"), "application/json", (400, "missing_part", "image")),
        (as_json(image=sure(0), question="?", audio="x"), "application/json", (400, "extra_part", "audio")),
        (as_json(image="text", question="?"), "application/json", (400, "wrong_type", "image")),
        (as_json(image=b"x" * 100, question="?"), "application/json", (415, "not_an_image", "image")),
        (as_json(image=HUGE, question="?"), "application/json", (413, "too_many_pixels", "image")),
        (as_json(image=sure(0), question="w" * 3_000), "application/json", (413, "too_large", "question")),
        (as_json(image=b"x" * 1_000_000, question="?"), "application/json", (413, "too_large", "")),
    ],
)
async def test_a_bad_body_gets_an_error_that_names_the_guilty_part_and_is_counted(
    tmp_path: Path, body: bytes, kind: str, told: tuple[int, str, str]
) -> None:
    async with served(tmp_path) as api:
        status, error = await api.error(body, kind)
        assert (status, error["reason"], error["part"]) == told
        assert error["what"]
        assert api.agent.account("colours").refused == 1
        assert (await api.ask(sure(0)))[1].label == "red"  # and it keeps serving


async def test_a_question_in_another_script_is_legal_and_not_certified(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.uplink.enabled = False
        body = as_json(image=sure(0), question="это красный?")
        async with api.client.post(ASK, data=body, headers={"Content-Type": "application/json"}) as reply:
            report = msgspec.json.decode(await reply.read(), type=AnswerReport)
        assert (reply.status, report.why, report.certified) == (200, "unsupported", False)


@pytest.mark.parametrize("query", ["wait=maybe", "answer_within_ms=-1", "answer_within_ms=1e3", "insist=x", "typo=1"])
async def test_a_query_that_is_not_understood_is_refused(tmp_path: Path, query: str) -> None:
    async with served(tmp_path) as api:
        status, error = await api.error(as_json(image=sure(0), question="?"), "application/json", f"{ASK}?{query}")
        assert status == 400
        assert query.split("=", maxsplit=1)[0] in error["what"]


async def test_what_does_not_exist_is_said_with_what_does(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        status, error = await api.error(b"{}", "application/json", "/v1/tasks/shapes/answers")
        assert (status, error["reason"], "colours" in error["fix"]) == (404, "unknown_task", True)
        for path in ("/v1/answers/01990000-0000-7000-8000-000000000000", "/v1/account?task=shapes", "/nothing"):
            assert (await api.get(path))[0] == 404
        assert (await api.error(b"", "text/plain", "/v1/tasks"))[1]["reason"] == "method_not_allowed"


async def test_tasks_status_account_and_health_are_shown(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        await api.ask(sure(0))
        _, tasks = await api.get("/v1/tasks")
        assert [(task["name"], bool(task["certificate"]), task["threshold"]) for task in tasks["tasks"]] == [
            ("colours", True, 0.8)
        ]
        assert (await api.get("/v1/account"))[1]["edge"] == 1
        assert (await api.get("/v1/status"))[1]["account"]["received"] == 1
        assert (await api.get("/health/live"))[0] == 200
        assert (await api.get("/health/ready")) == (200, {"ready": True, "tasks": ["colours"]})
        await api.agent.drain(0.0)
        assert (await api.get("/health/ready"))[0] == 503


async def test_metrics_say_what_the_account_says(tmp_path: Path) -> None:
    async with served(tmp_path, policy=replace(QUIET, answer_within_ms=0)) as api:
        await api.ask(sure(0))
        await api.ask(unsure())
        await api.error(b"", "application/json")
        async with api.client.get("/metrics") as reply:
            text = await reply.text()
        for line in (
            'outrider_inputs_received_total{task="colours"} 3.0',
            'outrider_inputs_total{state="edge",task="colours"} 1.0',
            'outrider_inputs_total{state="refused",task="colours"} 1.0',
            'outrider_inputs_pending{task="colours"} 1.0',
            'outrider_decisions_total{task="colours",why="low_confidence"} 1.0',
            'outrider_refusals_total{reason="empty_body",task="colours"} 1.0',
            'outrider_overdue_total{task="colours"} 1.0',
            'outrider_answer_seconds_count{by="edge",task="colours"} 2.0',
            "outrider_broker_connected 1.0",
        ):
            assert line in text


async def test_the_openapi_document_names_every_route_and_refers_to_nothing_missing(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        _, document = await api.get("/openapi.json")
        routes = {
            (route.resource.canonical, route.method.lower()) for route in api.app.router.routes() if route.resource
        }
        described = {(path, method) for path, methods in document["paths"].items() for method in methods}
        assert described == {route for route in routes if route[1] != "head"}
        schemas = document["components"]["schemas"]
        assert {"AnswerReport", "Submission", "ErrorReply"} <= schemas.keys()
        for name in json.dumps(document).split('"#/components/schemas/')[1:]:
            assert name.split('"', maxsplit=1)[0] in schemas


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost:8000"}, 200),
        ({"Host": "localhost:8713"}, 200),
    ],
)
async def test_a_web_page_elsewhere_can_ask_nothing(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with served(tmp_path) as api, api.client.get("/v1/account", headers=headers) as reply:
        assert reply.status == status


async def test_a_unix_socket_serves_the_same(tmp_path: Path) -> None:
    async with served(tmp_path / "agent") as api:
        runner = web.AppRunner(api.app)
        await runner.setup()
        path = str(tmp_path / "s")
        await web.UnixSite(runner, path).start()
        async with ClientSession(connector=UnixConnector(path)) as session, session.get("http://agent/v1/tasks") as got:
            assert got.status == 200
        await runner.cleanup()


def test_a_body_may_hold_the_largest_input_in_base64() -> None:
    task = make_task()
    body = as_json(image=b"x" * task.inputs[0].max_bytes, question="w" * task.inputs[1].max_bytes)
    assert len(body) <= body_limit([task]) < 2 * len(body)
