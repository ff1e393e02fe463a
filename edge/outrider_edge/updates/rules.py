"""What an update does next: the slot machine of one task, as a pure function. Knows no files, network, models or clock.

`step` takes the persisted record and what happened, and gives the record to persist *before* any of the effects is run::

    idle ──assigned──▶ fetching ──fetched──▶ testing ──passed──▶ armed ──loaded──▶ probation ──healthy──▶ committed
                          │unfit                │failed             │failed            │tripped
                          ▼                     ▼                   ▼                  ▼
                       refused ◀────────────────┴───────────────────┘◀─── refused ◀─ rollback

A refusal is kept by digest: the same bytes published again stay refused, and a repaired build is free.
The wire's states ``offered`` and ``staged`` last no time here: an assignment is judged, and a fetched release tested, in the step
that learns of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from outrider_wire.messages import SlotState

Slot = Literal["a", "b"]
OTHER: dict[Slot, Slot] = {"a": "b", "b": "a"}
MAX_REFUSED = 64
"""As many refused digests as a report carries; the oldest is forgotten first."""
MAX_TRIES = 2
"""A self-test that was begun this often without an end took the process with it."""
MAX_BOOTS = 3
"""Starts of the process within one probation before the release is held to be the cause."""


class Record(Struct, kw_only=True, frozen=True):
    """What a task's slots hold and where its update stands: ``state.json``. The pointer file says which slot is active."""

    state: SlotState = "idle"
    slot: Slot = "a"
    """The active slot, once the pointer agrees; in probation the new one."""
    running: str
    """Digest of the release in ``slot``."""
    version: str = ""
    factory: str = ""
    """Digest of the configured bundle when it was installed: another one is the operator's wish."""
    offered: str = ""
    """The release this state is about; '' when there is none."""
    offered_version: str = ""
    size: int = 0
    """Bytes of the offered release's manifest."""
    counter: int = 0
    """Of the newest assignment heeded."""
    tries: int = 0
    boots: int = 0
    previous: str = ""
    """In probation: the release that a rollback returns to; it lies in the other slot."""
    previous_version: str = ""
    refused: list[str] = []
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """The cloud wants ``release`` here."""

    release: str
    size: int
    counter: int


@dataclass(frozen=True)
class Fetched:
    """The offered release is whole, verified and for this task, and lies in the inactive slot."""

    version: str


@dataclass(frozen=True)
class Unfit:
    """The offered release can never run here: damaged at its source, unsafe, for another task, or its self-test failed."""

    reason: str


@dataclass(frozen=True)
class Passed:
    """The self-test child found what the golden examples say."""


@dataclass(frozen=True)
class Loaded:
    """The offered release is in memory and warm."""


@dataclass(frozen=True)
class Healthy:
    """Probation ended well."""


@dataclass(frozen=True)
class Tripped:
    """The release failed on live input."""

    reason: str


@dataclass(frozen=True)
class RolledBack:
    """The release before is active and in use again."""


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
    """The process starts. ``pointer``: the slot that the pointer file names."""

    pointer: Slot


Event = Assigned | Fetched | Unfit | Passed | Loaded | Healthy | Tripped | RolledBack | FellBack | Booted | Stopped

Effect = Literal["cancel", "fetch", "test", "load", "point", "swap", "watch", "restore"]
"""``cancel`` what runs; ``fetch`` into the inactive slot; ``test`` it in a child; ``load`` and warm it; ``point`` the pointer at
the record's slot; ``swap`` the loaded model in; ``watch`` the probation; ``restore``: load the record's slot and swap it in."""

Step = tuple[Record, tuple[Effect, ...]]

SETTLED: tuple[SlotState, ...] = ("idle", "committed", "refused")
"""Nothing is under way."""
_FETCHING: tuple[SlotState, ...] = ("offered", "fetching", "staged")
_ANY: tuple[SlotState, ...] = (*SETTLED, *_FETCHING, "testing", "armed", "probation", "rollback")


def step(record: Record, event: Event) -> Step:
    """The record to persist, then the effects to run in their order. An event that does not belong to the state changes nothing."""
    states, rule = _RULES[type(event)]
    return rule(record, event) if record.state in states else (record, ())


