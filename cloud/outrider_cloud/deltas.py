"""Deltas between files of releases: made once a pair in a child process, kept as blobs, told to devices that ask.

A device may have a delta only to a file that is assigned to it, and only from a file of a release of the same task: with the two it
could work out the other. What is told is also what `outrider_cloud.releases.Releases.file_for` lets it pull: a delta names both
files in its header, so that any worker can judge one.

A blob that nothing refers to is swept after a day; a delta that is asked for is young again.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from outrider_cloud.background import Background
from outrider_cloud.intake.replies import Publish
from outrider_cloud.store import release_rows
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.store import Store
from outrider_engine.delta.form import HEAD_BYTES, decode_head
from outrider_link.envelope import Outgoing
from outrider_link.files import write_durably
from outrider_wire.codec import encode
from outrider_wire.errors import BundleDamagedError, PeerError, UnreachableError
from outrider_wire.messages import BlobGone, DeltaFound, DeltaWant
from outrider_wire.topics import Topics

log = logging.getLogger(__name__)

CHILD = (sys.executable, "-P", "-m", "outrider_engine.delta")
MAKE_S = 900.0
"""A delta that takes longer is given up."""
WAITING = 8
"""Pairs that wait to be made; whoever asks for another is told to ask again."""
MOST_BYTES = 256 * 1024 * 1024
"""Of both files together: the child holds about six times as much."""
_VERDICTS = 1_000
_ASKED_AT_ONCE = 256


class Verdict(Struct, kw_only=True, frozen=True):
    """What came of a pair."""

    delta: str
    """SHA-256; '' where the whole file is hardly more."""
    size: int


_READ = msgspec.json.Decoder(Verdict)


class Deltas:
    """Answers `DeltaWant`, one at a time a device, and makes what is not there, one at a time.

    Args:
        folder: where verdicts are kept; workers may share it, as they do the blobs.
    """

    def __init__(
        self,
        *,
        store: Store,
        blobs: BlobStore,
        folder: Path,
        publish: Publish,
        topics: Topics,
        background: Background,
        child: Sequence[str] = CHILD,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._folder = folder
        self._publish = publish
        self._topics = topics
        self._background = background
        self._child = child
        self._turn = asyncio.Lock()
        self._wanted: set[tuple[str, str]] = set()
        self._failed: set[tuple[str, str]] = set()
        self._asking: set[str] = set()

    def on_want(self, device: str, want: DeltaWant) -> None:
        """Answers beside the caller; a device that asks again meanwhile is not heard."""
        if device not in self._asking and len(self._asking) < _ASKED_AT_ONCE:
            self._asking.add(device)
            self._background.spawn(self._answer(device, want), "delta", waited_for=False)

    async def allows(self, device: str, path: Path) -> bool:
        """Whether a blob is a delta that the device may have."""
        try:
            head = decode_head(await asyncio.to_thread(_head, path))
        except (BundleDamagedError, OSError):
            return False
        return await self._is_for(device, base=head.base.hex(), target=head.target.hex())

    async def _is_for(self, device: str, *, base: str, target: str) -> bool:
        return await self._store.read(partial(release_rows.may_have_delta, device=device, base=base, target=target))

    async def _answer(self, device: str, want: DeltaWant) -> None:
        try:
            said = await self._reply(device, want)
            await self._publish(Outgoing(self._topics.of("blob-down", device, transfer=want.transfer), encode(said)))
        except (UnreachableError, PeerError) as error:
            log.info("delta.not_told", extra={"device": device, "reason": error.reason})
        finally:
            self._asking.discard(device)

    async def _reply(self, device: str, want: DeltaWant) -> DeltaFound | BlobGone:
        """The delta, or why there is none."""
        reason = "no_base"
        for base in want.bases:
            if not await self._is_for(device, base=base, target=want.sha256):
                continue
            files = self._blobs.find(base), self._blobs.find(want.sha256)
            if files[0] is None or files[1] is None:
                continue
            pair = base, want.sha256
            verdict = await asyncio.to_thread(self._verdict, pair)
            if verdict is None and pair not in self._failed:
                self._want(pair, files[0], files[1])
                reason = "delta_pending"
                break
            reason = "delta_not_worth"
            if verdict is not None and verdict.delta:
                return DeltaFound(
                    transfer=want.transfer, sha256=want.sha256, base=base, delta=verdict.delta, size=verdict.size
                )
        return BlobGone(transfer=want.transfer, sha256=want.sha256, reason=reason)

    def _verdict(self, pair: tuple[str, str]) -> Verdict | None:
        try:
            verdict = _READ.decode(self._path(pair).read_bytes())
        except (OSError, msgspec.MsgspecError):
            return None
        if not verdict.delta:
            return verdict
        path = self._blobs.find(verdict.delta)
        if path is None:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return verdict

    def _path(self, pair: tuple[str, str]) -> Path:
        return self._folder / f"{pair[0]}-{pair[1]}.json"

    def _want(self, pair: tuple[str, str], base: Path, target: Path) -> None:
        if pair not in self._wanted and len(self._wanted) < WAITING:
            self._wanted.add(pair)
            self._background.spawn(self._make(pair, base, target), "make delta", waited_for=False)

    async def _make(self, pair: tuple[str, str], base: Path, target: Path) -> None:
        try:
            async with self._turn:
                verdict = await self._made(pair, base, target)
            if verdict is None:
                self._failed.add(pair)
                return
            await asyncio.to_thread(self._keep, pair, verdict)
            log.info("delta.made", extra={"base": pair[0], "target": pair[1], "size": verdict.size})
        finally:
            self._wanted.discard(pair)

    async def _made(self, pair: tuple[str, str], base: Path, target: Path) -> Verdict | None:
        """The verdict on a pair; None: it failed, and is not tried again before the next start."""
        if await asyncio.to_thread(_bytes, base, target) > MOST_BYTES:
            return Verdict(delta="", size=0)
        out = self._folder / f".{pair[0][:16]}-{pair[1][:16]}.{os.getpid()}"
        try:
            code = await self._run(base, target, out)
            if code == 3:  # outrider_engine.delta.__main__.NOT_WORTH
                return Verdict(delta="", size=0)
            if code != 0:
                log.error("delta.failed", extra={"base": pair[0], "target": pair[1], "status": code})
                return None
            data = await asyncio.to_thread(out.read_bytes)
            return Verdict(delta=await asyncio.to_thread(self._blobs.put, data), size=len(data))
        finally:
            out.unlink(missing_ok=True)

    async def _run(self, base: Path, target: Path, out: Path) -> int | None:
        """Exit status of the child; None: it took too long."""
        child = await asyncio.create_subprocess_exec(
            *self._child,
            *map(str, (base, target, out)),
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        )
        try:
            async with asyncio.timeout(MAKE_S):
                return await child.wait()
        except TimeoutError:
            return None
        finally:
            if child.returncode is None:  # cancelled too
                child.kill()
                await child.wait()

    def _keep(self, pair: tuple[str, str], verdict: Verdict) -> None:
        write_durably(self._path(pair), msgspec.json.encode(verdict))
        kept = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for old in kept[:-_VERDICTS]:
            old.unlink(missing_ok=True)


def drop_stale(folder: Path, blobs: BlobStore) -> set[str]:
    """Forgets what came of pairs of which a file is here no more; the digests of their deltas. Blocks."""
    dropped: set[str] = set()
    for path in folder.glob("*.json"):
        if all(blobs.find(digest) for digest in path.stem.split("-")):
            continue
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            dropped.add(_READ.decode(path.read_bytes()).delta)
        path.unlink(missing_ok=True)
    return dropped - {""}


def _bytes(*files: Path) -> int:
    return sum(file.stat().st_size for file in files)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
