"""Who makes way: the rule as a table, the file's queries against it, and what it does to an outbox that is full."""

import asyncio
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from edge_entries import HandClock, eventually, make_entry, until
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from outrider_edge.outbox.opening import open_memory
from outrider_edge.outbox.outbox import DEFAULT_BOUNDS, Outbox
from outrider_edge.outbox.outcomes import Expired
from outrider_edge.outbox.policy import (
    Bounds,
    Held,
    Need,
    Standing,
    Worth,
    in_order,
    need_of,
    victims,
    worth_of,
)
from outrider_edge.outbox.rows import NewRow, Settled
from outrider_edge.ports import OutboxEntry
from outrider_edge.uplink.escalations import envelope_of
from outrider_wire.errors import RuleRefusalError
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.report import Account, AnswerReport

WAITED, SPARE, PRECIOUS = Worth.WAITED, Worth.SPARE, Worth.PRECIOUS


def held(id_: str, worth: Worth = WAITED, **about: object) -> Held:
    values = {"received": False, "gain": 0.5, "seq": 1, "bytes": 10, "expired": False, **about}
    standing = Standing(worth, values["received"], values["gain"], values["seq"])  # type: ignore[arg-type]  # values of many types, by name
    return Held(id_, standing, values["bytes"], values["expired"])  # type: ignore[arg-type]  # values of many types, by name


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (held("expired audit", PRECIOUS, expired=True), held("spare", SPARE, gain=0.0)),
        (held("spare", SPARE, gain=0.9), held("waited for", gain=0.1)),
        (held("waited for", gain=0.9), held("audit", PRECIOUS, gain=1.0)),
        (held("sure", gain=0.1, seq=9), held("unsure", gain=0.6, seq=1)),
        (held("older", seq=1), held("newer", seq=2)),
        (held("not stored", gain=0.9), held("stored by the cloud", gain=0.1, received=True)),
        (held("stored, waited for", received=True), held("audit", PRECIOUS, gain=1.0)),
    ],
    ids=lambda one: one.id,
)
def test_the_table_says_who_goes_first(first: Held, then: Held) -> None:
    assert in_order([then, first]) == [first, then]


@pytest.mark.parametrize(
    ("fields", "worth", "gain"),
    [
        ({}, WAITED, 0.5),
        ({"probabilities": [0.7, 0.2, 0.1]}, WAITED, 0.3),
        ({"why": "unsupported"}, WAITED, 1.0),
        ({"state": "edge"}, SPARE, 0.5),
        ({"why": "requested"}, PRECIOUS, 1.0),
        ({"audit": True}, PRECIOUS, 1.0),
        ({"state": "memory", "why": "memory"}, PRECIOUS, 1.0),
    ],
    ids=["refused", "surer", "unlike anything", "kept to learn from", "a person asked", "audit", "audit of the memory"],
)
def test_what_an_entry_is_worth(fields: dict[str, object], worth: Worth, gain: float) -> None:
    entry = make_entry(**fields)  # type: ignore[arg-type]  # values of many types, by name
    assert worth_of(envelope_of(entry), entry.state) == (worth, pytest.approx(gain))


BOUNDS = Bounds(max_count=10, max_bytes=100, max_age_s=60, min_free_bytes=1_000)


@pytest.mark.parametrize(
    ("count", "bytes_held", "size", "free", "need"),
    [
        (9, 90, 10, 2_000, None),
        (10, 50, 10, 2_000, Need(1, 0, "max_count")),
        (5, 95, 10, 2_000, Need(0, 5, "max_bytes")),
        (10, 95, 10, 2_000, Need(1, 5, "max_count")),
        (5, 50, 10, 1_009, Need(1, 10, "min_free_bytes")),
        (5, 140, 10, 2_000, Need(0, 10, "max_bytes")),
    ],
)
def test_what_must_make_way(count: int, bytes_held: int, size: int, free: int, need: Need | None) -> None:
    assert need_of(BOUNDS, count=count, bytes_held=bytes_held, size=size, free_bytes=free) == need


