"""What an update does next: the slot machine of one task, as a table. Knows no files, network, models or clock.

`step` takes the persisted record and what happened, and gives the record to persist *before* any of the effects is run. `PHASES`
is the machine: what each state waits for, what it keeps, how long it may last and what happens then, and every way out of it; the
diagram in the documents is drawn from it (`outrider_edge.updates.diagram`).

A refusal is kept by digest: the same bytes published again stay refused, and a repaired build is free. Tasks of one order change
together: `outrider_edge.updates.together` says when.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from outrider_edge.updates import moves
from outrider_edge.updates.events import (
    Agreed,
    Assigned,
    Booted,
    Denied,
    Event,
    FellBack,
    Fetched,
    Healthy,
    Kept,
    Loaded,
    Passed,
    Permitted,
    Returned,
    RolledBack,
    Stopped,
    Ticked,
    Tripped,
    Unfit,
    Withdrawn,
)
from outrider_edge.updates.moves import MAX_BOOTS, Rule, Step
from outrider_edge.updates.record import MAX_REFUSED, OTHER, SETTLED, Record, Slot
from outrider_wire.messages import SlotState

TICK_S = 60.0
"""How often run time is counted; a start counts as one, so that a device that keeps losing power comes to its deadlines too."""
HOUR_S, DAY_S = 3600.0, 86400.0


@dataclass(frozen=True)
class Way:
    """What one event does in one state."""

    rule: Rule
    to: tuple[SlotState, ...] = ()
    """The states that it can lead to; none: it stays."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One state."""

    what: str
    """What it waits for."""
    keeps: tuple[str, ...]
    """The fields of the record that mean something in it, beside those that always do."""
    deadline_s: float | None = None
    """Run time after which `late` follows."""
    late: Rule | None = None
    late_to: tuple[SlotState, ...] = ()
    late_what: str = ""
    boot: Callable[[Record, Booted], Step]
    """How a start goes on in it."""
    boot_to: tuple[SlotState, ...] = ()
    """The states that it can lead to; none: it stays."""
    boot_what: str = ""
    """When it does."""
    ways: Mapping[type, Way]


def step(record: Record, event: Event) -> Step:
    """The record to persist, then the effects to run in their order. An event that does not belong to the state changes nothing."""
    phase = PHASES[record.state]
    if isinstance(event, Booted):
        after, effects = phase.boot(_spent(record, TICK_S) if phase.deadline_s else record, event)
        after = replace(after, boot=event.boot)
    elif isinstance(event, Ticked):
        after, effects = _ticked(record, event, phase)
    elif (way := _EVERYWHERE.get(type(event)) or phase.ways.get(type(event))) is not None:
        after, effects = way.rule(record, event)
    else:
        return record, ()
    return replace(after, spent_s=0.0) if after.state != record.state else after, effects


def _ticked(record: Record, event: Ticked, phase: Phase) -> Step:
    if phase.deadline_s is None or phase.late is None:
        return record, ()
    spent = _spent(record, event.run_s)
    if record.state == "probation":
        spent = moves.watched_on(spent, event)
    return phase.late(spent, event) if spent.spent_s >= phase.deadline_s else (spent, ())


def _spent(record: Record, run_s: float) -> Record:
    return replace(record, spent_s=record.spent_s + run_s)


_OFFER = ("offered", "offered_counter", "back", "times", "size", "together", "spent_s")
_TRIED = (*_OFFER, "offered_version", "lost", "crashes", "held_in")
_WANTED = Way(moves.assigned, ("offered", "idle"))
_ENDS = Way(moves.withdrawn, ("idle", "refused"))
_UNFIT = Way(moves.unfit, ("refused",))
_EVERYWHERE: Mapping[type, Way] = {FellBack: Way(moves.fell_back, ("idle", "refused"))}
"""What can happen in any state: the slot that runs turns out to be damaged."""
_SETTLED_WAYS: Mapping[type, Way] = {
    Assigned: Way(moves.assigned, ("offered", "idle", "refused")),
    Returned: Way(moves.returned, ("rollback",)),
    Denied: Way(moves.denied),
}

