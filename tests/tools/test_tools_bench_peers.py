"""The load generator counts what a real server does, and `bench edge --peers` compares real ones. No figure is judged here."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from absent import skip_without
from aiohttp import web

from outrider.bench.edge_peers.contenders import Contender, check_installed
from outrider.bench.edge_peers.cpu import tree_cpu_s
from outrider.bench.edge_peers.load import LoadFound, LoadPlan, load
from outrider_wire.errors import OperatorSetupError, PeerError

BODY = b'{"parts": {}}'


@pytest.fixture
def port() -> Iterator[int]:
    """A server that answers, refuses, answers slowly, or hangs up, by path."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    found: list[int] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        assert await request.read() == BODY
        if request.path == "/slow":
            await asyncio.sleep(0.05)
        if request.path == "/gone":
            assert request.transport is not None
            request.transport.close()
        if request.path == "/chunked":
            stream = web.StreamResponse()
            await stream.prepare(request)
            await stream.write(b"{}")
            return stream
        return web.Response(body=b"{}", status=503 if request.path == "/busy" else 200)

    async def begin() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/{any}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.append(runner.addresses[0][1])
        started.set()
        return runner

    def serve() -> None:
        runner = loop.run_until_complete(begin())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=serve)
    thread.start()
    assert started.wait(30)
    yield found[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def asked(port: int, path: str, **terms: Any) -> LoadFound:
    plan = {"connections": 4, "seconds": 0.4, **terms}
    return load(LoadPlan(port=port, path=path, body=BODY, **plan))


def test_the_load_counts_every_answer_and_none_is_refused(port: int) -> None:
    found = asked(port, "/fine")
    assert len(found.ms) == len(found.began) >= 4
    assert found.refused == 0
    assert found.asked >= len(found.ms)


def test_an_answer_is_as_slow_as_its_server(port: int) -> None:
    found = asked(port, "/slow")
    assert min(found.ms) >= 50


def test_a_server_that_is_busy_refuses_everything(port: int) -> None:
    found = asked(port, "/busy")
    assert found.refused == found.asked > 0


def test_a_request_whose_connection_goes_away_is_refused(port: int) -> None:
    assert asked(port, "/gone").refused == 4


def test_a_late_answer_is_late_from_when_it_was_due(port: int) -> None:
    found = asked(port, "/slow", connections=1, per_second=60.0, seconds=0.8)
    assert found.ms[-1] > 2 * found.ms[0], (
        "60 a second through a server that takes 50 ms: the queue is the server's fault"
    )


def test_a_reply_that_does_not_say_its_length_is_a_problem_not_a_figure(port: int) -> None:
    with pytest.raises(PeerError, match="Content-Length"):
        asked(port, "/chunked")


def test_the_processor_time_of_a_tree_counts_its_children() -> None:
    burns = "t = __import__('time'); e = t.process_time() + 0.3\nwhile t.process_time() < e: pass\nprint(1, flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burns!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = tree_cpu_s(child.pid)
        child.communicate(b"\n")
    assert found is not None
    assert found >= 0.3
    assert tree_cpu_s(2**22 + 1) is None


def test_a_missing_peer_is_named_with_what_to_install() -> None:
    absent = Contender(name="x", path="/", command=lambda served, folder, port: [], needs="no_such_server")
    with pytest.raises(OperatorSetupError, match="no_such_server") as refused:
        check_installed([absent])
    assert "outrider[peers]" in refused.value.fix


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bench_edge_compares_the_agent_with_its_peers_and_swaps_without_a_refusal() -> None:
    if not (find_spec("litserve") and find_spec("mosec")):
        skip_without("LitServe and mosec", "pip install outrider[peers]")
    quick = ("--inputs", "25", "--peers", "--rounds", "1", "--seconds", "0.3", "--swaps", "2")
    done = subprocess.run(
        [sys.executable, "-m", "outrider", "bench", "edge", *quick],
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(line["peers"]) == {"outrider", "litserve", "mosec", "bare"}
    for by_concurrency in line["peers"].values():
        assert set(by_concurrency) == {"1", "8", "32"}
        for figures in by_concurrency.values():
            assert figures["rps"] > 0
            assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    assert line["swap"]["refused"] == 0
    assert line["swap"]["p99_ratio"] > 0
    assert line["raw_p50_ms"] > 0
