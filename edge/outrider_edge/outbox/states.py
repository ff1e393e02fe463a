"""The states of an escalation on the device, as a table: what moves it, what its application has then, what is durable when. Pure.

Two lives run side by side: of the *question* (`Delivery`), and of the *answer* (`outrider_wire.report.State`), which is
``pending`` until it is set once; of an audit, and of what is kept to be learnt from, it is set from the start. A test holds the
statements of `outrider_edge.outbox.rows` against this table; documents are made from it.
"""

from typing import Literal, NamedTuple

from outrider_wire.report import State

Delivery = Literal["queued", "offered", "received", "done"]
Event = Literal["offered", "receipt", "answer", "refusal", "expiry", "given up"]

OPEN: tuple[Delivery, ...] = ("queued", "offered", "received")
DELIVERIES: dict[Delivery, str] = {
    "queued": "kept, and not on the wire yet; the device holds the payload",
    "offered": "on the wire at least once, with no word from the cloud; the device holds the payload and offers it again",
    "received": "the cloud has stored it; the payload is gone here, and the answer is asked after",
    "done": "nothing more is expected; the report can be looked up until it is forgotten",
}


class Move(NamedTuple):
    """What one event does to an open question."""

    event: Event
    when: str
    to: dict[Delivery, Delivery]
    """From every open state; an event on a question that is done changes nothing."""
    ends_as: State | None
    """The terminal state of an answer that was pending; None: it stays pending."""
    durable: str


def _all(to: Delivery) -> dict[Delivery, Delivery]:
    return dict.fromkeys(OPEN, to)


MOVES: tuple[Move, ...] = (
    Move(
        "offered",
        "the broker has taken an offer",
        {"queued": "offered", "offered": "offered", "received": "received"},
        None,
        "with the next flush, within a second; losing it costs nothing",
    ),
    Move(
        "receipt",
        "the cloud says that it has stored it",
        {"queued": "received", "offered": "received", "received": "received"},
        None,
        "with the next flush, within a second, and only then the payload goes; losing it costs one more offer",
    ),
    Move("answer", "the large model's answer came, in time or late", _all("done"), "cloud", "before anybody is told"),
    Move("refusal", "the cloud will never answer it", _all("done"), "refused", "before anybody is told"),
    Move("expiry", "it was kept as long as it is worth having", _all("done"), "expired", "before anybody is told"),
    Move(
        "given up",
        "it made way for what is worth more, a person dropped it, or its payload was lost with a damaged file",
        _all("done"),
        "expired",
        "before the entry that takes its place is written, and before anybody is told",
    ),
)
ARRIVAL = "in one commit with its payload, before it is reported as accepted (durability = disk)"


def after(delivery: Delivery, event: Event) -> Delivery:
    """Where an event leaves a question."""
    if delivery == "done":
        return delivery
    return next(move for move in MOVES if move.event == event).to[delivery]


def ends_as(state: State, delivery: Delivery, event: Event) -> State:
    """The state of the answer after an event."""
    move = next(move for move in MOVES if move.event == event)
    return state if state != "pending" or delivery == "done" or move.ends_as is None else move.ends_as


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> queued: put"]
    for start in OPEN:
        grouped: dict[Delivery, list[str]] = {}
        for move in MOVES:
            if move.to[start] != start:
                ending = f" ({move.ends_as})" if move.ends_as else ""
                grouped.setdefault(move.to[start], []).append(f"{move.event}{ending}")
        lines += [f"    {start} --> {to}: {', '.join(events)}" for to, events in grouped.items()]
    return "\n".join([*lines, "    done --> [*]: forgotten", ""])


def tables() -> str:
    """States and events as Markdown tables."""
    states = [f"| `{name}` | {what} |" for name, what in DELIVERIES.items()]
    moves = [
        f"| {move.event} | {move.when} | {f'`{move.ends_as}`' if move.ends_as else 'stays `pending`'} | {move.durable} |"
        for move in MOVES
    ]
    return "\n".join(
        [
            "| question | meaning |",
            "|---|---|",
            *states,
            "",
            "| event | when | an answer that was pending | durable |",
            "|---|---|---|---|",
            f"| put | an input is escalated | is `pending` | {ARRIVAL} |",
            *moves,
            "",
        ]
    )
