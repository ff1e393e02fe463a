"""The whole agent on a real broker: escalation over HTTP, an update in the middle of traffic, and a goodbye."""

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from aiohttp import ClientSession, web
from edge_agents import SERVE, serve_environment, write_config
from edge_cloud import FakeCloud
from link_peers import Relay
from mosquitto import AnyBroker

from factory import file_entry, make_bundle, make_task, parts_of, sure, unsure, write_bundle
from outrider.bench.inputs import noise_picture
from outrider_edge.app import serving
from outrider_edge.config import load_edge_config
from outrider_edge.uplink import putting
from outrider_wire.manifest import MANIFEST_FILE, decode_manifest

pytestmark = pytest.mark.broker


@pytest.fixture
async def cloud(own_broker: AnyBroker) -> AsyncIterator[FakeCloud]:
    async with FakeCloud(own_broker.url) as cloud:
        yield cloud


@pytest.fixture
def config(own_broker: AnyBroker, tmp_path: Path) -> Path:
    return write_config(tmp_path, extra=f'[broker]\nurl = "{own_broker.url}"\n', answer_within_ms=10_000)


async def until(fact: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Returns once ``fact`` holds."""
    async with asyncio.timeout(timeout_s):
        while not fact():  # noqa: ASYNC110 - a fact of another process sets no event
            await asyncio.sleep(0.01)


@pytest.mark.both_brokers
async def test_a_refused_input_comes_back_from_the_cloud(config: Path, cloud: FakeCloud) -> None:
    async with serving(load_edge_config(config)) as served:
        report = await served.agent.submit("colours", parts_of(unsure(), "is it blue?"))
        assert (report.state, report.label, report.answered_by) == ("cloud", "blue", "cloud")
        assert cloud.payloads[report.id] == [unsure(), b"is it blue?"]
        assert served.agent.account().cloud == 1


async def test_a_large_part_is_put_over_http_where_the_configuration_names_it(config: Path, cloud: FakeCloud) -> None:
    put: dict[str, bytes] = {}

    async def take(request: web.BaseRequest) -> web.Response:
        put[request.path] = await request.read()
        return web.Response(status=201)

    runner = web.ServerRunner(web.Server(take))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    image = noise_picture(np.random.default_rng(0), 100_000)
    async with serving(load_edge_config(config, {"cloud": {"url": url}})) as served:
        report = await served.agent.submit("colours", parts_of(image), insist=True)
        assert report.answered_by == "cloud"
        assert served.agent.account().cloud == 1
    await runner.cleanup()
    assert put == {f"/v1/devices/cam-7/blobs/{hashlib.sha256(image).hexdigest()}": image}
    assert cloud.payloads[report.id][0] == image  # this cloud knows nothing of HTTP, and pulls


async def test_a_memory_and_a_budget_are_taught_audited_and_shown_over_a_real_broker(
    config: Path, cloud: FakeCloud, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "bundle")
    make_bundle(tmp_path / "bundle", make_task(), embedding=True)
    with (tmp_path / "task.toml").open("a") as file:
        file.write("[memory]\nenabled = true\naudit_rate = 1.0\n[budget]\nescalations_per_hour = 1\n")
    async with serving(load_edge_config(config)) as served:
        taught = await served.agent.submit("colours", parts_of(unsure(), "is it blue?"), insist=True)
        known = await served.agent.submit("colours", parts_of(unsure(shade=3), "is it blue?"))
        other = await served.agent.submit("colours", parts_of(unsure(), "is it green?"))
        assert [report.state for report in (taught, known, other)] == ["cloud", "memory", "edge"]
        assert "1 of 1 escalations in the last hour" in other.note
        await until(lambda: served.agent.memories()["colours"].audited == 1)
        async with ClientSession() as client, client.get(f"{served.addresses[0]}/v1/status") as reply:
            status = await reply.json()
        assert status["memories"]["colours"] == {"entries": 2, "hits": 1, "audited": 1, "disagreed": 0, "off": False}
        limit = status["budgets"]["colours"]["escalations_per_hour"]
        assert (limit["left"], limit["audits"]) == (0, 1)


async def test_an_update_refuses_not_one_request(config: Path, cloud: FakeCloud, tmp_path: Path) -> None:
    task = make_task()
    release = cloud.publish_release(make_bundle(tmp_path / "next", task, seed=1, bias=[0.0, 0.0, 40.0], version="2"))
    soon = {"updates": {"probation_answers": 20, "probation_least_s": 0.0}}
    async with serving(load_edge_config(config, soon)) as served:
        answered: list[tuple[str | None, str]] = []
        enough = asyncio.Event()

        async def ask_on() -> None:
            while not enough.is_set():
                report = await served.agent.submit("colours", parts_of(sure(0)), answer_within_ms=0)
                answered.append((report.label, report.model))
                await asyncio.sleep(0.001)

        asking = asyncio.create_task(ask_on())
        await cloud.desire("cam-7", "colours", release, 1)
        slots = lambda: [slot.state for message in cloud.reported[-1:] for slot in message.slots]  # noqa: E731 - one look
        await until(lambda: slots() == ["committed"])
        assert not asking.done()
        enough.set()
        await asking  # an input under way is answered: in the thread, where the machine is slow
        assert set(answered) == {("red", "1"), ("blue", "2")}
        assert answered == sorted(answered, key=lambda pair: pair[1])
        account = served.agent.account()
        assert (account.refused, account.received) == (0, len(answered))
    async with serving(load_edge_config(config)) as served:
        assert served.agent.runtimes["colours"].model.manifest.version == "2"


async def test_sigterm_says_goodbye_on_the_broker(config: Path, cloud: FakeCloud) -> None:
    process = subprocess.Popen(  # noqa: ASYNC220 - starts at once
        [sys.executable, "-c", SERVE, str(config)], stdout=subprocess.PIPE, text=True, env=serve_environment()
    )
    try:
        await until(lambda: cloud.presence)  # once on connecting, and once more if the slots were ready only then
        assert {(presence.device, presence.online) for presence in cloud.presence} == {("cam-7", True)}
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 15) == 0
        await until(lambda: not cloud.presence[-1].online)
    finally:
        process.kill()


@pytest.mark.slow
async def test_an_agent_killed_in_the_middle_of_a_release_goes_on_where_it_stopped(
    own_broker: AnyBroker, cloud: FakeCloud, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "next", make_task(), seed=1, version="2")
    manifest, extra = decode_manifest((bundle / MANIFEST_FILE).read_bytes()), os.urandom(600_000)
    files = [*manifest.files, file_entry("extra.bin", extra, "other")]
    write_bundle(bundle, msgspec.structs.replace(manifest, files=files), {"extra.bin": extra})
    await cloud.desire("cam-7", "colours", cloud.publish_release(bundle), 1)
    async with Relay(own_broker.port, bytes_per_s=300_000) as link:
        config = write_config(tmp_path, extra=f'[broker]\nurl = "{link.url}"\n')
        begun: list[int] = []

        def half() -> bool:
            begun[:] = [file.stat().st_size for file in tmp_path.rglob("extra.bin.part")]
            return sum(begun) > 200_000

        with agent_process(config) as process:
            await until(half, 60)  # an agent starts before
            process.kill()
            process.wait()
        half()
        before = link.carried[1]
        with agent_process(config):
            slots = lambda: [slot.version for message in cloud.reported[-1:] for slot in message.slots]  # noqa: E731 - one look
            await until(lambda: slots() == ["2"], timeout_s=90.0)
            assert link.carried[1] - before < 600_000 - begun[0] + 100_000


@contextmanager
def agent_process(config: Path) -> Iterator["subprocess.Popen[str]"]:
    """An agent as a process; killed in the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(config)], stdout=subprocess.PIPE, text=True, env=serve_environment()
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_audits_that_differ_end_the_promise_and_the_cloud_hears_of_it(config: Path, cloud: FakeCloud) -> None:
    """The cloud says blue to everything; the device is certified to be right about red."""
    task = config.parent / "task.toml"
    task.write_text(task.read_text().replace("audit_rate = 0.0", "audit_rate = 1.0"))
    overrides = {"telemetry": {"every_s": 1.0}}
    async with serving(load_edge_config(config, overrides)) as served:
        for _ in range(30):
            report = await served.agent.submit("colours", parts_of(sure(0)), wait=False)
            if report.why == "alarm":
                break
            assert (report.label, report.certified, report.audited) == ("red", True, True)
            await until(lambda id_=report.id: cloud.offers[id_])
            await asyncio.sleep(0.05)
        assert (report.state, report.certified) == ("pending", False)
        await until(lambda: cloud.telemetry and getattr(cloud.telemetry[-1].monitor, "alarm", False))
    async with serving(load_edge_config(config)) as served:
        assert (await served.agent.submit("colours", parts_of(sure(0)))).answered_by == "cloud"


async def test_what_http_does_not_take_in_time_is_pulled_and_holds_nothing_else_up(
    config: Path, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that accepts and never reads: the large input comes over the broker, and small ones do not wait for it."""
    monkeypatch.setattr(putting, "PUT_S", 1.0)
    monkeypatch.setattr(putting, "PUT_BYTES_PER_S", 10_000_000)
    held: list[asyncio.StreamWriter] = []

    async def swallow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    images = [noise_picture(np.random.default_rng(seed), 100_000) for seed in range(putting.PUTS_AT_ONCE + 2)]
    async with serving(load_edge_config(config, {"cloud": {"url": url}})) as served:
        large = [asyncio.create_task(served.agent.submit("colours", parts_of(one), insist=True)) for one in images]
        await until(lambda: len(held) >= putting.PUTS_AT_ONCE)
        small = await served.agent.submit("colours", parts_of(unsure(), "is it blue?"))
        assert small.answered_by == "cloud" and not any(writer.is_closing() for writer in held)
        reports = await asyncio.gather(*large)
        assert {report.answered_by for report in reports} == {"cloud"}
        assert served.agent.account().cloud == len(images) + 1
    server.close()
    for writer in held:
        writer.close()
