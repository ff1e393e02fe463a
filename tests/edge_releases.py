"""Releases without a network, one device's slots over a real model, and a disk whose power goes out."""

import errno
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from factory import make_bundle, make_task
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.updates.device import DeviceTerms, Held, Updater
from outrider_edge.updates.events import Assigned
from outrider_edge.updates.judging import LocalFacts
from outrider_edge.updates.ledger import LedgerFile
from outrider_edge.updates.record import Record, Slot
from outrider_edge.updates.reporting import Reporter, report_key
from outrider_edge.updates.slots import SlotFolder
from outrider_edge.updates.starting import SlotStart, start_slots
from outrider_edge.updates.updater import TaskUpdater, UpdateTerms
from outrider_engine.bundle import Bundle
from outrider_engine.model import Model, load_model
from outrider_engine.selftest import SelfTestReport
from outrider_link.files import write_durably
from outrider_wire.errors import BundleDamagedError, PeerError, UnreachableError
from outrider_wire.manifest import MANIFEST_FILE, manifest_digest
from outrider_wire.messages import SlotReport

TASK = make_task()
DEVICE = "cam-1"
PATIENT = UpdateTerms(probation_answers=3, probation_least_s=0.0, probation_s=60.0, retry_s=0.01, ask_s=0.01)


def load(bundle: Bundle) -> Model:
    """As the agent does."""
    return load_model(bundle, bounds=TASK.inputs)


class ShelfSource:
    """`outrider_edge.updates.fetching.ReleaseSource` from memory; ``away`` times unreachable first."""

    def __init__(self, *bundles: Path) -> None:
        self.blobs: dict[str, bytes] = {}
        self.pulled: Counter[str] = Counter()
        self.away = 0
        for bundle in bundles:
            self.add(bundle)

    def add(self, bundle: Path) -> None:
        """Offers a bundle's files."""
        for path in bundle.iterdir():
            self.blobs[hashlib.sha256(path.read_bytes()).hexdigest()] = path.read_bytes()

    async def pull_manifest(self, *, sha256: str, size: int) -> bytes:
        """The bytes."""
        self.pulled[sha256] += 1
        if self.away:
            self.away -= 1
            raise UnreachableError("nobody answers", reason="blob_timed_out")
        if (data := self.blobs.get(sha256)) is None:
            raise PeerError("it is not here", reason="blob_gone")
        if hashlib.sha256(data).hexdigest() != sha256 or len(data) != size:
            raise BundleDamagedError("what came has another digest", reason="digest_mismatch")
        return data

    async def pull_file(self, *, sha256: str, size: int, to: Path) -> Path:
        """The file."""
        write_durably(to, await self.pull_manifest(sha256=sha256, size=size))
        return to


class PowerCut(BaseException):
    """Nothing is written after this."""


class CutFolder(SlotFolder):
    """Slots on a machine whose power goes before change number ``cut``."""

    def __init__(self, *, folder: Path, cut: int) -> None:
        super().__init__(folder=folder, task=TASK)
        self.left = cut

    @property
    def dead(self) -> bool:
        """Whether the power is gone."""
        return self.left < 0

    def _change(self) -> None:
        self.left -= 1
        if self.dead:
            raise PowerCut

    def point(self, slot: Slot) -> None:
        self._change()
        super().point(slot)

    def save(self, record: Record) -> None:
        self._change()
        super().save(record)

    def staging(self, digest: str) -> Path:
        self._change()
        return super().staging(digest)

    def rename(self, source: Path, target: Path) -> None:
        self._change()
        super().rename(source, target)


class Device:
    """One device's slots, started as often as a test likes over the same folder."""

    def __init__(self, folder: Path, source: ShelfSource | None = None) -> None:
        self.folder = folder
        self.factory = folder / "factory"
        if not self.factory.exists():
            make_bundle(self.factory, TASK)
        self.source = source or ShelfSource()
        self.told: list[SlotReport] = []
        self.tests = 0
        self.test_report: SelfTestReport | None = None

    def slots(self, cut: int | None = None) -> SlotFolder:
        """Its folder."""
        folder = self.folder / "slots" / TASK.name
        return SlotFolder(folder=folder, task=TASK) if cut is None else CutFolder(folder=folder, cut=cut)

    def boot(self, cut: int | None = None, machine: str = "") -> SlotStart:
        """What a start finds; ``machine``: in which boot of it."""
        return start_slots(folder=self.slots(cut), factory=self.factory, load=load, boot=machine)

    def run(
        self, *, cut: int | None = None, terms: UpdateTerms = PATIENT, machine: str = "", **kwargs: Any
    ) -> TaskUpdater:
        """Starts it."""
        start = self.boot(cut, machine)
        self.folder_in_use = start.folder
        self.runtime = TaskRuntime(task=TASK, model=start.model)
        updater = TaskUpdater(
            start=start,
            runtime=self.runtime,
            source=self.source,
            load=load,
            changed=lambda: self.told.append(updater.report()),
            terms=terms,
            **{"selftest": self._selftest, **kwargs},
        )
        updater.start()
        return updater

    def wish(self, bundle: Path, counter: int = 1) -> Assigned:
        """An assignment of it."""
        data = (bundle / MANIFEST_FILE).read_bytes()
        return Assigned(release=manifest_digest(data), size=len(data), counter=counter)

    def _selftest(self, _: Path) -> SelfTestReport:
        """Without a child, where the child is not what is tested."""
        self.tests += 1
        return self.test_report or SelfTestReport(ok=True)


def whole_updater(
    folder: Path, tasks: Sequence[TaskUpdater], *, changed: Callable[[], None] = lambda: None, **more: Any
) -> Updater:
    """The updater of a device whose tasks these are; nothing is signed unless ``judge`` says so."""
    ledger = more.pop("ledger", None) or LedgerFile(folder / "updates")
    terms = more.pop("terms", None) or DeviceTerms(unsigned=True, local=LocalFacts(device=DEVICE))
    return Updater(
        tasks=tasks,
        ledger=ledger,
        held=more.pop("held", None) or Held(ledger=ledger, terms=terms),
        terms=terms,
        reporter=Reporter(device=DEVICE, ledger=ledger, key=lambda: report_key(folder / "updates", None)),
        changed=changed,
        **more,
    )


class FullFolder(SlotFolder):
    """Slots on a disk that is full for the ``full``-th change and the two after it."""

    def __init__(self, *, folder: Path, full: int) -> None:
        super().__init__(folder=folder, task=TASK)
        self.changes = 0
        self._full = full

    def _change(self) -> None:
        self.changes += 1
        if self._full <= self.changes < self._full + 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    def point(self, slot: Slot) -> None:
        self._change()
        super().point(slot)

    def save(self, record: Record) -> None:
        self._change()
        super().save(record)

    def staging(self, digest: str) -> Path:
        self._change()
        return super().staging(digest)

    def rename(self, source: Path, target: Path) -> None:
        self._change()
        super().rename(source, target)
