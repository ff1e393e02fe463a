"""Replays of certification items on this device: what was asked before, where the items are, one replay from end to end.

What a replay may claim is ruled in `outrider_wire.replay`. Each use of the same rows costs, so that the uses are counted here, in a
file that outlives caches and releases; an engine that has been asked once is not asked again.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from outrider_engine.bundle import Bundle
from outrider_engine.items import decode_items
from outrider_engine.model import Model
from outrider_engine.replaying import Replaying
from outrider_link.files import make_folder, write_durably
from outrider_wire.errors import BundleDamagedError, BundleMismatchError
from outrider_wire.manifest import BundleFile, Certificate
from outrider_wire.replay import FIRST_REPLAY, Replayed

log = logging.getLogger(__name__)

Facts = Mapping[str, str]
"""What makes an engine another one: model, provider, version of the library, hardware, the engine's own bytes."""
Step = Callable[[Callable[[], bool]], Awaitable[bool]]
"""Runs one step of a replay where the model may be used."""
Tell = Callable[[float], None]


class _Use(Struct, kw_only=True, frozen=True):
    """One replay that has ended."""

    engine: str
    """Digest of its facts, and of the certificate."""
    facts: dict[str, str]
    replayed: Replayed


_BOOK = msgspec.json.Decoder(list[_Use])


class ReplayBook:
    """Which replays there were, a file a set of certification rows. Blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, certificate: Certificate, facts: Facts) -> Replayed | None:
        """What came of the same engine's replay for the same certificate; errors as `uses`."""
        engine = _name(certificate, facts)
        return next((use.replayed for use in self._read(certificate) if use.engine == engine), None)

    def uses(self, certificate: Certificate) -> int:
        """How often these rows have been used here, the certificate among them.

        Raises:
            BundleMismatchError: the file is damaged, so that nobody knows.
        """
        return len(self._read(certificate)) + FIRST_REPLAY - 1

    def note(self, certificate: Certificate, facts: Facts, replayed: Replayed) -> None:
        """Keeps what came of a replay, durably, before anything is claimed by it."""
        make_folder(self._folder)
        use = _Use(engine=_name(certificate, facts), facts=dict(facts), replayed=replayed)
        data = msgspec.json.encode([*self._read(certificate), use])
        write_durably(self._path(certificate), msgspec.json.format(data, indent=1), mode=0o600)

    def _read(self, certificate: Certificate) -> list[_Use]:
        path = self._path(certificate)
        try:
            return _BOOK.decode(path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            raise BundleMismatchError(
                f"nobody knows how often the certification items were replayed here: {path} cannot be read",
                reason="replays_unknown",
                fix=f"restore {path}, or certify the bundle on fresh rows",
            ) from error

    def _path(self, certificate: Certificate) -> Path:
        return self._folder / f"{certificate.data_digest[:32]}.json"


class FileSource(Protocol):
    """Where a file of a release comes from. Real: `outrider_edge.uplink.uplink.Uplink`."""

    async def pull_file(self, *, sha256: str, size: int, to: Path) -> Path:
        """The file of that digest, durable."""
        ...


class ItemShelf:
    """A bundle's certification items: in the bundle, or fetched when they are wanted, and let go afterwards."""

    def __init__(self, folder: Path, source: FileSource) -> None:
        self._folder = folder
        self._source = source

    async def of(self, bundle: Bundle) -> bytes:
        """The items' bytes, verified.

        Raises:
            BundleError: the bundle has none, or what came is not what it names.
            UnreachableError, PeerError, OSError: they are not to be had now.
        """
        entry = bundle.manifest.file(bundle.manifest.certification or "")
        if entry is None:
            raise BundleMismatchError("the bundle carries no certification items", reason="no_items")
        if await asyncio.to_thread((bundle.root / entry.path).exists):
            return await asyncio.to_thread(bundle.read, entry.path)
        path = self._path(entry)
        if not await asyncio.to_thread(path.exists):
            await asyncio.to_thread(make_folder, self._folder)
            await self._source.pull_file(sha256=entry.sha256, size=entry.size, to=path)
        data = await asyncio.to_thread(path.read_bytes)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            await asyncio.to_thread(path.unlink, missing_ok=True)
            raise BundleDamagedError("the certification items are not those of the manifest", reason="file_digest")
        return data

    async def forget(self, bundle: Bundle) -> None:
        """Frees the disk of what was fetched."""
        entry = bundle.manifest.file(bundle.manifest.certification or "")
        if entry is not None:
            await asyncio.to_thread(self._path(entry).unlink, missing_ok=True)

    def _path(self, entry: BundleFile) -> Path:
        return self._folder / f"items-{entry.sha256}"


class Replays:
    """Replays of this device, one after another."""

    def __init__(self, *, book: ReplayBook, shelf: ItemShelf) -> None:
        self._book = book
        self._shelf = shelf
        self._turn = asyncio.Lock()

    async def renewed(self, model: Model, facts: Facts, *, step: Step, tell: Tell) -> Model:
        """The model under what its replay lets it claim.

        Args:
            model: what cannot claim the certificate by itself.
            facts: what makes it another engine than the certified one.
            step: runs a step where the model may be used.
            tell: told the share that is done.

        Raises:
            BundleError: nothing may be claimed; the sentence says why.
            UnreachableError, PeerError, OSError: the items are not to be had now.
        """
        certificate, fault = model.manifest.certificate, model.manifest.replay_fault(model.variant)
        if certificate is None or fault:
            raise BundleMismatchError(
                fault, reason="certificate_void", fix="certify it here, or run what was certified"
            )
        async with self._turn:  # the uses are counted one by one
            replayed = await asyncio.to_thread(self._book.known, certificate, facts)
            if replayed is None:
                replayed = await self._replayed(model, certificate, facts, step, tell)
        if replayed.rule is None:
            raise BundleMismatchError(
                f"its replay failed: {replayed.why}", reason="replay_failed", fix="run what was certified"
            )
        return model.claiming(replayed)

    async def _replayed(self, model: Model, certificate: Certificate, facts: Facts, step: Step, tell: Tell) -> Replayed:
        k = await asyncio.to_thread(self._book.uses, certificate) + 1
        data = await self._shelf.of(model.bundle)
        items = await asyncio.to_thread(decode_items, data, labels=len(model.labels))
        del data
        running = Replaying(model, items)
        while await step(running.step):
            tell(running.share)
        replayed = await asyncio.to_thread(running.ended, k)
        await asyncio.to_thread(self._book.note, certificate, facts, replayed)
        await self._shelf.forget(model.bundle)
        log.info(
            "engine.replayed",
            extra={
                "task": model.manifest.task,
                "provider": model.variant.provider,
                "precision": model.variant.precision,
                "k": k,
                "differ": replayed.differ,
                "claims": replayed.rule is not None,
                "why": replayed.why,
            },
        )
        return replayed


def _name(certificate: Certificate, facts: Facts) -> str:
    return hashlib.sha256(
        msgspec.json.encode({**facts, "certificate": certificate.id}, order="deterministic")
    ).hexdigest()