@given(st.lists(st.integers(0, 60), max_size=30))
def test_the_shares_of_many_at_once_add_up_to_what_is_too_much(sizes: list[int]) -> None:
    count = bytes_held = 0
    entries = freed = 0
    for size in sizes:
        need = need_of(BOUNDS, count=count, bytes_held=bytes_held, size=size, free_bytes=1 << 40)
        count, bytes_held = count + 1, bytes_held + size
        if need is not None:
            entries, freed = entries + need.entries, freed + need.bytes
    assert entries == max(0, len(sizes) - BOUNDS.max_count)
    assert freed == max(0, sum(sizes) - BOUNDS.max_bytes)


HELD = st.builds(
    Held,
    st.uuids().map(str),
    st.builds(Standing, st.sampled_from(Worth), st.booleans(), st.floats(0, 1), st.integers(0, 100)),
    st.integers(0, 50),
    st.booleans(),
)


@given(st.lists(HELD, max_size=20), HELD, st.builds(Need, st.integers(0, 1), st.integers(0, 80)))
def test_nobody_makes_way_for_what_is_worth_less_and_never_more_than_needed(
    all_held: list[Held], newcomer: Held, need: Need
) -> None:
    chosen = victims(newcomer.standing, in_order(all_held), need)
    if chosen is None:
        lesser = [one for one in all_held if one.expired or one.standing <= newcomer.standing]
        assert len(lesser) < need.entries or sum(one.bytes for one in lesser) < need.bytes
        return
    assert all(one.expired or one.standing <= newcomer.standing for one in chosen)
    assert len(chosen) >= need.entries
    assert sum(one.bytes for one in chosen) >= need.bytes
    fewer = chosen[:-1]
    assert not chosen or len(fewer) < need.entries or sum(one.bytes for one in fewer) < need.bytes
    assert [one.id for one in chosen] == [one.id for one in in_order(all_held) if one in chosen]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["plain", "spare", "audit", "requested"]), st.integers(34, 99), st.integers(1, 9))
    )
)
def test_the_files_own_order_is_that_of_the_table(kinds: list[tuple[str, int, int]]) -> None:
    clock = HandClock()
    opened = open_memory(clock.clock)
    rng = random.Random(len(kinds))
    with closing(opened.connection):
        for kind, percent, keep_s in kinds:
            p = percent / 100
            fields = {"spare": {"state": "edge"}, "audit": {"audit": True}, "requested": {"why": "requested"}}.get(
                kind, {}
            )
            entry = make_entry(probabilities=[p, 1 - p, 0.0], keep_for_s=keep_s, **fields)  # type: ignore[arg-type]  # values of many types, by name
            opened.store.put(NewRow.of(entry, envelope_of(entry), [b"pixels"], fulls={}, at_s=clock.now))
            if rng.random() < 0.3:
                opened.store.received(entry.id)
        clock.now += 5
        found = list(opened.store.waiting._in_order(clock.now))
        assert found == in_order(found)
        assert len(found) == len(kinds)


