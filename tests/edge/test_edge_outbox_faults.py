"""What a device's disk and clock can do to its outbox: full, read-only, damaged, a year off. The device answers all the same."""

import asyncio
import hashlib
import logging
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from edge_entries import HandClock, eventually, make_answer, make_entry, until
from small_disk import SmallDisk, small_disk

from outrider_edge.outbox import mending, writer
from outrider_edge.outbox.clock import run_clock
from outrider_edge.outbox.opening import open_sound
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.outbox.outcomes import Answered, Expired
from outrider_edge.ports import OutboxEntry
from outrider_wire.errors import OperatorSetupError
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.monitor import Monitor
from outrider_wire.report import Account

LARGE = b"\x01" * (INLINE_BYTES + 1)


@asynccontextmanager
async def opened(folder: Path, *, hand: HandClock | None = None, flush_s: float = 0.02) -> AsyncIterator[Outbox]:
    outbox = Outbox(folder=folder, clock=(hand or HandClock()).clock, flush_s=flush_s)
    await outbox.start()
    try:
        yield outbox
    finally:
        await outbox.stop()


async def ask(outbox: Outbox, entry: OutboxEntry | None = None) -> str:
    """As the agent does it: what cannot be kept is answered here."""
    entry = entry or make_entry()
    outbox.arrived(entry.task)
    try:
        await outbox.put(entry)
    except OperatorSetupError as error:
        assert error.reason == "outbox_unwritable"
        outbox.count_local(entry.task, "edge", uncertified=True)
        return ""
    return entry.id


async def adds_up_on_disk(outbox: Outbox) -> None:
    """Memory and disk say the same, once everything is written."""
    account = outbox.account()
    assert account.adds_up

    async def says_the_same() -> bool:
        return (await outbox.accounts_on_disk())["colours"] == account

    await eventually(says_the_same)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", megabytes=8) as disk:
        yield disk


# Full


