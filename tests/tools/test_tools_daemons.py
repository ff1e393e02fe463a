"""The processes that the command line starts: they say that they are ready, serve, and end cleanly on SIGTERM."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from video_world import passing, still, write_clip

import factory
import outrider as client_package
from outrider.task_template import Kind, task_text
from outrider.transport import Transport


@pytest.fixture
def site(tmp_path):
    """A task and its bundle, and some pictures."""
    (tmp_path / "task.toml").write_text(task_text(name="colours", labels=factory.LABELS, kind=Kind.IMAGE_TEXT))
    factory.make_bundle(tmp_path / "bundle")
    (tmp_path / "red.png").write_bytes(factory.sure(0))
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    return tmp_path


@pytest.fixture
def start(site):
    """``start("edge", "run", …)``: the process, once its output holds the given word; whatever is left is killed."""
    started = []
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OUTRIDER_")}

    def run(*arguments, until):
        with (site / "log").open("wb") as log:
            process = subprocess.Popen(
                [Path(sys.executable).parent / "outrider", *map(str, arguments)],
                cwd=site,
                stdout=log,
                stderr=log,
                env={**clean, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            )
        started.append(process)
        deadline = time.monotonic() + 30
        while until not in (site / "log").read_text():
            assert process.poll() is None, (site / "log").read_text()
            assert time.monotonic() < deadline, (site / "log").read_text()
            time.sleep(0.05)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def log_of(site):
    """The JSON events so far."""
    return [json.loads(line) for line in (site / "log").read_text().splitlines()]


def ends_cleanly(process):
    process.send_signal(signal.SIGTERM)
    return process.wait(20) == 0


EDGE = ("edge", "run", "--task", "task.toml", "--bundle", "bundle", "--device", "cam-7", "--log-format", "json")


@pytest.fixture
def daemon(start):
    """An agent on a Unix socket and a free port."""
    return start(*EDGE, "--port", 0, "--socket", "agent.sock", until="agent.ready")


def test_the_daemon_answers_and_ps_tells_what_it_runs(daemon, site, outrider):
    address = f"unix:{site}/agent.sock"
    with client_package.Client(address) as client:
        report = client.ask("colours", {"image": site / "red.png", "question": factory.QUESTION})
        assert (report.label, report.certified) == ("red", True)
        with pytest.raises(client_package.CallerInputError) as raised:
            client.ask("colours", {"image": site / "broken.png", "question": factory.QUESTION})
        assert raised.value.part == "image"
    shown = outrider("edge", "ps", "--agent", address)
    assert shown.code == 0, shown.err
    assert "cam-7: up" in shown.out
    assert "1 answered here" in shown.out
    assert "colours" in shown.out
    assert ends_cleanly(daemon)
    assert log_of(site)[-1]["event"] == "agent.stopped"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what a process has mapped")
def test_the_daemon_carries_no_training_library(daemon):
    mapped = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert "onnxruntime" in mapped
    assert not [name for name in ("torch", "onnx", "scipy", "matplotlib") if f"/{name}/" in mapped]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what a process has mapped")
def test_a_camera_is_read_by_a_process_of_its_own_and_ps_tells_how_it_fares(start, site, outrider):
    write_clip(site / "clip.mkv", [*still(55), *passing(25), *still(75)])
    sources = ("--source", "file:clip.mkv", "--source", "dir:away", "--part", f"question={factory.QUESTION}")
    daemon = start(*EDGE, "--port", 0, "--socket", "agent.sock", *sources, until="agent.ready")
    with client_package.Client(f"unix:{site}/agent.sock") as client:
        deadline = time.monotonic() + 30
        while not (camera := client.status()["sources"]["file-1"])["asked"]:
            assert time.monotonic() < deadline, (site / "log").read_text()
            time.sleep(0.05)
    mapped = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert not [name for name in ("libavcodec", "cv2") if name in mapped]
    assert (camera["state"], camera["events"], camera["asked"]) == ("up", 1, 1)
    shown = outrider("edge", "ps", "--agent", f"unix:{site}/agent.sock")
    assert "file-1" in shown.out
    assert "away" in shown.out, "the folder that is not there"
    assert ends_cleanly(daemon)


def test_ps_without_an_agent_is_unreachable(outrider, tmp_path):
    ran = outrider("edge", "ps", "--agent", f"unix:{tmp_path}/none.sock")
    assert ran.code == 4
    assert "start it with: outrider edge run" in ran.err


@pytest.mark.usefixtures("site")
def test_an_occupied_port_is_said_in_one_sentence(outrider):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ran = outrider(*EDGE, "--port", server.getsockname()[1])
    assert ran.code == 2
    assert "port" in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


def test_the_cloud_answers_where_it_says(start, site):
    arguments = ("--task", "task.toml", "--large", "onnx:bundle", "--port", 0, "--log-format", "json")
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
    cloud = start("cloud", "serve", *arguments, "--broker", nobody, until="cloud.serving")
    api = next(event["api"] for event in log_of(site) if event["event"] == "cloud.serving")
    assert Transport(api, what="the cloud", start="", timeout_s=5).request("GET", "/health/live").status == 200
    assert ends_cleanly(cloud)


@pytest.mark.broker
def test_the_broker_tells_its_address_and_ends(start, site):
    broker = start("broker", "run", "--port", 0, "--json", until="url")
    host, port = log_of(site)[0]["url"].removeprefix("mqtt://").split(":")
    socket.create_connection((host, int(port)), timeout=5).close()
    assert ends_cleanly(broker)


def test_a_broker_for_other_machines_must_be_asked_for(outrider):
    ran = outrider("broker", "run", "--host", "192.0.2.1", "--port", 0)
    assert ran.code == 2
    assert "no access rules" in ran.err
