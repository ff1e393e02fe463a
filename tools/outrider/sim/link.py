"""A line between two programs that fails as lines do: a TCP proxy with weather. Knows bytes and connections, no MQTT.

What a proxy cannot do is lose one segment of a stream: TCP would send it again. Loss is therefore what an application sees of
it, delays and broken connections.
"""

import asyncio
import contextlib
import random
import socket
import struct
from dataclasses import dataclass, field
from typing import Literal

Way = Literal["up", "down"]
"""``up``: from whoever connected. ``down``: back to it."""
WAYS: tuple[Way, ...] = ("up", "down")
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Weather:
    """What a line does to what passes over it."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Added to the delay, up to this much, at random."""
    bytes_per_s: float = 0.0
    """Each way; 0: as fast as it goes."""
    hole: frozenset[Way] = frozenset()
    """Ways on which nothing passes, and nobody is told."""
    stall_after: int | None = None
    """Bytes that still pass each way of each connection; then nothing does, in the middle of a packet as like as not."""
    cut_after: int | None = None
    """About so many bytes pass, then the connection is reset."""


FAIR = Weather()


@dataclass(eq=False)
class _Connection:
    writers: dict[Way, asyncio.StreamWriter]
    """By the way on which they send on."""
    passed: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))
    dead: bool = False
    """Half open: both ends think it lives, and nothing will ever pass again."""


class Link:
    """A line to a port of this machine, on the event loop that starts it. ``port`` is where to connect instead.

    Args:
        to: the port that it leads to.
        seed: of jitter and of where connections are cut.
    """

    def __init__(self, *, to: int, seed: int = 0) -> None:
        self.port = 0
        self.connections = 0
        """How many there have been."""
        self._to = to
        self._chance = random.Random(seed)  # noqa: S311 - weather, not secrets
        self._weather = FAIR
        self._changed = asyncio.Event()
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Resets every connection and takes no more."""
        if self._server is not None:
            self._server.close()
        await self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def change(self, weather: Weather) -> None:
        """From now on, for every connection; a stall counts from here."""
        self._weather = weather
        for connection in self._open:
            connection.passed = dict.fromkeys(WAYS, 0)
        self._changed.set()
        self._changed = asyncio.Event()

    async def reset(self) -> None:
        """Every connection ends with RST, at both ends."""
        for connection in list(self._open):
            _reset(connection)
        self._open.clear()

    async def half_open(self) -> None:
        """Every connection goes deaf and dumb and stays open; new ones pass. So a NAT forgets, or a modem restarts."""
        for connection in self._open:
            connection.dead = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writers={"up": far_writer, "down": writer})
        self._open.add(connection)
        for way, source in (("up", reader), ("down", far_reader)):
            task = asyncio.create_task(self._carry(connection, source, "up" if way == "up" else "down"))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, connection: _Connection, source: asyncio.StreamReader, way: Way) -> None:
        """One way of one connection: what arrives is due later, and is passed on then, in its order."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        passing = asyncio.create_task(self._pass_on(connection, line, way))
        loop = asyncio.get_running_loop()
        try:
            while data := await source.read(_CHUNK):
                weather = self._weather
                await line.put((loop.time() + weather.delay_s + self._chance.random() * weather.jitter_s, data))
            await line.put((loop.time(), b""))
            await passing
        except OSError:
            _reset(connection)
        finally:
            passing.cancel()

    async def _pass_on(self, connection: _Connection, line: "asyncio.Queue[tuple[float, bytes]]", way: Way) -> None:
        loop, writer = asyncio.get_running_loop(), connection.writers[way]
        with contextlib.suppress(OSError):
            while True:
                due_at, data = await line.get()
                await asyncio.sleep(max(0.0, due_at - loop.time()))
                if not data:
                    if not connection.dead:
                        self._open.discard(connection)
                        writer.close()
                    return
                while data:
                    ready = await self._room(connection, way, len(data))
                    if ready <= 0:
                        return
                    writer.write(data[:ready])
                    await writer.drain()
                    connection.passed[way] += ready
                    data = data[ready:]

    async def _room(self, connection: _Connection, way: Way, size: int) -> int:
        """How many bytes may pass now, waited for; 0: the connection is reset."""
        while True:
            weather, passed = self._weather, connection.passed[way]
            if weather.cut_after is not None and passed > weather.cut_after * self._chance.uniform(0.5, 1.5):
                _reset(connection)
                self._open.discard(connection)
                return 0
            left = size if weather.stall_after is None else min(size, weather.stall_after - passed)
            if way not in weather.hole and not connection.dead and left > 0:
                if weather.bytes_per_s:
                    left = min(left, max(1, int(weather.bytes_per_s / 20)))
                    await asyncio.sleep(left / weather.bytes_per_s)
                return left
            await self._changed.wait()


def _reset(connection: _Connection) -> None:
    for writer in connection.writers.values():
        if (plug := writer.get_extra_info("socket")) is not None and plug.fileno() >= 0:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST in place of FIN
        writer.transport.abort()