@pytest.mark.parametrize("size", [3_000, INLINE_BYTES + 1], ids=["in the file", "beside it"])
async def test_a_full_disk_keeps_nothing_half_written_and_is_used_again_once_there_is_room(
    disk: SmallDisk, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(disk.path / "outbox") as outbox:
        before = await ask(outbox)
        disk.fill()
        refused = [await ask(outbox, make_entry(bytes([number]) * size)) for number in range(20)]
        assert "" in refused
        assert outbox.view().fault or size > INLINE_BYTES
        kept = {id_ for id_ in [before, *refused] if id_}
        assert outbox.account() == Account(
            received=21, pending=len(kept), edge=21 - len(kept), uncertified=21 - len(kept)
        )
        assert await outbox.find(before) is not None
        disk.empty()
        await until(lambda: not outbox.view().fault)
        kept.add(await ask(outbox, make_entry(b"\xff" * size)))
        assert {row.id for row in await outbox.open_rows()} == kept
        await adds_up_on_disk(outbox)
        assert outbox.view().count == len(kept)
        files = list((disk.path / "outbox" / "payload").iterdir())
        assert all(hashlib.sha256(file.read_bytes()).hexdigest() == file.name for file in files)
        assert len(files) <= len(kept)
    if size <= INLINE_BYTES:
        said = [record.message for record in caplog.records]
        assert said.count("outbox.unwritable") == said.count("outbox.writable_again") == 1


async def test_whoever_reads_does_not_fail_with_whoever_writes_on_a_full_disk(disk: SmallDisk) -> None:
    async with opened(disk.path / "outbox") as outbox:
        before = await ask(outbox)
        disk.fill()
        while await ask(outbox, make_entry(b"x" * 60_000)):  # there may be a last page or two
            pass
        go = threading.Event()
        run = outbox.shelves.disk.writer.run
        gate = run(lambda _: go.wait())
        jobs = [
            run(lambda store: store._sql.execute("CREATE TABLE large AS SELECT zeroblob(9000000)") and None),
            asyncio.ensure_future(outbox.find(before)),
            asyncio.ensure_future(outbox.find(before)),
        ]
        await asyncio.sleep(0)  # so that the readers have given their jobs
        go.set()
        written, *found = await asyncio.gather(*jobs, return_exceptions=True)
        await gate
        assert isinstance(written, OperatorSetupError)
        assert all(report is not None and report.id == before for report in found)
        disk.empty()


async def test_a_disk_that_is_full_at_the_start_does_not_stop_the_device(disk: SmallDisk) -> None:
    async with opened(disk.path / "outbox") as outbox:
        id_ = await ask(outbox)
        await outbox.settle(await ask(outbox), Expired())
    disk.fill()
    async with opened(disk.path / "outbox") as outbox:
        asked = 1
        while await ask(outbox, make_entry(b"x" * 60_000)):  # a start may find a last page or two
            asked += 1
        assert outbox.view().fault
        disk.empty()
        await until(lambda: not outbox.view().fault)
        await until(lambda: outbox.account().received == 2 + asked)
        assert outbox.account().expired == 1
        assert id_ in {row.id for row in await outbox.open_rows()}
        await adds_up_on_disk(outbox)


# Read-only


async def test_a_disk_that_fails_under_a_running_device_is_said_and_survived(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=16, ext4=True) as disk:
        async with opened(disk.path / "outbox") as outbox:
            await ask(outbox)
            disk.fail()
            assert [await ask(outbox, make_entry(part)) for part in (b"x", LARGE, b"x")] == ["", "", ""]
            assert outbox.view().fault
            assert outbox.account() == Account(received=4, pending=1, edge=3, uncertified=3)
            await asyncio.sleep(1.5)  # a try to open it again
            assert await ask(outbox) == ""
            assert outbox.account().adds_up


async def test_a_disk_that_is_read_only_at_the_start_does_not_stop_the_device(disk: SmallDisk) -> None:
    async with opened(disk.path / "outbox") as outbox:
        id_ = await ask(outbox)
    disk.read_only(True)
    async with opened(disk.path / "outbox") as outbox:
        assert outbox.view().fault
        assert await ask(outbox) == ""
        assert await outbox.find(id_) is None
        disk.read_only(False)
        await until(lambda: not outbox.view().fault)
        await until(lambda: outbox.account() == Account(received=2, pending=1, edge=1, uncertified=1))
        assert await outbox.find(id_) is not None
        await adds_up_on_disk(outbox)


# Damaged


def damage(path: Path, *, page: int | None = None, share: float = 0.5) -> None:
    """Overwrites one page of 4,096 bytes in place: by number, or somewhere in the middle."""
    size = path.stat().st_size
    at = 4096 * page if page is not None else int(size * share) // 4096 * 4096
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xa5" * 4096)


async def filled(folder: Path, n: int = 300) -> tuple[list[str], str]:
    """A file of many pages, all of it out of the write-ahead log; the open ids, and one that has its answer."""
    async with opened(folder) as outbox:
        ids = [await ask(outbox, make_entry(b"%04d" % number * 500)) for number in range(n)]
        answered = ids.pop()
        await outbox.settle(answered, Answered(make_answer(answered)))
        outbox.arrived("colours")
        outbox.count_local("colours", "edge")
    return ids, answered


@pytest.mark.parametrize("share", [0.0, 0.6])
async def test_a_damaged_file_is_put_aside_and_what_can_be_read_goes_on(
    tmp_path: Path, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    ids, _ = await filled(tmp_path)
    killed(tmp_path)
    damage(tmp_path / "outbox.db", share=share)
    async with opened(tmp_path) as outbox:
        view = outbox.view()
        assert (view.fault, view.mended, len(view.damaged)) == ("", 1, 1)
        account = outbox.account()
        assert account.adds_up
        rows = {row.id for row in await outbox.open_rows()}
        assert rows <= set(ids)
        assert len(rows) == account.pending == view.count
        if share:  # the first page is the file's own description: without it nothing can be read
            assert len(rows) > 250
            assert account.received == 301
            assert account.pending + account.expired == 299
        for id_ in rows:
            found = await outbox.load(id_)
            assert found is not None
            assert found[1][0] is not None
            assert hashlib.sha256(found[1][0]).hexdigest() == found[0].envelope.parts[0].sha256
        assert await ask(outbox)
        await adds_up_on_disk(outbox)
    assert "outbox.damaged" in [record.message for record in caplog.records]
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    async with opened(tmp_path) as outbox:  # mended once, not at every start
        assert outbox.view().mended == 0


async def test_a_file_that_is_no_database_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(b"not a database" * 1000)
    async with opened(tmp_path) as outbox:
        assert await ask(outbox)
        [name] = outbox.view().damaged
        assert (tmp_path / name).read_bytes().startswith(b"not a database")


async def test_a_database_of_something_else_is_put_aside(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as file:
        file.execute("CREATE TABLE input (holiday TEXT)")
    async with opened(tmp_path) as outbox:
        assert await ask(outbox)
        assert len(outbox.view().damaged) == 1


async def test_damage_that_is_found_while_running_loses_neither_the_input_at_hand_nor_the_watch(tmp_path: Path) -> None:
    async with opened(tmp_path, flush_s=60.0) as outbox:
        outbox.watches.watch("colours", "a certificate", Monitor(risk=0.05, alpha=1e-3))
        ids = [await ask(outbox, make_entry(b"%04d" % number * 500)) for number in range(300)]
        reopened = asyncio.Event()
        outbox.listen(on_closed=lambda _id, _settled: None, on_reopened=reopened.set)
        await checkpointed(outbox)
        for share in (0.2, 0.4, 0.6, 0.8):
            damage(tmp_path / "outbox.db", share=share)
        with closing(sqlite3.connect(tmp_path / "outbox.db")):
            pass
        found: set[str] = set()
        for id_ in ids:  # reading comes upon it; so would anything else
            if outbox.view().mended:
                break
            try:
                await outbox.load(id_)
            except OperatorSetupError:
                break
        newcomer = await ask(outbox)
        assert newcomer
        await reopened.wait()
        found = {row.id for row in await outbox.open_rows()}
        assert newcomer in found
        assert len(found) > 100
        account = outbox.account()
        assert account.adds_up
        assert account.received == 301
        outbox._flush()
        await adds_up_on_disk(outbox)
        assert outbox.watches.watched("colours", "a certificate") is not None
    async with opened(tmp_path) as outbox:
        assert outbox.watches.watched("colours", "a certificate") is not None


async def checkpointed(outbox: Outbox) -> None:
    """Everything is in the file itself, and none of it in SQLite's memory."""
    job = outbox.shelves.disk.writer.run(lambda store: store._sql.execute("PRAGMA cache_size = 1") and None)
    await job
    await asyncio.sleep(2.5 * writer.IDLE_S)  # the writer tidies when it is idle
    await outbox.shelves.disk.writer.run(lambda store: store._sql.execute("PRAGMA shrink_memory") and None)


async def test_a_row_that_does_not_parse_is_damage_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        bad, good = await ask(outbox), await ask(outbox)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as file:
        file.execute("UPDATE input SET report = x'c1' WHERE id = ?", (bad,))
        file.commit()
    async with opened(tmp_path) as outbox:
        await outbox.settle(bad, Expired())
        assert [row.id for row in await outbox.open_rows()] == [good]
        assert outbox.account() == Account(received=2, pending=1, expired=1, uncertified=1)
        assert len(outbox.view().damaged) == 1


async def test_what_shares_a_commit_with_the_finder_of_damage_is_done_once(tmp_path: Path) -> None:
    async with opened(tmp_path, flush_s=60.0) as outbox:
        bad, good = await ask(outbox), await ask(outbox)
        run = outbox.shelves.disk.writer.run
        await run(lambda store: store._sql.execute("UPDATE input SET report = x'c1' WHERE id = ?", (bad,)) and None)
        gate = run(lambda _: time.sleep(0.1))  # what comes meanwhile shares one transaction
        new = make_entry()
        outbox.arrived("colours")
        put = outbox.put(new)
        outbox.arrived("colours")
        outbox.count_local("colours", "edge")
        outbox._flush()
        await asyncio.gather(gate, put, outbox.settle(bad, Expired()))
        assert outbox.view().mended == 1
        await asyncio.sleep(0.05)
        outbox._flush()
        await adds_up_on_disk(outbox)
        assert outbox.account() == Account(received=4, pending=2, expired=1, edge=1, uncertified=1)
        assert {row.id for row in await outbox.open_rows()} == {good, new.id}


async def test_an_open_question_whose_payload_was_lost_is_given_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        lost, stored = await ask(outbox), await ask(outbox)
        outbox.received(stored)
        await asyncio.sleep(0.05)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as file:
        file.execute("DELETE FROM part")
        file.execute("UPDATE input SET task = 'x' WHERE seq = 99")
        file.commit()
    mending.mend(tmp_path / "outbox.db", "a test")
    async with opened(tmp_path) as outbox:
        report = await outbox.find(lost)
        assert report is not None
        assert (report.state, report.note) == ("expired", f"given up: {mending.LOST}")
        assert [row.id for row in await outbox.open_rows()] == [stored]
        assert outbox.account() == Account(received=2, pending=1, expired=1, uncertified=1)


async def test_a_kill_between_putting_aside_and_going_on_loses_nothing(tmp_path: Path) -> None:
    ids, _ = await filled(tmp_path, 20)
    path = tmp_path / "outbox.db"
    mending._salvage(path, tmp_path / "outbox.db.salvaging")
    (tmp_path / "outbox.db.salvaging").replace(tmp_path / "outbox.db.salvaged")
    path.replace(tmp_path / "outbox.db.damaged-20260101T000000Z")
    async with opened(tmp_path) as outbox:
        assert [row.id for row in await outbox.open_rows()] == ids
        assert outbox.account().received == 21


def test_a_disk_that_damages_everything_is_not_filled_with_damaged_files(tmp_path: Path) -> None:
    for _ in range(mending.KEPT + 3):
        (tmp_path / "outbox.db").write_bytes(b"rubbish" * 1000)
        opened, mended = open_sound(tmp_path / "outbox.db", HandClock().clock)
        assert mended is not None
        opened.close(clean=True)
    assert len(mending.damaged_files(tmp_path)) == mending.KEPT


# Given back


async def test_what_is_freed_in_the_file_goes_back_to_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        ids = await asyncio.gather(*(ask(outbox, make_entry(b"x" * 50_000)) for _ in range(60)))
        await asyncio.sleep(2 * writer.IDLE_S)
        full = size_on_disk(tmp_path)
        assert full > 3_000_000
        for id_ in ids:
            outbox.received(id_)
        await until(lambda: size_on_disk(tmp_path) < 800_000)
        assert [row.payload_bytes for row in await outbox.open_rows()] == [0] * 60


def size_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("outbox.db*"))


async def test_the_write_ahead_log_does_not_stay_as_large_as_its_largest_transaction(tmp_path: Path) -> None:
    async with opened(tmp_path) as outbox:
        await asyncio.gather(*(ask(outbox, make_entry(b"x" * 60_000)) for _ in range(300)))
        await until(lambda: (tmp_path / "outbox.db-wal").stat().st_size == 0)


# Clocks


@pytest.mark.parametrize("jump_s", [365 * 86_400.0, -365 * 86_400.0, -1_800_000_000.0], ids=["+1 y", "-1 y", "1970"])
async def test_a_wall_clock_that_jumps_moves_no_age(
    tmp_path: Path, jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ages are of run time: the system's own, which no setting of the clock changes."""
    wall = time.time_ns
    outbox = Outbox(folder=tmp_path, clock=run_clock(), flush_s=0.02)
    await outbox.start()
    await ask(outbox, make_entry(keep_for_s=3_600))
    late = await ask(outbox, make_entry(answer_within_ms=60_000))
    monkeypatch.setattr(time, "time_ns", lambda: max(0, wall() + int(jump_s * 1e9)))
    monkeypatch.setattr(time, "time", lambda: time.time_ns() / 1e9)
    ended, next_at = await outbox.expire()
    assert ended == []
    assert 3_500 < next_at - run_clock().now() < 3_601
    settled = await outbox.settle(late, Answered(make_answer(late)))
    assert settled.report is not None
    assert not settled.report.late
    await outbox.stop()
    again = Outbox(folder=tmp_path, clock=run_clock())
    await again.start()
    assert all(0 <= row.age_s < 60 for row in await again.open_rows())
    await again.stop()


@pytest.mark.parametrize("now", [3.0, 900_000.0], ids=["right after the boot", "long after"])
async def test_a_reboot_goes_on_counting_and_what_the_machine_was_off_counts_for_nothing(
    tmp_path: Path, now: float
) -> None:
    hand = HandClock(now=5_000.0)
    async with opened(tmp_path, hand=hand) as outbox:
        old = await ask(outbox, make_entry(keep_for_s=100))
        hand.now += 60
        young = await ask(outbox, make_entry(keep_for_s=100))
    hand = HandClock(now=now, boot_id="boot-2")
    async with opened(tmp_path, hand=hand) as outbox:
        ended, next_at = await outbox.expire()
        assert ended == []
        assert next_at - now == pytest.approx(40, abs=1.5)
        hand.now += 42
        assert [id_ for id_, _ in (await outbox.expire())[0]] == [old]
        hand.now += 60
        assert [id_ for id_, _ in (await outbox.expire())[0]] == [young]


def killed(folder: Path) -> None:
    """The file says that it was left in the middle of things."""
    with closing(sqlite3.connect(folder / "outbox.db")) as file:
        file.execute("UPDATE meta SET value = 'in use' WHERE name = 'left'")
        file.commit()


@pytest.fixture(autouse=True)
def _said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