PHASES: Mapping[SlotState, Phase] = {
    "idle": Phase(what="an order", keeps=("offered",), boot=moves.boot_settled, ways=_SETTLED_WAYS),
    "offered": Phase(
        what="its time: stage, window, freeze, link, room, no stop, no pin",
        keeps=_OFFER,
        deadline_s=30 * DAY_S,
        late=moves.give_up("it could not begin for 30 days"),
        late_to=("idle",),
        late_what="given up",
        boot=moves.boot_again("ask"),
        ways={
            Permitted: Way(moves.permitted_to_fetch, ("fetching",)),
            Assigned: _WANTED,
            Withdrawn: _ENDS,
            Unfit: _UNFIT,
        },
    ),
    "fetching": Phase(
        what="every byte of it, verified",
        keeps=_OFFER,
        deadline_s=3 * DAY_S,
        late=moves.give_up("it could not be fetched in 72 hours"),
        late_to=("idle",),
        late_what="given up",
        boot=moves.boot_again("fetch"),
        ways={Fetched: Way(moves.fetched, ("staged",)), Unfit: _UNFIT, Assigned: _WANTED, Withdrawn: _ENDS},
    ),
    "staged": Phase(
        what="its time, again: it may have changed while it was fetched; after a trial that was lost, a pause too",
        keeps=_TRIED,
        deadline_s=30 * DAY_S,
        late=moves.give_up("it could not be tested for 30 days"),
        late_to=("idle",),
        late_what="given up",
        boot=moves.boot_again("ask"),
        ways={
            Permitted: Way(moves.permitted_to_test, ("testing",)),
            Unfit: _UNFIT,
            Assigned: _WANTED,
            Withdrawn: _ENDS,
        },
    ),
    "testing": Phase(
        what="the limited child on its golden examples",
        keeps=(*_TRIED, "tries"),
        deadline_s=HOUR_S,
        late=moves.give_up("it could not be tested in an hour"),
        late_to=("idle",),
        late_what="given up",
        boot=moves.boot_testing,
        boot_to=("staged",),
        boot_what="the process or the machine ended in it",
        ways={
            Passed: Way(moves.passed, ("armed",)),
            Unfit: _UNFIT,
            Assigned: _WANTED,
            Withdrawn: _ENDS,
            Stopped: Way(moves.rested),
        },
    ),
    "armed": Phase(
        what="the other tasks of its order, loaded too",
        keeps=(*_TRIED, "tries"),
        deadline_s=DAY_S,
        late=moves.give_up("the other tasks of its order were not ready in a day"),
        late_to=("idle",),
        late_what="given up",
        boot=moves.boot_armed,
        boot_to=("staged", "refused"),
        boot_what="the process or the machine ended while it was loaded",
        ways={
            Loaded: Way(moves.loaded),
            Stopped: Way(moves.rested),
            Agreed: Way(moves.on_probation, ("probation",)),
            Unfit: _UNFIT,
            Assigned: _WANTED,
            Withdrawn: _ENDS,
        },
    ),
    "probation": Phase(
        what="enough answers of it, watched, and the other tasks of its order",
        keeps=(*_OFFER, "offered_version", "boots", "lost", "calm_s", "answers", "healthy"),
        deadline_s=7 * DAY_S,
        late=moves.healthy,
        late_what="it ends well: nothing was amiss",
        boot=moves.boot_probation,
        boot_to=("rollback",),
        boot_what="the process or the machine ended again and again",
        ways={
            Healthy: Way(moves.healthy),
            Kept: Way(moves.committed, ("committed",)),
            Tripped: Way(moves.tripped, ("rollback",)),
            Withdrawn: Way(moves.withdrawn_from_use, ("rollback",)),
            Assigned: Way(moves.assigned),
            Stopped: Way(moves.rested),
        },
    ),
    "committed": Phase(what="an order", keeps=("offered",), boot=moves.boot_settled, ways=_SETTLED_WAYS),
    "rollback": Phase(
        what="the release before, in use again",
        keeps=(*_OFFER, "offered_version", "verdict"),
        deadline_s=HOUR_S,
        late=lambda record, _: (replace(record, spent_s=0.0), ("cancel", "point", "restore")),
        late_what="tried again",
        boot=moves.boot_rollback,
        ways={RolledBack: Way(moves.rolled_back, ("refused", "idle")), Assigned: Way(moves.assigned)},
    ),
    "refused": Phase(what="an order", keeps=("offered",), boot=moves.boot_settled, ways=_SETTLED_WAYS),
}

__all__ = [
    "MAX_BOOTS",
    "MAX_REFUSED",
    "OTHER",
    "PHASES",
    "SETTLED",
    "Phase",
    "Record",
    "Slot",
    "Step",
    "Way",
    "step",
]
