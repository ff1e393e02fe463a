"""Both clients against an agent's API that behaves as the real one is specified to, over TCP and a Unix socket."""

import asyncio
import json
import socket
import threading
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

import factory
import outrider
from outrider.exchange import EventReader, error_of
from outrider.transport import parse_address
from outrider_wire.errors import BundleError, OperatorConfigError
from outrider_wire.report import AnswerReport

REPORT = AnswerReport(
    id="0190a0a0-0000-7000-8000-000000000000",
    task="colours",
    state="edge",
    label="red",
    confidence=0.99,
    threshold=0.8,
    answered_by="edge",
    final=True,
    certified=True,
    why="accepted",
    model="1",
    model_digest="0" * 64,
    probabilities={"red": 0.99, "green": 0.01},
)
PENDING = msgspec.structs.replace(REPORT, state="pending", final=False, certified=False, why="low_confidence")
CLOUD = msgspec.structs.replace(PENDING, state="cloud", final=True, answered_by="cloud", label="green")


class FakeAgent:
    """The paths of the local API, with answers that are given beforehand."""

    def __init__(self):
        self.asked = []
        self.connections = set()
        self.cut_stream = False
        self.until_asked = False
        self.getting = threading.Event()

    def application(self):
        app = web.Application()
        app.router.add_post("/v1/tasks/{task}/answers", self.submit)
        app.router.add_get("/v1/answers/{id}", self.get)
        app.router.add_get("/v1/answers/{id}/events", self.events)
        app.router.add_get("/v1/account", self.account)
        app.router.add_get("/v1/tasks", self.tasks)
        app.router.add_get("/v1/status", self.status)
        return app

    async def submit(self, request):
        self.connections.add(request.transport)
        task = request.match_info["task"]
        if task == "slow":
            await asyncio.sleep(5)
        if task == "broken":
            return web.Response(text="<html>", content_type="text/html")
        if task != "colours":
            return self.error(404, "unknown_task", f"no task {task!r} is served here", "ask for one of: colours")
        parts = {}
        async for field in await request.multipart():
            parts[field.name] = (bytes(await field.read()), field.headers["Content-Type"])
        self.asked.append((dict(request.query), parts))
        if "image" not in parts:
            return self.error(
                400, "missing_part", "part 'image' is missing", "this task takes image, question", "image"
            )
        report = REPORT if request.query["wait"] == "final" else PENDING
        return self.json(report, 200 if report.final else 202)

    async def get(self, request):
        if request.match_info["id"] != REPORT.id:
            return self.error(404, "unknown_input", "no such input", "submit it again")
        self.getting.set()
        while self.until_asked and not self.asked:  # noqa: ASYNC110 (another connection's handler is waited for)
            await asyncio.sleep(0.01)
        await asyncio.sleep(int(request.query.get("wait_ms", 0)) / 1000)
        return self.json(CLOUD if "wait_ms" in request.query else PENDING)

    async def events(self, request):
        if request.match_info["id"] != REPORT.id:
            return self.error(404, "unknown_input", "no such input", "submit it again")
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"event: provisional\ndata: " + msgspec.json.encode(PENDING) + b"\n\n")
        await stream.write(b": still waiting\n\n")
        if not self.cut_stream:
            await stream.write(b"event: final\ndata: " + msgspec.json.encode(CLOUD) + b"\n\n")
        return stream

    async def account(self, _):
        return self.json({"received": 3, "edge": 2, "cloud": 1})

    async def tasks(self, _):
        return self.json({"tasks": [{"name": "colours"}]})

    async def status(self, _):
        return self.json({"device": "cam-7"})

    def json(self, value, status=200):
        return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")

    def error(self, status, reason, what, fix, part=""):
        return self.json({"error": {"reason": reason, "what": what, "fix": fix, "part": part}}, status)


@pytest.fixture
def agent():
    return FakeAgent()


@pytest.fixture(params=["tcp", "unix"])
def address(request, agent, serve):
    served = serve(agent.application())
    return served.url if request.param == "tcp" else served.unix


@pytest.fixture
def client(address):
    with outrider.Client(address) as opened:
        yield opened


PARTS = {"image": factory.sure(), "question": "what colour is it?"}


def test_an_answer_is_a_typed_report(client, agent):
    report = client.ask("colours", PARTS, answer_within_ms=300, group="clip-1", insist=True)
    assert report == REPORT
    query, parts = agent.asked[0]
    assert query == {"wait": "final", "answer_within_ms": "300", "group": "clip-1", "insist": "1"}
    assert parts["image"] == (PARTS["image"], "image/png")
    assert parts["question"] == (b"what colour is it?", "text/plain; charset=utf-8")


def test_a_part_may_be_a_file(client, agent, tmp_path):
    (tmp_path / "photo.png").write_bytes(PARTS["image"])
    client.ask("colours", {"image": tmp_path / "photo.png", "question": "?"})
    assert agent.asked[0][1]["image"] == (PARTS["image"], "image/png")


def test_a_file_that_is_not_there_is_the_callers(client):
    with pytest.raises(outrider.CallerUnknownError, match="part 'image'"):
        client.ask("colours", {"image": Path("nowhere.png")})


def test_the_provisional_answer_comes_at_once_and_the_final_one_later(client):
    provisional = client.ask("colours", PARTS, wait=False)
    assert not provisional.final
    assert not client.get(provisional.id).final
    assert client.get(provisional.id, wait_ms=20) == CLOUD


def test_account_tasks_and_status(client):
    assert client.account() == outrider.Account(received=3, edge=2, cloud=1)
    assert client.tasks() == [{"name": "colours"}]
    assert client.status() == {"device": "cam-7"}


