"""The embedded broker's life, and what it refuses."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from outrider_link.broker import EmbeddedBroker
from outrider_wire.errors import OperatorSetupError

pytestmark = pytest.mark.broker
EVERYWHERE = "0.0.0.0"  # noqa: S104  that it is refused is what is tested


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_an_occupied_port_is_named() -> None:
    with EmbeddedBroker() as first, pytest.raises(OperatorSetupError, match=str(first.port)) as caught:
        EmbeddedBroker(port=first.port).start()
    assert caught.value.reason == "port_occupied"


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.0.2.1", "example.org"])
def test_only_the_loopback_is_listened_on(host: str) -> None:
    with pytest.raises(OperatorSetupError) as caught:
        EmbeddedBroker(host=host).start()
    assert caught.value.reason == "broker_host"


def test_other_hosts_are_for_those_who_insist() -> None:
    with EmbeddedBroker(host=EVERYWHERE, allow_remote=True) as broker:
        assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
        assert listens(broker.port)


def test_stopping_frees_the_port_and_starting_takes_it_again() -> None:
    broker = EmbeddedBroker(host="localhost")
    with broker:
        port = broker.port
        assert listens(port)
    assert not broker.running
    assert not listens(port)
    with broker:
        assert broker.port == port
        assert listens(port)
    broker.stop()


def test_one_that_was_killed_can_be_started_again() -> None:
    broker = EmbeddedBroker()
    with broker:
        (child,) = [
            each for each in psutil.Process().children() if "outrider_link.broker_child" in " ".join(each.cmdline())
        ]
        child.kill()
        while broker.running:
            time.sleep(0.01)
        broker.start()
        assert listens(broker.port)


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "iotcore", None)
    with pytest.raises(OperatorSetupError, match="outrider\\[broker\\]") as caught:
        EmbeddedBroker().start()
    assert caught.value.reason == "iotcore_missing"


def test_its_words_go_to_the_log_file(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    with EmbeddedBroker(log_file=log):
        pass
    assert log.exists()


SERVE = """
import sys
from outrider_link.broker import serve
serve(port=0, on_ready=lambda url: print(url, flush=True))
"""


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_serving_ends_cleanly_on_a_signal(name: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rsplit(":", 1)[1])
        assert listens(port)
        server.send_signal(name)
        assert server.wait(10) == 0
    assert not listens(port)


def test_the_broker_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rsplit(":", 1)[1])
        os.kill(server.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while listens(port) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not listens(port)
