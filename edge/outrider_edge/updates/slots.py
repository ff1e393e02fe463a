"""The two slots of a task on the disk: bundles, the pointer, the record. Every change survives a power cut. Decides nothing.

::

    <folder>/a, b          bundles, each whole or absent
    <folder>/active        the pointer: one letter, written last
    <folder>/state.json    the record
    <folder>/incoming/     what is being fetched; a folder a release
"""

import dataclasses
import logging
import shutil
from pathlib import Path

import msgspec

from outrider_edge.updates.record import OTHER, Record, Slot
from outrider_engine.bundle import Bundle, open_bundle
from outrider_link.files import fsync_dir, fsync_file, sha256_file, write_durably
from outrider_wire.errors import BundleError, BundleMismatchError
from outrider_wire.manifest import MANIFEST_FILE, BundleFile, Manifest
from outrider_wire.task import Task

log = logging.getLogger(__name__)

_RECORD = msgspec.json.Decoder(Record)


class SlotFolder:
    """One task's slots under ``folder``. Everything here blocks."""

    def __init__(self, *, folder: Path, task: Task) -> None:
        self.folder = folder
        self.task = task

    def path(self, slot: Slot) -> Path:
        """Where that slot's bundle lies."""
        return self.folder / slot

    def pointer(self) -> Slot | None:
        """The slot that the pointer file names; None when there is none, or it is damaged."""
        try:
            text = (self.folder / "active").read_text("ascii")
        except (OSError, UnicodeDecodeError):
            return None
        return "a" if text == "a" else "b" if text == "b" else None

    def point(self, slot: Slot) -> None:
        """Makes that slot the active one."""
        write_durably(self.folder / "active", slot.encode())

    def record(self) -> Record | None:
        """The record; None when there is none, or it is damaged."""
        path = self.folder / "state.json"
        try:
            return _RECORD.decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.error("slots.record_damaged", extra={"path": str(path), "what": str(error)})
            return None

    def save(self, record: Record) -> None:
        """Replaces the record."""
        write_durably(self.folder / "state.json", msgspec.json.format(msgspec.json.encode(record), indent=1))

    def open(self, slot: Slot, digest: str = "") -> Bundle:
        """The verified bundle in a slot, as `open_fitting`; when a ``digest`` is given, that release and no other."""
        bundle = open_fitting(self.path(slot), self.task)
        if digest and bundle.digest != digest:
            raise BundleMismatchError(
                f"slot {slot} holds {bundle.digest[:12]}…, and {digest[:12]}… was put there", reason="slot_edited"
            )
        return bundle

    def holding(self, digest: str, slot: Slot) -> Bundle | None:
        """The release in that slot, when it is whole and this one."""
        try:
            return self.open(slot, digest)
        except BundleError:
            return None

    def install(self, source: Path, slot: Slot) -> Bundle:
        """Copies a bundle from elsewhere on this machine into an inactive slot; errors as `open_fitting`."""
        bundle = open_fitting(source, self.task)
        staging = self.staging(bundle.digest)
        here = (entry.path for entry in bundle.manifest.files if (bundle.root / entry.path).exists())
        for name in (MANIFEST_FILE, *here):
            _copy(bundle.root / name, staging / name)
        return self.place(bundle.digest, slot)

    def staging(self, digest: str) -> Path:
        """The folder that release is gathered in; what was gathered of any other is thrown away."""
        incoming = self.folder / "incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        for other in incoming.iterdir():
            if other.name != digest:
                shutil.rmtree(other, ignore_errors=True)
        staging = incoming / digest
        staging.mkdir(exist_ok=True)
        return staging

    def copy_known(self, entry: BundleFile, staging: Path) -> bool:
        """Takes a file of a release from the staging folder itself or from a slot; False when neither has it."""
        target = staging / entry.path
        if target.is_file() and sha256_file(target) == entry.sha256:
            return True
        for slot in OTHER:
            for path in self.path(slot).glob("*"):
                if path.is_file() and path.stat().st_size == entry.size and sha256_file(path) == entry.sha256:
                    _copy(path, target)
                    return True
        return False

    def rename(self, source: Path, target: Path) -> None:
        """Moves a whole folder within this one."""
        source.rename(target)
        fsync_dir(self.folder)

    def place(self, digest: str, slot: Slot) -> Bundle:
        """Moves a gathered release into an inactive slot, when it is whole and fits.

        Raises:
            BundleError: it is not; what was gathered is thrown away.
        """
        staging, target, old = self.staging(digest), self.path(slot), self.folder / "old"
        try:
            bundle = open_fitting(staging, self.task)
            if bundle.digest != digest:
                raise BundleMismatchError("it is another release than the one offered", reason="wrong_release")
        except BundleError:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        fsync_dir(staging)
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            self.rename(target, old)
        self.rename(staging, target)
        shutil.rmtree(old, ignore_errors=True)
        return dataclasses.replace(bundle, root=target.resolve())


def open_fitting(path: Path, task: Task) -> Bundle:
    """A verified bundle that answers this task.

    Raises:
        BundleError: it is damaged, unsafe, or for another task or other labels.
    """
    bundle = open_bundle(path)
    check_fitting(bundle.manifest, task)
    return bundle


def check_fitting(manifest: Manifest, task: Task) -> None:
    """Whether a bundle answers this task, by its manifest alone: before the first of its files is fetched.

    Raises:
        BundleMismatchError: it is for another task or other labels.
    """
    if manifest.task != task.name:
        raise BundleMismatchError(
            f"the bundle is for task {manifest.task!r}, not {task.name!r}", reason="wrong_task", fix="assign another"
        )
    if manifest.labels != task.labels:
        raise BundleMismatchError(
            f"the bundle's labels are not those of task {task.name!r}, in their order", reason="wrong_labels"
        )


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    fsync_file(target)
