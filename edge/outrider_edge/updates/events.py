"""What can happen to an update. Data only; what follows from it is in `outrider_edge.updates.rules`."""

from dataclasses import dataclass

from outrider_edge.updates.record import Slot, Times
from outrider_wire.messages import Outcome


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """``release`` is wanted here: by an order that was judged, or, where nothing is signed, by an assignment."""

    release: str
    size: int
    counter: int = 0
    """Of an assignment."""
    order: int = 0
    """Number of an order; 0: an assignment."""
    rollout: str = ""
    together: tuple[str, ...] = ()
    """The other tasks of the order."""
    release_counter: int = 0
    back: bool = False
    """A signed plan permits to return to it, though its counter is lower."""
    times: Times | None = None
    """When it may begin; None: at any time."""
    by_hand: bool = False
    """A person at the device wants it, under the number of the last order: what came of that order says nothing of it."""


@dataclass(frozen=True, kw_only=True)
class Denied:
    """An order was signed, and may not be carried out here."""

    order: int
    rollout: str
    reason: str
    code: str


@dataclass(frozen=True)
class Permitted:
    """Nothing stands against the next step now: window, freeze, link, stop, pin."""


@dataclass(frozen=True)
class Fetched:
    """The offered release is whole, verified and for this task, and lies in the inactive slot."""

    version: str


@dataclass(frozen=True)
class Unfit:
    """The offered release can never run here: damaged at its source, unsafe, for another task, or its self-test failed."""

    reason: str
    code: str = "unfit"


@dataclass(frozen=True)
class Passed:
    """The self-test child found what the golden examples say."""


@dataclass(frozen=True)
class Loaded:
    """The offered release is in memory and warm."""


@dataclass(frozen=True)
class Agreed:
    """Every task of the order is armed and loaded, or further: now they change."""


@dataclass(frozen=True)
class Kept:
    """The probation of every task of the order has ended well."""


@dataclass(frozen=True)
class Healthy:
    """Probation ended well."""


@dataclass(frozen=True)
class Tripped:
    """The release failed on live input."""

    reason: str
    code: str = "tripped"


@dataclass(frozen=True)
class Withdrawn:
    """The order ends here without a word against this release: stopped, given up, or another task of it failed."""

    reason: str
    outcome: Outcome
    code: str


@dataclass(frozen=True)
class Returned:
    """A person wants the release before back, and what runs refused."""

    reason: str


@dataclass(frozen=True)
class RolledBack:
    """The release before is active and in use again."""


@dataclass(frozen=True)
class Ticked:
    """So much run time has passed, with so many answers of the model in use."""

    run_s: float
    answers: int = 0


@dataclass(frozen=True)
class Stopped:
    """The process ends in good order: a start after this is no sign of a crash."""


@dataclass(frozen=True, kw_only=True)
class FellBack:
    """The active slot cannot be used; ``slot``, which holds ``running``, can."""

    slot: Slot
    running: str
    version: str
    reason: str


@dataclass(frozen=True)
class Booted:
    """The process starts. ``pointer``: the slot that the pointer file names; ``boot``: the machine's boot id, where there is one."""

    pointer: Slot
    boot: str = ""


Event = (
    Assigned
    | Denied
    | Permitted
    | Fetched
    | Unfit
    | Passed
    | Loaded
    | Agreed
    | Kept
    | Healthy
    | Tripped
    | Withdrawn
    | Returned
    | RolledBack
    | Ticked
    | FellBack
    | Booted
    | Stopped
)
