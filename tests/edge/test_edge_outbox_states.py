"""The table of states against the statements that move rows: every state, every event."""

import itertools
from contextlib import closing

import pytest
from edge_entries import HandClock, make_answer, make_entry

from outrider_edge.outbox.opening import open_memory
from outrider_edge.outbox.outcomes import Answered, Expired, GivenUp, Refused
from outrider_edge.outbox.rows import NewRow, OutboxStore
from outrider_edge.outbox.states import DELIVERIES, MOVES, OPEN, Delivery, Event, after, diagram, ends_as, tables
from outrider_edge.uplink.escalations import envelope_of
from outrider_wire.messages import Refusal
from outrider_wire.report import State


def bring_to(store: OutboxStore, id_: str, delivery: Delivery) -> None:
    if delivery == "offered":
        store.offered(id_, 1)
    elif delivery == "received":
        store.received(id_)
    elif delivery == "done":
        store.settle(id_, Answered(make_answer(id_)))


def happen(store: OutboxStore, id_: str, event: Event) -> None:
    match event:
        case "offered":
            store.offered(id_, 1)
        case "receipt":
            store.received(id_)
        case "answer":
            store.settle(id_, Answered(make_answer(id_)))
        case "refusal":
            store.settle(id_, Refused(Refusal(id=id_, reason="unknown_task")))
        case "expiry":
            store.settle(id_, Expired())
        case "given up":
            store.settle(id_, GivenUp("it made way"))


@pytest.mark.parametrize("state", ["pending", "edge", "memory"])
@pytest.mark.parametrize(("delivery", "event"), [*itertools.product(DELIVERIES, [move.event for move in MOVES])])
def test_the_code_does_what_the_table_says(delivery: Delivery, event: Event, state: State) -> None:
    opened = open_memory(HandClock().clock)
    with closing(opened.connection):
        entry = make_entry(state=state)
        opened.store.put(NewRow.of(entry, envelope_of(entry), [b"pixels"], fulls={}, at_s=0.0))
        bring_to(opened.store, entry.id, delivery)
        asked = "SELECT state, delivery, bytes, ended IS NOT NULL FROM input"
        was = opened.connection.execute(asked).fetchone()[0]
        happen(opened.store, entry.id, event)
        state_now, delivery_now, held, ended = opened.connection.execute(asked).fetchone()
        assert delivery_now == after(delivery, event)
        assert state_now == ends_as(was, delivery, event)
        assert bool(held) == (delivery_now in ("queued", "offered"))
        assert bool(ended) == (delivery_now == "done")
        assert opened.store.accounts()["colours"].adds_up


def test_documents_name_every_state_and_event() -> None:
    for name in DELIVERIES:
        assert name in diagram()
        assert f"`{name}`" in tables()
    for move in MOVES:
        assert set(move.to) == set(OPEN)
        assert f"| {move.event} |" in tables()
