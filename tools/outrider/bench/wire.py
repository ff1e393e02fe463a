"""What one escalation puts on the wire: bytes of TCP between an agent and its broker, counted by a proxy in between.

Everything counts that one escalation causes, both ways: topic, properties, envelope, blocks and the wants for them,
acknowledgements, receipt and answer. The headers of TCP and IP do not. Presence and telemetry are measured while nothing is
asked, and taken off.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from msgspec import Struct

from outrider.bench.inputs import Parts, sized_inputs
from outrider.bench.system import HOST, System
from outrider.client import Client
from outrider.progress import Tell
from outrider_wire.errors import UndecidedError
from outrider_wire.task import Task

_IDLE_S = 3.0
_SETTLE_S = 0.5
"""After the last answer: acknowledgements that are still under way."""


class WireFigures(Struct, kw_only=True, frozen=True):
    """One size, in bytes an escalation."""

    payload_bytes: float
    """The bytes of the input's parts."""
    up_bytes: float
    down_bytes: float
    wire_overhead: float
    """(up + down − payload) / payload."""


class CountingProxy:
    """A TCP proxy to a port of this machine; `up` and `down` count what has gone through. Use as a context manager."""

    def __init__(self, port: int) -> None:
        self.up = 0
        """Bytes from whoever connects here."""
        self.down = 0
        self._to = port
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):  # closed by its peer already
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((HOST, self._to))
                self._sockets += [near, far]
                for source, sink, up in ((near, far, True), (far, near, False)):
                    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._copy, args=(source, sink, up), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with contextlib.suppress(OSError):  # one end is gone
            while data := source.recv(65_536):
                with self._lock:
                    self.up += len(data) if up else 0
                    self.down += 0 if up else len(data)
                sink.sendall(data)
        with contextlib.suppress(OSError):  # gone already
            sink.shutdown(socket.SHUT_WR)


def measure_wire(
    *, task: Task, bundle: Path, folder: Path, sizes: Sequence[int], repeats: int, tell: Tell
) -> dict[str, WireFigures]:
    """Starts a whole system with the proxy between agents and broker, and counts; by nominal bytes.

    Raises:
        OperatorError: the machine lacks something, or the task has no part for a size.
        UndecidedError: the system does not answer.
    """
    inputs = {size: sized_inputs(task, size, repeats + 1, seed=size) for size in sizes}
    system = System(task=task, bundle=bundle, folder=folder)
    with CountingProxy(system.broker_port) as proxy:
        system.agents_port = proxy.port
        with system, Client(system.agents["disk"]) as client:
            idle = _idle(proxy)
            figures = {}
            for place, (size, asked) in enumerate(inputs.items()):
                figures[str(size)] = _counted(proxy, client, task.name, asked, idle)
                tell(f"bytes of {size}", (place + 1) / len(inputs))
    return figures


def _idle(proxy: CountingProxy) -> tuple[float, float]:
    """Bytes a second, up and down, while nothing is asked."""
    time.sleep(_SETTLE_S)
    up, down = proxy.up, proxy.down
    time.sleep(_IDLE_S)
    return (proxy.up - up) / _IDLE_S, (proxy.down - down) / _IDLE_S


def _counted(
    proxy: CountingProxy, client: Client, task: str, inputs: Sequence[Parts], idle: tuple[float, float]
) -> WireFigures:
    """The mean over all but the first, which finds a link that nothing is known of yet."""
    _ask(client, task, inputs[0])
    time.sleep(_SETTLE_S)
    up, down, began = proxy.up, proxy.down, time.monotonic()
    for parts in inputs[1:]:
        _ask(client, task, parts)
    time.sleep(_SETTLE_S)
    seconds, n = time.monotonic() - began, len(inputs) - 1
    payload = sum(len(part if isinstance(part, bytes) else part.encode()) for p in inputs[1:] for part in p.values())
    up_bytes = (proxy.up - up - idle[0] * seconds) / n
    down_bytes = (proxy.down - down - idle[1] * seconds) / n
    return WireFigures(
        payload_bytes=payload / n,
        up_bytes=up_bytes,
        down_bytes=down_bytes,
        wire_overhead=n * (up_bytes + down_bytes) / payload - 1,
    )


def _ask(client: Client, task: str, parts: Parts) -> None:
    report = client.ask(task, parts, insist=True)
    if report.answered_by != "cloud":
        raise UndecidedError("an escalation was not answered by the cloud", reason="not_answered")
