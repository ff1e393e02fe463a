"""Sources beside a real agent: one question an event, one id from its beginning to its end; what is told, counted and dropped."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from edge_agents import QUIET, Bench, running_agent
from edge_entries import until
from mosquitto import Mosquitto
from msgspec.structs import replace
from video_world import encoded, noisy, passing, still, tcp_camera, write_clip

from factory import QUESTION, make_task, sure, unsure
from outrider_edge.local_api.api import Api
from outrider_edge.local_api.docs_route import DocsRoute
from outrider_edge.local_api.events_route import EventsRoute
from outrider_edge.sources.events import EventLog, SourceEvent
from outrider_edge.sources.figures import families
from outrider_edge.sources.publishing import EventPublisher
from outrider_edge.sources.settings import LocalBrokerSettings, MotionSettings, SourceSettings
from outrider_edge.sources.starting import Sources
from outrider_link.session import Incoming, MqttSession, Outgoing

HASTY = MotionSettings(settle_s=0.4, look_s=0.1)
ASKS = {"question": QUESTION}


def camera(url: str, name: str = "gate", **about: Any) -> SourceSettings:
    return SourceSettings(
        name=name, url=url, **{"parts": ASKS, "max_fps": 25.0, "motion": HASTY, "stall_s": 3.0, **about}
    )


@asynccontextmanager
async def sourcing(
    bench: Bench, settings: Sequence[SourceSettings], broker: LocalBrokerSettings | None = None
) -> AsyncIterator[Sources]:
    """The sources beside an agent."""
    sources = Sources(settings=settings, broker=broker or LocalBrokerSettings(), device="cam-7", agent=bench.agent)
    async with AsyncExitStack() as stack:
        sources.start(stack)
        yield sources


def told(sources: Sources, source: str = "gate") -> list[SourceEvent]:
    return [event for _, event in sources.events.after(0)[1] if event.source == source]


def types(events: Sequence[SourceEvent]) -> list[str]:
    return [event.type for event in events]


def has_ended(sources: Sources, count: int = 1, source: str = "gate") -> Callable[[], bool]:
    return lambda: types(told(sources, source)).count("end") >= count


async def test_what_passes_a_camera_is_one_event_one_question_and_one_escalation(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", [*still(15), *passing(20), *still(20)])
    async with running_agent(tmp_path) as bench, sourcing(bench, [camera(f"file:{clip}")]) as sources:
        entry = await asyncio.wait_for(bench.uplink.sent.get(), 20)
        assert entry.group == told(sources)[0].id
        await bench.uplink.answer(entry.id)
        await until(has_ended(sources))
        await until(lambda: sources.views()["gate"].state == "ended")
        events, view = told(sources), sources.views()["gate"]
        assert types(events) == ["new", "update", "update", "end"]
        assert len({event.id for event in events}) == 1
        new, provisional, final, end = events
        assert (new.why, new.answer) == ("motion", None)
        assert provisional.answer is not None
        assert (provisional.answer.state, provisional.answer.final) == ("pending", False)
        assert final.answer is not None
        assert (final.answer.state, final.answer.label) == ("cloud", "blue")
        assert (end.answer, end.ended_by) == (final.answer, "still")
        assert end.frames > 5
        assert end.share >= new.share > 0
        assert end.lasted_ms > 0
        assert bench.uplink.sent.empty()
        assert bench.agent.account().received == 1
        assert (view.asked, view.events, view.read) == (1, 1, 55)
        assert view.looked + view.paced + view.dropped == 55


async def test_a_still_scene_of_a_noisy_sensor_asks_nothing(tmp_path: Path) -> None:
    """The negative control of the one above."""
    clip = write_clip(tmp_path / "clip.mkv", noisy(still(40), sigma=6.0))
    async with running_agent(tmp_path) as bench, sourcing(bench, [camera(f"file:{clip}")]) as sources:
        await until(lambda: sources.views()["gate"].state == "ended")
        view = sources.views()["gate"]
        assert (view.read, view.events, view.asked) == (40, 0, 0)
        assert view.looked > 12
        assert told(sources) == []
        assert bench.agent.account().received == 0


@pytest.mark.slow
async def test_an_event_that_the_cloud_does_not_answer_ends_at_its_deadline_with_the_devices_answer(
    tmp_path: Path,
) -> None:
    task = make_task(policy=replace(QUIET, answer_within_ms=300))
    clip = write_clip(tmp_path / "clip.mkv", [*still(15), *passing(20), *still(20)])
    async with running_agent(tmp_path, task=task) as bench, sourcing(bench, [camera(f"file:{clip}")]) as sources:
        await until(has_ended(sources))
        events = told(sources)
        assert types(events) == ["new", "update", "end"]
        assert events[-1].answer is not None
        assert events[-1].answer.answered_by == "edge"


@pytest.mark.slow
async def test_without_a_gate_every_frame_that_is_wanted_is_asked_about_and_the_newest_wins(tmp_path: Path) -> None:
    blue = still(50, (0, 0, 255))
    clip = write_clip(tmp_path / "clip.mkv", blue)
    source = camera(f"file:{clip}", gate="none", max_fps=5.0)
    async with running_agent(tmp_path) as bench, sourcing(bench, [source]) as sources:
        await until(lambda: sources.views()["gate"].state == "ended")
        view, events = sources.views()["gate"], told(sources)
        assert view.read == 50
        assert 5 <= view.asked <= 11
        assert view.paced + view.dropped + view.looked == 50
        assert {event.answer.label for event in events if event.answer} == {"blue"}
        assert bench.agent.account().received == view.asked


async def test_an_agent_that_is_slow_gets_the_newest_frame_and_the_others_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "clip.mkv", still(40, (0, 0, 255)))
    async with running_agent(tmp_path) as bench:
        submit = bench.agent.submit

        async def slowly(*args: Any, **about: Any) -> Any:
            await asyncio.sleep(0.3)
            return await submit(*args, **about)

        monkeypatch.setattr(bench.agent, "submit", slowly)
        async with sourcing(bench, [camera(f"file:{clip}", gate="none")]) as sources:
            await until(lambda: sources.views()["gate"].state == "ended")
            view = sources.views()["gate"]
            assert view.dropped > 15
            assert view.asked < 15
            assert view.looked + view.dropped + view.paced == view.read == 40


async def test_a_dead_camera_and_one_that_sends_garbage_stop_no_other(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", [*still(12), *passing(15), *still(15)])
    async with tcp_camera(b"no video" * 20_000, lasts_s=0.1) as garbage, running_agent(tmp_path) as bench:
        dead = camera(f"file:{tmp_path / 'nowhere.mkv'}", "dead")
        async with sourcing(bench, [dead, camera(garbage, "garbage"), camera(f"file:{clip}")]) as sources:
            await bench.uplink.answer((await bench.uplink.sent.get()).id)
            await until(has_ended(sources))
            views = sources.views()
            assert views["dead"].state == views["garbage"].state == "down"
            assert "camera 'dead'" in views["dead"].fault
            assert "camera 'garbage'" in views["garbage"].fault


@pytest.mark.slow
async def test_a_camera_that_goes_is_connected_to_anew_and_one_that_comes_late_is_found(tmp_path: Path) -> None:
    video = encoded([*still(12), *passing(15), *still(20)], "mpegts")
    late = tmp_path / "comes-later.mkv"
    async with (
        tcp_camera(video, lasts_s=1.8) as url,
        running_agent(tmp_path) as bench,
        sourcing(bench, [camera(f"file:{late}", "late"), camera(url)]) as sources,
    ):
        await until(has_ended(sources, 2), timeout_s=90)
        assert sources.views()["gate"].connects >= 2
        assert sources.views()["late"].state == "down"
        write_clip(late, [*still(15), *passing(20), *still(20)])
        await until(has_ended(sources, 1, "late"), timeout_s=90)
        assert sources.views()["late"].fault == ""


@pytest.mark.slow
async def test_an_event_ends_when_its_camera_is_lost_or_the_agent_stops(tmp_path: Path) -> None:
    video = encoded([*still(12), *passing(15)], "mpegts")
    patient = replace(HASTY, settle_s=30.0)
    async with running_agent(tmp_path) as bench, tcp_camera(video, lasts_s=1.0) as url:
        async with sourcing(bench, [camera(url, motion=patient)]) as sources:
            await until(lambda: "update" in types(told(sources)))
            await bench.uplink.answer((await bench.uplink.sent.get()).id)
            await until(has_ended(sources))
            assert told(sources)[-1].ended_by == "lost"
            await until(lambda: types(told(sources)).count("new") == 2, timeout_s=30)
        assert types(told(sources)).count("end") == 2
        assert told(sources)[-1].ended_by in ("stopped", "lost")


async def test_a_folder_of_a_running_agent(tmp_path: Path) -> None:
    inbox, done = tmp_path / "in", tmp_path / "done"
    inbox.mkdir()
    (inbox / "a.png").write_bytes(sure(2))
    (inbox / "b.png").write_bytes(b"no picture")
    (inbox / "c.png.part").write_bytes(sure(1))
    source = SourceSettings(name="gate", url=f"dir:{inbox}", done=str(done), parts=ASKS)
    async with running_agent(tmp_path) as bench, sourcing(bench, [source]) as sources:
        await until(has_ended(sources, 2))
        await until((done / "refused" / "b.png").exists)
        good = [event for event in told(sources) if event.origin == "a.png"]
        bad = [event for event in told(sources) if event.origin == "b.png"]
        assert types(good) == types(bad) == ["new", "update", "end"]
        assert good[-1].answer is not None
        assert (good[-1].answer.label, good[-1].ended_by) == ("blue", "answered")
        assert bad[-1].trouble is not None
        assert bad[-1].trouble.reason == "not_an_image"
        assert [path.name for path in sorted(inbox.iterdir())] == ["c.png.part"]
        view = sources.views()["gate"]
        assert (view.asked, view.refused) == (2, 1)
        assert bench.agent.account().refused == 1


@pytest.mark.broker
async def test_a_topic_gives_inputs_and_events_are_told_to_the_local_broker(tmp_path: Path) -> None:
    heard: list[Incoming] = []

    async def hear(message: Incoming) -> None:
        heard.append(message)

    broker = Mosquitto(tmp_path / "broker").start()
    try:
        local = LocalBrokerSettings(url=broker.url)
        source = SourceSettings(name="gate", url="mqtt:line/+/picture", parts=ASKS, max_fps=100.0)
        async with (
            running_agent(tmp_path) as bench,
            MqttSession(url=broker.url, client_id="shop", subscriptions=["outrider/events/#"], on_message=hear) as shop,
        ):
            await shop.wait_connected(20)
            await shop.publish(Outgoing("line/9/picture", sure(1), retain=True))
            async with sourcing(bench, [source], local) as sources:
                await until(lambda: sources.views()["gate"].state == "up")
                await shop.publish(Outgoing("line/1/picture", sure(2)))
                await shop.publish(Outgoing("line/2/picture", unsure()))
                entry = await asyncio.wait_for(bench.uplink.sent.get(), 20)
                await bench.uplink.answer(entry.id)
                await until(has_ended(sources, 2))
                broker.kill()
                broker.start()
                await until(lambda: shop.connected and sources.views()["gate"].state == "up", timeout_s=60)
                await asyncio.sleep(0.5)
                await shop.publish(Outgoing("line/3/picture", sure(0)))
                await until(has_ended(sources, 3))
            await until(lambda: sum(json.loads(each.payload)["type"] == "end" for each in heard) == 3, timeout_s=30)
        bodies = [json.loads(each.payload) for each in heard]
        assert {each.topic for each in heard} == {"outrider/events/cam-7/gate"}
        assert {each.content_type for each in heard} == {"application/json"}
        by_origin = {
            origin: [body["type"] for body in bodies if body["origin"] == origin]
            for origin in ("line/1/picture", "line/2/picture", "line/3/picture")
        }
        assert by_origin == {
            "line/1/picture": ["new", "update", "end"],
            "line/2/picture": ["new", "update", "update", "end"],
            "line/3/picture": ["new", "update", "end"],
        }
        assert all(body["origin"] != "line/9/picture" for body in bodies), "a retained message is no event"
    finally:
        broker.kill()


async def test_messages_that_come_faster_than_they_are_answered_make_way_for_newer_ones(tmp_path: Path) -> None:
    from outrider_edge.sources.figures import Figures
    from outrider_edge.sources.fitting import fit
    from outrider_edge.sources.happening import Teller
    from outrider_edge.sources.topic_source import TopicSource

    settings = SourceSettings(name="gate", url="mqtt:a", parts=ASKS, queue=3)
    async with running_agent(tmp_path) as bench, sourcing(bench, []) as sources:
        teller = Teller(
            device="cam-7",
            source="gate",
            fitted=fit(settings, {"colours": make_task()}),
            agent=bench.agent,
            events=sources.events,
            figures=Figures(kind="mqtt", task="colours"),
        )
        topic = TopicSource(settings, LocalBrokerSettings(url="mqtt://127.0.0.1:1"), teller)
        for number in range(10):
            await topic._on_message(Incoming("a", bytes([number])))
        assert [message.payload[0] for message in topic._waiting] == [7, 8, 9]
        assert (teller.figures.read, teller.figures.dropped) == (10, 7)


async def test_the_stream_tells_events_and_takes_up_where_a_reader_was(tmp_path: Path) -> None:
    inbox = tmp_path / "in"
    inbox.mkdir()
    source = SourceSettings(name="gate", url=f"dir:{inbox}", parts=ASKS)
    async with running_agent(tmp_path) as bench, sourcing(bench, [source]) as sources:
        groups = [
            EventsRoute(events=sources.events, stopping=lambda: bench.agent.stopping, keep_alive_s=0.1),
            DocsRoute(),
        ]
        app = Api(agent=bench.agent, status=lambda: None, metrics=bytes, groups=groups).application()  # type: ignore[arg-type,return-value]  # neither is asked for
        async with TestClient(TestServer(app)) as client:
            begun = asyncio.Event()
            live = asyncio.create_task(lines(client, "/v1/events", until_type="end", begun=begun))
            await begun.wait()
            (inbox / "a.png").write_bytes(sure(2))
            said = await asyncio.wait_for(live, 20)
            assert [each["event"] for each in said if "event" in each] == ["new", "update", "end"]
            first = next(each for each in said if each.get("event") == "new")
            again = await lines(client, "/v1/events", until_type="end", headers={"Last-Event-ID": first["id"]})
            assert [each["event"] for each in again if "event" in each] == ["update", "end"]
            anew = await lines(client, "/v1/events?after=0a0a.5", until_type="end")
            assert [each["event"] for each in anew if "event" in each] == ["new", "update", "end"]
            for query in ("after=x", "after=1.", "colour=red"):
                async with client.get(f"/v1/events?{query}") as reply:
                    assert reply.status == 400
            async with client.get("/docs") as reply:
                page = await reply.text()
                assert (reply.status, reply.content_type) == (200, "text/html")
                assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
            assert "/v1/events" in page
            assert "<script" not in page
        bench.agent.stopping = True
        sources.events.wake()


async def lines(
    client: TestClient[web.Request, web.Application],
    path: str,
    *,
    until_type: str,
    headers: dict[str, str] | None = None,
    begun: asyncio.Event | None = None,
) -> list[dict[str, str]]:
    """The blocks of an event stream, up to the first of that type."""
    found: list[dict[str, str]] = [{}]
    async with client.get(path, headers=headers or {}) as reply:
        assert reply.status == 200
        if begun is not None:
            begun.set()
        async for line in reply.content:
            text = line.decode().rstrip("\n")
            if text and not text.startswith(":"):
                key, _, value = text.partition(": ")
                found[-1][key] = value
            elif not text and found[-1]:
                if found[-1].get("event") == until_type:
                    return found
                found.append({})
    return found


def test_a_reader_that_was_away_too_long_is_told_how_much_it_missed() -> None:
    from outrider_edge.sources import events

    log = events.EventLog()
    event = SourceEvent(
        id="x", type="new", source="a", task="t", device="d", why="file", at_ms=0, began_ms=0, lasted_ms=0
    )
    for _ in range(events.KEPT + 5):
        log.tell(event)
    missed, found = log.after(0)
    assert (missed, len(found), found[0].number) == (5, events.KEPT, 6)
    assert log.after(log.last) == (0, [])


def test_the_metrics_say_how_every_source_fares() -> None:
    from outrider_edge.sources.figures import Figures

    figures = Figures(kind="camera", task="colours")
    figures.up()
    figures.read, figures.dropped = 9, 4
    found = {
        (sample.name, sample.labels["source"]): sample.value
        for family in families({"gate": figures.view()})
        for sample in family.samples
    }
    assert found["outrider_source_read_total", "gate"] == 9
    assert found["outrider_source_dropped_total", "gate"] == 4
    assert found["outrider_source_up", "gate"] == 1
    assert list(families({})) == []


@pytest.mark.broker
async def test_an_event_that_the_local_broker_refuses_holds_up_none_behind_it(tmp_path: Path) -> None:
    heard: list[Incoming] = []

    async def hear(message: Incoming) -> None:
        heard.append(message)

    broker = Mosquitto(tmp_path / "broker", extra="max_packet_size 2000").start()
    events = EventLog()
    publisher = EventPublisher(device="cam-7", broker=LocalBrokerSettings(url=broker.url), events=events)
    try:
        async with MqttSession(
            url=broker.url, client_id="shop", subscriptions=["outrider/events/#"], on_message=hear
        ) as shop:
            await shop.wait_connected(20)
            for number, origin in enumerate(("small", "x" * 4000, "small")):
                events.tell(
                    SourceEvent(
                        id=f"{number}", type="new", source="gate", task="colours", device="cam-7", why="file",
                        at_ms=1, began_ms=1, lasted_ms=0, origin=origin,
                    )
                )  # fmt: skip
            running = asyncio.create_task(publisher.run())
            await until(lambda: len(heard) == 2)
            assert [json.loads(each.payload)["id"] for each in heard] == ["0", "2"]
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    finally:
        broker.kill()
