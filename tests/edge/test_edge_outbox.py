"""The outbox: what it keeps, what it counts, and when it says no."""

import asyncio
import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from edge_entries import HandClock, eventually, make_answer, make_entry, new_id, until

from outrider_edge.outbox.outbox import DEFAULT_BOUNDS, Outbox
from outrider_edge.outbox.outcomes import Answered, Expired, Refused
from outrider_edge.outbox.schema import MIGRATIONS
from outrider_edge.ports import OutboxEntry
from outrider_wire.errors import OperatorSetupError, RuleRefusalError
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.messages import Refusal
from outrider_wire.report import Account

LESS = {"probabilities": [0.6, 0.3, 0.1]}
"""Of an entry that is worth less than the others."""
LARGE = b"\x01" * (INLINE_BYTES + 1)


class Opened:
    """An outbox that is opened as often as a test likes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hand = HandClock()

    async def open(self, *, keep_settled: int = 10_000, **limits: int) -> Outbox:
        outbox = Outbox(
            folder=self.folder,
            clock=self.hand.clock,
            flush_s=0.02,
            bounds=DEFAULT_BOUNDS._replace(**limits),
            keep_settled=keep_settled,
        )
        await outbox.start()
        return outbox


@pytest.fixture
def place(tmp_path: Path) -> Opened:
    return Opened(tmp_path / "outbox")


async def ask(outbox: Outbox, entry: OutboxEntry) -> str:
    outbox.arrived(entry.task)
    await outbox.put(entry)
    return entry.id


async def test_what_was_accepted_is_there_after_a_restart(place: Opened) -> None:
    outbox = await place.open()
    entry = make_entry(b"pixels", LARGE)
    await ask(outbox, entry)
    await outbox.stop()

    outbox = await place.open()
    [row] = await outbox.open_rows()
    assert (row.id, row.received, row.envelope.keep_for_s) == (entry.id, False, 3_600)
    found = await outbox.load(entry.id)
    assert found is not None
    assert found[1] == [b"pixels", None]
    path = outbox.open_blob(hashlib.sha256(LARGE).hexdigest())
    assert isinstance(path, Path)
    assert path.read_bytes() == LARGE
    assert await outbox.find(entry.id) == entry.report
    assert outbox.account() == Account(received=1, pending=1)
    await outbox.stop()


async def test_many_at_once_share_commits(place: Opened) -> None:
    outbox = await place.open()
    ids = await asyncio.gather(*(ask(outbox, make_entry()) for _ in range(200)))
    assert [row.id for row in await outbox.open_rows()] == ids
    assert outbox.account() == Account(received=200, pending=200)
    await outbox.stop()


async def test_the_first_outcome_wins_and_is_counted_once(place: Opened) -> None:
    outbox = await place.open()
    id_ = await ask(outbox, make_entry())
    settled = await asyncio.gather(
        outbox.settle(id_, Answered(make_answer(id_))), outbox.settle(id_, Expired()), outbox.settle(id_, Expired())
    )
    assert [one.closed for one in settled] == [True, False, False]
    report = await outbox.find(id_)
    assert report is not None
    assert (report.state, report.label, report.answered_by, report.final) == ("cloud", "blue", "cloud", True)
    assert report.probabilities == {"red": 0.05, "green": 0.05, "blue": 0.9}
    assert outbox.account() == Account(received=1, cloud=1)
    await outbox.stop()
    outbox = await place.open()
    assert outbox.account() == Account(received=1, cloud=1)
    assert await outbox.find(id_) == report
    await outbox.stop()


async def test_an_answer_after_the_waiting_time_is_late_and_still_the_answer(place: Opened) -> None:
    outbox = await place.open()
    id_ = await ask(outbox, make_entry(answer_within_ms=2_000))
    place.hand.now += 2.5
    settled = await outbox.settle(id_, Answered(make_answer(id_)))
    assert settled.report is not None
    assert (settled.report.state, settled.report.late, settled.report.ms["cloud"]) == ("cloud", True, 2_499.0)
    assert outbox.account() == Account(received=1, cloud=1, late=1)
    await outbox.stop()


@pytest.mark.parametrize("state", ["expired", "refused"])
async def test_where_the_cloud_fails_the_local_answer_stands_uncertified(place: Opened, state: str) -> None:
    outbox = await place.open()
    id_ = await ask(outbox, make_entry())
    refusal = Refused(Refusal(id=id_, reason="unknown_task"))
    await outbox.settle(id_, Expired() if state == "expired" else refusal)
    report = await outbox.find(id_)
    assert report is not None
    assert (report.state, report.label, report.answered_by, report.final) == (state, "red", "edge", True)
    assert report.note
    assert outbox.account() == Account(received=1, uncertified=1, **{state: 1})
    await outbox.stop()


async def test_an_audit_is_answered_from_the_start_and_nothing_changes_it(place: Opened) -> None:
    outbox = await place.open()
    entry = make_entry(audit=True)
    id_ = await ask(outbox, entry)
    assert outbox.account() == Account(received=1, edge=1, audited=1)
    settled = await outbox.settle(id_, Answered(make_answer(id_)))
    assert (settled.closed, settled.report) == (True, None)
    assert await outbox.find(id_) == entry.report
    assert outbox.account() == Account(received=1, edge=1, audited=1)
    await outbox.stop()


@pytest.mark.parametrize(
    "odd", [{"label": "purple"}, {"task": "animals"}, {"probabilities": [0.5, 0.5]}], ids=lambda odd: next(iter(odd))
)
async def test_an_answer_to_another_question_settles_nothing(place: Opened, odd: dict[str, Any]) -> None:
    outbox = await place.open()
    id_ = await ask(outbox, make_entry())
    settled = await outbox.settle(id_, Answered(make_answer(id_, **odd)))
    assert settled.fault
    assert outbox.account() == Account(received=1, pending=1)
    await outbox.stop()


async def test_nothing_is_known_of_an_id_that_was_never_asked(place: Opened) -> None:
    outbox = await place.open()
    id_ = new_id()
    assert not (await outbox.settle(id_, Answered(make_answer(id_)))).known
    assert await outbox.find(id_) is None
    await outbox.stop()


async def test_a_receipt_lets_the_payload_go_and_not_the_question(place: Opened) -> None:
    outbox = await place.open(max_bytes=len(LARGE) + 10)
    id_ = await ask(outbox, make_entry(LARGE))
    with pytest.raises(RuleRefusalError):
        await outbox.put(make_entry(LARGE, **LESS))
    outbox.received(id_)
    await until(lambda: not any((place.folder / "payload").iterdir()))
    [row] = await outbox.open_rows()
    assert (row.received, row.payload_bytes) == (True, 0)
    await ask(outbox, make_entry(LARGE))
    await outbox.stop()


async def test_payload_that_two_inputs_share_outlives_the_first(place: Opened) -> None:
    outbox = await place.open()
    first, second = [await ask(outbox, make_entry(LARGE)) for _ in range(2)]
    digest = hashlib.sha256(LARGE).hexdigest()
    await outbox.settle(first, Expired())
    await asyncio.sleep(0.05)
    assert outbox.open_blob(digest) is not None
    await outbox.settle(second, Expired())
    await until(lambda: outbox.open_blob(digest) is None)
    await outbox.stop()


@pytest.mark.parametrize("limits", [{"max_count": 2}, {"max_bytes": 12}], ids=["count", "bytes"])
async def test_a_full_outbox_refuses_and_counts_nothing(place: Opened, limits: dict[str, int]) -> None:
    outbox = await place.open(**limits)
    first, _ = [await ask(outbox, make_entry(b"pixels")) for _ in range(2)]
    outbox.arrived("colours")
    with pytest.raises(RuleRefusalError) as refused:
        await outbox.put(make_entry(b"pixels", **LESS))
    assert refused.value.reason == "outbox_full"
    outbox.count_local("colours", "edge", uncertified=True)
    assert outbox.account() == Account(received=3, pending=2, edge=1, uncertified=1)
    await outbox.settle(first, Expired())
    await ask(outbox, make_entry(b"pixels"))
    await outbox.stop()


async def test_local_counts_reach_the_disk_by_themselves(place: Opened) -> None:
    outbox = await place.open()
    for task in ("colours", "animals"):
        outbox.arrived(task)
        outbox.count_local(task, "edge")
    outbox.arrived("colours")
    assert outbox.account() == Account(received=3, pending=1, edge=2)
    assert outbox.account("animals") == Account(received=1, edge=1)

    async def written() -> bool:
        said = {task: Account(received=1, edge=1) for task in ("colours", "animals")}
        return await outbox.accounts_on_disk() == said

    await eventually(written)
    await outbox.stop()


async def test_memory_entries_work_alike_and_leave_nothing_behind(place: Opened) -> None:
    outbox = await place.open()
    ids = [await ask(outbox, make_entry(b"pixels", LARGE, durability="memory")) for _ in range(3)]
    kept = await ask(outbox, make_entry())
    assert outbox.open_blob(hashlib.sha256(LARGE).hexdigest()) == LARGE
    await outbox.settle(ids[0], Answered(make_answer(ids[0])))
    assert not (await outbox.settle(ids[0], Expired())).closed
    report = await outbox.find(ids[0])
    assert report is not None
    assert report.state == "cloud"
    assert outbox.account() == Account(received=4, pending=3, cloud=1)
    await outbox.stop()

    outbox = await place.open()
    assert [row.id for row in await outbox.open_rows()] == [kept]
    assert outbox.account() == Account(received=1, pending=1)
    await outbox.stop()


async def test_an_age_goes_on_over_a_restart_and_over_a_reboot(place: Opened) -> None:
    outbox = await place.open()
    await ask(outbox, make_entry())
    place.hand.now += 100
    outbox.arrived("colours")
    outbox.count_local("colours", "edge")
    await outbox.stop()

    outbox = await place.open()
    assert [row.age_s for row in await outbox.open_rows()] == [100]
    await outbox.stop()
    place.hand = HandClock(now=7.0, boot_id="boot-2")
    outbox = await place.open()
    place.hand.now += 5
    assert [row.age_s for row in await outbox.open_rows()] == [105]
    await outbox.stop()


@pytest.mark.parametrize("durability", ["disk", "memory"])
async def test_ended_inputs_are_forgotten_after_many_others(place: Opened, durability: str) -> None:
    outbox = await place.open(keep_settled=2)
    ids = [await ask(outbox, make_entry(durability=durability)) for _ in range(5)]
    for id_ in ids[1:]:
        await outbox.settle(id_, Expired())
    outbox.arrived("colours")
    outbox.count_local("colours", "edge")

    async def forgotten() -> bool:
        return [await outbox.find(id_) is not None for id_ in ids] == [True, False, False, True, True]

    await eventually(forgotten)
    assert outbox.account().expired == 4
    await outbox.stop()


async def test_payload_without_a_row_is_swept_at_the_start(place: Opened) -> None:
    await (await place.open()).stop()
    (place.folder / "payload" / "half-written").write_bytes(b"x")
    outbox = await place.open()
    assert not any((place.folder / "payload").iterdir())
    await outbox.stop()


@pytest.mark.parametrize("durability", ["disk", "memory"])
async def test_what_is_to_be_remembered_is_on_the_disk_once_an_input_is_kept(place: Opened, durability: str) -> None:
    outbox = Outbox(folder=place.folder, clock=place.hand.clock, flush_s=60.0)
    await outbox.start()
    outbox.remember("budget", "spent")
    await outbox.put(make_entry(durability=durability))
    with sqlite3.connect(place.folder / "outbox.db") as connection:
        said = connection.execute("SELECT value FROM meta WHERE name = 'budget'").fetchall()
    connection.close()
    assert said == [("spent",)]
    await outbox.stop()


async def test_an_input_that_could_not_be_kept_in_memory_is_found_where_it_is_kept_in_the_end(place: Opened) -> None:
    outbox = await place.open()
    entry = make_entry(durability="memory")
    unwritable = msgspec.structs.replace(entry, report=msgspec.structs.replace(entry.report, label="\ud800"))
    with pytest.raises(UnicodeEncodeError):
        await outbox.put(unwritable)
    await outbox.put(make_entry(id_=entry.id))
    await outbox.put(make_entry(durability="memory"))
    assert await outbox.load(entry.id) is not None
    await outbox.stop()


async def test_a_file_of_a_newer_version_is_left_alone(place: Opened) -> None:
    await (await place.open()).stop()
    with sqlite3.connect(place.folder / "outbox.db") as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(OperatorSetupError) as refused:
        await place.open()
    assert refused.value.reason == "outbox_too_new"


async def test_a_caller_that_goes_away_does_not_take_its_input_with_it(place: Opened) -> None:
    outbox = await place.open()
    entry = make_entry()
    outbox.arrived(entry.task)
    outbox.put(entry).cancel()
    await asyncio.sleep(0.1)
    assert [row.id for row in await outbox.open_rows()] == [entry.id]
    assert outbox.account() == Account(received=1, pending=1)
    await outbox.stop()
