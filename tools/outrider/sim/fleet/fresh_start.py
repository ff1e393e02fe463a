"""What a start would find on a device's disk at this moment, found by the start's own code, and nothing changed by it."""

from collections.abc import Callable
from pathlib import Path

from outrider_edge.updates.record import Record, Slot
from outrider_edge.updates.slots import SlotFolder
from outrider_edge.updates.starting import settle_together, start_slots
from outrider_engine.bundle import Bundle
from outrider_engine.model import Model
from outrider_wire.errors import BundleError, OutriderError
from outrider_wire.task import Task

_NOWHERE = Path("/nowhere")


class Glimpse(SlotFolder):
    """Slots that are read from the disk, and whose changes are kept in memory."""

    def __init__(self, *, folder: Path, task: Task) -> None:
        super().__init__(folder=folder, task=task)
        self._saved: Record | None = None
        self._pointed: Slot | None = None

    def pointer(self) -> Slot | None:
        """As a start that had written it would read it."""
        return self._pointed or super().pointer()

    def point(self, slot: Slot) -> None:
        """Writes nothing."""
        self._pointed = slot

    def record(self) -> Record | None:
        """As `pointer`."""
        return self._saved or super().record()

    def save(self, record: Record) -> None:
        """Writes nothing."""
        self._saved = record

    def install(self, source: Path, slot: Slot) -> Bundle:
        """The configured bundle counts for nothing: a model must be in a slot."""
        raise BundleError(f"slot {slot} would need the bundle that the device was made with", reason="no_model")


def trouble(folder: Path, task: Task, load: Callable[[Bundle], Model]) -> str:
    """Why a start would find no model in the slots under ``folder``; '' when it finds one."""
    glimpse = Glimpse(folder=folder, task=task)
    try:
        settle_together({task.name: glimpse})
        start_slots(folder=glimpse, factory=_NOWHERE, load=load)
    except (OutriderError, OSError) as error:
        return str(error)
    return ""
