"""Callers of the short way who mean no good, or have gone: slow bodies, silence, hidden requests, replies that nobody reads."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from edge_agents import write_config
from edge_entries import until
from edge_http import UNREACHABLE, body_of, calling, request

from factory import sure, unsure
from outrider_edge.app import Serving, serving
from outrider_edge.config import load_edge_config
from outrider_edge.local_api import submission
from outrider_edge.local_api.short_way import Patience, ShortWay

SOON = Patience(idle_s=0.3, body_s=0.1, look_s=0.02)
FOR_EVER = Patience(idle_s=3600.0, body_s=3600.0, look_s=0.02)
MOST_BYTES = 1 << 20


@asynccontextmanager
async def short_way(tmp_path: Path, patience: Patience) -> AsyncIterator[tuple[Serving, ShortWay, str]]:
    """An agent with a second door, of a porter whose patience is known."""
    async with serving(load_edge_config(write_config(tmp_path))) as served:
        way = ShortWay(agent=served.agent, max_bytes=MOST_BYTES, otherwise=asyncio.Protocol, patience=patience)
        door = await asyncio.get_running_loop().create_server(way, "127.0.0.1", 0)
        way.look()
        try:
            yield served, way, f"http://127.0.0.1:{door.sockets[0].getsockname()[1]}"
        finally:
            door.close()
            way.stop()
            await way.close(1.0)


async def test_a_body_that_does_not_come_is_refused_counted_and_parted_from(tmp_path: Path) -> None:
    async with short_way(tmp_path, SOON) as (served, way, address), calling(address) as caller:
        whole = request(body_of(sure(1)))
        reply = await caller.ask(whole[:-1])
        assert (reply.status, reply.body["error"]["reason"]) == (408, "slow_body")
        assert reply.fields["connection"] == "close"
        assert await caller.reader.read() == b""
        account = served.agent.account()
        assert (account.received, account.refused, account.adds_up) == (1, 1, True)
        await until(lambda: not way.connections)


async def test_the_long_way_waits_for_no_body_for_ever_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "BODY_S", 0.1)
    async with serving(load_edge_config(write_config(tmp_path))) as served, calling(served.addresses[0]) as caller:
        reply = await caller.ask(request(body_of(sure(1)), "Connection: close")[:-1])
        assert (reply.status, reply.short, reply.body["error"]["reason"]) == (408, False, "slow_body")
        assert served.agent.account().refused == 1


@pytest.mark.parametrize("asks_first", [True, False])
async def test_a_connection_on_which_nothing_is_asked_does_not_live_for_ever(tmp_path: Path, asks_first: bool) -> None:
    async with short_way(tmp_path, SOON) as (_, way, address), calling(address) as caller:
        if asks_first:
            assert (await caller.ask(request(body_of(sure(1))))).status == 200
        assert await caller.reader.read() == b""
        await until(lambda: not way.connections)


async def test_who_is_within_its_time_is_left_alone(tmp_path: Path) -> None:
    async with short_way(tmp_path, FOR_EVER) as (_, _, address), calling(address) as caller:
        whole = request(body_of(sure(1)))
        for piece in (whole[:-9], whole[-9:-4], whole[-4:]):
            caller.writer.write(piece)
            await asyncio.sleep(3 * FOR_EVER.look_s)
        assert (await caller.reply()).status == 200


async def test_who_reads_no_replies_is_parted_from_in_the_end(tmp_path: Path) -> None:
    async with short_way(tmp_path, SOON) as (_, way, address), calling(address, buffer=4096) as caller:
        caller.writer.write(request(b"") * 60_000)
        await until(lambda: not way.connections)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            while True:
                await caller.reply()


async def test_a_caller_that_has_gone_is_answered_for_nobody_and_counted(tmp_path: Path) -> None:
    config = load_edge_config(write_config(tmp_path, extra=UNREACHABLE, answer_within_ms=300))
    async with serving(config) as served:
        for whole_close in (True, False):
            async with calling(served.addresses[0]) as caller:
                caller.writer.write(request(body_of(unsure())))
                await until(lambda: served.agent.account().pending)
                if not whole_close:
                    caller.writer.write_eof()
                    assert await caller.reader.read() == b""
        async with calling(served.addresses[0]) as caller:
            assert (await caller.ask(request(body_of(sure(1))))).status == 200
        account = served.agent.account()
        assert (account.received, account.adds_up) == (3, True)


HIDDEN = b"POST /v1/tasks/colours/answers HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "fields",
    [
        "Content-Length: %d\r\nContent-Length: 0",
        "Content-Length: 0\r\nContent-Length: %d",
        "Content-Length: %d\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked\r\nContent-Length: %d",
        "Content-Length: %d\r\n Transfer-Encoding: chunked",
        "Content-Length: %d\nTransfer-Encoding: chunked",
        "X: y\rContent-Length: %d",
        "Content-Length: 0x%x",
        "Content-Length: -%d",
        "Content-Length: %d\r\nTransfer-Encoding: x",
    ],
)
async def test_what_two_readers_could_take_for_one_request_or_two_is_an_error_and_the_end(
    tmp_path: Path, fields: str
) -> None:
    lines = fields % len(HIDDEN)
    data = f"POST /v1/tasks/colours/answers HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n".encode() + HIDDEN
    async with serving(load_edge_config(write_config(tmp_path))) as served, calling(served.addresses[0]) as caller:
        caller.writer.write(data)
        async with asyncio.timeout(30):
            said = await caller.reader.read()
    assert said.count(b"HTTP/1.") == 1, said
    assert b" 400 " in said.split(b"\r\n", 1)[0]


async def test_a_head_without_end_is_not_kept(tmp_path: Path) -> None:
    async with serving(load_edge_config(write_config(tmp_path))) as served, calling(served.addresses[0]) as caller:
        caller.writer.write(b"POST /v1/tasks/colours/answers HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(2_000):
                caller.writer.write(b"X-%d: %s\r\n" % (number, b"y" * 1_000))
                await caller.writer.drain()
        async with asyncio.timeout(30):
            with contextlib.suppress(ConnectionError):
                assert b" 400 " in (await caller.reader.read()).split(b"\r\n", 1)[0]
