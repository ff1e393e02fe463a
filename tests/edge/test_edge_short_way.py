"""The short way to an answer: what goes it, what is handed to aiohttp, and that nobody can tell by what is answered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from edge_agents import write_config
from edge_entries import until
from edge_http import ASK, UNREACHABLE, body_of, calling, request

from factory import sure, unsure
from outrider_edge.app import Serving, serving
from outrider_edge.config import load_edge_config
from outrider_edge.local_api.plain_head import plain_head
from outrider_edge.local_api.submission import Wishes

HEAD = f"POST {ASK} HTTP/1.1\r\nHost: 127.0.0.1:8700\r\nContent-Type: application/json\r\nContent-Length: 12"


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head.replace("POST", "GET"),
        lambda head: head.replace("HTTP/1.1", "HTTP/1.0"),
        lambda head: head.replace(ASK, f"{ASK}?"),
        lambda head: head.replace(ASK, f"{ASK}?wait"),
        lambda head: head.replace(ASK, f"{ASK}?wait=never"),
        lambda head: head.replace(ASK, f"{ASK}?group=a%20b"),
        lambda head: head.replace(ASK, f"{ASK}?group=a+b"),
        lambda head: head.replace(ASK, f"{ASK}?group=a&group=b"),
        lambda head: head.replace(ASK, f"{ASK}?colour=red"),
        lambda head: head.replace(ASK, f"{ASK}?answer_within_ms=1.5"),
        lambda head: head.replace(ASK, "/v1/tasks/%63olours/answers"),
        lambda head: head.replace(ASK, f"http://127.0.0.1:8700{ASK}"),
        lambda head: head.replace("Host: 127.0.0.1:8700\r\n", ""),
        lambda head: head.replace("Content-Length: 12", "X-Length: 12"),
        lambda head: head.replace("12", "+12"),
        lambda head: head.replace("12", "1_2"),
        lambda head: head.replace("12", "12, 12"),
        lambda head: head.replace("12", "1" * 13),
        lambda head: head.replace("Host:", "Host :"),
        lambda head: head.replace("application/json", "application/json\n"),
        lambda head: head + "\r\nContent-Length: 12",
        lambda head: head + "\r\nTransfer-Encoding: chunked",
        lambda head: head + "\r\nContent-Encoding: gzip",
        lambda head: head + "\r\nExpect: 100-continue",
        lambda head: head + "\r\nUpgrade: websocket",
        lambda head: head + "\r\nConnection: close",
        lambda head: head + "\r\nConnection: keep-alive, Upgrade",
        lambda head: head + "\r\n folded: into the one before",
        lambda head: head + "\r\nX-Note: a\x00b",
        lambda head: head + "\r\nX-Note: \xe9",
        lambda head: head + "\r\nno colon",
        lambda head: head + "\r\n",
    ],
)
def test_a_head_that_is_not_plain_is_left_to_others(change: Any) -> None:
    assert plain_head(HEAD.encode()) is not None
    assert plain_head(change(HEAD).encode("latin-1")) is None


def test_a_plain_head_is_read_as_it_is_written() -> None:
    head = plain_head((HEAD + "\r\nORIGIN:http://evil.example \r\nConnection: Keep-Alive\r\nX-Trace:").encode())
    assert head is not None
    assert head == ("colours", "application/json", 12, Wishes(), False)
    asked = plain_head(HEAD.replace(ASK, f"{ASK}?wait=provisional&answer_within_ms=20&group=a-1&insist=1").encode())
    assert asked is not None
    assert asked.wishes == Wishes(wait=False, answer_within_ms=20, group="a-1", insist=True)
    foreign = plain_head(HEAD.replace("127.0.0.1", "evil.example").encode())
    assert foreign is not None
    assert not foreign.here


async def test_both_ways_say_the_same_of_answers_and_of_errors(tmp_path: Path) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n%s\r\n--x\r\n' % sure(2)
    form += b'Content-Disposition: form-data; name="question"\r\n\r\nwhat colour is it?\r\n--x--\r\n'
    cases = (
        (body_of(sure(2)), "application/json", 200),
        (form, 'multipart/form-data; boundary="x"', 200),
        (b"", "application/json", 400),
        (b'{"parts": {', "application/json", 400),
        (b'{"parts": {"image": "text"}}', "application/json", 400),
        (body_of(b"no picture"), "application/json", 415),
        (b"x", "text/plain", 415),
    )
    async with serving(load_edge_config(write_config(tmp_path))) as served, calling(served.addresses[0]) as short:
        for body, kind, status in cases:
            one = await short.ask(request(body, kind=kind))
            async with calling(served.addresses[0]) as long:
                other = await long.ask(request(body, "Connection: close", kind=kind))
            assert (one.short, other.short) == (True, False)
            assert one.status == other.status == status
            assert one.fields["content-type"] == other.fields["content-type"]
            assert "date" in one.fields
            own = {"id", "ms"}
            assert {k: v for k, v in one.body.items() if k not in own} == {
                k: v for k, v in other.body.items() if k not in own
            }
        account = served.agent.account()
        assert (account.received, account.edge, account.refused, account.adds_up) == (14, 4, 10, True)


async def test_whatever_is_not_plain_is_handed_over_with_every_byte(tmp_path: Path) -> None:
    body = body_of(sure(1))
    chunked = request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunked += b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    async with serving(load_edge_config(write_config(tmp_path))) as served:
        for data, status in (
            (chunked, 200),
            (request(body, path=f"{ASK}?group=a%20b"), 200),
            (request(body, path="/v1/tasks/foreign/answers"), 404),
            (request(body, "Origin: http://evil.example"), 403),
            (request(body, host="evil.example"), 403),
            (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
            (b"nonsense\r\n\r\n", 400),
        ):
            async with calling(served.addresses[0]) as caller:
                first = await caller.ask(request(body))
                handed = await caller.ask(data)
                assert (first.status, first.short) == (200, True)
                assert (handed.status, handed.short) == (status, False)
        async with calling(served.addresses[0]) as caller:  # a head that comes in two pieces, and what follows it
            caller.writer.write(request(body)[:30])
            await caller.writer.drain()
            await asyncio.sleep(0.05)
            assert (await caller.ask(request(body)[30:])).status == 200
            assert (await caller.ask(request(body))).short is False


async def test_requests_sent_ahead_are_answered_in_turn_and_bodies_may_come_in_pieces(tmp_path: Path) -> None:
    async with serving(load_edge_config(write_config(tmp_path))) as served, calling(served.addresses[0]) as caller:
        caller.writer.write(b"".join(request(body_of(sure(n))) for n in (0, 1, 2)))
        assert [(await caller.reply()).body["label"] for _ in range(3)] == ["red", "green", "blue"]
        data = request(body_of(sure(1)))
        cut = data.index(b"\r\n\r\n") + 4
        for piece in (data[:cut], data[cut : cut + 7], data[cut + 7 :] + request(body_of(sure(2)))):
            caller.writer.write(piece)
            await asyncio.sleep(0.02)
        assert [(await caller.reply()).body["label"] for _ in range(2)] == ["green", "blue"]


async def test_who_reads_no_replies_gets_all_of_them_later(tmp_path: Path) -> None:
    many = 600
    async with (
        serving(load_edge_config(write_config(tmp_path))) as served,
        calling(served.addresses[0], buffer=4096) as caller,
    ):
        caller.writer.write(request(body_of(sure(1))) * many)
        replies = [await caller.reply() for _ in range(many)]
        assert all(reply.short and reply.status == 200 for reply in replies)
        assert served.agent.account().edge == many


async def test_a_unix_socket_is_out_of_a_pages_reach(tmp_path: Path) -> None:
    config = load_edge_config(write_config(tmp_path), {"api": {"socket": str(tmp_path / "s")}})
    async with serving(config) as served, calling(served.addresses[1]) as caller:
        reply = await caller.ask(request(body_of(sure(1)), host="anything"))
        assert (reply.status, reply.short) == (200, True)


async def test_the_end_answers_who_waits_and_parts_from_who_does_not(tmp_path: Path) -> None:
    config = load_edge_config(write_config(tmp_path, extra=UNREACHABLE, answer_within_ms=2_000))
    async with _open(config_path=config) as (served, end), calling(served.addresses[0]) as idle:
        assert (await idle.ask(request(body_of(sure(1))))).status == 200
        async with calling(served.addresses[0]) as waiting:
            waiting.writer.write(request(body_of(unsure())))
            await until(lambda: served.agent.account().pending)
            end.set()
            reply = await waiting.reply()
            assert (reply.status, reply.short, reply.body["state"]) == (200, True, "pending")
            assert reply.fields.get("connection") == "close"
            assert await waiting.reader.read() == b""
        assert await idle.reader.read() == b""


@asynccontextmanager
async def _open(config_path: Any) -> AsyncIterator[tuple[Serving, asyncio.Event]]:
    """An agent that ends when it is told to, while its callers are still here."""
    end, ready = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def run() -> None:
        async with serving(config_path) as served:
            ready.set_result(served)
            await end.wait()

    running = asyncio.create_task(run())
    served = await asyncio.wait_for(ready, 30)
    try:
        yield served, end
    finally:
        end.set()
        await running
