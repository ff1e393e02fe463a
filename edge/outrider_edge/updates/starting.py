"""Which model a device starts with: the active slot's, or, when that cannot be used, whatever still works. Knows no network."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from outrider_edge.updates.events import Booted, FellBack, RolledBack, Tripped
from outrider_edge.updates.ledger import TaskLedger
from outrider_edge.updates.moves import Effect
from outrider_edge.updates.record import OTHER, Record, Slot
from outrider_edge.updates.rules import step
from outrider_edge.updates.slots import SlotFolder, open_fitting
from outrider_edge.updates.together import due, in_use
from outrider_engine.bundle import Bundle
from outrider_engine.model import Model
from outrider_link.files import make_folder
from outrider_wire.errors import BundleError
from outrider_wire.manifest import MANIFEST_FILE, manifest_digest

log = logging.getLogger(__name__)

T = TypeVar("T")

Load = Callable[[Bundle], Model]
"""Loads a verified bundle's model, warm. Raises `BundleError`."""


@dataclass(frozen=True, kw_only=True)
class SlotsFound:
    """A task's slots as they were found, and ``pending``: what an update still has to do."""

    folder: SlotFolder
    factory: Path
    """The configured bundle."""
    record: Record
    pending: tuple[Effect, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SlotStart(SlotsFound):
    """The same, ready: ``model`` is loaded from the record's slot."""

    model: Model

    def without_model(self) -> SlotsFound:
        """For whoever lives longer than the model: what has been replaced must not stay in memory."""
        return SlotsFound(folder=self.folder, factory=self.factory, record=self.record, pending=self.pending)


def settle_together(folders: Mapping[str, SlotFolder]) -> None:
    """Before any task is started: where the power went while tasks of one order changed, the rest change too, or all go back.

    So that no input is answered by half of an order.
    """
    records = {task: record for task, folder in folders.items() if (record := folder.record()) is not None}
    while events := due(records, {task for task in records if in_use(task, records)}):
        for task, event in events.items():
            record, _ = step(records[task], event)
            _written(folders[task].save, record)
            records[task] = record


def start_slots(
    *, folder: SlotFolder, factory: Path, load: Load, kept: TaskLedger | None = None, boot: str = ""
) -> SlotStart:
    """Opens a task's slots and loads its model. Blocks.

    Args:
        folder: the slots, empty on a device's first day.
        factory: the configured bundle. It is installed when there is nothing else, and when it is another than last time.
        load: how a bundle becomes a model here.
        kept: what is known of the task beside its record, should that be lost.
        boot: the machine's boot id; '' where it has none.

    Raises:
        BundleError: neither a slot nor the configured bundle holds a model that can be used.
    """
    make_folder(folder.folder)
    record = _wish_of_operator(folder, factory, _found(folder, kept))
    if record is None:
        return _from_factory(folder, factory, load, "a", _restored(Record(running="", boot=boot), kept))
    before = record
    record, effects = step(record, Booted(folder.pointer() or record.slot, boot))
    if record != before or folder.record() is None:
        _written(folder.save, record)  # before the load: a model that takes the process with it has then been counted
    try:
        model = load(folder.open(record.slot, record.running))
    except BundleError as error:
        log.error("slots.unusable", extra={"task": folder.task.name, "slot": record.slot, "what": str(error)})
        return _without_active(folder, factory, load, record, error)
    if "point" in effects:
        _written(folder.point, record.slot)
    if record.state == "rollback":
        record, effects = step(record, RolledBack())
        _written(folder.save, record)
    pending = tuple(effect for effect in effects if effect not in ("cancel", "point", "restore"))
    return SlotStart(folder=folder, factory=factory, record=record, model=model, pending=pending)


def _written(write: Callable[[T], None], what: T) -> None:
    """Writes, if the disk permits: a device whose disk is full starts all the same, with the model that it has."""
    try:
        write(what)
    except OSError as error:
        log.error("slots.unwritable", extra={"what": str(error)})


def _found(folder: SlotFolder, kept: TaskLedger | None) -> Record | None:
    """The record; when it is gone, one of what the pointer names, or of the other slot: of a release that has run here."""
    record, pointer = folder.record(), folder.pointer()
    if record is not None or pointer is None:
        return record
    for slot in (pointer, OTHER[pointer]):
        try:
            bundle = folder.open(slot)
        except BundleError as error:
            log.error("slots.unusable", extra={"task": folder.task.name, "slot": slot, "what": str(error)})
            continue
        if kept is None or not kept.ran or bundle.digest in kept.ran:
            lost = Record(slot=slot, running=bundle.digest, version=bundle.manifest.version, code="record_lost")
            return _restored(replace(lost, reason="the record was lost"), kept)
    return None


def _restored(record: Record, kept: TaskLedger | None) -> Record:
    return replace(record, floor=kept.floor, refused=list(kept.refused)) if kept else record


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
    try:
        folder.install(factory, slot)
    except OSError as error:  # what runs goes on; the next start tries again
        log.error("slots.unwritable", extra={"task": folder.task.name, "what": str(error)})
        return record
    installed = _of_factory(bundle, slot, record)
    _written(folder.save, installed)
    _written(folder.point, slot)
    return installed


def _digest_of(factory: Path) -> str:
    try:
        return manifest_digest((factory / MANIFEST_FILE).read_bytes())
    except OSError:
        return ""


def _from_factory(folder: SlotFolder, factory: Path, load: Load, slot: Slot, record: Record) -> SlotStart:
    try:
        bundle = folder.install(factory, slot)
    except OSError as error:  # it answers from where it lies
        log.error("slots.unwritable", extra={"task": folder.task.name, "what": str(error)})
        bundle = open_fitting(factory, folder.task)
    model = load(bundle)
    installed = _of_factory(bundle, slot, record)
    _written(folder.save, installed)
    _written(folder.point, slot)
    return SlotStart(folder=folder, factory=factory, record=installed, model=model)


def _of_factory(bundle: Bundle, slot: Slot, before: Record) -> Record:
    return Record(
        slot=slot,
        running=bundle.digest,
        version=bundle.manifest.version,
        factory=bundle.digest,
        boot=before.boot,
        counter=before.counter,
        order=before.order,
        floor=before.floor,
        refused=[digest for digest in before.refused if digest != bundle.digest],
    )


def _without_active(folder: SlotFolder, factory: Path, load: Load, record: Record, error: BundleError) -> SlotStart:
    """The active slot cannot be used: roll back, or take the other slot if what it holds has run here, or the configured bundle."""
    other = OTHER[record.slot]
    try:
        if not record.previous:
            raise error  # what the other slot holds has not been tried, or has failed
        bundle = folder.open(other, record.previous)
        model = load(bundle)
    except BundleError:
        if record.state == "rollback":
            record, _ = step(record, RolledBack())  # what had failed is refused, whatever takes its place
        return _from_factory(folder, factory, load, other, record)
    reason = f"slot {record.slot} cannot be used: {error.what}"
    if record.state == "probation":
        record, _ = step(record, Tripped(reason, "slot_unusable"))
        record, _ = step(record, RolledBack())
    else:
        version = bundle.manifest.version
        record, _ = step(record, FellBack(slot=other, running=bundle.digest, version=version, reason=reason))
    _written(folder.save, record)
    _written(folder.point, record.slot)
    return SlotStart(folder=folder, factory=factory, record=record, model=model)