def test_an_error_of_the_agent_is_raised_as_what_it_is(client):
    with pytest.raises(outrider.CallerInputError) as raised:
        client.ask("colours", {"question": "what?"})
    assert (raised.value.reason, raised.value.part) == ("missing_part", "image")
    assert "this task takes" in raised.value.fix
    with pytest.raises(outrider.CallerUnknownError, match="ask for one of: colours"):
        client.ask("shapes", PARTS)
    with pytest.raises(outrider.CallerUnknownError):
        client.get("0190a0a0-0000-7000-8000-00000000ffff")


def test_a_reply_that_is_none_of_ours_is_the_peers(client):
    with pytest.raises(outrider.PeerError, match="does not parse"):
        client.ask("broken", PARTS)


def test_a_task_name_cannot_reach_another_path(client):
    with pytest.raises(outrider.CallerUnknownError, match=r"unknown|no task"):
        client.ask("../../v1/account", PARTS)


def test_an_agent_that_takes_too_long_is_undecided(address):
    with outrider.Client(address, timeout_s=0.2) as client, pytest.raises(outrider.UndecidedError, match=r"0\.2 s"):
        client.ask("slow", PARTS)


def test_the_connection_is_kept(client, agent):
    for _ in range(3):
        client.ask("colours", PARTS)
    assert len(agent.connections) == 1


def test_threads_do_not_wait_for_each_other(address, agent):
    with outrider.Client(address) as client:
        agent.until_asked = True
        slow = threading.Thread(target=client.get, args=(REPORT.id,))
        slow.start()
        assert agent.getting.wait(30)
        assert client.ask("colours", PARTS) == REPORT
        slow.join(30)
        assert not slow.is_alive()


async def test_the_async_client_says_the_same(address):
    async with outrider.AsyncClient(address) as client:
        assert await client.ask("colours", PARTS) == REPORT
        assert await client.get(REPORT.id, wait_ms=20) == CLOUD
        assert (await client.account()).received == 3
        assert await client.tasks() == [{"name": "colours"}]
        assert await client.status() == {"device": "cam-7"}
        with pytest.raises(outrider.CallerInputError) as raised:
            await client.ask("colours", {"question": "what?"})
        assert raised.value.part == "image"


async def test_the_events_end_with_the_final_report(address):
    async with outrider.AsyncClient(address) as client:
        assert [report async for report in client.events(REPORT.id)] == [PENDING, CLOUD]
        with pytest.raises(outrider.CallerUnknownError):
            await anext(client.events("0190a0a0-0000-7000-8000-00000000ffff"))


async def test_a_stream_that_breaks_off_is_said(address, agent):
    agent.cut_stream = True
    async with outrider.AsyncClient(address) as client:
        with pytest.raises(outrider.UnreachableError, match="ended early"):
            _ = [report async for report in client.events(REPORT.id)]


async def test_the_async_client_gives_up_in_time(address):
    async with outrider.AsyncClient(address, timeout_s=0.2) as client:
        with pytest.raises(outrider.UndecidedError):
            await client.ask("slow", PARTS)


@pytest.fixture(params=["tcp", "unix"])
def nobody(request, tmp_path):
    """An address where no one listens."""
    if request.param == "unix":
        return f"unix:{tmp_path}/none.sock"
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


async def test_no_agent_is_said_with_the_command_that_starts_one(nobody):
    with outrider.Client(nobody) as client, pytest.raises(outrider.UnreachableError, match="outrider edge run"):
        client.account()
    async with outrider.AsyncClient(nobody) as client:
        with pytest.raises(outrider.UnreachableError, match="outrider edge run"):
            await client.account()


async def test_something_else_at_the_address_is_said():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak():
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"+OK ready\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(outrider.PeerError, match="is not the agent"):
            outrider.Client(url).account()
        async with outrider.AsyncClient(url) as client:
            with pytest.raises(outrider.PeerError, match="is not the agent"):
                await client.account()
        thread.join()


@pytest.mark.parametrize("text", ["127.0.0.1:8713", "ftp://host", "http://", "http://host:port", "http://host/path"])
def test_a_wrong_address_is_refused_before_anything_is_sent(text):
    with pytest.raises(OperatorConfigError, match=r"write http://HOST:PORT"):
        outrider.Client(text)


def test_addresses_are_read_as_people_write_them(monkeypatch):
    assert parse_address("http://[::1]:8713").base == "http://[::1]:8713"
    assert parse_address("https://cloud.example").port == 443
    assert parse_address("/run/outrider.sock") == parse_address("unix:/run/outrider.sock")
    monkeypatch.setenv("OUTRIDER_AGENT", "unix:/run/other.sock")
    assert str(outrider.Client()._http.address) == "unix:/run/other.sock"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, outrider.CallerInputError),
        (401, outrider.RuleRefusalError),
        (413, outrider.CallerInputError),
        (409, outrider.RuleRefusalError),
        (422, BundleError),
        (500, outrider.PeerError),
        (503, outrider.UnreachableError),
        (504, outrider.UndecidedError),
    ],
)
def test_a_status_names_the_guilty_side(status, kind):
    body = json.dumps({"error": {"reason": "so", "what": "it is so", "fix": "do this"}}).encode()
    error = error_of(status, body)
    assert type(error) is kind
    assert str(error) == "it is so; do this"
    assert error_of(status, b"<html>").reason == f"http_{status}"


def test_an_event_may_come_in_any_number_of_lines():
    body = msgspec.json.encode(CLOUD)
    cut = body.index(b",") + 1
    reader = EventReader()
    lines = [
        b": hello\n",
        b"event: final\r\n",
        b"data:" + body[:cut] + b"\r\n",
        b"data: " + body[cut:] + b"\n",
        b"\n",
        b"\n",
    ]
    assert [report for line in lines if (report := reader.feed(line))] == [CLOUD]
