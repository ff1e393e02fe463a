"""One task's budget: what was spent, what is left, and which refused inputs are sent. Pure: time is an argument.

It never changes what is accepted. What it refuses is answered by the device, uncertified, and says so. Who is bound by what:

=================  ===================================  =======================================================
input              limits of hour and day (hard)        pacing (is it worth it?)
=================  ===================================  =======================================================
refused            yes                                  yes
caller insists     yes: a limit is a limit              no: the caller has said that it is worth it; it is drawn
audit              no: they watch the promise           no; counted apart, and shown
kept for learning  yes                                  only out of a bucket that is more than half full
=================  ===================================  =======================================================

An offer that is repeated because its receipt was lost is not counted again; what the outbox then refuses (full) is counted.
"""

from typing import NamedTuple

import msgspec
from msgspec import Struct

from outrider_edge.budget.ledger import DAY_S, HOUR_S, MICRO, Spend, Window
from outrider_edge.budget.pacing import BINS, Pace, PaceState
from outrider_wire.errors import OperatorSetupError
from outrider_wire.task import Budget

UNSUPPORTED_GAIN = 1.0
"""Expected gain of an input that is unlike what the model knows: what the model makes of it says nothing."""
SPARE = 0.5
"""How full every bucket must be for what nobody waits for."""
_WORDS = {"escalations": "escalations", "bytes": "bytes", "micros": "money"}
_WINDOWS = {"hour": HOUR_S, "day": DAY_S}


class Limit(NamedTuple):
    """One setting."""

    what: str
    """A field of `Spend`."""
    window: str
    most: int

    @property
    def name(self) -> str:
        """As the task file has it."""
        return f"{_WORDS[self.what]}_per_{self.window}"

    def shown(self, amount: float) -> float:
        """An amount in the task file's unit."""
        return amount / MICRO if self.what == "micros" else amount


class LimitView(Struct, kw_only=True, frozen=True):
    """How one limit stands."""

    limit: float
    spent: float
    """In the last hour or day, audits left out."""
    left: float
    audits: float
    """Spent on audits, which the limit does not bind."""
    bucket: float
    """How full the bucket is that spreads it over the window, 0 … 1."""


class BudgetState(Struct, kw_only=True):
    """All that must survive a restart."""

    boot_id: str
    at_s: float
    spent: dict[str, dict[int, tuple[int, int, int]]]
    """By window, and within it by slot."""
    audits: dict[str, dict[int, tuple[int, int, int]]]
    paces: dict[str, PaceState] = {}


