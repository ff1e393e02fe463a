"""The outbox over the local API, and the stream of ends, with both of the application's clients."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from edge_agents import QUIET, Bench, running_agent
from edge_entries import until
from msgspec.structs import replace

from factory import make_task, parts_of, unsure
from outrider import AsyncClient, CallerInputError, Client, Ended, UnreachableError
from outrider_edge.exposition import AgentCollector, page
from outrider_edge.local_api.api import Api
from outrider_edge.local_api.ended_route import EndedRoute
from outrider_edge.local_api.outbox_routes import OutboxRoutes

HURRIED = replace(QUIET, answer_within_ms=1)


class Served:
    """An agent whose API is open, and clients of it."""

    def __init__(self, *, bench: Bench, client: TestClient[web.Request, web.Application]) -> None:
        self.bench = bench
        self.outbox, self.uplink = bench.outbox, bench.uplink
        self.address = f"http://{client.host}:{client.port}"
        self._client = client

    async def asked(self) -> str:
        """An input that the device is unsure of; its caller has gone on with the device's own answer."""
        report = await self.bench.agent.submit("colours", parts_of(unsure()))
        assert (report.final, report.state) == (True, "pending")
        return report.id

    async def call(self, method: str, path: str) -> tuple[int, Any]:
        """Status and JSON."""
        async with self._client.request(method, path) as reply:
            return reply.status, await reply.json()


@asynccontextmanager
async def served(folder: Path, **about: Any) -> AsyncIterator[Served]:
    about.setdefault("task", make_task(policy=HURRIED))
    async with running_agent(folder, **about) as bench:
        groups = [
            OutboxRoutes(outbox=bench.outbox, uplink=bench.uplink),
            EndedRoute(feed=bench.outbox.feed, stopping=lambda: bench.agent.stopping, keep_alive_s=0.1),
        ]
        app = Api(agent=bench.agent, status=lambda: None, metrics=bytes, groups=groups).application()  # type: ignore[arg-type,return-value]  # neither is asked for
        async with TestClient(TestServer(app)) as client:
            yield Served(bench=bench, client=client)
            bench.agent.stopping = True
            bench.outbox.feed.wake()


async def test_a_page_tells_what_waits_and_how_full_the_outbox_is(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        ids = [await api.asked() for _ in range(3)]
        status, found = await api.call("GET", "/v1/outbox?limit=2")
        assert status == 200
        assert [entry["id"] for entry in found["page"]["entries"]] == ids[:2]
        assert found["page"]["totals"][0]["count"] == found["outbox"]["count"] == 3
        assert found["outbox"]["fault"] == ""
        _, rest = await api.call("GET", f"/v1/outbox?limit=2&after={found['page']['next']}")
        assert [entry["id"] for entry in rest["page"]["entries"]] == ids[2:]
        assert rest["page"]["next"] is None
        _, none = await api.call("GET", "/v1/outbox?delivery=received")
        assert none["page"] == {"entries": [], "totals": [], "next": None}
        _, apart = await api.call("GET", "/v1/outbox?durability=memory")
        assert apart["page"]["entries"] == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=5000", "after=x", "delivery=lost", "durability=paper", "holiday=1"]
)
async def test_a_question_that_makes_no_sense_is_told_so(tmp_path: Path, query: str) -> None:
    async with served(tmp_path) as api:
        status, found = await api.call("GET", f"/v1/outbox?{query}")
        assert (status, found["error"]["reason"] in ("invalid_parameter", "unknown_parameter")) == (400, True)


