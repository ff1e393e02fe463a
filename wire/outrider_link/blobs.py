"""Blobs over a session, in both directions: pulls one into memory or a file, serves one to whoever wants it.

The rules (what to ask for, what to believe) are `outrider_wire.blobs`; here are the clock, the files and the publishing.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import overload
from weakref import WeakValueDictionary

from outrider_link.envelope import Outgoing
from outrider_link.lanes import Lane, Lanes
from outrider_link.sinks import FileSink, MemorySink, Sink
from outrider_wire.blobs import Pull, blocks_for
from outrider_wire.codec import encode
from outrider_wire.errors import BundleDamagedError, OutriderError, PeerError, UnreachableError
from outrider_wire.limits import BLOCK_BYTES
from outrider_wire.messages import BlobBlock, BlobGone, BlobWant

log = logging.getLogger(__name__)

Publish = Callable[[Outgoing], Awaitable[bool]]
"""`MqttSession.publish`, or what stands for it."""
Topic = Callable[[str], str]
Way = Callable[[str, int, Sink], Awaitable[None]]
"""Another way to a blob: appends to the sink what it lacks of (SHA-256, size). Real: `outrider_link.http.CloudHttp.fetch`.

Raises `UnreachableError` or `PeerError` where it cannot; what it has appended stays.
"""
MOST_WANTS = 16


class BlobPuller:
    """Pulls any number of blobs at once; give it every `BlobBlock` and `BlobGone` that arrives.

    Args:
        publish: sends the wants.
        block: most bytes of a block, from `outrider_wire.blobs.block_size`; may be set anew once the broker has told its
            limit. What the link carries makes it smaller.
        timeout_s: how long to wait without a useful block before asking again.
        retries: how often in a row to ask again without a byte of progress.
        bytes_per_s: the most that all pulls over one lane ask for in a second; None: no bound but the link's own.
        beside: a faster way, tried first.
    """

    def __init__(
        self,
        *,
        publish: Publish,
        block: int = BLOCK_BYTES,
        timeout_s: float = 5.0,
        retries: int = 8,
        bytes_per_s: float | None = None,
        beside: Way | None = None,
    ) -> None:
        self.block = block
        self.lanes = Lanes(bytes_per_s=bytes_per_s)
        self.unasked = 0
        """Messages of no pull under way."""
        self._publish = publish
        self._beside = beside
        self._timeout_s = timeout_s
        self._retries = retries
        self._flows: dict[str, _Flow] = {}
        self._locks: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    @overload
    async def pull(
        self, *, sha256: str, size: int, want_topic: Topic, worker: str, lane: str = "", to: None = None
    ) -> bytes: ...

    @overload
    async def pull(
        self, *, sha256: str, size: int, want_topic: Topic, worker: str, lane: str = "", to: Path
    ) -> Path: ...

    async def pull(
        self, *, sha256: str, size: int, want_topic: Topic, worker: str, lane: str = "", to: Path | None = None
    ) -> bytes | Path:
        """The verified bytes of a blob; or, ``to`` a path, that path once it durably holds them.

        A file grows as ``<to>.part`` and resumes from it after a cut. Pulls of one path wait for each other, and one that
        finds the finished file there returns at once.

        Args:
            sha256: its digest; decides whether what came is it.
            size: its bytes.
            want_topic: where the holder listens, given the transfer's name (which is made up here).
            worker: who pulls: names the topic that the blocks come on.
            lane: who holds it, where each holder has a link of its own.
            to: the file to write.

        Raises:
            UnreachableError: no useful block came in time, again and again.
            PeerError: the holder does not have it, or sends blocks of a wrong length.
            BundleDamagedError: what came has another digest.
            OSError: the file cannot be written.
        """
        ask = _Ask(sha256, size, want_topic, worker, self.lanes.of(lane))
        if to is None:
            memory = MemorySink()
            await self._fill(ask, memory)
            return memory.content()
        async with self._locks.setdefault(to, asyncio.Lock()):
            file = FileSink(to=to, size=size)
            if not await file.is_there(sha256):
                await self._fill(ask, file)
        return to

    def on_message(self, message: BlobBlock | BlobGone) -> None:
        """Takes what a holder sent; anything of no pull under way is counted, and ignored."""
        if (flow := self._flows.get(message.transfer)) is None:
            self.unasked += 1
        else:
            flow.take(message)

    async def _fill(self, ask: "_Ask", sink: Sink) -> None:
        """Pulls into a sink until it has the right digest.

        What an earlier pull, or another way, has a share in is dropped once and pulled again, over the broker alone.
        """
        with sink:
            mixed = sink.length > 0
            mixed |= await self._any_way(ask, sink)
            if await sink.finish(ask.sha256):
                return
            if mixed:
                log.warning("blob.restarted", extra={"sha256": ask.sha256})
                await self._transfer(ask, sink)
                if await sink.finish(ask.sha256):
                    return
        raise BundleDamagedError(
            f"what came as blob {ask.sha256[:12]}… has another digest",
            reason="digest_mismatch",
            fix="have its sender offer it again",
        )

    async def _any_way(self, ask: "_Ask", sink: Sink) -> bool:
        """The faster way where there is one; what it does not bring comes over the broker, and the other way round.

        Returns:
            Whether the faster way brought any of it.
        """
        if self._beside is None:
            await self._transfer(ask, sink)
            return False
        before = sink.length
        if await self._came_beside(self._beside, ask, sink):
            return True
        mixed = sink.length > before
        try:
            await self._transfer(ask, sink)
        except (UnreachableError, PeerError):
            if not await self._came_beside(self._beside, ask, sink):
                raise
            return True
        return mixed

    async def _came_beside(self, way: Way, ask: "_Ask", sink: Sink) -> bool:
        """Whether that way has brought the rest."""
        try:
            await way(ask.sha256, ask.size, sink)
        except (UnreachableError, PeerError) as error:
            log.info("blob.not_beside", extra={"sha256": ask.sha256, "reason": error.reason})
        return sink.length == ask.size

    async def _transfer(self, ask: "_Ask", sink: Sink) -> None:
        lane = ask.lane
        async with lane.slots:
            lane.transfers += 1
            try:
                await self._exchange(ask, sink)
            finally:
                lane.transfers -= 1

    async def _exchange(self, ask: "_Ask", sink: Sink) -> None:
        transfer, lane = secrets.token_hex(8), ask.lane
        block, window = lane.share(self.block)
        pull = Pull(
            sha256=ask.sha256, size=ask.size, block=block, window=window, have=sink.length, retries=self._retries
        )
        self._flows[transfer] = flow = _Flow(pull, lane)
        try:
            while True:
                sink.append(flow.ready())
                if pull.done:
                    return
                if pull.failed:
                    raise flow.failure()
                pull.block, pull.window = lane.share(self.block)
                if not await self._want(ask, transfer, pull) or not await flow.useful_within(self._timeout_s):
                    lane.lost(pull.under_way)
                    pull.on_timeout()
        finally:
            lane.lost(pull.under_way)
            del self._flows[transfer]

    async def _want(self, ask: "_Ask", transfer: str, pull: Pull) -> bool:
        """Asks for what is due now; False, after the time of a timeout, when there is no connection to ask on."""
        wants = pull.next_wants()
        if wants:
            await ask.lane.cap()
        for offset, count, block in wants:
            ask.lane.sent(min(count * block, pull.size - offset))
        for offset, count, block in wants:
            want = BlobWant(
                transfer=transfer, sha256=ask.sha256, offset=offset, count=count, block=block, worker=ask.worker
            )
            try:
                await self._publish(Outgoing(ask.topic(transfer), encode(want)))
            except UnreachableError:
                await asyncio.sleep(self._timeout_s)
                return False
        return True


class _Ask:
    """What is pulled, and from whom."""

    def __init__(self, sha256: str, size: int, topic: Topic, worker: str, lane: Lane) -> None:
        self.sha256 = sha256
        self.size = size
        self.topic = topic
        self.worker = worker
        self.lane = lane


class _Flow:
    """Between what arrives and the one who waits for it: blocks in order, and a bell."""

    def __init__(self, pull: Pull, lane: Lane) -> None:
        self._pull = pull
        self._lane = lane
        self._ready: list[bytes] = []
        self._bell = asyncio.Event()
        self._gone = False

    def take(self, message: BlobBlock | BlobGone) -> None:
        if isinstance(message, BlobGone):
            if message.sha256 == self._pull.sha256:
                self._gone = True
                self._pull.on_gone(message.reason)
                self._bell.set()
            return
        ignored = self._pull.ignored
        self._ready += [data for _, data in self._pull.on_block(message.offset, message.data)]
        if self._pull.ignored == ignored:
            self._lane.arrived(len(message.data))
            self._bell.set()

    def ready(self) -> bytes:
        """What came in order since the last call."""
        data = b"".join(self._ready)
        self._ready.clear()
        return data

    async def useful_within(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._bell.wait()
        except TimeoutError:
            return False
        self._bell.clear()
        return True

    def failure(self) -> OutriderError:
        what = f"blob {self._pull.sha256[:12]}… stopped at {self._pull.received} of {self._pull.size} bytes"
        if self._gone:
            return PeerError(f"{what}: its holder has it no more ({self._pull.failed})", reason="blob_gone")
        if self._pull.failed == "timed_out":
            return UnreachableError(f"{what}: nothing came in time", reason="blob_timed_out", fix="try again later")
        return PeerError(f"{what}: {self._pull.failed}", reason=self._pull.failed)


class BlobHolder:
    """Serves blobs in blocks to whoever asks. Wants are served as they come, and all of them share one lane: no more is handed
    to the connection than its link carries in a moment, so that whatever else is published waits no longer than that.

    Args:
        publish: sends the blocks.
        open_blob: the bytes of a digest, or the file that holds them; None when it is not here.
        bytes_per_s: the most that is sent in a second; None: no bound but the link's own.
        most_wants: how many wants are served at the same time; more are dropped, and whoever sent them asks again.
    """

    def __init__(
        self,
        *,
        publish: Publish,
        open_blob: Callable[[str], bytes | Path | None],
        bytes_per_s: float | None = None,
        most_wants: int = MOST_WANTS,
    ) -> None:
        self._most_wants = most_wants
        self._publish = publish
        self._open_blob = open_blob
        self._lanes = Lanes(bytes_per_s=bytes_per_s)
        self._wants = 0

    def reconnected(self) -> None:
        """There is a new connection, perhaps over another link."""
        self._lanes.forget("")

    async def on_want(self, want: BlobWant, reply_topic: str) -> None:
        """Publishes the blocks that are wanted, or `BlobGone`; returns at the last PUBACK.

        A lost connection ends it quietly: whoever pulls asks again.
        """
        if self._wants >= self._most_wants:
            return
        self._wants += 1
        try:
            await self._serve(want, reply_topic)
        except FileNotFoundError:
            gone = BlobGone(transfer=want.transfer, sha256=want.sha256, reason="gone")
            await self._say(gone, reply_topic)
        except UnreachableError as error:
            log.info("blob.interrupted", extra={"sha256": want.sha256, "reason": error.reason})
        finally:
            self._wants -= 1

    async def _serve(self, want: BlobWant, reply_topic: str) -> None:
        blob = self._open_blob(want.sha256)
        if blob is None:
            raise FileNotFoundError
        lane = self._lanes.of("")
        sends: list[asyncio.Task[None]] = []
        try:
            for offset, length in blocks_for(want, len(blob) if isinstance(blob, bytes) else blob.stat().st_size):
                block = BlobBlock(transfer=want.transfer, offset=offset, data=_read(blob, offset, length))
                await lane.enter(length)
                send = asyncio.create_task(self._send(block, reply_topic))
                send.add_done_callback(partial(_sent, lane, length))
                stopped = any(one.done() and one.exception() for one in sends)
                sends = [*(one for one in sends if stopped or not one.done()), send]
                if stopped:
                    break
            await asyncio.gather(*sends)
        finally:
            for send in sends:
                send.cancel()

    async def _send(self, block: BlobBlock, reply_topic: str) -> None:
        await self._publish(Outgoing(reply_topic, encode(block)))

    async def _say(self, gone: BlobGone, reply_topic: str) -> None:
        try:
            await self._publish(Outgoing(reply_topic, encode(gone)))
        except UnreachableError as error:
            log.info("blob.interrupted", extra={"sha256": gone.sha256, "reason": error.reason})


def _sent(lane: Lane, size: int, send: "asyncio.Task[None]") -> None:
    """Gives back what a block held of its lane, whatever became of it."""
    if send.cancelled() or send.exception():
        lane.lost(size)
    else:
        lane.arrived(size)


def _read(blob: bytes | Path, offset: int, length: int) -> bytes:
    if isinstance(blob, bytes):
        return blob[offset : offset + length]
    with blob.open("rb") as file:
        file.seek(offset)
        return file.read(length)
