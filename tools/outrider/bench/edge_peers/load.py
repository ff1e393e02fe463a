"""Asks one HTTP server the same thing over and over on kept-alive connections, and says how long each answer took.

A program of its own (``python -m outrider.bench.edge_peers.load``, a `LoadPlan` as JSON on standard input, a `LoadFound` on standard
output), so that its work and the server's are never one interpreter's. It speaks just enough HTTP/1.1 for that (RFC 9112): replies
must carry Content-Length.
"""

import asyncio
import subprocess
import sys
import time

import msgspec
from msgspec import Struct

from outrider_wire.decodable import decodable
from outrider_wire.errors import PeerError

_WARM_S = 0.2
_REPLY_S = 30.0
"""After which a reply that does not come counts as refused."""


class LoadPlan(Struct, kw_only=True, frozen=True):
    """What to send, where, and how often."""

    port: int
    path: str
    body: bytes
    connections: int
    seconds: float
    per_second: float | None = None
    """Requests of all connections, at fixed times whatever the server does; None: each connection asks again once it is answered."""


class LoadFound(Struct, kw_only=True, frozen=True):
    """Every request that began after the warming up, in the order of their ends."""

    began: list[float]
    """By the monotonic clock, which every process of the machine shares; when it was due, not when its connection was free."""
    ms: list[float]
    refused: int
    """Replies that were not 2xx, and requests that got none."""
    asked: int
    """Requests answered in all, warming up included."""
    seconds: float
    """From the first request that counts to the last reply."""


def load(plan: LoadPlan) -> LoadFound:
    """Runs the program on ``plan``.

    Raises:
        PeerError: the server closed a connection, or does not speak as it should.
    """
    done = subprocess.run(
        [sys.executable, "-m", "outrider.bench.edge_peers.load"],
        input=msgspec.json.encode(plan),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise PeerError(f"the load could not be put on port {plan.port}: {lines[-1]}", reason="load_failed")
    return msgspec.json.decode(done.stdout, type=decodable(LoadFound))


class _Connection(asyncio.Protocol):
    """One request after the other."""

    def __init__(self, run: "_Run", number: int) -> None:
        self._run = run
        self._number = number
        self._sent = 0
        self._due = 0.0
        self._waiting = False
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what a TCP connection has
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        """Counts each whole reply."""
        self._buffer += data
        head, blank, rest = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = _content_length(head)
        if length is None:
            self._end("a reply without Content-Length")
        elif len(rest) >= length:
            self._buffer, self._waiting = rest[length:], False
            self._run.count(self._due, head[9:10] == b"2")
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """A request that was under way got no reply."""
        if self._waiting:
            self._run.refused += 1
        if not self.ended.done():
            self.ended.set_result(None)

    def _next(self) -> None:
        now, plan = time.monotonic(), self._run.plan
        due = now
        if plan.per_second is not None:
            due = self._run.began + (self._number + self._sent * plan.connections) / plan.per_second
        if due >= self._run.ends:
            self._end("")
        elif due <= now:
            self._send(due)
        else:
            asyncio.get_running_loop().call_later(due - now, self._send, due)

    def _send(self, due: float) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._due, self._waiting = due, True
        self._sent += 1
        self._transport.write(self._run.request)

    def _end(self, problem: str) -> None:
        if problem and not self.ended.done():
            self.ended.set_exception(PeerError(problem, reason="load_failed"))
        if self._transport is not None:
            self._transport.close()


class _Run:
    def __init__(self, plan: LoadPlan) -> None:
        head = f"POST {plan.path} HTTP/1.1\r\nHost: 127.0.0.1:{plan.port}\r\nContent-Type: application/json\r\n"
        self.request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(plan.body) + plan.body
        self.plan = plan
        self.began = self.counts_from = self.ends = 0.0
        self.refused = 0
        self.found: list[tuple[float, float]] = []
        self.last = 0.0
        self.asked = 0

    def count(self, due: float, answered: bool) -> None:
        """One reply."""
        self.last = time.monotonic()
        self.asked += 1
        if not answered:
            self.refused += 1
        if due >= self.counts_from:
            self.found.append((due, 1e3 * (self.last - due)))

    async def run(self) -> LoadFound:
        """All connections, until each has its last reply."""
        self.began = time.monotonic()
        self.counts_from = self.began + _WARM_S
        self.ends = self.counts_from + self.plan.seconds
        loop = asyncio.get_running_loop()
        opened = [
            (await loop.create_connection(lambda n=n: _Connection(self, n), "127.0.0.1", self.plan.port))[1]  # type: ignore[misc]
            for n in range(self.plan.connections)
        ]
        _, late = await asyncio.wait([each.ended for each in opened], timeout=_WARM_S + self.plan.seconds + _REPLY_S)
        for each in opened:
            if each.ended.done():
                each.ended.result()
        return LoadFound(
            began=[due for due, _ in self.found],
            ms=[round(ms, 4) for _, ms in self.found],
            refused=self.refused + len(late),
            asked=max(self.asked, 1),
            seconds=max(self.last - self.counts_from, 1e-9),
        )


def _content_length(head: bytes) -> int | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return None


if __name__ == "__main__":
    found = asyncio.run(_Run(msgspec.json.decode(sys.stdin.buffer.read(), type=decodable(LoadPlan))).run())
    sys.stdout.buffer.write(msgspec.json.encode(found))
