"""Makes a file of a release of one that a slot holds and a delta, where that is cheaper than the file. Decides nothing else.

Whatever goes wrong with a delta, the whole file is fetched instead: a delta can save, and never cost, an update.
"""

import asyncio
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from outrider_edge.updates.record import OTHER
from outrider_edge.updates.room import check_room
from outrider_edge.updates.slots import SlotFolder
from outrider_engine.delta.apply import apply_delta
from outrider_link.files import make_folder, move_durably
from outrider_wire.errors import BundleError, OperatorSetupError, PeerError
from outrider_wire.manifest import MANIFEST_FILE, BundleFile, decode_manifest

log = logging.getLogger(__name__)

LEAST_BYTES = 16 * 1024
"""Smaller files are fetched whole: asking takes as long."""
MOST_BASES = 4


@runtime_checkable
class DeltaSource(Protocol):
    """A source of releases that has deltas too. Real: `outrider_edge.uplink.uplink.Uplink`, `outrider_edge.updates.folder.FolderSource`."""

    async def pull_delta(self, *, sha256: str, size: int, bases: Sequence[str], to: Path) -> str | None:
        """Brings a delta into the file ``to`` that makes the file ``sha256``, of ``size`` bytes, of one of ``bases``.

        Returns:
            Which of them; None: there is none that is worth it.

        Raises:
            UnreachableError: nobody answers now.
            PeerError: whoever answers has it no more.
            BundleDamagedError: what came is not what was told.
        """
        ...


async def fetch_by_delta(*, entry: BundleFile, staging: Path, folder: SlotFolder, source: DeltaSource) -> bool:
    """Whether ``entry`` is now in ``staging``, verified and durable, by way of a delta.

    Raises:
        UnreachableError: nobody answers now; it can be tried again.
    """
    if entry.size < LEAST_BYTES:
        return False
    bases = await asyncio.to_thread(_bases, folder, entry)
    if not bases:
        return False
    room = folder.folder / "deltas"  # beside the staging folder: there, a file that a kill leaves would be one too many
    try:
        await asyncio.to_thread(
            check_room, folder.folder, 2 * entry.size
        )  # the delta, smaller than the file, and the file
        await asyncio.to_thread(make_folder, room)
        delta = room / f"{entry.sha256[:16]}.delta"
        base = await source.pull_delta(sha256=entry.sha256, size=entry.size, bases=list(bases), to=delta)
        if base is None or base not in bases:
            return False
        await asyncio.to_thread(check_room, folder.folder, entry.size)
        await asyncio.to_thread(_rebuild, bases[base], delta, room / "rebuilt", staging / entry.path, entry)
    except (BundleError, PeerError, OperatorSetupError, OSError) as error:
        log.warning("update.delta_failed", extra={"file": entry.path, "what": str(error)})
        return False
    finally:
        await asyncio.to_thread(shutil.rmtree, room, ignore_errors=True)
    log.info("update.delta_applied", extra={"file": entry.path, "base": base, "size": entry.size})
    return True


def _rebuild(base: Path, delta: Path, rebuilt: Path, target: Path, entry: BundleFile) -> None:
    apply_delta(base, delta, to=rebuilt, sha256=entry.sha256, size=entry.size)
    move_durably(rebuilt, target)


def _bases(folder: SlotFolder, entry: BundleFile) -> dict[str, Path]:
    """Files of the slots that ``entry`` may resemble, by digest: those of its name first, then others of its role."""
    named: dict[str, Path] = {}
    alike: dict[str, Path] = {}
    for slot in OTHER:
        root = folder.path(slot)
        try:
            files = decode_manifest((root / MANIFEST_FILE).read_bytes()).files
        except (OSError, BundleError):
            continue
        for file in files:
            if file.role == entry.role:
                (named if file.path == entry.path else alike)[file.sha256] = root / file.path
    return dict(list((named | {each: alike[each] for each in alike if each not in named}).items())[:MOST_BASES])
