"""The stated way out when a device's metadata is damaged: damaged files go aside, the versions that were seen stay.

What cannot be known any more (floor and files both damaged) is not guessed: then the folder must be removed by a person, who thereby
decides to begin again from the shipped root.
"""

from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root  # type: ignore[attr-defined]

from outrider_link.files import fsync_dir
from outrider_trust.durable import DurableUpdater, Kept, read_mark
from outrider_trust.floor import FLOOR_FILE, Floor, Mark
from outrider_wire.errors import TrustDamagedError

ASIDE = ".damaged"
KEPT: tuple[Kept, ...] = ("timestamp", "snapshot")


def mend_floor(folder: Path, shipped_root: bytes) -> list[str]:
    """Makes a floor that is damaged or gone anew, from files that are whole; what was put aside.

    Raises:
        TrustDamagedError: ``metadata_lost``: the files are damaged too.
    """
    path = folder / FLOOR_FILE
    try:
        if Floor.open(path) or not any((folder / f"{role}.json").exists() for role in KEPT):
            return []
    except TrustDamagedError:
        pass
    root = _newest_root(folder, shipped_root)
    marks: dict[Kept, Mark] = {}
    for role in KEPT:
        at = folder / f"{role}.json"
        mark = _mark(root, role, at)
        if mark is None:
            raise TrustDamagedError(
                f"neither {path} nor {at} can be used, so that the versions that were seen are lost",
                reason="metadata_lost",
                fix=f"remove {folder} by hand if this device may begin again from the root it was shipped with",
            )
        marks[role] = mark
    gone = [_aside(path)] if path.exists() else []
    floor = Floor.begin(path, root=root.version)
    for role, mark in marks.items():
        floor.mark(role, mark)
    return [*gone, f"{FLOOR_FILE} made anew"]


def mend_files(updater: DurableUpdater, folder: Path) -> list[str]:
    """Puts damaged files aside, and keeps what the floor knows of them; what was put aside."""
    gone: list[str] = []
    for version in range(1, updater.floor.highest.root + 1):
        at = folder / "root_history" / f"{version}.root.json"
        if at.exists() and not _sound(at):
            gone.append(_aside(at))
    for role in KEPT:
        if updater.damage(role):
            at = folder / f"{role}.json"
            if at.exists():
                gone.append(_aside(at))
            updater.floor.set_aside(role)
            gone.append(f"{role}: only a version that is not older will be taken")
    return gone


def _mark(root: Root, role: Kept, at: Path) -> Mark | None:
    try:
        return read_mark(root, role, at.read_bytes(), at)
    except (OSError, TrustDamagedError):
        return None


def _newest_root(folder: Path, shipped_root: bytes) -> Root:
    root: Root = Metadata[Root].from_bytes(shipped_root).signed
    while (at := folder / "root_history" / f"{root.version + 1}.root.json").exists():
        try:
            metadata = Metadata[Root].from_bytes(at.read_bytes())
            root.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
            metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
        except (OSError, RepositoryError):
            break
        root = metadata.signed
    return root


def _sound(path: Path) -> bool:
    try:
        Metadata.from_bytes(path.read_bytes())
    except (OSError, RepositoryError):
        return False
    return True


def _aside(path: Path) -> str:
    path.replace(path.with_name(path.name + ASIDE))
    fsync_dir(path.parent)
    return f"{path.name} put aside"
