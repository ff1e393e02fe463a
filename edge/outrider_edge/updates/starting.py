"""Which model a device starts with: the active slot's, or, when that cannot be used, whatever still works. Knows no network."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from outrider_edge.updates.rules import OTHER, Booted, Effect, FellBack, Record, RolledBack, Slot, Tripped, step
from outrider_edge.updates.slots import SlotFolder, open_fitting
from outrider_engine.bundle import Bundle
from outrider_engine.model import Model
from outrider_link.files import make_folder
from outrider_wire.errors import BundleError
from outrider_wire.manifest import MANIFEST_FILE, manifest_digest

log = logging.getLogger(__name__)

Load = Callable[[Bundle], Model]
"""Loads a verified bundle's model, warm. Raises `BundleError`."""


@dataclass(frozen=True, kw_only=True)
class SlotStart:
    """A task's slots, ready: ``model`` is loaded from the record's slot, and ``pending`` is what an update still has to do."""

    folder: SlotFolder
    record: Record
    model: Model
    pending: tuple[Effect, ...] = ()


def start_slots(*, folder: SlotFolder, factory: Path, load: Load) -> SlotStart:
    """Opens a task's slots and loads its model. Blocks.

    Args:
        folder: the slots, empty on a device's first day.
        factory: the configured bundle. It is installed when there is nothing else, and when it is another than last time.
        load: how a bundle becomes a model here.

    Raises:
        BundleError: neither a slot nor the configured bundle holds a model that can be used.
    """
    make_folder(folder.folder)
    record = _wish_of_operator(folder, factory, _found(folder))
    if record is None:
        return _from_factory(folder, factory, load, "a", None)
    before = record
    record, effects = step(record, Booted(folder.pointer() or record.slot))
    if record != before or folder.record() is None:
        folder.save(record)  # before the load: a model that takes the process with it has then been counted
    try:
        model = load(folder.open(record.slot))
    except BundleError as error:
        log.error("slots.unusable", extra={"task": folder.task.name, "slot": record.slot, "what": str(error)})
        return _without_active(folder, factory, load, record, error)
    if "point" in effects:
        folder.point(record.slot)
    if record.state == "rollback":
        record, effects = step(record, RolledBack())
        folder.save(record)
    pending = tuple(effect for effect in effects if effect not in ("point", "restore"))
    return SlotStart(folder=folder, record=record, model=model, pending=pending)


def _found(folder: SlotFolder) -> Record | None:
    """The record; when it is gone, one of what the pointer names."""
    if (record := folder.record()) is not None or (slot := folder.pointer()) is None:
        return record
    try:
        bundle = folder.open(slot)
    except BundleError as error:
        log.error("slots.unusable", extra={"task": folder.task.name, "slot": slot, "what": str(error)})
        return None
    return Record(slot=slot, running=bundle.digest, version=bundle.manifest.version, reason="the record was lost")


def _wish_of_operator(folder: SlotFolder, factory: Path, record: Record | None) -> Record | None:
    """A configured bundle that was not configured last time is installed now; its own refusal in the past is forgotten."""
    if record is None or (digest := _digest_of(factory)) in ("", record.factory):
        return record
    if digest == record.running or not record.factory:
        return replace(record, factory=digest)
    try:
        bundle = open_fitting(factory, folder.task)
    except BundleError as error:
        log.error("slots.factory_unusable", extra={"task": folder.task.name, "what": str(error)})
        return record
    slot = OTHER[record.slot]
    folder.install(factory, slot)
    installed = _of_factory(bundle, slot, record)
    folder.save(installed)
    folder.point(slot)
    return installed


def _digest_of(factory: Path) -> str:
    try:
        return manifest_digest((factory / MANIFEST_FILE).read_bytes())
    except OSError:
        return ""


def _from_factory(folder: SlotFolder, factory: Path, load: Load, slot: Slot, record: Record | None) -> SlotStart:
    bundle = folder.install(factory, slot)
    model = load(bundle)
    installed = _of_factory(bundle, slot, record)
    folder.save(installed)
    folder.point(slot)
    return SlotStart(folder=folder, record=installed, model=model)


def _of_factory(bundle: Bundle, slot: Slot, before: Record | None) -> Record:
    return Record(
        slot=slot,
        running=bundle.digest,
        version=bundle.manifest.version,
        factory=bundle.digest,
        counter=before.counter if before else 0,
        refused=[digest for digest in before.refused if digest != bundle.digest] if before else [],
    )


def _without_active(folder: SlotFolder, factory: Path, load: Load, record: Record, error: BundleError) -> SlotStart:
    """The active slot cannot be used: roll back, or take the other slot, or the configured bundle."""
    other = OTHER[record.slot]
    try:
        bundle = folder.open(other)
        if record.state in ("testing", "armed") or bundle.digest in record.refused:
            raise error  # what the other slot holds has not been tried, or has failed
        model = load(bundle)
    except BundleError:
        return _from_factory(folder, factory, load, other, record)
    reason = f"slot {record.slot} cannot be used: {error.what}"
    if record.state == "probation":
        record, _ = step(record, Tripped(reason))
        record, _ = step(record, RolledBack())
    else:
        version = bundle.manifest.version
        record, _ = step(record, FellBack(slot=other, running=bundle.digest, version=version, reason=reason))
    folder.save(record)
    folder.point(record.slot)
    return SlotStart(folder=folder, record=record, model=model)
