"""Blobs over a session, in both directions: pulls one into memory or a file, serves one to whoever wants it.

The rules (what to ask for, what to believe) are `outrider_wire.blobs`; here are the clock, the files and the publishing.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import overload
from weakref import WeakValueDictionary

from outrider_link.envelope import Outgoing
from outrider_link.sinks import FileSink, MemorySink, Sink
from outrider_wire.blobs import Pull, blocks_for
from outrider_wire.codec import encode
from outrider_wire.errors import BundleDamagedError, OutriderError, PeerError, UnreachableError
from outrider_wire.limits import BLOCK_BYTES
from outrider_wire.messages import BlobBlock, BlobGone, BlobWant

log = logging.getLogger(__name__)

Publish = Callable[[Outgoing], Awaitable[bool]]
"""`MqttSession.publish`, or what stands for it."""
_AT_ONCE = 8
"""Blocks a holder publishes before it waits for their PUBACKs."""


class BlobPuller:
    """Pulls any number of blobs at once; give it every `BlobBlock` and `BlobGone` that arrives.

    Args:
        publish: sends the wants.
        block: bytes of a block, from `outrider_wire.blobs.block_size`; may be set anew once the broker has told its limit.
        window: blocks under way for one blob.
        timeout_s: how long to wait without a useful block before asking again.
        retries: how often in a row to ask again without a byte of progress.
    """

    def __init__(
        self, *, publish: Publish, block: int = BLOCK_BYTES, window: int = 8, timeout_s: float = 5.0, retries: int = 8
    ) -> None:
        self.block = block
        self.unasked = 0
        """Messages of no pull under way."""
        self._publish = publish
        self._window = window
        self._timeout_s = timeout_s
        self._retries = retries
        self._flows: dict[str, _Flow] = {}
        self._locks: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    @overload
    async def pull(
        self, *, sha256: str, size: int, want_topic: Callable[[str], str], worker: str, to: None = None
    ) -> bytes: ...

    @overload
    async def pull(
        self, *, sha256: str, size: int, want_topic: Callable[[str], str], worker: str, to: Path
    ) -> Path: ...

    async def pull(
        self, *, sha256: str, size: int, want_topic: Callable[[str], str], worker: str, to: Path | None = None
    ) -> bytes | Path:
        """The verified bytes of a blob; or, ``to`` a path, that path once it durably holds them.

        A file grows as ``<to>.part`` and resumes from it after a cut. Pulls of one path wait for each other, and one that
        finds the finished file there returns at once.

        Args:
            sha256: its digest; decides whether what came is it.
            size: its bytes.
            want_topic: where the holder listens, given the transfer's name (which is made up here).
            worker: who pulls: names the topic that the blocks come on.
            to: the file to write.

        Raises:
            UnreachableError: no useful block came in time, again and again.
            PeerError: the holder does not have it, or sends blocks of a wrong length.
            BundleDamagedError: what came has another digest.
            OSError: the file cannot be written.
        """
        ask = _Ask(sha256, size, want_topic, worker)
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
        """Pulls into a sink until it has the right digest; a wrong prefix from an earlier pull is tried once, then dropped."""
        with sink:
            resumed = sink.length > 0
            await self._transfer(ask, sink)
            if await sink.finish(ask.sha256):
                return
            if resumed:
                log.warning("blob.restarted", extra={"sha256": ask.sha256})
                await self._transfer(ask, sink)
                if await sink.finish(ask.sha256):
                    return
        raise BundleDamagedError(
            f"what came as blob {ask.sha256[:12]}… has another digest",
            reason="digest_mismatch",
            fix="have its sender offer it again",
        )

    async def _transfer(self, ask: "_Ask", sink: Sink) -> None:
        transfer = secrets.token_hex(8)
        pull = Pull(
            sha256=ask.sha256,
            size=ask.size,
            block=self.block,
            window=self._window,
            have=sink.length,
            retries=self._retries,
        )
        self._flows[transfer] = flow = _Flow(pull)
        try:
            while True:
                sink.append(flow.ready())
                if pull.done:
                    return
                if pull.failed:
                    raise flow.failure()
                if not await self._want(ask, transfer, pull) or not await flow.useful_within(self._timeout_s):
                    pull.on_timeout()
        finally:
            del self._flows[transfer]

    async def _want(self, ask: "_Ask", transfer: str, pull: Pull) -> bool:
        """Asks for what is due now; False, after the time of a timeout, when there is no connection to ask on."""
        for offset, count in pull.next_wants():
            want = BlobWant(
                transfer=transfer, sha256=ask.sha256, offset=offset, count=count, block=pull.block, worker=ask.worker
            )
            try:
                await self._publish(Outgoing(ask.topic(transfer), encode(want)))
            except UnreachableError:
                await asyncio.sleep(self._timeout_s)
                return False
        return True


class _Ask:
    """What is pulled, and from whom."""

    def __init__(self, sha256: str, size: int, topic: Callable[[str], str], worker: str) -> None:
        self.sha256 = sha256
        self.size = size
        self.topic = topic
        self.worker = worker


class _Flow:
    """Between what arrives and the one who waits for it: blocks in order, and a bell."""

    def __init__(self, pull: Pull) -> None:
        self._pull = pull
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
    """Serves blobs in blocks to whoever asks. Wants are served as they come; all of them share ``bytes_per_s``.

    Args:
        publish: sends the blocks.
        open_blob: the bytes of a digest, or the file that holds them; None when it is not here.
        bytes_per_s: the most that is sent in a second, so that answers never wait behind a model; None: no bound.
    """

    def __init__(
        self,
        *,
        publish: Publish,
        open_blob: Callable[[str], bytes | Path | None],
        bytes_per_s: float | None = None,
    ) -> None:
        self._publish = publish
        self._open_blob = open_blob
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    async def on_want(self, want: BlobWant, reply_topic: str) -> None:
        """Publishes the blocks that are wanted, or `BlobGone`; returns at the last PUBACK.

        A lost connection ends it quietly: whoever pulls asks again.
        """
        try:
            blob = self._open_blob(want.sha256)
            if blob is None:
                raise FileNotFoundError
            blocks = blocks_for(want, len(blob) if isinstance(blob, bytes) else blob.stat().st_size)
            for first in range(0, len(blocks), _AT_ONCE):
                batch = blocks[first : first + _AT_ONCE]
                await asyncio.gather(
                    *(self._send(want, offset, _read(blob, offset, length), reply_topic) for offset, length in batch)
                )
        except FileNotFoundError:
            gone = BlobGone(transfer=want.transfer, sha256=want.sha256, reason="gone")
            await self._say(gone, reply_topic)
        except UnreachableError as error:
            log.info("blob.interrupted", extra={"sha256": want.sha256, "reason": error.reason})

    async def _send(self, want: BlobWant, offset: int, data: bytes, reply_topic: str) -> None:
        await self._keep_pace(len(data))
        await self._publish(Outgoing(reply_topic, encode(BlobBlock(transfer=want.transfer, offset=offset, data=data))))

    async def _say(self, gone: BlobGone, reply_topic: str) -> None:
        try:
            await self._publish(Outgoing(reply_topic, encode(gone)))
        except UnreachableError as error:
            log.info("blob.interrupted", extra={"sha256": gone.sha256, "reason": error.reason})

    async def _keep_pace(self, size: int) -> None:
        if self._bytes_per_s is None:
            return
        now = asyncio.get_running_loop().time()
        begin = max(self._free_at, now)
        self._free_at = begin + size / self._bytes_per_s
        await asyncio.sleep(begin - now)


def _read(blob: bytes | Path, offset: int, length: int) -> bytes:
    if isinstance(blob, bytes):
        return blob[offset : offset + length]
    with blob.open("rb") as file:
        file.seek(offset)
        return file.read(length)
