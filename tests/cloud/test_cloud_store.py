"""The store: durable changes that share a commit, a schema that its migrations make, claims with leases, the account."""

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from msgspec.structs import replace
from store_rows import ANSWER, CLAIM, do, life

from outrider_cloud.lease_clock import Lease
from outrider_cloud.store import dead_letters, examples, inputs
from outrider_cloud.store.dead_letters import DeadLetter
from outrider_cloud.store.inputs import Life
from outrider_cloud.store.retention import Retention, delete_older
from outrider_cloud.store.schema import METADATA, counts, payloads
from outrider_cloud.store.store import Store


@pytest.fixture
def store(opens: dict[str, Any]) -> Iterator[Store]:
    made = Store(**opens)
    made.open()
    yield made
    made.close()


of_one_machine = pytest.mark.parametrize("opens", ["file"], indirect=True)
"""Leases by a machine's run time; those by a server's clock are in test_cloud_store_server.py."""


def test_the_migrations_make_exactly_the_tables_that_the_code_knows(store: Store) -> None:
    def texts_alike(_context: Any, _there: Any, _known: Any, there: Any, known: Any) -> bool | None:
        """A server's texts have no longest."""
        return False if isinstance(there, sa.Text) and isinstance(known, sa.String) else None

    def differences(connection: sa.Connection) -> list[Any]:
        ours = {"compare_type": texts_alike, "include_name": lambda name, *_: name != "outrider_writers"}
        return list(compare_metadata(MigrationContext.configure(connection, opts=ours), METADATA))

    assert store.run(differences) == []


DURABLE = {
    "sqlite": {"PRAGMA journal_mode": "wal", "PRAGMA synchronous": 2},
    "postgresql": {"SHOW synchronous_commit": "on", "SHOW transaction_isolation": "repeatable read"},
}


def test_opening_again_keeps_everything_and_the_promised_settings_hold(store: Store, opens: dict[str, Any]) -> None:
    do(store, inputs.start, wanted=CLAIM)
    again = Store(**opens)
    again.open()
    try:
        assert again.run(inputs.accounts)["t"].pending == 1
        said = again.run(lambda c: {q: c.exec_driver_sql(q).scalar() for q in DURABLE[c.dialect.name]})
        assert said in DURABLE.values()
    finally:
        again.close()


async def test_changes_that_wait_together_share_a_commit(store: Store) -> None:
    transactions: list[sa.RootTransaction | None] = []

    def change(connection: sa.Connection, name: str) -> None:
        transactions.append(connection.get_transaction())
        inputs.count(connection, "t", name)

    await asyncio.gather(*(store.write(partial(change, name=str(k % 3))) for k in range(200)))
    assert len(set(transactions)) < 50
    assert sum(n for (n,) in store.run(lambda c: c.execute(sa.select(counts.c.n)).all())) == 200


async def test_a_change_that_fails_harms_no_other_of_its_group(store: Store) -> None:
    def bad(connection: sa.Connection) -> None:
        inputs.count(connection, "t", "half")
        raise ValueError("of its own making")

    def good(connection: sa.Connection) -> None:
        inputs.count(connection, "t", "good")

    results = await asyncio.gather(
        *(store.write(bad if k % 5 == 0 else good) for k in range(20)), return_exceptions=True
    )
    assert [isinstance(result, ValueError) for result in results] == [k % 5 == 0 for k in range(20)]
    assert store.run(lambda c: dict(c.execute(sa.select(counts.c.name, counts.c.n)).all())) == {"good": 16}