def test_no_statement_walks_or_sorts_all_that_there_is(tmp_path: Path) -> None:
    """Each goes by an index: with 100,000 entries, anything else is felt in every escalation."""
    opened, asked = open_memory(HandClock().clock), list[str]()
    with closing(opened.connection):
        entries = [make_entry(), make_entry(state="edge"), make_entry()]
        opened.connection.set_trace_callback(asked.append)
        for entry in entries:
            opened.store.put(NewRow.of(entry, envelope_of(entry), [b"pixels"], fulls={}, at_s=1_000.0))
        waiting, look = opened.store.waiting, opened.store.look()
        waiting.next_open(0, 10), waiting.next_spare(0, 10), waiting.next_expiry(), waiting.expired(1.0, 10)
        list(waiting._in_order(1.0))
        opened.store.offered(entries[0].id, 1)
        opened.store.received(entries[0].id)
        opened.store.settle(entries[0].id, Expired())
        opened.store.open_row(entries[1].id), opened.store.report(entries[1].id), opened.store.prune(100)
        look.ended(0, 10), look.last_ended(), look.entry(entries[1].id)
        opened.connection.set_trace_callback(None)
        plans = {
            query: [row[3] for row in opened.connection.execute(f"EXPLAIN QUERY PLAN {query}")]
            for query in asked
            if query.startswith(("SELECT", "UPDATE", "DELETE", "INSERT"))
        }
    assert len(plans) >= 15
    for query, plan in plans.items():
        assert not [step for step in plan if "TEMP B-TREE" in step and "ORDER BY" in step], query
        assert not [
            step for step in plan if step.startswith("SCAN") and "INDEX" not in step and "CONSTANT" not in step
        ], query


# A full outbox


async def full(folder: Path, entries: list[OutboxEntry], **limits: int) -> Outbox:
    outbox = Outbox(folder=folder, clock=HandClock().clock, flush_s=0.02, bounds=DEFAULT_BOUNDS._replace(**limits))
    await outbox.start()
    for entry in entries:
        outbox.arrived(entry.task)
        await outbox.put(entry)
    return outbox


async def test_what_makes_way_ends_once_says_why_and_whoever_offers_it_is_told(tmp_path: Path) -> None:
    surer, unsure = make_entry(probabilities=[0.7, 0.2, 0.1]), make_entry()
    outbox, told = await full(tmp_path, [surer, unsure], max_count=2), list[tuple[str, AnswerReport | None]]()

    def closed(id_: str, settled: Settled) -> None:
        told.append((id_, settled.report))

    outbox.listen(on_closed=closed, on_reopened=lambda: None)
    newer = make_entry()
    outbox.arrived("colours")
    await outbox.put(newer)
    [(id_, report)] = told
    assert id_ == surer.id
    assert report is not None
    assert (report.state, report.final, report.answered_by, report.label) == ("expired", True, "edge", "red")
    assert "as many inputs as it may" in report.note
    assert await outbox.find(surer.id) == report
    assert outbox.account() == Account(received=3, pending=2, expired=1, uncertified=1)
    assert outbox.view().evictions == {"max_count/waited": 1}
    await outbox.stop()


async def test_the_least_worth_having_of_all_is_refused_and_nothing_makes_way(tmp_path: Path) -> None:
    outbox = await full(tmp_path, [make_entry(), make_entry()], max_bytes=12)
    with pytest.raises(RuleRefusalError) as refused:
        await outbox.put(make_entry(probabilities=[0.7, 0.2, 0.1]))
    assert refused.value.reason == "outbox_full"
    assert "max_bytes" in str(refused.value)
    assert (outbox.account(), outbox.view().evictions, outbox.view().count) == (Account(received=2, pending=2), {}, 2)
    await outbox.stop()


async def test_below_the_free_disk_floor_what_comes_takes_the_place_of_what_is_held(tmp_path: Path) -> None:
    entries = [make_entry(), make_entry(state="edge")]
    outbox = await full(tmp_path, entries)
    outbox._room.bounds = outbox._room.bounds._replace(min_free_bytes=1 << 60)  # as if the disk had filled since
    await outbox.put(make_entry())
    assert outbox.view().evictions == {"min_free_bytes/spare": 1}
    assert outbox.view().count == 2
    await outbox.stop()


