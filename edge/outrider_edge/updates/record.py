"""What one task's slots hold and where its update stands: ``state.json``. Data only."""

from typing import Literal

from msgspec import Struct

from outrider_wire.messages import Outcome, SlotState
from outrider_wire.rollout import WeeklyWindow

Slot = Literal["a", "b"]
OTHER: dict[Slot, Slot] = {"a": "b", "b": "a"}
MAX_REFUSED = 64
"""As many refused digests as a report carries; the oldest is forgotten first."""

SETTLED: tuple[SlotState, ...] = ("idle", "committed", "refused")
"""Nothing is under way."""
UNTRIED: tuple[SlotState, ...] = ("offered", "fetching", "staged", "testing", "armed")
"""A release is on its way, and nothing of it has answered an input."""


class Times(Struct, kw_only=True, frozen=True):
    """When an order may be carried out, UTC in milliseconds."""

    begin_ms: int = 0
    expires_ms: int = 2**53
    freeze: list[WeeklyWindow] = []
    """When nothing of it begins."""


class Record(Struct, kw_only=True, frozen=True):
    """The record of one task. The pointer file says which slot is active."""

    state: SlotState = "idle"
    slot: Slot = "a"
    """The active slot, once the pointer agrees; in probation the new one."""
    running: str
    """Digest of the release in ``slot``."""
    version: str = ""
    release_counter: int = 0
    """The running release's own, given by its signer; 0: it has none."""
    factory: str = ""
    """Digest of the configured bundle when it was installed: another one is the operator's wish."""
    boot: str = ""
    """The machine's boot at the last start of the process; '' where the system names none."""
    floor: int = 0
    """The highest release counter that was ever committed here."""

    offered: str = ""
    """The release this state is about; '' when there is none."""
    offered_version: str = ""
    offered_counter: int = 0
    back: bool = False
    """It may be older than what ran here: a signed plan permits to return to it."""
    times: Times | None = None
    """When it may begin; None: at any time."""
    size: int = 0
    """Bytes of the offered release's manifest."""
    counter: int = 0
    """Of the newest unsigned assignment heeded."""
    order: int = 0
    """Number of the newest signed order heeded; 0: none."""
    rollout: str = ""
    together: list[str] = []
    """The other tasks of that order: all of them change, or none."""

    spent_s: float = 0.0
    """Run time in this state."""
    tries: int = 0
    """A trial of it has begun and not ended: 1."""
    lost: int = 0
    """Trials of it that were lost to the end of the process or the machine; in probation: ends of the machine in a row."""
    crashes: int = 0
    """Of these, ends of the process while it was loaded, the machine staying up."""
    held_in: str = ""
    """The machine's boot in which it is not tried any more; '' with as many lost trials: in none."""
    boots: int = 0
    """In probation: starts of the process that no end of the machine, and no orderly one of the process, explains."""
    calm_s: float = 0.0
    """In probation: run time since the last start."""
    answers: int = 0
    """In probation: inputs that the new model has answered."""
    healthy: bool = False
    """In probation: it has ended well here; the other tasks of the order may still be in theirs."""
    verdict: Outcome = ""
    """In rollback: how the order ends once the release before is in use again."""

    previous: str = ""
    """The release that lies in the other slot, and has run: what a rollback returns to. '' once that slot is overwritten."""
    previous_version: str = ""
    previous_counter: int = 0
    refused: list[str] = []
    given_up: str = ""
    """The release that ended last without being refused or kept: the same assignment heard again does not begin it anew."""
    reason: str = ""
    code: str = ""
    """The reason for programs."""
    ended: int = 0
    """Number of the order that ended last."""
    outcome: Outcome = ""
    """How it ended."""
