"""Files of older versions: the dumps beside the tests were written by the versions that had these schemas."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from edge_entries import HandClock, make_entry

from outrider_edge.outbox.outbox import Outbox
from outrider_edge.outbox.policy import Worth
from outrider_edge.outbox.schema import MIGRATIONS, open_file
from outrider_wire.report import Account

ASSETS = Path(__file__).parents[1] / "assets"
OLD = (1, 2)
IDS = [f"01990000-0000-7000-8000-{n:012x}" for n in range(0xF0, 0xF7)]


def older(path: Path, schema: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as file:
        file.executescript((ASSETS / f"outbox-schema-{schema}.sql").read_text())
    return path


@pytest.mark.parametrize("schema", OLD)
async def test_an_older_file_goes_on_where_it_stood(tmp_path: Path, schema: int) -> None:
    older(tmp_path / "outbox.db", schema)
    hand = HandClock(now=1_020.0)
    outbox = Outbox(folder=tmp_path, clock=hand.clock)
    await outbox.start()
    spare = schema - 1  # the first version kept nothing to be learnt from
    assert outbox.account() == Account(
        received=7 + spare, pending=3, edge=2 + spare, cloud=1, expired=1, audited=1, uncertified=1 + spare
    )
    page = await outbox.shelves.page(after=0, limit=100)
    found = {entry.id: (entry.worth, entry.delivery, entry.left_s) for entry in page.entries}
    expected = {
        IDS[0]: ("waited", "queued", 3_580.0),
        IDS[1]: ("precious", "offered", 3_590.0),
        IDS[2]: ("precious", "queued", 3_590.0),
        IDS[4]: ("waited", "received", 3_590.0),
    }
    if spare:
        expected[IDS[3]] = ("spare", "queued", 3_590.0)
    assert found == expected
    cursor = (await outbox.feed.after(type(await outbox.feed.end())()))[-1]
    assert cursor[1].id == IDS[6]
    hand.now += 3_585
    ended, _ = await outbox.expire()
    assert [id_ for id_, _ in ended] == [IDS[0]]
    await outbox.put(make_entry())
    await outbox.stop()


@pytest.mark.parametrize("schema", OLD)
def test_an_older_file_learns_to_give_pages_back(tmp_path: Path, schema: int) -> None:
    from outrider_edge.outbox.opening import open_sound

    opened, mended = open_sound(older(tmp_path / "outbox.db", schema), HandClock().clock)
    assert mended is None
    assert opened.connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert opened.connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
    opened.close(clean=True)


def test_every_older_file_ends_with_the_tables_of_a_new_one(tmp_path: Path) -> None:
    def tables(path: Path) -> set[tuple[str, str]]:
        with closing(open_file(path)) as file:
            names = file.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'index')").fetchall()
            return {(name, column[1]) for (name,) in names for column in file.execute(f"PRAGMA table_info({name})")}

    new = tables(tmp_path / "new.db")
    assert {Worth.SPARE, Worth.WAITED, Worth.PRECIOUS} == {0, 1, 2}  # numbers that files hold
    for schema in OLD:
        assert tables(older(tmp_path / f"{schema}.db", schema)) == new


def test_a_step_that_fails_leaves_the_older_file_as_it_was(tmp_path: Path) -> None:
    path = older(tmp_path / "outbox.db", 2)
    with closing(sqlite3.connect(path)) as file:
        file.execute("UPDATE input SET envelope = x'c1' WHERE seq = 1")
        file.commit()
    with pytest.raises(Exception, match="MessagePack"):
        open_file(path)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (2,)
        assert len(MIGRATIONS) > 2
        assert "keep_s" not in [row[1] for row in file.execute("PRAGMA table_info(input)")]
