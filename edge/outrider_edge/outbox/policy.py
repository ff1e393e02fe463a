"""Who makes way when the outbox has no room, and what an entry is worth. Pure: the rule, and nothing of files or clocks.

When a new entry exceeds a bound, entries that are held make way, the first in this order first:

==  ==========================  ===================================================================================
no  what                        why it comes there
==  ==========================  ===================================================================================
1   expired                     its time is over; it only has not been told yet
2   kept only to be learnt from nobody waits for it: its answer is given, and it is no audit
3   waited for                  an application may still use the answer
4   audit, or asked by a person an audit that is lost counts as an error of the promise; a person has said it matters
==  ==========================  ===================================================================================

Within 2 to 4: what the cloud has already stored comes last (it holds no payload, and its answer is paid for); before that the
lowest expected gain first, then the oldest. The expected gain is the estimated probability that the device's own answer is
wrong, 1 − max p of its calibrated distribution, as for budgets (`outrider_edge.budget.budget.gain_of`); 1 for what is
unlike anything that the model knows. Audits, and what a person insisted on, all have gain 1: which audit goes must not
depend on how sure the model was, or those that stay would be no fair sample.

A new entry that would itself be the first to go is refused, and nothing makes way for it.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Literal, NamedTuple

from outrider_edge.budget.budget import gain_of
from outrider_wire.messages import Escalation
from outrider_wire.report import State

Bound = Literal["max_count", "max_bytes", "min_free_bytes"]
MOST_VICTIMS = 4_096
"""Entries that make way for one, at most: a single large input does not empty the outbox of small ones for long."""


class Worth(IntEnum):
    """The classes of the table, the first to go first."""

    SPARE = 0
    WAITED = 1
    PRECIOUS = 2


class Standing(NamedTuple):
    """Where an entry stands in the order; the smallest makes way first."""

    worth: Worth
    received: bool
    """The cloud has stored it."""
    gain: float
    seq: int
    """Order of arrival."""


class Held(NamedTuple):
    """One entry that could make way."""

    id: str
    standing: Standing
    bytes: int
    """Of payload that is still held."""
    expired: bool


class Need(NamedTuple):
    """How much must make way for one new entry."""

    entries: int = 0
    bytes: int = 0
    because: Bound = "max_count"


class Bounds(NamedTuple):
    """What the outbox may hold."""

    max_count: int
    max_bytes: int
    max_age_s: int
    """No question is kept longer, whatever its task says."""
    min_free_bytes: int
    """With less free on the disk, the outbox does not grow any more: what comes takes the place of what is held."""


def worth_of(envelope: Escalation, state: State) -> tuple[Worth, float]:
    """The class and the expected gain of an entry.

    Args:
        envelope: what is asked.
        state: of its answer when it was put.
    """
    if envelope.audit > 0 or envelope.why == "requested" or state == "memory":
        return Worth.PRECIOUS, 1.0
    gain = gain_of(confidence=max(envelope.probabilities), supported=envelope.why != "unsupported")
    return (Worth.SPARE if is_spare(state, envelope.audit) else Worth.WAITED), gain


def is_spare(state: State, audit: float) -> bool:
    """Whether a question is sent only to be learnt from: the device's own answer stands, and it is no audit."""
    return state == "edge" and audit == 0


def need_of(bounds: Bounds, *, count: int, bytes_held: int, size: int, free_bytes: int) -> Need | None:
    """What must make way before ``size`` bytes more are held; None: nothing.

    Asked of several at once, each is told its own share of what is too much, and the shares add up to it.

    Args:
        bounds: the outbox's.
        count: open entries, those on their way in included.
        bytes_held: their payload.
        size: payload of the new one.
        free_bytes: on the disk.
    """
    too_many = count >= bounds.max_count
    too_large = min(size, max(0, bytes_held + size - bounds.max_bytes))
    if too_many or too_large:
        return Need(int(too_many), too_large, "max_count" if too_many else "max_bytes")
    if free_bytes - size < bounds.min_free_bytes:
        return Need(1, size, "min_free_bytes")
    return None


def victims(newcomer: Standing, held: Iterable[Held], need: Need) -> Sequence[Held] | None:
    """Who makes way.

    Args:
        newcomer: where the new entry stands.
        held: in the order in which they make way (`in_order`).
        need: what must be freed.

    Returns:
        None: the new entry is itself the least worth having, or they do not suffice; nobody makes way then.
    """
    chosen: list[Held] = []
    count, size = need.entries, need.bytes
    for one in held:
        if (count <= 0 and size <= 0) or len(chosen) >= MOST_VICTIMS:
            break
        if count <= 0 and not one.bytes:
            continue
        if not one.expired and one.standing > newcomer:
            return None
        chosen.append(one)
        count -= 1
        size -= one.bytes
    return chosen if count <= 0 and size <= 0 else None


def in_order(held: Iterable[Held]) -> list[Held]:
    """The order of the table; the file's own query gives the same (`outrider_edge.outbox.waiting.ORDER`). What has expired stays
    in the order in which it is given."""
    return sorted(held, key=lambda one: (0, _FIRST) if one.expired else (1, one.standing))


_FIRST = Standing(Worth.SPARE, False, 0.0, 0)
