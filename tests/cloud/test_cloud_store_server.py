"""The store on a PostgreSQL server: two workers at once, leases by the server's clock, and whatever devices write into texts."""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from cut_connection import CutConnection
from msgspec.structs import replace
from postgres_server import PASSWORD, Postgres
from store_rows import ANSWER, CLAIM, do, life

from outrider_cloud.lease_clock import Lease
from outrider_cloud.store import dead_letters, examples, forget, inputs
from outrider_cloud.store.dead_letters import DeadLetter
from outrider_cloud.store.forget import Whom
from outrider_cloud.store.schema import METADATA, certified_groups
from outrider_cloud.store.store import Store
from outrider_wire.errors import OperatorSetupError


def opened(url: str) -> Store:
    store = Store(url=url, password=PASSWORD)
    store.open()
    return store


@pytest.fixture
def pair(url: str) -> Iterator[tuple[Store, Store]]:
    """Two workers' stores, as on two machines."""
    both = opened(url), opened(url)
    yield both
    for store in both:
        store.close()


def of(boot: str, length_ms: int) -> Lease:
    """A lease of a machine whose run time says nothing to the other one."""
    return Lease(boot, 7 if boot == "a" else 10**9, (7 if boot == "a" else 10**9) + length_ms)


def test_another_machines_lease_holds_until_it_runs_out_by_the_servers_clock(pair: tuple[Store, Store]) -> None:
    one, two = pair
    assert do(one, inputs.start, wanted=replace(CLAIM, lease=of("a", 700))).outcome == "claimed"
    theirs = replace(CLAIM, worker="two", lease=of("b", 60_000))
    assert do(two, inputs.start, wanted=theirs).outcome == "held", "another boot is another machine here, and no reboot"
    take = partial(inputs.take_over, worker="two", tasks=["t"], lease=of("b", 60_000), most=9, own=False)
    assert two.submit(take).result(10) == []
    do(one, inputs.renew, worker="one", lease=of("a", 900))
    time.sleep(0.75)
    assert two.submit(take).result(10) == [], "it has been renewed"
    time.sleep(0.4)
    assert [row["worker"] for row in two.submit(take).result(10)] == ["two"]
    assert do(one, inputs.start, wanted=replace(CLAIM, lease=of("a", 700))).outcome == "held"
    do(two, inputs.give_up, worker="two")
    assert do(one, inputs.start, wanted=replace(CLAIM, lease=of("a", 700))).outcome == "claimed", (
        "given up is free at once"
    )


def test_of_two_workers_that_claim_the_same_inputs_one_gets_each(pair: tuple[Store, Store]) -> None:
    ids = [str(k) for k in range(150)]

    def claim(store: Store, worker: str) -> list[str]:
        mine = replace(CLAIM, worker=worker, lease=of(worker, 60_000))
        found = [store.submit(partial(inputs.start, wanted=replace(mine, id=each))) for each in ids]
        return [each for each, future in zip(ids, found, strict=True) if future.result(30).outcome == "claimed"]

    with ThreadPoolExecutor(2) as threads:
        a, b = threads.map(claim, pair, ("a", "b"))
    assert sorted(a + b) == sorted(ids)
    account = pair[0].run(inputs.accounts)["t"]
    assert (account.received, account.pending) == (150, 150)


def test_the_first_committed_reply_wins_between_two_workers(pair: tuple[Store, Store]) -> None:
    ids = [str(k) for k in range(120)]

    def settle(store: Store, worker: str) -> list[bytes]:
        """Half of them one by one, half together with others; what is not claimed is recorded at once."""
        if worker == "a":
            lives = [
                (replace(claim, worker=worker), end) for claim, end in (life(each, worker.encode()) for each in ids)
            ]
            return [
                reply
                for at in range(0, len(ids), 10)
                for reply in store.submit(partial(inputs.record, lives=lives[at : at + 10])).result(30)
            ]
        ends = [life(each, worker.encode()) for each in ids]
        futures = [store.submit(partial(inputs.record, lives=[one])) for one in ends]
        return [reply for future in futures for reply in future.result(30)]

    with ThreadPoolExecutor(2) as threads:
        a, b = threads.map(settle, pair, ("a", "b"))
    assert a == b, "both are told the same reply, whoever came first"
    stands = pair[0].run(
        lambda c: c.execute(sa.select(sa.func.count()).select_from(METADATA.tables["examples"])).scalar()
    )
    account = pair[0].run(inputs.accounts)["t"]
    assert (account.received, account.cloud, stands) == (120, 120, 120) and account.adds_up


def test_what_two_workers_take_over_at_once_is_taken_once(pair: tuple[Store, Store]) -> None:
    for k in range(60):
        do(pair[0], inputs.start, wanted=replace(CLAIM, id=str(k), worker="dead", lease=of("a", 0)))
    time.sleep(0.01)

    def take(store: Store, worker: str) -> list[str]:
        taken: list[str] = []
        while rows := do(
            store, inputs.take_over, worker=worker, tasks=["t"], lease=of(worker, 60_000), most=7, own=False
        ):
            taken += [row["id"] for row in rows]
        return taken

    with ThreadPoolExecutor(2) as threads:
        a, b = threads.map(take, pair, ("a", "b"))
    assert sorted(a + b) == sorted(str(k) for k in range(60))


