"""A device's blobs over HTTP, where there is HTTP: fetches what it lacks of a release, puts what an offer will refer to.

The digest decides what came, not the path. The base address is the configuration's alone: no redirect is followed and no
proxy of the environment asked. Knows no messages; what cannot be had here comes over the broker.
"""

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import aiohttp
from yarl import URL

from outrider_link.envelope import Tls
from outrider_link.sinks import Sink
from outrider_wire.errors import PeerError, UnreachableError
from outrider_wire.pace import Allowance

CONNECT_S = 5.0
AT_ONCE = 4
"""Requests under way."""
SLOWEST_BYTES_PER_S = 10_000
"""Slower than this it is no faster way."""
REST_S = 30.0
"""How long nothing is tried after a failure of the network or the server."""
KEPT_S = 300.0
"""How long a put is not repeated: until then the cloud holds it, or has taken it."""
_PIECE = 64 * 1024
_MOST_KEPT = 1024


class CloudHttp:
    """One device's way to its cloud's HTTP API. Make it on the event loop, `close` it at the end.

    Args:
        url: the API's base address, as configured.
        device: the device's name.
        tls: files for ``https``.
        bytes_per_s: the most that it carries in a second, in each direction; None: no bound.
        silence_s: without a byte for so long, it is given up.
    """

    def __init__(
        self,
        *,
        url: str,
        device: str,
        tls: Tls | None = None,
        bytes_per_s: float | None = None,
        silence_s: float = 15.0,
    ) -> None:
        self._silence_s = silence_s
        self.bytes_put = 0
        """Payload bytes that the cloud has taken."""
        self._slowest = min(SLOWEST_BYTES_PER_S, bytes_per_s or SLOWEST_BYTES_PER_S)
        self._base = f"{url.rstrip('/')}/v1/devices/{device}/"
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._trusted: tuple[tuple[int, ...], ssl.SSLContext] | None = None
        self._rest_until = 0.0
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._put: OrderedDict[str, float] = OrderedDict()
        self._down, self._up = (
            Allowance(bytes_per_s=bytes_per_s, burst=bytes_per_s) if bytes_per_s else None for _ in range(2)
        )

    async def close(self) -> None:
        """Lets go of the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def fetch(self, sha256: str, size: int, sink: Sink) -> None:
        """Appends what the sink lacks of that blob; returns when it has ``size`` bytes.

        Raises:
            UnreachableError: nobody answers now, or it ended early.
            PeerError: whoever answers does not have it for this device, or sends other than was asked.
        """
        begin = sink.length
        if begin >= size:
            return
        async with self._asked(
            "GET", f"blobs/{sha256}", size, headers={"Range": f"bytes={begin}-"} if begin else {}
        ) as reply:
            _check(reply, {206} if begin else {200})
            if begin and not reply.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
                raise PeerError("the cloud's HTTP API sends another range than was asked", reason="wrong_range")
            async for piece in reply.content.iter_chunked(_PIECE):
                if sink.length + len(piece) > size:
                    raise PeerError(f"the cloud's HTTP API sends more than {size} bytes", reason="too_long")
                sink.append(piece)
                await _keep(self._down, len(piece))
        if sink.length < size:
            raise UnreachableError("the cloud's HTTP API ended early", reason="http_cut", fix="try again later")

    async def metadata(self, path: str, most: int) -> bytes | None:
        """A file of signed metadata, at most one byte more than ``most`` of it; None: there is none.

        Raises:
            UnreachableError: nobody answers now.
            PeerError: it is refused.
        """
        async with self._asked("GET", f"tuf/{quote(path, safe='')}", most, headers={}) as reply:
            if reply.status == 404:
                return None
            _check(reply, {200})
            found = bytearray()
            async for piece in reply.content.iter_chunked(_PIECE):
                found += piece[: most + 1 - len(found)]
                if len(found) > most:
                    break
            return bytes(found)

    async def put(self, sha256: str, data: bytes | Path) -> None:
        """Makes a blob lie in the cloud, for an offer of this device that refers to it; done lately, it is not done again.

        Raises:
            UnreachableError: nobody answers now.
            PeerError: it is refused.
            OSError: the file cannot be read.
        """
        now = _now()
        if self._put.get(sha256, -KEPT_S) + KEPT_S > now:
            return
        size = _size(data)
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        async with self._asked("PUT", f"blobs/{sha256}", size, headers=headers, data=self._pieces(data)) as reply:
            _check(reply, {200, 201})
        self.bytes_put += size
        self._put[sha256] = now
        self._put.move_to_end(sha256)
        if len(self._put) > _MOST_KEPT:
            self._put.popitem(last=False)

    @asynccontextmanager
    async def _asked(
        self, method: str, place: str, size: int, *, headers: dict[str, str], data: AsyncIterator[bytes] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The reply, whatever its status. What the network does becomes an error of ours, and a rest."""
        timeout = aiohttp.ClientTimeout(
            total=CONNECT_S + self._silence_s + 2 * size / self._slowest,
            sock_connect=CONNECT_S,
            sock_read=self._silence_s,
        )
        try:
            async with (
                self._awake(),
                self._opened().request(
                    method,
                    URL(self._base + place, encoded=True),
                    headers=headers,
                    data=data,
                    timeout=timeout,
                    allow_redirects=False,
                    ssl=self._context(),
                ) as reply,
            ):
                if reply.status >= 500:
                    self._rest_until = _now() + REST_S
                yield reply
        except (aiohttp.ClientError, TimeoutError) as error:
            self._rest_until = _now() + REST_S
            what = str(error) or type(error).__name__
            raise UnreachableError(
                f"the cloud's HTTP API cannot be reached: {what}", reason="http_unreachable", fix="check [cloud] url"
            ) from error

    @asynccontextmanager
    async def _awake(self) -> AsyncIterator[None]:
        """One of few requests at a time: when the first of many fails, the others need not find out for themselves."""
        async with self._slots:
            if (left_s := self._rest_until - _now()) > 0:
                raise UnreachableError(
                    f"the cloud's HTTP API did not answer; it is left alone for {left_s:.0f} s", reason="http_resting"
                )
            yield

    def _opened(self) -> aiohttp.ClientSession:
        """Made when it is first needed."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=AT_ONCE),
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,
            )
        return self._session

    def _context(self) -> ssl.SSLContext | bool:
        """Made anew when a file has been replaced, as by a renewed certificate.

        Raises:
            OperatorConfigError: the TLS files cannot be used.
        """
        if self._tls is None:
            return True
        stamp = self._tls.stamp()
        if self._trusted is None or self._trusted[0] != stamp:
            self._trusted = (stamp, self._tls.context())
        return self._trusted[1]

    async def _pieces(self, data: bytes | Path) -> AsyncIterator[bytes]:
        if isinstance(data, bytes):
            for begin in range(0, len(data), _PIECE):
                yield data[begin : begin + _PIECE]
                await _keep(self._up, min(_PIECE, len(data) - begin))
            return
        with data.open("rb") as file:
            while piece := await asyncio.to_thread(_read, file):
                yield piece
                await _keep(self._up, len(piece))


def _check(reply: aiohttp.ClientResponse, wanted: set[int]) -> None:
    """Raises what a status means; nothing of the body is believed."""
    if reply.status in wanted:
        return
    what = f"the cloud's HTTP API answers {reply.status}"
    if reply.status >= 500 or reply.status == 429:
        raise UnreachableError(what, reason="http_busy", fix="try again later")
    raise PeerError(what, reason="http_refused")


async def _keep(allowance: Allowance | None, size: int) -> None:
    """Waits for as long as the cap asks."""
    if allowance is not None and (wait_s := allowance.take(size, _now())) > 0:
        await asyncio.sleep(wait_s)


def _size(data: bytes | Path) -> int:
    return len(data) if isinstance(data, bytes) else data.stat().st_size


def _read(file: BinaryIO) -> bytes:
    return file.read(_PIECE)


def _now() -> float:
    return asyncio.get_running_loop().time()