async def test_whoever_stops_waiting_does_not_stop_the_writer(store: Store) -> None:
    tasks = [asyncio.create_task(store.write(partial(inputs.count, task="t", name="n"))) for _ in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.write(partial(inputs.count, task="t", name="n"))


async def test_two_processes_write_to_one_store(store: Store, opens: dict[str, Any]) -> None:
    other = Store(**opens)
    await asyncio.to_thread(other.open)
    try:
        await asyncio.gather(
            *(s.write(partial(inputs.count, task="t", name="n")) for s in (store, other) for _ in range(100))
        )
        assert store.run(lambda c: c.execute(sa.select(counts.c.n)).scalar_one()) == 200
    finally:
        await asyncio.to_thread(other.close)


@of_one_machine
def test_a_claim_is_held_until_its_lease_runs_out_and_settled_for_good(store: Store) -> None:
    def start(**changes: Any) -> inputs.Found:
        return do(store, inputs.start, wanted=replace(CLAIM, **changes))

    assert start().outcome == "claimed"
    assert start(worker="two").outcome == "held"
    assert start(worker="two", lease=Lease("boot", 2001, 5000)).outcome == "claimed"
    assert do(store, inputs.settle, end=ANSWER) == b"first"
    assert do(store, inputs.settle, end=replace(ANSWER, reply=b"second", state="refused")) == b"first"
    assert start(received_ms=99_000) == ("settled", b"first")
    account = store.run(inputs.accounts)["t"]
    assert (account.received, account.cloud, account.refused, account.pending) == (1, 1, 0, 0)
    assert account.adds_up


@of_one_machine
def test_a_worker_takes_over_its_own_at_once_and_others_when_their_lease_is_over(store: Store) -> None:
    do(store, inputs.start, wanted=CLAIM)
    do(store, inputs.start, wanted=replace(CLAIM, id="2", worker="two"))
    do(store, inputs.start, wanted=replace(CLAIM, id="3", task="unserved"))

    def take(now_ms: int, *, own: bool) -> list[str]:
        rows = do(
            store, inputs.take_over, worker="one", tasks=["t"], lease=Lease("boot", now_ms, 3000), most=9, own=own
        )
        assert all(row["request"] == b"request" for row in rows)
        return sorted(row["id"] for row in rows)

    assert take(1500, own=True) == ["1"]
    assert take(1500, own=False) == []
    assert take(2500, own=False) == ["2"]
    rows = do(store, inputs.take_over, worker="x", tasks=["t"], lease=Lease("boot", 3100, 9), most=9, own=True)
    assert {row["id"]: row["claims"] for row in rows} == {"1": 3, "2": 3}


def test_a_worker_takes_back_of_what_it_holds_only_what_is_named(store: Store) -> None:
    for input_id in "123":
        do(store, inputs.start, wanted=replace(CLAIM, id=input_id))
    do(store, inputs.start, wanted=replace(CLAIM, id="4", worker="two"))
    do(store, inputs.settle, end=replace(ANSWER, id="3"))

    def take(*, most: int, worker: str = "one", task: str = "t") -> list[str]:
        keys = [(CLAIM.device, input_id) for input_id in "134"]
        rows = do(store, inputs.take_back, worker=worker, task=task, keys=keys, most=most)
        assert all(row["claims"] == 2 and row["request"] == b"request" for row in rows)
        return [row["id"] for row in rows]

    assert take(most=0) == take(most=9, task="unserved") == []
    assert take(most=9, worker="two") == ["4"]
    assert take(most=9) == ["1"]


def test_what_is_named_of_other_tasks_takes_no_room_from_what_is_taken_back(store: Store) -> None:
    named = [f"{k:04}" for k in range(600)]
    store.submit(lambda c: [inputs.start(c, replace(CLAIM, id=each, task="full")) for each in named]).result()
    do(store, inputs.start, wanted=replace(CLAIM, id="9999"))
    keys = [(CLAIM.device, each) for each in (*named, "9999")]
    assert do(store, inputs.take_back, worker="one", task="full", keys=keys, most=0) == []
    rows = do(store, inputs.take_back, worker="one", task="t", keys=keys, most=1)
    assert [row["id"] for row in rows] == ["9999"]
    assert len(do(store, inputs.take_back, worker="one", task="full", keys=keys, most=550)) == 550


def test_workers_that_end_in_order_wear_no_input_out(store: Store) -> None:
    do(store, inputs.start, wanted=CLAIM)
    for _ in range(2 * inputs.MAX_CLAIMS):
        do(store, inputs.give_up, worker="one")
        [row] = do(
            store, inputs.take_over, worker="one", tasks=["t"], lease=Lease("boot", 1500, 3000), most=9, own=False
        )
        assert row["claims"] == 1
    [row] = do(store, inputs.take_over, worker="one", tasks=["t"], lease=Lease("boot", 1500, 3000), most=9, own=True)
    assert row["claims"] == 2  # this one did not


def test_replies_are_unsent_until_they_are_marked(store: Store) -> None:
    for input_id in ("1", "2"):
        do(store, inputs.start, wanted=replace(CLAIM, id=input_id))
        do(store, inputs.settle, end=replace(ANSWER, id=input_id))
    do(store, inputs.mark_sent, keys=[("cam", "1")])
    assert [row["id"] for row in store.run(partial(inputs.unsent, worker="one", now_ms=1500))] == ["2"]
    assert store.run(partial(inputs.unsent, worker="one", now_ms=9000)) == []


def test_what_no_device_will_ask_for_is_forgotten_and_stays_counted(store: Store) -> None:
    do(store, inputs.start, wanted=CLAIM)
    assert do(store, inputs.forget, before_ms=99_000) == 0  # never what is unanswered
    do(store, inputs.settle, end=ANSWER)
    assert do(store, inputs.forget, before_ms=9000) == 0
    assert do(store, inputs.forget, before_ms=9001) == 1
    assert store.run(inputs.accounts)["t"].cloud == 1


def test_an_example_is_kept_once_with_its_payload(store: Store) -> None:
    new = examples.NewExample(
        task="t",
        group="clip",
        role="train",
        source="audit",
        device="cam",
        input="1",
        parts={"q": "d1"},
        payloads={"d1": b"bytes"},
        teacher_label="red",
        teacher_probabilities=[0.9, 0.1],
        created_ms=1,
    )
    do(store, inputs.start, wanted=CLAIM)
    do(store, inputs.settle, end=replace(ANSWER, example=new))
    do(store, inputs.settle, end=replace(ANSWER, example=new))
    do(store, examples.add, new=new)
    stats = store.run(partial(examples.stats, task="t"))
    assert (stats["examples"], stats["sources"], stats["roles"]) == (1, {"audit": 1}, {"train": 1})
    assert store.run(partial(examples.payload, sha256="d1")) == b"bytes"
    assert store.run(partial(examples.payload, sha256="d2")) is None


def test_dead_letters_are_bounded(store: Store) -> None:
    letter = DeadLetter(
        received_ms=1, topic="t", device="", input="", reason="unparsable", detail="", size=1, payload=b"\xc1"
    )
    for k in range(12):
        do(store, dead_letters.park, letter=replace(letter, received_ms=k), kept=5)
    assert [row["received_ms"] for row in store.run(partial(dead_letters.latest, limit=100))] == [11, 10, 9, 8, 7]
    assert store.run(partial(dead_letters.latest, limit=1))[0]["head"] == "c1"


@of_one_machine
def test_a_wall_clock_that_jumps_neither_ends_a_lease_nor_prolongs_one(store: Store) -> None:
    """The wall clock of whoever claims says nothing: an hour ahead or behind, only run time and boot count."""
    hour = 3_600_000
    do(store, inputs.start, wanted=CLAIM)
    for jump in (-hour, hour):
        claim = replace(CLAIM, worker="two", received_ms=CLAIM.received_ms + jump, lease=Lease("boot", 1999, 9000))
        assert do(store, inputs.start, wanted=claim).outcome == "held"
    claim = replace(CLAIM, worker="two", received_ms=CLAIM.received_ms - hour, lease=Lease("boot", 2001, 9000))
    assert do(store, inputs.start, wanted=claim).outcome == "claimed"


@of_one_machine
def test_after_a_reboot_every_lease_is_void(store: Store) -> None:
    do(store, inputs.start, wanted=CLAIM)
    claim = replace(CLAIM, worker="two", lease=Lease("the next boot", 5, 30_005))
    assert do(store, inputs.start, wanted=claim).outcome == "claimed"


def test_an_hour_either_way_forgets_no_answer_that_may_be_asked_for(store: Store) -> None:
    """Housekeeping forgets a day after the end of an answer's use; a second bill for it needs a clock a day wrong."""
    do(store, inputs.start, wanted=CLAIM)
    do(store, inputs.settle, end=ANSWER)
    day = 86_400_000
    keep = partial(delete_older, retention=Retention(), now_ms=CLAIM.keep_until_ms + 3_600_000)
    assert store.submit(keep).result(10)["inputs"] == 0
    later = partial(delete_older, retention=Retention(), now_ms=CLAIM.keep_until_ms + day + 1)
    assert store.submit(later).result(10)["inputs"] == 1


def test_no_more_is_taken_over_than_there_is_room_for_and_the_oldest_first(store: Store) -> None:
    for k in range(5):
        do(store, inputs.start, wanted=replace(CLAIM, id=str(k), received_ms=1000 - k))

    def take(most: int, *, own: bool) -> list[str]:
        rows = do(
            store, inputs.take_over, worker="one", tasks=["t"], lease=Lease("boot", 1500, 3000), most=most, own=own
        )
        return sorted(row["id"] for row in rows)

    assert take(2, own=True) == ["3", "4"]
    assert take(9, own=False) == ["0", "1", "2"], "what there was no room for at first is there when there is"
    assert take(9, own=False) == []


def test_a_start_task_by_task_keeps_what_it_has_just_taken(store: Store) -> None:
    for task in ("t", "u"):
        do(store, inputs.start, wanted=replace(CLAIM, id=task, task=task))
    for task in ("t", "u"):
        do(store, inputs.take_over, worker="one", tasks=[task], lease=Lease("b", 1, 9), most=9, own=True)
    assert store.run(partial(inputs.held_by, worker="one")) == {("cam", "t"), ("cam", "u")}


def test_what_is_unsent_is_read_page_by_page(store: Store) -> None:
    for k in range(7):
        do(store, inputs.start, wanted=replace(CLAIM, id=str(k), device=f"cam-{k % 2}"))
        do(store, inputs.settle, end=replace(ANSWER, id=str(k), device=f"cam-{k % 2}"))
    seen, after = [], ("", "")
    while rows := store.run(partial(inputs.unsent, worker="one", now_ms=1500, after=after, most=3)):
        assert len(rows) <= 3
        after = (rows[-1]["device"], rows[-1]["id"])
        seen += [row["id"] for row in rows]
    assert sorted(seen) == [str(k) for k in range(7)]


def write(store: Store, lives: Sequence[Life]) -> list[bytes]:
    return store.submit(partial(inputs.record, lives=lives)).result(10)


def test_what_is_new_is_recorded_and_counted_once(store: Store) -> None:
    assert write(store, [life(str(k)) for k in range(40)]) == [b"reply"] * 40
    account = store.run(inputs.accounts)["t"]
    assert (account.received, account.cloud, account.pending) == (40, 40, 0)
    for table in (METADATA.tables["examples"], payloads):
        assert store.run(lambda c, table=table: c.execute(sa.select(sa.func.count()).select_from(table)).scalar()) == 40


def test_the_first_committed_reply_stands_beside_new_ones(store: Store) -> None:
    write(store, [life("old", b"first"), life("older", b"first")])
    store.submit(partial(inputs.start, wanted=replace(CLAIM, id="held"))).result(10)
    replies = write(store, [life("old", b"second"), life("new"), life("held", b"mine"), life("old", device="cam-2")])
    assert replies == [b"first", b"reply", b"mine", b"reply"]
    account = store.run(inputs.accounts)["t"]
    assert (account.received, account.cloud, account.pending) == (5, 5, 0)


def test_the_same_input_twice_in_one_group_is_one_input(store: Store) -> None:
    assert write(store, [life("a", b"first"), life("b"), life("a", b"second")]) == [b"first", b"reply", b"first"]
    assert store.run(inputs.accounts)["t"].received == 2


async def test_neighbours_share_a_bulk_and_one_that_fails_harms_no_other(store: Store) -> None:
    sizes: list[int] = []

    def bulk(connection: sa.Connection, items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        for item in items:
            inputs.count(connection, "t", "n")
            if item == 13:
                raise ValueError("of its own making")
        return [10 * item for item in items]

    results = await asyncio.gather(*(store.write_each(bulk, k) for k in range(30)), return_exceptions=True)
    assert [r for k, r in enumerate(results) if k != 13] == [10 * k for k in range(30) if k != 13]
    assert isinstance(results[13], ValueError)
    assert max(sizes) > 1
    assert store.run(lambda c: c.exec_driver_sql("SELECT n FROM counts").scalar()) == 29


async def test_a_change_between_two_items_of_a_bulk_sees_the_first_and_not_the_second(store: Store) -> None:
    seen: list[int | None] = []

    def bulk(connection: sa.Connection, items: Sequence[str]) -> Sequence[None]:
        for item in items:
            inputs.count(connection, "t", item)
        return [None] * len(items)

    def look(connection: sa.Connection) -> None:
        seen.append(connection.exec_driver_sql("SELECT sum(n) FROM counts").scalar())

    await asyncio.gather(store.write_each(bulk, "a"), store.write(look), store.write_each(bulk, "b"))
    assert seen[-1] == 1


async def test_a_glance_sees_what_is_committed_and_holds_nothing_up(store: Store) -> None:
    assert await store.glance(inputs.STANDING, "cam", "1") is None
    do(store, inputs.start, wanted=CLAIM)
    assert inputs.found(await store.glance(inputs.STANDING, "cam", "1")) == inputs.Found("held")
    do(store, inputs.settle, end=ANSWER)
    assert inputs.found(await store.glance(inputs.STANDING, "cam", "1")) == inputs.Found("settled", b"first")
    assert store.compact(), "a glance that left a reader behind would keep the log from being emptied"


async def test_a_glance_at_a_damaged_file_is_the_stores_own_error(store: Store) -> None:
    with pytest.raises(sa.exc.SQLAlchemyError):
        await store.glance("SELECT nothing FROM nowhere")