async def test_large_payload_that_found_no_room_leaves_no_file(tmp_path: Path) -> None:
    outbox = await full(tmp_path, [make_entry(b"\x01" * (INLINE_BYTES + 1))], max_bytes=INLINE_BYTES + 100)
    with pytest.raises(RuleRefusalError):
        await outbox.put(make_entry(b"\x02" * (INLINE_BYTES + 1), probabilities=[0.7, 0.2, 0.1]))
    assert len(list((tmp_path / "payload").iterdir())) == 1
    await outbox.put(make_entry(b"\x03" * (INLINE_BYTES + 1)))
    await until(lambda: len(list((tmp_path / "payload").iterdir())) == 1)
    [file] = (tmp_path / "payload").iterdir()
    assert file.read_bytes()[0] == 3
    await outbox.stop()


async def test_an_audit_finds_room_where_entries_without_durability_wait(tmp_path: Path) -> None:
    outbox = await full(tmp_path, [make_entry(durability="memory") for _ in range(3)], max_count=3)
    outbox.arrived("colours")
    await outbox.put(make_entry(audit=True))
    assert outbox.view().evictions == {"max_count/waited": 1}
    assert outbox.account() == Account(received=4, pending=2, edge=1, expired=1, audited=1, uncertified=1)
    await outbox.stop()


async def test_many_that_come_at_once_keep_the_bounds(tmp_path: Path) -> None:
    outbox = await full(tmp_path, [], max_count=20, max_bytes=200)
    rng = random.Random(7)

    async def ask(number: int) -> bool:
        p = rng.choice([0.5, 0.6, 0.7])
        kind = {"durability": "memory"} if number % 5 == 0 else {"audit": True} if number % 7 == 0 else {}
        entry = make_entry(b"x" * rng.randrange(1, 30), probabilities=[p, 1 - p, 0.0], **kind)  # type: ignore[arg-type]  # values of many types, by name
        outbox.arrived("colours")
        try:
            await outbox.put(entry)
        except RuleRefusalError:
            outbox.count_local("colours", "edge")
            return False
        return True

    kept = await asyncio.gather(*(ask(number) for number in range(200)))
    view, account = outbox.view(), outbox.account()
    assert view.count <= 20
    assert view.bytes <= 200
    assert account.adds_up
    assert account.received == 200
    assert sum(view.evictions.values()) == sum(kept) - view.count

    async def adds_up_on_disk() -> bool:
        return (await outbox.accounts_on_disk())["colours"].adds_up

    await eventually(adds_up_on_disk)
    rows = await outbox.shelves.page(after=0, limit=100)
    in_memory = await outbox.shelves.page(after=0, limit=100, memory=True)
    assert len(rows.entries) + len(in_memory.entries) == view.count
    assert sum(each.bytes for each in rows.entries + in_memory.entries) == view.bytes
    await outbox.stop()


async def test_nothing_is_kept_longer_than_the_outbox_keeps_anything(tmp_path: Path) -> None:
    hand = HandClock()
    outbox = Outbox(folder=tmp_path, clock=hand.clock, bounds=DEFAULT_BOUNDS._replace(max_age_s=100))
    await outbox.start()
    entry = make_entry(keep_for_s=3_600)
    await outbox.put(entry)
    [row] = await outbox.open_rows()
    assert row.envelope.keep_for_s == 100
    await outbox.stop()
    shorter = Outbox(folder=tmp_path, clock=hand.clock, bounds=DEFAULT_BOUNDS._replace(max_age_s=10))
    await shorter.start()
    hand.now += 11
    ended, next_at = await shorter.expire()
    assert [id_ for id_, _ in ended] == [entry.id]
    assert next_at == float("inf")
    await shorter.stop()


async def test_a_report_that_was_settled_is_not_settled_again_by_making_way(tmp_path: Path) -> None:
    first = make_entry()
    outbox = await full(tmp_path, [replace(first, keep_for_s=1)], max_count=1)
    await asyncio.gather(outbox.give_up(first.id, "a test"), outbox.put(make_entry()))
    assert outbox.account().expired == 1
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as file:
        assert file.execute("SELECT count(*) FROM input WHERE delivery <> 'done'").fetchone() == (1,)
    await outbox.stop()
