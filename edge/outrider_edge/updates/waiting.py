"""Whether the next step of an update may begin now: windows, freezes, links, stops, pins. Pure; time is an argument."""

from msgspec import Struct

from outrider_edge.updates.interrupted import PAUSES_S, pause
from outrider_edge.updates.ledger import Halt
from outrider_edge.updates.record import Record, Times
from outrider_wire.rollout import WeeklyWindow, minute_of_week


class WhenTerms(Struct, kw_only=True, frozen=True):
    """What the operator permits."""

    windows: tuple[WeeklyWindow, ...] = ()
    """When updates may begin; none: at any time."""
    over_metered: bool = False
    """Whether anything is fetched while the link is metered."""
    pauses_s: tuple[float, float] = PAUSES_S
    """Run time before a release is tried again that the process or the machine has ended in: the second time, and the third."""


class Surroundings(Struct, kw_only=True, frozen=True):
    """What counts at this moment."""

    now_ms: int
    """UTC."""
    halt: Halt = Halt()
    pinned: bool = False
    pin_reason: str = ""
    damaged: bool = False
    """The ledger cannot be read."""
    metered: bool = False


class Hold(Struct, kw_only=True, frozen=True):
    """Why it may not."""

    code: str
    what: str
    for_good: bool = False
    """It never may: the order has run out."""


def device_hold(around: Surroundings) -> Hold | None:
    """What holds up every update of this device; None: nothing does."""
    if around.damaged:
        fix = "remove the folder updates in the data folder to begin anew"
        return Hold(code="ledger_damaged", what=f"what this device must not forget of updates cannot be read; {fix}")
    if around.pinned:
        return Hold(code="pinned", what=f"pinned to what runs{': ' if around.pin_reason else ''}{around.pin_reason}")
    if around.halt.standing and not around.halt.rollouts:
        return Hold(code="stopped", what=f"all updates are stopped: {around.halt.reason or 'no reason given'}")
    return None


def hold(record: Record, around: Surroundings, terms: WhenTerms) -> Hold | None:
    """Why the next step of what ``record`` offers may not begin now, or, while it is fetched, go on; None: it may."""
    if record.state == "fetching":
        return _permitted(record, around, terms)
    if (held := device_hold(around)) is not None:
        return held
    if around.halt.holds(record.rollout):
        return Hold(code="stopped", what=f"rollout {record.rollout} is stopped: {around.halt.reason}")
    if record.state == "armed":  # what is tested waits for its companions alone
        return None
    return _trial_lost(record, terms) or _times(record, around.now_ms) or _permitted(record, around, terms)


def _trial_lost(record: Record, terms: WhenTerms) -> Hold | None:
    why = pause(record, terms.pauses_s) if record.state == "staged" else ""
    return Hold(code="trial_lost", what=why) if why else None


def _permitted(record: Record, around: Surroundings, terms: WhenTerms) -> Hold | None:
    metered = around.metered and not terms.over_metered and record.state in ("offered", "fetching")
    if metered:
        return Hold(code="metered_link", what="the link is metered")
    if record.state == "fetching":
        return None
    minute = minute_of_week(around.now_ms)
    if terms.windows and not any(window.holds(minute) for window in terms.windows):
        return Hold(code="outside_window", what="it is not the time for updates on this device")
    return None


def _times(record: Record, now: int) -> Hold | None:
    times = record.times or Times()
    if record.state == "offered" and now >= times.expires_ms:
        return Hold(code="order_expired", what="the order ran out before it could begin", for_good=True)
    if now < times.begin_ms:
        return Hold(code="too_early", what=f"its stage begins in {(times.begin_ms - now) / 1000:.0f} s")
    if any(window.holds(minute_of_week(now)) for window in times.freeze):
        return Hold(code="frozen", what="the plan freezes updates now")
    return None