async def test_one_entry_is_shown_whole_without_its_payload(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        id_ = await api.asked()
        status, found = await api.call("GET", f"/v1/outbox/{id_}")
        assert status == 200
        assert (found["entry"]["worth"], found["entry"]["delivery"]) == ("waited", "queued")
        assert found["report"]["id"] == found["envelope"]["id"] == id_
        assert all(not part.get("inline") for part in found["envelope"]["parts"])
        assert (await api.call("GET", "/v1/outbox/nothing"))[0] == 404


async def test_a_person_drops_one_and_it_ends_once(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        id_ = await api.asked()
        assert await api.call("DELETE", f"/v1/outbox/{id_}") == (200, {"id": id_, "dropped": True})
        assert await api.call("DELETE", f"/v1/outbox/{id_}") == (200, {"id": id_, "dropped": False})
        assert (await api.call("DELETE", "/v1/outbox/nothing"))[0] == 404
        report = await api.bench.agent.get(id_)
        assert (report.state, report.note) == ("expired", "given up: a person dropped it")
        assert api.bench.agent.account().expired == 1
        assert (await api.call("POST", "/v1/outbox/retry"))[1] == {"due": 0}


async def test_the_metrics_say_how_full_it_is_and_what_made_way(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        api.outbox._room.bounds = api.outbox._room.bounds._replace(max_count=1)
        await api.asked(), await api.asked()
        collector = AgentCollector(
            metrics=api.bench.metrics, accounts=dict, connected=lambda: True, outbox=api.outbox.view
        )
        text = page(collector).decode()
        assert "outrider_outbox_entries 1.0" in text
        assert "outrider_outbox_writable 1.0" in text
        assert 'outrider_outbox_evictions_total{bound="max_count",worth="waited"} 1.0' in text


# The stream of ends


async def listened(stream: AsyncIterator[Ended], n: int) -> list[Ended]:
    """The next ``n``."""
    found: list[Ended] = []
    async with asyncio.timeout(10):
        async for one in stream:
            found.append(one)
            if len(found) == n:
                break
    return found


async def test_a_late_answer_reaches_the_application_that_went_on_without_it(tmp_path: Path) -> None:
    async with served(tmp_path) as api, AsyncClient(api.address) as client:
        stream = client.ended(after="0.0")  # whenever it begins
        async with aclosing(stream):  # type: ignore[type-var]  # an async generator
            listening = asyncio.create_task(listened(stream, 1))
            expired, late = await api.asked(), await api.asked()
            await asyncio.sleep(0.01)
            await api.uplink.expire(expired)
            await api.uplink.answer(late)
            [ended] = await listening
        assert (ended.report.id, ended.report.label, ended.report.late) == (late, "blue", True)
        assert ended.report == await client.get(late)


async def test_who_comes_back_with_its_cursor_misses_nothing_over_a_restart_of_the_agent(tmp_path: Path) -> None:
    async with served(tmp_path) as api, AsyncClient(api.address) as client:
        ids = [await api.asked() for _ in range(3)]
        await api.uplink.answer(ids[1])
        [first] = await listened(client.ended(late=False, after="0.0"), 1)
        assert first.report.id == ids[1]
        await api.uplink.answer(ids[2])
    async with served(tmp_path) as api, AsyncClient(api.address) as client:
        await api.uplink.refuse(ids[0])
        both = await listened(client.ended(late=False, after=first.cursor), 2)
        assert [(one.report.id, one.report.state) for one in both] == [(ids[2], "cloud"), (ids[0], "refused")]
        [last] = await listened(client.ended(late=False, after=both[0].cursor), 1)
        assert last == both[1]


async def test_reports_of_tasks_without_durability_and_of_one_task_only(tmp_path: Path) -> None:
    async with (
        served(tmp_path, task=make_task(policy=replace(HURRIED, durability="memory"))) as api,
        AsyncClient(api.address) as client,
    ):
        id_ = await api.asked()
        await api.uplink.answer(id_)
        [ended] = await listened(client.ended(late=False, after="0.0"), 1)
        assert (ended.report.id, ended.cursor) == (id_, "0.1")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await listened(client.ended(late=False, task="another", after="0.0"), 1)


async def test_audits_are_not_told_their_answers_were_given_long_ago(tmp_path: Path) -> None:
    task = make_task(policy=replace(QUIET, audit_rate=1.0))
    async with served(tmp_path, task=task) as api:
        from factory import sure

        report = await api.bench.agent.submit("colours", parts_of(sure(0)))
        await until(lambda: api.uplink.sent.qsize() == 1)
        await api.uplink.answer(report.id)
        assert await api.outbox.feed.after(type(await api.outbox.feed.end())()) == []


async def test_the_blocking_client_hears_of_it_too_and_of_the_agents_end(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        id_ = await api.asked()
        await asyncio.sleep(0.01)
        await api.uplink.answer(id_)

        def first() -> Ended:
            with Client(api.address) as client:
                return next(client.ended(after="0.0"))

        ended = await asyncio.to_thread(first)
        assert (ended.report.id, ended.report.late) == (id_, True)

        def until_it_ends() -> str:
            with Client(api.address) as client:
                try:
                    list(client.ended())
                except UnreachableError as error:
                    return error.reason
            return ""

        waiting = asyncio.create_task(asyncio.to_thread(until_it_ends))
        await asyncio.sleep(0.3)
        api.bench.agent.stopping = True
        api.outbox.feed.wake()
        assert await waiting == "unreachable"


@pytest.mark.parametrize("query", ["after=yesterday", "late=perhaps", "holiday=1"])
async def test_a_wrong_wish_is_told_to_the_listener(tmp_path: Path, query: str) -> None:
    async with served(tmp_path) as api:
        assert (await api.call("GET", f"/v1/answers/events?{query}"))[0] == 400
        with Client(api.address) as client, pytest.raises(CallerInputError):
            await asyncio.to_thread(lambda: next(client.ended(after="yesterday")))