def test_two_that_open_an_empty_database_at_once_both_find_the_schema(postgres: Postgres) -> None:
    url = postgres.database()
    with ThreadPoolExecutor(3) as threads:
        stores = list(threads.map(opened, [url] * 3))
    for store in stores:
        assert do(store, inputs.count, task="t", name="received") is None
        store.close()


def test_texts_of_any_length_and_with_any_character_are_kept_and_are_no_trouble(pair: tuple[Store, Store]) -> None:
    """A file keeps them all; a server knows no U+0000 and would not keep a text longer than its column."""
    store = pair[0]
    letter = DeadLetter(
        received_ms=1, topic="t\0" * 300, device="", input="", reason="r" * 200, detail="\0", size=1, payload=b"\0"
    )
    do(store, dead_letters.park, letter=letter)
    [row] = store.run(partial(dead_letters.latest, limit=9))
    assert (row["topic"], row["detail"], row["head"]) == ("t\ufffd" * 300, "\ufffd", "00")
    assert store.trouble == ""


def test_a_change_that_the_server_refuses_is_the_changes_own_affair(pair: tuple[Store, Store]) -> None:
    def bad(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SELECT 1 / 0")

    futures = [pair[0].submit(bad), pair[0].submit(partial(inputs.count, task="t", name="received"))]
    with pytest.raises(sa.exc.DataError):
        futures[0].result(10)
    futures[1].result(10)
    assert pair[0].trouble == ""


def test_nothing_of_a_forgotten_device_is_left_in_the_tables_and_the_rest_is_said(pair: tuple[Store, Store]) -> None:
    store = pair[0]
    store.submit(partial(inputs.record, lives=[life("1"), life("2", device="cam-2")])).result(10)
    use = {"task": "t", "data_digest": "d", "use": 1, "delta": 0.1, "risk": 0.1, "n": 1, "bundle": "", "created_ms": 1}
    store.submit(lambda c: c.execute(sa.insert(METADATA.tables["certifications"]).values(use))).result(10)
    members = [{"certification": 1, "group": group} for group in ("1", "2")]
    store.submit(lambda c: c.execute(sa.insert(certified_groups), members)).result(10)
    erased = do(store, forget.erase, whom=Whom(device="cam"), at_ms=1)
    assert erased.digests == {"digest of 1"}
    assert store.run(partial(forget.find, whom=Whom(device="cam"))).nothing
    groups = store.run(lambda c: list(c.execute(sa.select(certified_groups.c.group)).scalars()))
    assert "1" not in groups and "2" in groups and any(len(group) > 30 for group in groups)
    assert store.run(partial(examples.payload, sha256="digest of 2")) == b"pixels"
    assert store.compact() and "write-ahead log" in store.remains


@pytest.fixture
def cut(postgres: Postgres, url: str) -> Iterator[tuple[Store, CutConnection]]:
    """A store behind a connection that can be cut; it has written before."""
    with CutConnection(postgres.port) as way:
        store = opened(url.replace(f":{postgres.port}/", f":{way.port}/"))
        do(store, inputs.mark_sent, keys=[])
        yield store, way
        store.close()


def test_a_commit_that_was_cut_off_behind_the_server_stands_and_is_told(cut: tuple[Store, CutConnection]) -> None:
    """Else the input would stand claimed by a worker that does not know of it, and renews its lease for ever."""
    store, way = cut
    way.cut_at_commit(lets_through=True)
    assert do(store, inputs.start, wanted=CLAIM).outcome == "claimed"
    assert way.cut == 1
    account = store.run(inputs.accounts)["t"]
    assert (account.received, account.pending, store.trouble) == (1, 1, "")
    assert do(store, inputs.settle, end=ANSWER) == b"first"


def test_a_commit_that_was_cut_off_before_the_server_is_told_to_have_failed(cut: tuple[Store, CutConnection]) -> None:
    store, way = cut
    way.cut_at_commit(lets_through=False)
    with pytest.raises(sa.exc.OperationalError):
        do(store, inputs.start, wanted=CLAIM)
    assert way.cut == 1 and store.run(inputs.accounts) == {}
    assert store.trouble != ""
    assert do(store, inputs.start, wanted=CLAIM).outcome == "claimed"
    assert store.trouble == ""


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"url": "postgresql://outrider@127.0.0.1:9/x"}, "cannot be used"),
        ({"password": "s3cret-and-wrong"}, "password authentication failed"),
    ],
)
def test_a_server_that_cannot_be_used_is_said_without_its_password(url: str, how: dict[str, Any], says: str) -> None:
    with pytest.raises(OperatorSetupError, match=says) as caught:
        Store(**({"url": url, "password": PASSWORD} | how)).open()
    assert caught.value.reason == "store_unusable"
    assert PASSWORD not in str(caught.value) and "s3cret" not in str(caught.value)


def test_without_the_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(OperatorSetupError, match="outrider\\[postgres\\]") as caught:
        Store(url="postgresql://outrider@127.0.0.1:9/x").open()
    assert caught.value.reason == "missing_extra"
