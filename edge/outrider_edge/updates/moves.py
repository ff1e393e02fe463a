"""What each event does to the record of one task: one small function a row of the table in `outrider_edge.updates.rules`.

Pure: the record to persist and the effects to run after that. Knows no state that is not in the record.
"""

from collections.abc import Callable
from typing import Any, Literal

from msgspec.structs import replace

from outrider_edge.updates.events import (
    Agreed,
    Assigned,
    Booted,
    Denied,
    FellBack,
    Fetched,
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
from outrider_edge.updates.interrupted import CALM_S, MAX_CRASHES, MAX_CUTS, forgiven, lost, survived
from outrider_edge.updates.record import MAX_REFUSED, OTHER, SETTLED, Record
from outrider_wire.messages import Outcome, SlotState

MAX_BOOTS = 3
"""Starts of the process within one probation, the machine staying up, before the release is held to be the cause."""

Effect = Literal["cancel", "ask", "fetch", "test", "load", "meet", "point", "swap", "watch", "restore"]
"""``cancel`` what runs; ``ask`` again and again whether the next step may begin; ``fetch`` into the inactive slot; ``test`` it in a
child; ``load`` and warm it; ``meet`` the other tasks of the order; ``point`` the pointer at the record's slot; ``swap`` the loaded
model in; ``watch`` the probation; ``restore``: load the record's slot and swap it in."""

Step = tuple[Record, tuple[Effect, ...]]
Rule = Callable[[Record, Any], Step]


FINAL: tuple[Outcome, ...] = ("refused", "rolled_back", "companion", "gave_up")
"""An order that ended so is not begun again; one that was stopped may go on when the stop is lifted."""

# what is wanted


def assigned(record: Record, wish: Assigned) -> Step:
    """A release is wanted: begun, unless it is older than what was heeded, refused, or here already."""
    settled = record.state in SETTLED
    if not _heeded(record, wish):
        return record, ()
    newer = replace(record, counter=max(wish.counter, record.counter))
    if record.state in ("probation", "rollback"):  # it is looked at again when this one is settled
        return (newer if wish.release in (record.running, record.offered) else record), ()
    if wish.release in record.refused:
        return (_wanted_again(newer, wish) if settled else newer), ()
    if wish.release == record.running:
        return _runs_already(newer, wish), () if settled else ("cancel",)
    if wish.release == record.offered and not settled:
        number = max(wish.order, record.order)
        anew = wish.by_hand or wish.order > record.order or wish.counter > record.counter
        told = replace(newer, order=number, rollout=wish.rollout, together=list(wish.together))
        return forgiven(told) if anew else told, ()
    return _begun(newer, wish), ("ask",) if settled else ("cancel", "ask")


def _heeded(record: Record, wish: Assigned) -> bool:
    """Whether it is newer than what was heeded. It was judged before it came here; should that fail, nothing older comes in."""
    older = wish.order < record.order if wish.order else wish.counter < record.counter
    told_again = (
        bool(wish.order) and not wish.by_hand and wish.order == record.ended and record.outcome in (*FINAL, "committed")
    )
    given_up = not (wish.order or wish.by_hand) and (wish.release, wish.counter) == (record.given_up, record.counter)
    below = 0 < wish.release_counter < record.floor and not wish.back
    return not (older or told_again or given_up or below)


def _begun(record: Record, wish: Assigned) -> Record:
    return replace(
        _cleared(record, state="offered"),
        given_up="",
        offered=wish.release,
        offered_counter=wish.release_counter,
        size=wish.size,
        back=wish.back,
        times=wish.times,
        order=wish.order or record.order,
        rollout=wish.rollout,
        together=list(wish.together),
    )


def denied(record: Record, event: Denied) -> Step:
    """What runs goes on; that the order was refused, and why, is told."""
    if event.order < record.order:
        return record, ()
    told = replace(record, order=event.order, rollout=event.rollout, ended=event.order, outcome="refused")
    return replace(told, reason=event.reason[:512], code=event.code), ()


def _wanted_again(record: Record, wish: Assigned) -> Record:
    if record.offered == wish.release and wish.order <= record.order:
        return record
    again = replace(record, order=max(wish.order, record.order), rollout=wish.rollout)
    return replace(
        _ended(again, state="refused", outcome="refused", reason="refused before", code="refused_before"),
        offered=wish.release,
    )


def _runs_already(record: Record, wish: Assigned) -> Record:
    state: SlotState = record.state if record.state == "committed" else "idle"
    if record.state not in SETTLED:
        record = _cleared(record, state=state)
    if not wish.order:
        return replace(record, state=state, offered="", reason="", code="")
    if wish.order <= record.ended:
        return record
    return _ended(replace(record, order=wish.order, rollout=wish.rollout), state=state, outcome="committed")


# how it ends


def _cleared(record: Record, *, state: SlotState) -> Record:
    """Nothing under way any more; what runs, what ran before and what is refused stay."""
    return replace(
        record,
        state=state,
        offered="",
        offered_version="",
        offered_counter=0,
        back=False,
        times=None,
        size=0,
        together=[],
        tries=0,
        lost=0,
        crashes=0,
        held_in="",
        boots=0,
        calm_s=0.0,
        answers=0,
        healthy=False,
        verdict="",
        reason="",
        code="",
    )


def _ended(record: Record, *, state: SlotState, outcome: Outcome, reason: str = "", code: str = "") -> Record:
    cleared = _cleared(record, state=state)
    return replace(cleared, ended=record.order, outcome=outcome, reason=reason[:512], code=code)


def _refuse(record: Record, reason: str, code: str, outcome: Outcome = "refused") -> Record:
    digest = record.offered
    refused = [known for known in record.refused if known != digest] + [digest]
    ended = _ended(record, state="refused", outcome=outcome, reason=reason, code=code)
    return replace(ended, offered=digest, refused=refused[-MAX_REFUSED:])


def withdrawn(record: Record, event: Withdrawn) -> Step:
    state: SlotState = "refused" if event.outcome == "companion" else "idle"
    ended = _ended(record, state=state, outcome=event.outcome, reason=event.reason, code=event.code)
    return replace(ended, given_up=record.offered if event.outcome == "gave_up" else ""), ("cancel",)


def give_up(what: str) -> Rule:
    """Too late; whoever wants it may order it again."""
    return lambda record, _: withdrawn(record, Withdrawn(what, "gave_up", "too_late"))


def unfit(record: Record, event: Unfit) -> Step:
    return _refuse(record, event.reason, event.code), ("cancel",)


# forward


def permitted_to_fetch(record: Record, _: Permitted) -> Step:
    return replace(record, state="fetching"), ("fetch",)


def fetched(record: Record, event: Fetched) -> Step:
    gone = {"previous": "", "previous_version": "", "previous_counter": 0}  # its slot is overwritten
    return replace(record, state="staged", offered_version=event.version, **gone), ("ask",)


def permitted_to_test(record: Record, _: Permitted) -> Step:
    return replace(record, state="testing", tries=1), ("test",)


def passed(record: Record, _: Passed) -> Step:
    return replace(record, state="armed", tries=1), ("load",)


def loaded(record: Record, _: Loaded) -> Step:
    return replace(record, tries=0), ("meet",)


def on_probation(record: Record, _: Agreed) -> Step:
    new = replace(
        record,
        state="probation",
        slot=OTHER[record.slot],
        running=record.offered,
        version=record.offered_version,
        release_counter=record.offered_counter,
        previous=record.running,
        previous_version=record.version,
        previous_counter=record.release_counter,
        boots=0,
        answers=0,
    )
    return forgiven(new), ("point", "swap", "watch")


def healthy(record: Record, _: object) -> Step:
    return (record, ()) if record.healthy else (replace(record, healthy=True), ("meet",))


def committed(record: Record, _: Kept) -> Step:
    if not record.healthy:
        return record, ()
    return replace(
        _ended(record, state="committed", outcome="committed"), floor=max(record.floor, record.release_counter)
    ), ()


# back


def _back(record: Record, reason: str, code: str, verdict: Outcome) -> Step:
    back = replace(
        record,
        state="rollback",
        slot=OTHER[record.slot],
        offered=record.running,
        running=record.previous,
        version=record.previous_version,
        release_counter=record.previous_counter,
        previous="",
        previous_version="",
        previous_counter=0,
        healthy=False,
        lost=0,
        boots=0,
        calm_s=0.0,
        answers=0,
        verdict=verdict,
        reason=reason[:512],
        code=code,
    )
    return back, ("cancel", "point", "restore")


def tripped(record: Record, event: Tripped) -> Step:
    return _back(record, event.reason, event.code, "rolled_back")


def withdrawn_from_use(record: Record, event: Withdrawn) -> Step:
    return _back(record, event.reason, event.code, event.outcome)


def returned(record: Record, event: Returned) -> Step:
    return (
        _back(_cleared(record, state=record.state), event.reason, "by_hand", "rolled_back")
        if record.previous
        else (record, ())
    )


def rolled_back(record: Record, _: RolledBack) -> Step:
    if record.verdict in ("", "rolled_back"):
        return _refuse(record, record.reason, record.code, "rolled_back"), ()
    return withdrawn(record, Withdrawn(record.reason, record.verdict, record.code))[0], ()


def fell_back(record: Record, event: FellBack) -> Step:
    """What was under way is over: what runs is not what it began from. What had failed is refused all the same."""
    known = event.running == record.previous
    fields = {
        "slot": event.slot,
        "running": event.running,
        "version": event.version,
        "release_counter": record.previous_counter if known else 0,
        "previous": "",
        "previous_version": "",
        "previous_counter": 0,
    }
    if record.state == "rollback":
        return replace(rolled_back(record, RolledBack())[0], **fields), ("cancel", "point")
    settled = record.state in SETTLED
    whole = _cleared(record, state="idle") if settled else _ended(record, state="idle", outcome="gave_up")
    return replace(whole, **fields, reason=event.reason[:512], code="slot_unusable"), ("cancel", "point")


# starts


def rested(record: Record, _: Stopped) -> Step:
    """A start after an orderly end counts against nobody."""
    return replace(record, tries=0, boots=0, lost=0 if record.state == "probation" else record.lost), ()


def boot_settled(record: Record, event: Booted) -> Step:
    return record, () if event.pointer == record.slot else ("point",)


def boot_again(effect: Effect) -> Callable[[Record, Booted], Step]:
    return lambda record, _: (record, (effect,))


def boot_testing(record: Record, event: Booted) -> Step:
    return (lost(record, event.boot), ("ask",)) if record.tries else (replace(record, tries=1), ("test",))


def boot_armed(record: Record, event: Booted) -> Step:
    if not record.tries:  # it was loaded, and waited
        return replace(record, tries=1), ("load",)
    crashed = replace(record, crashes=record.crashes + survived(record, event.boot))
    if crashed.crashes >= MAX_CRASHES:
        return _refuse(record, f"the process ended {MAX_CRASHES} times while it was loaded", "load_crash"), ()
    return lost(crashed, event.boot), ("ask",)


def boot_probation(record: Record, event: Booted) -> Step:
    point: tuple[Effect, ...] = () if event.pointer == record.slot else ("point",)
    if record.healthy:
        return record, (*point, "meet")
    if survived(record, event.boot):
        record = replace(record, boots=record.boots + 1, calm_s=0.0)
    else:
        record = replace(record, lost=record.lost + 1, calm_s=0.0)
    if record.boots >= MAX_BOOTS:
        return _back(record, f"the process started {MAX_BOOTS} times within its probation", "crash_loop", "rolled_back")
    if record.lost >= MAX_CUTS:
        return _back(record, f"the machine went down {MAX_CUTS} times in a row with it", "power_loop", "gave_up")
    return record, (*point, "watch")


def watched_on(record: Record, event: Ticked) -> Record:
    """Run time and answers of a probation; after some calm, what ends of the machine went before is no row any more."""
    calm_s = record.calm_s + event.run_s
    answers = record.answers + event.answers
    return replace(record, answers=answers, calm_s=calm_s, lost=0 if calm_s >= CALM_S else record.lost)


def boot_rollback(record: Record, _: Booted) -> Step:
    return record, ("point", "restore")
