"""Gathers a release on the device: its manifest, then only the files that are not here already. Knows no topics and no states."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from outrider_edge.updates.deltas import DeltaSource, fetch_by_delta
from outrider_edge.updates.record import Slot
from outrider_edge.updates.room import check_room
from outrider_edge.updates.slots import SlotFolder, check_fitting
from outrider_engine.bundle import Bundle
from outrider_link.files import write_durably
from outrider_wire.errors import BundleDamagedError, BundleUnsafeError
from outrider_wire.limits import MANIFEST_BYTES
from outrider_wire.manifest import MANIFEST_FILE, BundleFile, Manifest, decode_manifest, manifest_digest


class ReleaseSource(Protocol):
    """Where releases come from. Real: `outrider_edge.uplink.uplink.Uplink`."""

    async def pull_manifest(self, *, sha256: str, size: int) -> bytes:
        """The bytes of that digest.

        Raises:
            UnreachableError: nobody answers now.
            PeerError: whoever answers does not have them.
            BundleDamagedError: what came is not what the digest says.
        """
        ...

    async def pull_file(self, *, sha256: str, size: int, to: Path) -> Path:
        """The same into the file ``to``, resumed where an earlier attempt stopped, durable when it returns."""
        ...


async def fetch_release(*, release: str, size: int, slot: Slot, folder: SlotFolder, source: ReleaseSource) -> Bundle:
    """The release, whole, verified and for this task, in the inactive ``slot``.

    Args:
        release: digest of its manifest.
        size: bytes of its manifest.

    Raises:
        UnreachableError, PeerError, OperatorSetupError, OSError: not now; it can be tried again.
        BundleError: never.
    """
    if (bundle := await asyncio.to_thread(folder.holding, release, slot)) is not None:
        return bundle  # it ran here before, and is wanted back
    if size > MANIFEST_BYTES:
        raise BundleUnsafeError(
            f"its manifest is said to have {size} bytes, more than {MANIFEST_BYTES}", reason="manifest_too_large"
        )
    data = await source.pull_manifest(sha256=release, size=size)
    if manifest_digest(data) != release:
        raise BundleDamagedError("the manifest is not the one offered", reason="digest_mismatch")
    manifest = decode_manifest(data)
    check_fitting(manifest, folder.task)
    staging = await asyncio.to_thread(_prepare, folder, release, data, manifest)
    for number, entry in enumerate(manifest.needed):
        await asyncio.to_thread(check_room, staging, _lacking(staging, manifest.needed[number:]))
        await _fetch_file(entry, staging, folder, source)
    return await asyncio.to_thread(folder.place, release, slot)


async def _fetch_file(entry: BundleFile, staging: Path, folder: SlotFolder, source: ReleaseSource) -> None:
    """From what is here; else as a difference to it; else whole."""
    if await asyncio.to_thread(folder.copy_known, entry, staging):
        return
    deltas = source if isinstance(source, DeltaSource) and not _begun(entry, staging) else None
    if deltas and await fetch_by_delta(entry=entry, staging=staging, folder=folder, source=deltas):
        return
    await source.pull_file(sha256=entry.sha256, size=entry.size, to=staging / entry.path)


def _begun(entry: BundleFile, staging: Path) -> bool:
    """Whether some of the file was pulled before: then the rest is, too."""
    return staging.joinpath(f"{entry.path}.part").exists()


def _prepare(folder: SlotFolder, release: str, data: bytes, manifest: Manifest) -> Path:
    staging = folder.staging(release)  # what was gathered of another release makes room first
    check_room(staging, _lacking(staging, manifest.needed))
    write_durably(staging / MANIFEST_FILE, data)
    return staging


def _lacking(staging: Path, entries: Sequence[BundleFile]) -> int:
    """Bytes of these files that are still to come."""
    return sum(max(0, entry.size - _here(staging / entry.path)) for entry in entries)


def _here(file: Path) -> int:
    """Bytes of it that lie there, whole or begun."""
    return sum(path.stat().st_size for path in (file, file.with_name(f"{file.name}.part")) if path.is_file())
