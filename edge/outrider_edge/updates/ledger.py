"""What a device must never forget of updates: numbers that only rise, the stop, the pin, what ended. Two copies; decides nothing.

Each change is written to both copies, one after the other, each as `outrider_link.files.write_durably`: a power cut leaves at least
one whole. When neither can be read (rot, or a hand) the device does not begin anew as if nothing had been: it updates nothing until a
person removes the folder, and goes on answering.
"""

import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from outrider_link.files import make_folder, write_durably
from outrider_wire.decodable import decodable
from outrider_wire.messages import Ended

log = logging.getLogger(__name__)

MAX_ENDS = 32
MAX_RAN = 8
_COPIES = ("ledger.json", "ledger.copy.json")


class Halt(Struct, kw_only=True, frozen=True):
    """The newest stop that was heeded."""

    number: int = 0
    standing: bool = False
    """It is not lifted."""
    rollouts: list[str] = []
    """Those that are stopped; none named: all."""
    reason: str = ""

    def holds(self, rollout: str) -> bool:
        """Whether it stops that rollout."""
        return self.standing and (not self.rollouts or rollout in self.rollouts)


DAY_MS = 86_400_000
CLOCK_SET_MS = 1_735_689_600_000
"""2025-01-01: a clock before that was never set."""


def kept_number(number: int, now_ms: int) -> int:
    """What is kept of a stop's number, which is a time in milliseconds: no more than a day ahead.

    Else one stop with the highest number of all, by whoever had the control key for a moment, could never be lifted.
    """
    return number if now_ms < CLOCK_SET_MS else min(number, now_ms + DAY_MS)


class TaskLedger(Struct, kw_only=True, frozen=True):
    """Of one task, beside its record: should that be lost, this is not."""

    floor: int = 0
    """The highest release counter that was committed."""
    floor_release: str = ""
    refused: list[str] = []
    ran: list[str] = []
    """The newest releases that were committed here: what a slot may hold when its record is lost."""


class Ledger(Struct, kw_only=True, frozen=True):
    """All of it."""

    writes: int = 0
    """Of two whole copies, the newer one has more."""
    order: int = 0
    """The highest number of an order that was heeded."""
    order_sha256: str = ""
    """Of that order's bytes: another order of the same number is no repeat."""
    halt: Halt = Halt()
    pinned: bool = False
    pin_reason: str = ""
    sequence: int = 0
    """Of the last report."""
    ended: int = 0
    """How many orders have ended here."""
    ends: list[Ended] = []
    attack: str = ""
    tasks: dict[str, TaskLedger] = {}
    damaged: bool = False
    """Neither copy could be read: nothing is updated."""


class LedgerFile:
    """The ledger on the disk, and in memory. Everything that changes it blocks.

    Args:
        folder: its own; made when first something is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self.now = self._read()

    def keep(self, change: Callable[[Ledger], Ledger]) -> Ledger:
        """Makes one change, durably when it returns; the new ledger. From any thread, one after the other.

        Raises:
            OSError: the disk is full or not writable; nothing has changed.
        """
        with self._lock:
            if self.now.damaged or (changed := change(self.now)) == self.now:
                return self.now
            ledger = replace(changed, writes=self.now.writes + 1)
            data = _sealed(ledger)
            if not self.folder.is_dir():
                make_folder(self.folder)
            for name in _COPIES:
                write_durably(self.folder / name, data)
            self.now = ledger
            return ledger

    def task(self, name: str) -> TaskLedger:
        """What is kept of a task."""
        return self.now.tasks.get(name, TaskLedger())

    def keep_task(self, name: str, entry: TaskLedger) -> None:
        """Replaces that; as `keep`."""
        self.keep(lambda now: replace(now, tasks={**now.tasks, name: entry}))

    def _read(self) -> Ledger:
        found, broken = [], 0
        for name in _COPIES:
            try:
                found.append(_opened((self.folder / name).read_bytes()))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                broken += 1
                log.error("updates.ledger_copy_damaged", extra={"path": str(self.folder / name), "what": str(error)})
        if found:
            return max(found, key=lambda ledger: ledger.writes)
        return Ledger(damaged=broken > 0)


def _sealed(ledger: Ledger) -> bytes:
    body = msgspec.json.encode(ledger)
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _opened(data: bytes) -> Ledger:
    """Raises `ValueError`: it is not what was written."""
    digest, _, body = data.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("its digest is another")
    return msgspec.json.decode(body, type=decodable(Ledger))