class TaskBudget:
    """One task's budget.

    Args:
        terms: the task's.
        now: run time in seconds.
        boot_id: which boot it belongs to.
        saved: what `save` gave, by this boot or an earlier one. Between two boots no time passes: what the machine was off is
            not known, and a clock that jumps renews nothing.

    Raises:
        OperatorSetupError: what was saved cannot be read.
    """

    def __init__(self, terms: Budget, *, now: float, boot_id: str, saved: bytes = b"") -> None:
        self._terms = terms
        self._boot_id = boot_id
        self._now = now
        state = _decoded(saved) if saved else BudgetState(boot_id=boot_id, at_s=now, spent={}, audits={})
        ahead = 0.0 if state.boot_id == boot_id else now - state.at_s
        self._spent = {name: _window(name, state.spent, ahead) for name in _WINDOWS}
        self._audits = {name: _window(name, state.audits, ahead) for name in _WINDOWS}
        self._limits = limits_of(terms)
        self._paces = {limit.name: self._pace(limit, state.paces.get(limit.name), ahead) for limit in self._limits}
        self._micros = round(terms.price_per_escalation * MICRO)

    @property
    def limited(self) -> bool:
        """Whether the task sets any limit."""
        return bool(self._limits)

    def ask(self, now: float, *, gain: float, size: int, insist: bool = False) -> str:
        """Whether a refused input is sent: '' and its cost is spent, or why it is not, with the figures.

        Args:
            now: run time.
            gain: the estimated probability that the device's own answer is wrong.
            size: bytes that it would put on the wire.
            insist: its caller wants it sent.
        """
        now, cost = self._later(now), self.cost(size)
        paced = [self._paces[limit.name].judge(now, gain, getattr(cost, limit.what)) for limit in self._limits]
        for limit in self._limits:
            if problem := self._over(limit, now, cost):
                return problem
        if not insist:
            for limit, judged in zip(self._limits, paced, strict=True):
                if not judged.passes:
                    return self._not_worth(limit, now, gain, judged.threshold)
        self._draw(now, cost)
        return ""

    def ask_spare(self, now: float, *, size: int) -> bool:
        """Whether an input that nobody waits for is sent: then its cost is spent."""
        now, cost = self._later(now), self.cost(size)
        for limit in self._limits:
            if self._over(limit, now, cost) or self._paces[limit.name].fullness(now) <= SPARE:
                return False
        self._draw(now, cost)
        return True

    def could_afford(self, *, size: int) -> bool:
        """Whether an input of that size fits into the limits at all, however little was spent."""
        cost = self.cost(size)
        return all(getattr(cost, limit.what) <= limit.most for limit in self._limits)

    def count_audit(self, now: float, *, size: int) -> None:
        """An audit is sent, whatever the limits say."""
        now = self._later(now)
        for window in self._audits.values():
            window.add(now, self.cost(size))

    def count_pulled(self, now: float, *, size: int, audit: bool = False) -> None:
        """All of an input is pulled of which a first form was sent: its bytes are spent, whatever the limits say; those of an
        ``audit`` count with the audits."""
        now, cost = self._later(now), Spend(0, size, 0)
        if not audit:
            self._draw(now, cost)
            return
        for window in self._audits.values():
            window.add(now, cost)

    def cost(self, size: int) -> Spend:
        """Of one escalation of that many bytes."""
        return Spend(1, size, self._micros)

    def view(self, now: float) -> dict[str, LimitView]:
        """How every limit stands, by its name in the task file."""
        now = self._later(now)
        views: dict[str, LimitView] = {}
        for limit in self._limits:
            spent = getattr(self._spent[limit.window].spent(now), limit.what)
            views[limit.name] = LimitView(
                limit=limit.shown(limit.most),
                spent=limit.shown(spent),
                left=limit.shown(max(0, limit.most - spent)),
                audits=limit.shown(getattr(self._audits[limit.window].spent(now), limit.what)),
                bucket=round(min(1.0, max(0.0, self._paces[limit.name].fullness(now))), 4),
            )
        return views

    def save(self, now: float) -> bytes:
        """Everything, for another `TaskBudget` to go on from."""
        now = self._later(now)
        for window in (*self._spent.values(), *self._audits.values()):
            window.spent(now)
        state = BudgetState(
            boot_id=self._boot_id,
            at_s=now,
            spent={name: dict(window.slots) for name, window in self._spent.items()},
            audits={name: dict(window.slots) for name, window in self._audits.items()},
            paces={name: pace.state for name, pace in self._paces.items()},
        )
        return msgspec.json.encode(state)

    def _later(self, now: float) -> float:
        """Time never goes back."""
        self._now = max(self._now, now)
        return self._now

    def _draw(self, now: float, cost: Spend) -> None:
        for window in self._spent.values():
            window.add(now, cost)
        for limit in self._limits:
            self._paces[limit.name].draw(now, getattr(cost, limit.what))

    def _over(self, limit: Limit, now: float, cost: Spend) -> str:
        spent = getattr(self._spent[limit.window].spent(now), limit.what)
        if spent + getattr(cost, limit.what) <= limit.most:
            return ""
        return f"the budget is spent: {_of(limit, spent)}"

    def _not_worth(self, limit: Limit, now: float, gain: float, threshold: float) -> str:
        spent = getattr(self._spent[limit.window].spent(now), limit.what)
        return (
            f"the budget goes to inputs of more expected gain than {gain:.2f} (now from about {threshold:.2f} on): "
            f"{_of(limit, spent)}"
        )

    def _pace(self, limit: Limit, state: PaceState | None, ahead: float) -> Pace:
        if state is not None and len(state.cost_by_gain) != BINS:
            state = None
        if state is not None:
            state.filled_at, state.began_at, state.scale_at = (
                at + ahead for at in (state.filled_at, state.began_at, state.scale_at)
            )
        left = limit.most - getattr(self._spent[limit.window].spent(self._now), limit.what)
        return Pace(limit=limit.most, length_s=_WINDOWS[limit.window], now=self._now, level=left, state=state)


def limits_of(terms: Budget) -> list[Limit]:
    """The limits that a task sets."""
    limits = []
    for what, word in _WORDS.items():
        for window in _WINDOWS:
            most = getattr(terms, f"{word}_per_{window}")
            if most is not None:
                limits.append(Limit(what, window, round(most * MICRO) if what == "micros" else most))
    return limits


def gain_of(*, confidence: float, supported: bool) -> float:
    """Expected gain of an escalation: the estimated probability that the device's own answer is wrong."""
    return max(0.0, min(1.0, 1.0 - confidence)) if supported else UNSUPPORTED_GAIN


def _decoded(saved: bytes) -> BudgetState:
    try:
        return _DECODER.decode(saved)
    except msgspec.MsgspecError as error:
        raise OperatorSetupError(
            f"what the outbox remembers of a budget cannot be read: {error}",
            reason="budget_unreadable",
            fix="run the version that wrote it, or give another data_dir",
        ) from error


def _window(name: str, saved: dict[str, dict[int, tuple[int, int, int]]], ahead: float) -> Window:
    window = Window(_WINDOWS[name], {number: Spend(*spend) for number, spend in saved.get(name, {}).items()})
    return window.moved(ahead) if ahead else window


def _of(limit: Limit, spent: int) -> str:
    most, used = limit.shown(limit.most), limit.shown(spent)
    return f"{used:g} of {most:g} {_WORDS[limit.what]} in the last {limit.window}"


_DECODER = msgspec.json.Decoder(BudgetState)
