"""The webhook sink: what is posted and how it is signed, receivers that fail, and restarts of either side."""

import asyncio
import base64
import hashlib
import hmac
import json
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from edge_agents import QUIET, SERVE, Bench, running_agent, serve_environment, write_config
from edge_entries import until
from msgspec.structs import replace

from factory import QUESTION, make_task, parts_of, sure, unsure
from outrider import Client
from outrider_edge.config import load_edge_config
from outrider_edge.supervising import Supervised
from outrider_edge.webhooks.rules import key_of, pause_s, verdict
from outrider_edge.webhooks.settings import SinkSettings
from outrider_edge.webhooks.webhook import WebhookSink
from outrider_wire.errors import OperatorConfigError

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes ...").decode()
AT_ONCE = make_task(policy=replace(QUIET, answer_within_ms=1))


class Receiver:
    """Takes posts, and replies with the next of ``statuses``, then 200."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.statuses: deque[int] = deque()
        self.url = ""

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.posts]

    async def take(self, request: web.Request) -> web.Response:
        self.posts.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=self.statuses.popleft() if self.statuses else 200)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made, app = Receiver(), web.Application()
    app.router.add_post("/hook", made.take)
    async with TestServer(app) as server:
        made.url = str(server.make_url("/hook"))
        yield made


@asynccontextmanager
async def sinking(bench: Bench, url: str, **settings: Any) -> AsyncIterator[WebhookSink]:
    """A sink beside an agent, which does not pause between its tries."""
    sink = WebhookSink(
        settings=SinkSettings(name="line", url=url, **settings),
        device="cam-7",
        feed=bench.outbox.feed,
        remembered=lambda: bench.outbox.remembered,
        remember=bench.outbox.remember,
        patience=lambda _attempt, _after: 0.01,
    )
    bench.agent.tell(sink.tell)
    running = asyncio.create_task(sink.run())
    await until(lambda: sink._cursor is not None)  # it has taken its place in the stream
    try:
        yield sink
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def escalated(bench: Bench) -> str:
    """An input whose caller went on, and which the cloud has answered since."""
    report = await bench.agent.submit("colours", parts_of(unsure()), answer_within_ms=1)
    await bench.uplink.answer(report.id)
    return report.id


async def test_a_final_report_is_posted_signed(tmp_path: Path, receiver: Receiver) -> None:
    (tmp_path / "hook.key").write_text(SECRET)
    secret_file = str(tmp_path / "hook.key")
    async with (
        running_agent(tmp_path, task=AT_ONCE) as bench,
        sinking(bench, receiver.url, secret_file=secret_file) as sink,
    ):
        input_id = await escalated(bench)
        await until(lambda: sink.view().taken)
    [(headers, body)] = receiver.posts
    assert headers["webhook-id"] == input_id
    signed = f"{input_id}.{headers['webhook-timestamp']}.".encode() + body
    key = b"a secret of thirty-two bytes ..."
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    told = json.loads(body)
    assert (told["type"], told["device"]) == ("answer.final", "cam-7")
    assert (told["data"]["state"], told["data"]["label"], told["data"]["late"]) == ("cloud", "blue", True)


async def test_a_receiver_that_fails_is_tried_again_until_it_takes_the_report(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.statuses.extend([500, 429, 302, 404])
    async with running_agent(tmp_path, task=AT_ONCE) as bench, sinking(bench, receiver.url) as sink:
        input_id = await escalated(bench)
        await until(lambda: sink.view().taken)
        assert receiver.ids == [input_id] * 5
        assert len({body for _, body in receiver.posts}) == 1
        assert sink.view().failing == ""


async def test_a_report_that_is_refused_for_good_holds_up_no_other(tmp_path: Path, receiver: Receiver) -> None:
    receiver.statuses.append(422)
    async with running_agent(tmp_path, task=AT_ONCE) as bench, sinking(bench, receiver.url) as sink:
        ids = [await escalated(bench), await escalated(bench)]
        await until(lambda: sink.view().taken)
        assert receiver.ids == ids
        assert sink.view().refused == 1


async def test_one_that_is_never_taken_is_given_up_in_time(tmp_path: Path, receiver: Receiver) -> None:
    receiver.statuses.extend([503] * 3)
    async with running_agent(tmp_path, task=AT_ONCE) as bench, sinking(bench, receiver.url, retry_for_s=0.0) as sink:
        await escalated(bench)
        await until(lambda: sink.view().given_up)
        assert "503" in sink.view().failing
    assert len(receiver.ids) == 1


async def test_what_ended_while_the_sink_was_away_is_posted_after_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    async with running_agent(tmp_path, task=AT_ONCE) as bench:
        async with sinking(bench, receiver.url) as sink:
            first = await escalated(bench)
            await until(lambda: sink.view().taken)
        second = await escalated(bench)  # nobody posts
    async with running_agent(tmp_path, task=AT_ONCE) as bench, sinking(bench, receiver.url) as sink:
        await until(lambda: sink.view().taken)
        await asyncio.sleep(0.1)
    assert receiver.ids == [first, second]


async def test_a_receiver_that_is_down_neither_blocks_answers_nor_grows_a_queue(tmp_path: Path) -> None:
    async with (
        running_agent(tmp_path) as bench,
        sinking(bench, "http://127.0.0.1:9/hook", answers="all", queue=3) as sink,
    ):
        for shade in range(10):
            report = await asyncio.wait_for(bench.agent.submit("colours", parts_of(sure(0, shade=shade))), 5)
            assert report.label == "red"
        await until(lambda: "cannot be reached" in sink.view().failing)
        assert sink.view().waiting <= 3
        assert sink.view().given_up >= 6


@pytest.mark.parametrize(
    ("settings", "posted"),
    [
        ({"answers": "all"}, {"edge", "cloud"}),
        ({"answers": "escalated"}, {"cloud"}),
        ({"answers": "all", "tasks": ["shapes"]}, set()),
        ({"answers": "all", "late": True}, {"cloud"}),
    ],
)
async def test_filters_choose_what_is_posted(
    tmp_path: Path, receiver: Receiver, settings: dict[str, Any], posted: set[str]
) -> None:
    async with running_agent(tmp_path) as bench, sinking(bench, receiver.url, **settings):
        await bench.agent.submit("colours", parts_of(sure(1)))
        await escalated(bench)
        await until(lambda: {json.loads(body)["data"]["state"] for _, body in receiver.posts} == posted)
        await asyncio.sleep(0.1)
        assert {json.loads(body)["data"]["state"] for _, body in receiver.posts} == posted


def test_what_a_status_means_and_how_long_is_waited() -> None:
    assert [verdict(status) for status in (200, 204, 0, 301, 404, 408, 429, 500)] == ["taken"] * 2 + ["again"] * 6
    assert [verdict(status) for status in (400, 410, 413, 422)] == ["refused"] * 4
    assert [pause_s(attempt, 0.5) for attempt in (0, 3, 100)] == [0.5, 4.0, 150.0]
    assert pause_s(0, 0.5, "7") == 7.5
    assert pause_s(0, 0.5, "99999999") == 300.5
    assert pause_s(0, 0.5, "Wed, 21 Oct 2026") == 0.5


@pytest.mark.parametrize("secret", ["short", "whsec_c2hvcnQ=", "whsec_%%%"])
def test_a_weak_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match=r"fewer than|no base64"):
        key_of(secret)


@pytest.mark.parametrize(
    ("sinks", "reason"),
    [
        ('[[sinks]]\nname = "a"\nurl = "http://10.0.0.7/x"\n', "invalid_sink_url"),
        ('[[sinks]]\nname = "a"\nurl = "https://user:pass@example.org/"\n', "invalid_sink_url"),
        ('[[sinks]]\nname = "a"\nurl = "https://example.org/"\n' * 2, "duplicate_name"),
    ],
)
def test_a_sink_that_cannot_be_meant_is_refused(tmp_path: Path, sinks: str, reason: str) -> None:
    with pytest.raises(OperatorConfigError) as refused:
        load_edge_config(write_config(tmp_path, extra=sinks))
    assert refused.value.reason == reason


def test_paths_of_a_sink_are_relative_to_its_file(tmp_path: Path) -> None:
    sink = '[[sinks]]\nname = "a"\nurl = "https://example.org/"\nsecret_file = "hook.key"\n'
    [settings] = load_edge_config(write_config(tmp_path, extra=sink)).sinks
    assert settings.secret_file == str(tmp_path / "hook.key")


async def test_a_configured_sink_is_part_of_the_agent_and_tells_how_it_fares(
    tmp_path: Path, receiver: Receiver
) -> None:
    sink = f'[[sinks]]\nname = "line"\nurl = "{receiver.url}"\nanswers = "all"\n'
    command = [sys.executable, "-c", SERVE, str(write_config(tmp_path, extra=sink))]
    agent = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=serve_environment())
    try:
        assert agent.stdout is not None
        address = (await agent.stdout.readline()).decode().strip()

        def ask() -> str:
            with Client(address) as client:
                return client.ask("colours", {"image": sure(2), "question": QUESTION}).id

        input_id = await asyncio.to_thread(ask)
        await until(lambda: receiver.ids == [input_id])
        await asyncio.sleep(0.2)  # the agent has read the reply
        async with ClientSession(address) as http:
            async with http.get("/v1/status") as reply:
                sinks = (await reply.json())["sinks"]
            async with http.get("/metrics") as reply:
                page = await reply.text()
    finally:
        agent.terminate()
        await agent.wait()
    assert sinks == {"line": {"taken": 1, "refused": 0, "given_up": 0, "waiting": 0, "failing": ""}}
    assert 'outrider_sink_reports_total{is="taken",sink="line"} 1.0' in page


async def test_work_that_fails_is_begun_again() -> None:
    begun = 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise ValueError("a defect")
        await asyncio.Event().wait()

    running = asyncio.create_task(Supervised(name="x", work=work, patience=lambda _: 0.0).run())
    await until(lambda: begun == 3)
    running.cancel()
    assert isinstance((await asyncio.gather(running, return_exceptions=True))[0], asyncio.CancelledError)
