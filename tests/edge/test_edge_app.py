"""The whole agent, wired from a configuration: what it stands on, what it says when that is missing, and how it ends."""

import asyncio
import gc
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from edge_agents import SERVE, serve_environment, write_config
from edge_entries import until

from factory import parts_of, sure, unsure
from outrider_edge.app import serving
from outrider_edge.config import EdgeConfig, load_edge_config
from outrider_edge.interpreter import TURN_S, set_for_serving
from outrider_engine.model import Model, load_model
from outrider_wire.errors import BundleError, OperatorConfigError, OperatorSetupError

UNREACHABLE = '[broker]\nurl = "mqtt://127.0.0.1:9"\n'


@pytest.fixture
def config(tmp_path: Path) -> EdgeConfig:
    return load_edge_config(write_config(tmp_path))


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The agent as a process of its own, once its port is open; its first line is on standard output still."""
    with start_child(write_config(tmp_path, extra=UNREACHABLE, answer_within_ms=3_000)) as process:
        yield process
        process.kill()


def start_child(config: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SERVE, str(config)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=serve_environment())


def ask(address: str, image: bytes, query: str = "") -> dict[str, object]:
    """One input over HTTP, with nothing but the standard library."""
    parts = {"image": {"base64": image}, "question": "what colour is it?"}
    body = msgspec.json.encode({"parts": parts})
    kind = {"Content-Type": "application/json"}
    url = f"{address}/v1/tasks/colours/answers{query}"
    request = urllib.request.Request(url, data=body, headers=kind)  # noqa: S310 - a loopback address of our own
    answer: dict[str, object] = json.loads(fetch(request))
    return answer


def fetch(what: str | urllib.request.Request) -> bytes:
    """The body of a reply."""
    with urllib.request.urlopen(what, timeout=30) as reply:  # noqa: S310 - a loopback address of our own
        body: bytes = reply.read()
    return body


async def test_an_agent_alone_answers_and_says_that_it_is(config: EdgeConfig) -> None:
    async with serving(config) as served:
        [address] = served.addresses
        assert (await asyncio.to_thread(ask, address, sure(2)))["label"] == "blue"
        refused = await asyncio.to_thread(ask, address, unsure())
        assert (refused["state"], refused["certified"]) == ("edge", False)
        assert "alone" in str(refused["note"])
        status = json.loads(await asyncio.to_thread(fetch, f"{address}/v1/status"))
        assert (status["device"], status["broker"], status["account"]["edge"]) == ("cam-7", "none", 2)
        assert [(slot["task"], slot["state"]) for slot in status["slots"]] == [("colours", "idle")]
        metrics = await asyncio.to_thread(fetch, f"{address}/metrics")
        assert b'outrider_inputs_total{state="edge",task="colours"} 2.0' in metrics
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(ask, address, sure(2))


async def test_the_account_and_what_was_escalated_outlive_a_restart(tmp_path: Path) -> None:
    config = load_edge_config(write_config(tmp_path, extra=UNREACHABLE))
    async with serving(config) as served:
        await served.agent.submit("colours", parts_of(sure(0)))
        sent = await served.agent.submit("colours", parts_of(unsure()))
        assert "unreachable" in sent.note
    async with serving(config) as served:
        account = served.agent.account()
        assert (account.received, account.edge, account.pending, account.adds_up) == (2, 1, 1, True)
        assert (await served.agent.get(sent.id)).state == "pending"


async def test_threads_take_short_turns_while_it_serves_and_no_longer(config: EdgeConfig) -> None:
    before = sys.getswitchinterval()
    async with serving(config):
        assert sys.getswitchinterval() == pytest.approx(TURN_S)
        assert gc.get_freeze_count()
    assert sys.getswitchinterval() == pytest.approx(before)
    assert not gc.get_freeze_count()


def test_whichever_of_two_agents_in_one_process_ends_last_puts_python_back() -> None:
    before = sys.getswitchinterval()
    with ExitStack() as first, ExitStack() as second:
        for stack in (first, second):
            stack.enter_context(set_for_serving())
        first.close()
        assert sys.getswitchinterval() == pytest.approx(TURN_S)
        assert gc.get_freeze_count()
        second.close()
    assert sys.getswitchinterval() == pytest.approx(before)
    assert not gc.get_freeze_count()


async def test_a_model_that_was_replaced_leaves_the_memory(config: EdgeConfig) -> None:
    async with serving(config) as served:
        (runtime,) = served.agent.runtimes.values()
        old = weakref.ref(runtime.model)
        assert isinstance(runtime.model, Model)
        runtime.swap(load_model(runtime.model.bundle))
        await served.agent.submit("colours", parts_of(sure(1)))
        await until(lambda: old() is None)


async def test_two_agents_do_not_share_a_data_folder(config: EdgeConfig) -> None:
    async with serving(config):
        with pytest.raises(OperatorSetupError, match="another agent uses the data folder"):
            async with serving(config):
                raise AssertionError("two agents ran on one folder")


async def test_an_occupied_port_is_said_with_the_way_out(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        config = load_edge_config(write_config(tmp_path), {"api": {"port": other.getsockname()[1]}})
        with pytest.raises(OperatorSetupError, match=r"is occupied; .*\[api\] port"):
            async with serving(config):
                raise AssertionError("it served on an occupied port")


async def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    config = load_edge_config(write_config(tmp_path / "one"), {"api": {"socket": str(path)}})
    async with serving(config) as served:
        assert served.addresses[1] == f"unix:{path}"
        other = load_edge_config(write_config(tmp_path / "two"), {"api": {"socket": str(path)}})
        with pytest.raises(OperatorSetupError, match="another program listens there"):
            async with serving(other):
                raise AssertionError("it took a live socket")


async def test_a_file_in_the_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("kept")
    with pytest.raises(OperatorSetupError, match="a file of another kind"):
        async with serving(load_edge_config(write_config(tmp_path / "one"), {"api": {"socket": str(path)}})):
            raise AssertionError("it replaced a file")
    assert path.read_text() == "kept"


async def test_a_bundle_with_a_flipped_byte_is_not_started(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    model = tmp_path / "bundle" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[100] ^= 1
    model.write_bytes(data)
    with pytest.raises(BundleError, match=r"model\.onnx is not what the manifest names"):
        async with serving(load_edge_config(path)):
            raise AssertionError("it served a damaged bundle")


async def test_an_empty_audit_key_and_a_task_named_twice_are_the_operators(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    (tmp_path / "empty").write_text("\n")
    twice = [{"file": str(tmp_path / "task.toml"), "bundle": str(tmp_path / "bundle")}] * 2
    for overrides in ({"audit_key_file": str(tmp_path / "empty")}, {"tasks": twice}):
        with pytest.raises(OperatorConfigError):
            async with serving(load_edge_config(path, overrides)):
                raise AssertionError("it served all the same")


async def test_the_audit_key_is_made_once_and_only_its_owner_reads_it(config: EdgeConfig) -> None:
    async with serving(config):
        path = config.folder / "audit.key"
        key = path.read_text()
        assert path.stat().st_mode & 0o077 == 0
    async with serving(config):
        assert path.read_text() == key


def test_sigterm_answers_who_waits_keeps_the_rest_and_ends_with_zero(child: "subprocess.Popen[str]") -> None:
    assert child.stdout is not None
    address = child.stdout.readline().strip()
    assert ask(address, sure(1))["label"] == "green"
    pending = ask(address, unsure(), "?wait=provisional")
    assert pending["state"] == "pending"
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 0  # and not when the pending question has its end
    assert child.stdout.read().strip() == "ended"


def test_an_input_under_way_at_sigterm_gets_its_answer(child: "subprocess.Popen[str]") -> None:
    assert child.stdout is not None
    address = child.stdout.readline().strip()
    with ThreadPoolExecutor(1) as caller:
        asked = caller.submit(ask, address, unsure())
        while b'outrider_inputs_pending{task="colours"} 1.0' not in fetch(f"{address}/metrics"):
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        report = asked.result(timeout=60)
    assert (report["state"], report["final"], report["answered_by"]) == ("pending", True, "edge")
    assert child.wait(15) == 0
