"""The way over HTTP with a cloud that lies, cuts, redirects or falls silent: the digest decides, and the broker does the rest."""

import asyncio
import hashlib
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from outrider_link.blobs import BlobHolder, BlobPuller
from outrider_link.envelope import Outgoing, Tls
from outrider_link.http import AT_ONCE, CloudHttp
from outrider_link.sinks import MemorySink
from outrider_wire.codec import decode
from outrider_wire.errors import BundleDamagedError, PeerError, UnreachableError
from outrider_wire.messages import BlobBlock, BlobGone, BlobWant

DATA = random.Random(7).randbytes(300_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


class Cloud:
    """An HTTP server that does what ``act`` says; ``asked`` are the requests, ``puts`` what was put."""

    def __init__(self) -> None:
        self.url = ""
        self.put_status = 201
        self.asked: list[web.BaseRequest] = []
        self.puts: list[bytes] = []
        self.act: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] = self.honest

    async def honest(self, request: web.BaseRequest) -> web.StreamResponse:
        begin = int(request.headers.get("Range", "bytes=0-")[6:-1])
        if not begin:
            return web.Response(body=DATA)
        range_ = f"bytes {begin}-{len(DATA) - 1}/{len(DATA)}"
        return web.Response(status=206, body=DATA[begin:], headers={"Content-Range": range_})

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request)
        if request.method == "PUT":
            self.puts.append(await request.read())
            return web.Response(status=self.put_status)
        return await self.act(request)


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    served = Cloud()
    runner = web.ServerRunner(web.Server(served.handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield served
    await runner.cleanup()


@pytest.fixture
async def http(cloud: Cloud) -> AsyncIterator[CloudHttp]:
    made = CloudHttp(url=f"{cloud.url}/", device="cam-1", silence_s=0.3)
    yield made
    await made.close()


class Broker:
    """A broker with an honest holder behind it, or with nobody (``up = False``)."""

    def __init__(self, http: CloudHttp) -> None:
        self.up = True
        self.served = 0
        self.puller = BlobPuller(publish=self._want, timeout_s=0.02, retries=1, beside=http.fetch)
        self._holder = BlobHolder(publish=self._block, open_blob={DIGEST: DATA}.get)

    async def pull(self, to: Path | None = None) -> bytes:
        ask = {"sha256": DIGEST, "size": len(DATA), "want_topic": lambda _: "wants", "worker": "releases"}
        got = await self.puller.pull(**ask, to=to)  # type: ignore[call-overload]  # either
        return got if isinstance(got, bytes) else got.read_bytes()

    async def _want(self, message: Outgoing) -> bool:
        if not self.up:
            raise UnreachableError("cut", reason="cut")
        want = decode(message.payload)
        assert isinstance(want, BlobWant)
        await self._holder.on_want(want, "blocks")
        return True

    async def _block(self, message: Outgoing) -> bool:
        said = decode(message.payload)
        assert isinstance(said, BlobBlock | BlobGone)
        self.served += 1
        self.puller.on_message(said)
        return True


async def test_what_comes_over_http_is_not_pulled(cloud: Cloud, http: CloudHttp) -> None:
    broker = Broker(http)
    assert await broker.pull() == DATA
    assert broker.served == 0
    assert [request.path for request in cloud.asked] == [f"/v1/devices/cam-1/blobs/{DIGEST}"]


async def other_bytes(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=DATA[:-1] + b"!")


async def too_many(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=DATA + b"!")


async def too_few(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=DATA[:100_000])


async def elsewhere(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": f"http://{request.host}/stolen"})


async def absent(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=404, body=b"x" * 100_000)


async def failing(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=500)


async def squeezed(_: web.BaseRequest) -> web.StreamResponse:
    response = web.Response(body=b"\x1f\x8b nothing that unpacks", headers={"Content-Encoding": "gzip"})
    return response


async def cut(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(DATA))})
    await response.prepare(request)
    await response.write(DATA[:100_000])
    assert request.transport is not None
    request.transport.abort()
    return response


async def silent(_: web.BaseRequest) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError("nobody waits so long")


@pytest.mark.parametrize(
    "act", [other_bytes, too_many, too_few, elsewhere, absent, failing, squeezed, cut, silent], ids=lambda a: a.__name__
)
@pytest.mark.parametrize("have", [0, 50_000])
async def test_what_http_does_not_bring_right_the_broker_does(
    cloud: Cloud,
    http: CloudHttp,
    tmp_path: Path,
    act: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    have: int,
) -> None:
    cloud.act, broker = act, Broker(http)
    if have:
        (tmp_path / "blob.part").write_bytes(DATA[:have])
    assert await broker.pull(tmp_path / "blob") == DATA
    assert broker.served
    assert all("stolen" not in request.path for request in cloud.asked)


async def test_a_liar_on_both_ways_is_damage(cloud: Cloud, http: CloudHttp) -> None:
    cloud.act, broker = other_bytes, Broker(http)
    broker._holder = BlobHolder(publish=broker._block, open_blob={DIGEST: DATA[:-1] + b"?"}.get)
    with pytest.raises(BundleDamagedError):
        await broker.pull()


async def test_what_the_broker_does_not_bring_http_does(cloud: Cloud, http: CloudHttp, tmp_path: Path) -> None:
    broker = Broker(http)
    broker.up = False
    acts = [begun, cloud.honest]

    async def in_turn(request: web.BaseRequest) -> web.StreamResponse:
        return await acts.pop(0)(request)

    cloud.act = in_turn
    assert await broker.pull(tmp_path / "blob") == DATA
    assert [request.headers.get("Range") for request in cloud.asked] == [None, "bytes=100000-"]


async def begun(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(DATA[:100_000])
    await response.write_eof()
    return response


async def test_after_a_failure_it_rests_and_then_tries_again(cloud: Cloud, http: CloudHttp) -> None:
    cloud.act, broker = failing, Broker(http)
    assert await broker.pull() == await broker.pull() == DATA
    assert len(cloud.asked) == 1
    cloud.act = cloud.honest
    http._rest_until = 0.0
    served = broker.served
    assert await broker.pull() == DATA
    assert broker.served == served


async def test_of_many_that_wait_only_a_few_find_out(cloud: Cloud, http: CloudHttp) -> None:
    cloud.act = silent
    outcomes = await asyncio.gather(
        *(http.fetch(DIGEST, len(DATA), MemorySink()) for _ in range(20)), return_exceptions=True
    )
    assert {getattr(outcome, "reason", "") for outcome in outcomes} == {"http_unreachable", "http_resting"}
    assert len(cloud.asked) == AT_ONCE


async def test_nobody_there_is_unreachable_and_the_whole_is_not_asked_for() -> None:
    http = CloudHttp(url="http://127.0.0.1:9", device="cam-1")
    with pytest.raises(UnreachableError) as caught:
        await http.fetch(DIGEST, len(DATA), MemorySink())
    assert caught.value.reason == "http_unreachable"
    whole = MemorySink()
    whole.append(b"x")
    await http.fetch(DIGEST, 1, whole)
    await http.close()


async def test_a_put_is_made_once_from_memory_or_a_file(cloud: Cloud, http: CloudHttp, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(DATA)
    for _ in range(2):
        await http.put(DIGEST, tmp_path / "part")
        await http.put("0" * 64, DATA[:70_000])
    assert cloud.puts == [DATA, DATA[:70_000]]
    assert cloud.asked[0].headers["Content-Length"] == str(len(DATA))


async def test_a_put_that_was_refused_is_made_again(cloud: Cloud, http: CloudHttp) -> None:
    cloud.put_status = 413
    for _ in range(2):
        with pytest.raises(PeerError):
            await http.put(DIGEST, DATA)
    cloud.put_status = 201
    await http.put(DIGEST, DATA)
    assert len(cloud.puts) == 3


async def test_the_cap_holds_over_http_too(cloud: Cloud) -> None:
    http = CloudHttp(url=cloud.url, device="cam-1", bytes_per_s=400_000)
    began = asyncio.get_running_loop().time()
    await http.put(DIGEST, DATA)
    await http.put("0" * 64, DATA)
    await http.close()
    assert asyncio.get_running_loop().time() - began > 0.4


@asynccontextmanager
async def over_tls(certificate: tuple[Path, Path]) -> AsyncIterator[tuple[Cloud, list[str]]]:
    """A cloud that asks for a client certificate; and the names in those that it was shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.load_verify_locations(certificate[0])
    context.verify_mode = ssl.CERT_OPTIONAL
    served, names = Cloud(), []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        shown = request.get_extra_info("peercert") or {}
        names.append(dict(pair for one in shown.get("subject", ()) for pair in one).get("commonName", ""))
        return await served.handle(request)

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    served.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    yield served, names
    await runner.cleanup()


async def test_over_tls_the_device_shows_its_certificate(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    async with over_tls(certificate) as (cloud, names):
        http = CloudHttp(url=cloud.url, device="test", tls=Tls(ca_file=cert, cert_file=cert, key_file=key))
        sink = MemorySink()
        await http.fetch(DIGEST, len(DATA), sink)
        await http.close()
    assert (sink.content(), names) == (DATA, ["test"])


async def test_a_cloud_that_nobody_vouches_for_gets_nothing_and_the_broker_does_it(
    certificate: tuple[Path, Path],
) -> None:
    async with over_tls(certificate) as (cloud, names):
        http = CloudHttp(url=cloud.url, device="test", tls=Tls())
        broker = Broker(http)
        assert await broker.pull() == DATA
        with pytest.raises(UnreachableError):
            await http.put(DIGEST, DATA)
        await http.close()
    assert (names, cloud.puts) == ([], [])
