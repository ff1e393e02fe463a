"""Bytes are counted where they cross, both ways, and an escalation's overhead comes out of a real system."""

import socket
import threading
from pathlib import Path

import pytest

from outrider.bench.system import HOST
from outrider.bench.wire import CountingProxy, measure_wire
from outrider.commands.bench import _shipped
from outrider_link.settings import read_text
from outrider_wire.task import parse_task


def test_the_proxy_counts_what_goes_up_and_what_comes_down() -> None:
    with socket.create_server((HOST, 0)) as server:

        def answer() -> None:
            near, _ = server.accept()
            with near:
                asked = b""
                while len(asked) < 100_000:
                    asked += near.recv(65_536)
                near.sendall(asked[:777])

        threading.Thread(target=answer, daemon=True).start()
        with CountingProxy(server.getsockname()[1]) as proxy:
            with socket.create_connection((HOST, proxy.port)) as client:
                client.sendall(bytes(100_000))
                client.shutdown(socket.SHUT_WR)
                came = b""
                while data := client.recv(65_536):
                    came += data
            assert (proxy.up, proxy.down, len(came)) == (100_000, 777, 777)


@pytest.mark.slow
@pytest.mark.broker
def test_an_escalation_is_counted_on_a_real_system(tmp_path: Path) -> None:
    task, bundle = _shipped(None, None)
    sizes = (20_480, 307_200)
    found = measure_wire(
        task=parse_task(read_text(task), str(task)),
        bundle=bundle,
        folder=tmp_path,
        sizes=sizes,
        repeats=5,
        tell=lambda _what, _share: None,
    )
    for size in sizes:
        figures = found[str(size)]
        assert 0.9 * size < figures.payload_bytes < figures.up_bytes
        assert 0 < figures.wire_overhead < 0.1
    assert found["307200"].wire_overhead < found["20480"].wire_overhead