def _assigned(record: Record, wish: Assigned) -> Step:
    if wish.counter < record.counter:
        return record, ()
    newer = replace(record, counter=wish.counter)
    if wish.release in record.refused:
        if record.state in SETTLED and record.offered != wish.release:
            newer = replace(newer, state="refused", offered=wish.release, reason="refused before")
        return newer, ()
    if wish.release == record.running:
        if record.state in SETTLED:
            newer = replace(newer, state="idle" if record.state == "refused" else record.state, offered="", reason="")
        return newer, ()
    if wish.release == record.offered and record.state not in SETTLED:
        return newer, ()
    if record.state in ("probation", "rollback"):
        return record, ()  # the retained wish is looked at again when this one is settled
    fetching = replace(
        _cleared(newer, state="fetching"), offered=wish.release, size=wish.size, tries=0, boots=0, reason=""
    )
    return fetching, ("fetch",) if record.state in SETTLED else ("cancel", "fetch")


def _on_probation(record: Record) -> Record:
    return replace(
        record,
        state="probation",
        slot=OTHER[record.slot],
        running=record.offered,
        version=record.offered_version,
        previous=record.running,
        previous_version=record.version,
        boots=0,
    )


def _roll_back(record: Record, reason: str) -> Step:
    back = replace(
        record,
        state="rollback",
        slot=OTHER[record.slot],
        running=record.previous,
        version=record.previous_version,
        reason=reason,
    )
    return back, ("point", "restore")


def _refuse(record: Record, digest: str, reason: str) -> Record:
    refused = [known for known in record.refused if known != digest] + [digest]
    return replace(
        _cleared(record, state="refused"), offered=digest, reason=reason[:512], refused=refused[-MAX_REFUSED:]
    )


def _cleared(record: Record, *, state: SlotState) -> Record:
    """Nothing under way any more."""
    return replace(
        record,
        state=state,
        offered="",
        offered_version="",
        size=0,
        tries=0,
        boots=0,
        previous="",
        previous_version="",
        reason="",
    )


def _fetched(record: Record, event: Fetched) -> Step:
    return replace(record, state="testing", tries=1, offered_version=event.version), ("test",)


def _unfit(record: Record, event: Unfit) -> Step:
    return _refuse(record, record.offered, event.reason), ()


def _passed(record: Record, _: Passed) -> Step:
    return replace(record, state="armed"), ("load",)


def _loaded(record: Record, _: Loaded) -> Step:
    return _on_probation(record), ("point", "swap", "watch")


def _healthy(record: Record, _: Healthy) -> Step:
    return _cleared(record, state="committed"), ()


def _tripped(record: Record, event: Tripped) -> Step:
    return _roll_back(record, event.reason)


def _rolled_back(record: Record, _: RolledBack) -> Step:
    return _refuse(record, record.offered, record.reason), ()


def _fell_back(record: Record, event: FellBack) -> Step:
    whole = _cleared(record, state="idle")
    return replace(whole, slot=event.slot, running=event.running, version=event.version, reason=event.reason), (
        "point",
    )


def _booted(record: Record, event: Booted) -> Step:
    if record.state in SETTLED:
        return record, () if event.pointer == record.slot else ("point",)
    if record.state in _FETCHING:
        return replace(record, state="fetching"), ("fetch",)
    return _RESUMED[record.state](record, event)


def _test_again(record: Record, _: Booted) -> Step:
    if record.tries >= MAX_TRIES:
        return _refuse(record, record.offered, "the self-test took the process with it, twice"), ()
    return replace(record, tries=record.tries + 1), ("test",)


def _watch_again(record: Record, event: Booted) -> Step:
    if record.boots + 1 >= MAX_BOOTS:
        return _roll_back(record, f"the process started {MAX_BOOTS} times within its probation")
    again = replace(record, boots=record.boots + 1)
    return again, ("watch",) if event.pointer == record.slot else ("point", "watch")


_RESUMED: dict[SlotState, Callable[[Record, Booted], Step]] = {
    "testing": _test_again,
    "armed": lambda record, _: (record, ("load",)),
    "probation": _watch_again,
    "rollback": lambda record, _: (record, ("point", "restore")),
}

_RULES: dict[type[Event], tuple[tuple[SlotState, ...], Callable[[Record, Any], Step]]] = {
    Assigned: (_ANY, _assigned),
    Fetched: (_FETCHING, _fetched),
    Unfit: ((*_FETCHING, "testing", "armed"), _unfit),
    Passed: (("testing",), _passed),
    Loaded: (("armed",), _loaded),
    Healthy: (("probation",), _healthy),
    Tripped: (("probation",), _tripped),
    RolledBack: (("rollback",), _rolled_back),
    FellBack: (_ANY, _fell_back),
    Stopped: (("testing", "probation"), lambda record, _: (replace(record, tries=0, boots=0), ())),
    Booted: (_ANY, _booted),
}
