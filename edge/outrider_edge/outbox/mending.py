"""A damaged outbox is put aside, and what can be read of it goes on in a new file. Runs in the writer's thread.

Nothing is overwritten: the damaged file stays beside the data as ``outbox.db.damaged-<UTC stamp>`` (the newest `KEPT` of them).
A kill at any moment leaves either the damaged file in place, or the finished new one, which `finish` puts there.
"""
# ruff: noqa: S608 - statements are put together from constants of this module; every value is bound

import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider_edge.outbox import backfill
from outrider_edge.outbox.clock import RunClock
from outrider_edge.outbox.coding import ENVELOPE, REPORT, RowDamagedError, decoded, seconds, whole
from outrider_edge.outbox.outcomes import GivenUp
from outrider_edge.outbox.rows import OutboxStore
from outrider_edge.outbox.schema import MIGRATIONS, open_file
from outrider_edge.outbox.watching import WATCHED
from outrider_link.files import fsync_dir, fsync_file
from outrider_wire.report import TERMINAL

log = logging.getLogger(__name__)

KEPT = 3
"""Damaged files that are kept, so that a disk that fails does not fill itself with them."""
LOST = "its payload was lost with a damaged file"
_KEYS = {
    "meta": ("name",),
    "input": ("seq",),
    "part": ("seq", "position"),
    "tally": ("task", "name"),
    "monitor": ("seq",),
    "shadow": ("seq",),
    "shadow_tally": ("task", "model", "would_send"),
}


@dataclass(frozen=True, kw_only=True)
class Mended:
    """What became of a damaged file."""

    aside: Path
    """Where it lies now."""
    why: str
    inputs: int
    """Rows of inputs that go on."""
    given_up: int
    """Inputs that the account knows and the file does not any more: counted as expired."""


def damaged_files(folder: Path) -> list[Path]:
    """What was put aside, the oldest first by name."""
    return sorted(each for each in folder.glob("*.damaged-*") if not each.name.endswith(("-wal", "-shm")))


def finish(path: Path) -> None:
    """Puts a finished new file in its place, if a kill came between the two renames; removes an unfinished one."""
    _salvaging(path).unlink(missing_ok=True)
    if not path.exists() and _salvaged(path).exists():
        _salvaged(path).replace(path)
        fsync_dir(path.parent)


def mend(path: Path, why: str) -> Mended:
    """Puts the file aside and makes a new one of what it still says.

    Raises:
        OSError: it cannot be put aside.
        sqlite3.Error: there is no room for the new file.
    """
    inputs, given_up = _salvage(path, _salvaging(path))
    fsync_file(_salvaging(path))
    _salvaging(path).replace(_salvaged(path))
    aside = _free_name(path)
    for ending in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).replace(aside.with_name(aside.name + ending))
    finish(path)
    for old in damaged_files(path.parent)[:-KEPT]:
        for ending in ("-wal", "-shm", ""):
            old.with_name(old.name + ending).unlink(missing_ok=True)
    mended = Mended(aside=aside, why=why, inputs=inputs, given_up=given_up)
    log.error(
        "outbox.damaged",
        extra={"what": why, "aside": str(aside), "inputs": inputs, "given_up": given_up},
    )
    return mended


def _salvaging(path: Path) -> Path:
    return path.with_name(f"{path.name}.salvaging")


def _salvaged(path: Path) -> Path:
    return path.with_name(f"{path.name}.salvaged")


def _free_name(path: Path) -> Path:
    """A stamp is for people; a clock that stands still does not overwrite what was put aside before."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (path.with_name(f"{path.name}.damaged-{stamp}{f'-{n}' if n else ''}") for n in range(1_000_000))
    return next(name for name in names if not name.exists())


def _salvage(source: Path, target: Path) -> tuple[int, int]:
    with closing(open_file(target)) as new:
        new.execute("PRAGMA journal_mode = DELETE")  # one file, whole when it is closed
        new.execute("BEGIN IMMEDIATE")
        with closing(sqlite3.connect(source)) as old:
            _copy(old, new)
        given_up = _made_whole(new)
        new.execute("COMMIT")
        (inputs,) = new.execute("SELECT count(*) FROM input").fetchone()
    return inputs, given_up


def _copy(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Every row that can be read, of every table that is there."""
    version = next((number for (number,) in _asked(old, "PRAGMA user_version")), 0)
    if not 0 < version <= len(MIGRATIONS):
        return
    for table, key in _KEYS.items():
        columns = [name for _, name, *_ in new.execute(f"PRAGMA table_info({table})")]
        known = [name for _, name, *_ in _asked(old, f"PRAGMA table_info({table})") if name in columns]
        if not known:
            continue
        insert = f"INSERT OR IGNORE INTO {table} ({', '.join(known)}) VALUES ({', '.join('?' * len(known))})"
        for row in _rows(old, table, known, key):
            if _SOUND.get(table, bool)(dict(zip(known, row, strict=True))):
                new.execute(insert, row)
    if version < 3:
        backfill.to_schema_3(new)


def _asked(old: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """What the damaged file answers, as far as it does."""
    try:
        yield from old.execute(query)
    except sqlite3.DatabaseError as error:
        log.warning("outbox.rows_lost", extra={"query": query, "error": str(error)})


def _rows(old: sqlite3.Connection, table: str, columns: Sequence[str], key: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """From the first on to where the damage is, and from the last back to it; never by an index, which may be damaged too.

    A row may come twice.
    """
    for order in ("ASC", "DESC"):
        ordered = ", ".join(f"{name} {order}" for name in key)
        yield from _asked(old, f"SELECT {', '.join(columns)} FROM {table} NOT INDEXED ORDER BY {ordered}")


def _is_sound_input(row: Mapping[str, Any]) -> bool:
    try:
        report, envelope = decoded(REPORT, row["report"]), decoded(ENVELOPE, row["envelope"])
    except RowDamagedError:
        return False
    states = ("pending", *TERMINAL)
    return (
        report.id == envelope.id == row["id"]
        and report.task == row["task"]
        and row["state"] in states
        and row["delivery"] in ("queued", "offered", "received", "done")
    )


def _is_sound_part(row: Mapping[str, Any]) -> bool:
    """Bytes beside a page's own can be overwritten without SQLite's noticing; the digest tells."""
    data = row["data"]
    return data is None or (isinstance(data, bytes) and hashlib.sha256(data).hexdigest() == row["sha256"])


def _is_sound_meta(row: Mapping[str, Any]) -> bool:
    try:
        return isinstance(row["value"], str) and (row["name"] != "seen_s" or seconds(row["value"]) >= 0)
    except RowDamagedError:
        return False


def _is_sound_tally(row: Mapping[str, Any]) -> bool:
    try:
        return isinstance(row["task"], str) and whole(row["value"]) >= 0
    except RowDamagedError:
        return False


def _is_sound_monitor(row: Mapping[str, Any]) -> bool:
    try:
        watched = decoded(WATCHED, row["state"])
    except RowDamagedError:
        return False
    return (watched.task, watched.certificate) == (row["task"], row["certificate"])


_SOUND: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "meta": _is_sound_meta,
    "input": _is_sound_input,
    "part": _is_sound_part,
    "tally": _is_sound_tally,
    "monitor": _is_sound_monitor,
}


def _made_whole(new: sqlite3.Connection) -> int:
    """What the rows say fits together again, and the account adds up; how many inputs it counts as lost."""
    new.execute("DELETE FROM part WHERE seq NOT IN (SELECT seq FROM input)")
    new.execute("UPDATE input SET ended = seq WHERE delivery = 'done' AND ended IS NULL")
    store = OutboxStore(connection=new, clock=RunClock(boot_id="", now=lambda: 0.0))
    store.settle_all(_without_payload(new), GivenUp(LOST), now_ms=time.time_ns() // 1_000_000)
    lost = 0
    for task, account in store.accounts().items():
        ends = sum(getattr(account, state) for state in TERMINAL)
        missing = account.received - account.pending - ends
        if missing > 0:  # they were pending, and the device's own answer stood
            store.count(task, {"expired": missing, "uncertified": missing})
            lost += missing
        elif missing < 0:
            store.count(task, {"received": -missing})
    return lost


def _without_payload(new: sqlite3.Connection) -> list[str]:
    """Open questions that can be offered no more: the cloud has not stored them, and some of their parts are gone."""
    lost: list[str] = []
    for seq, id_, envelope in new.execute(
        "SELECT seq, id, envelope FROM input WHERE delivery IN ('queued', 'offered')"
    ):
        wanted = len(decoded(ENVELOPE, envelope).parts)
        (held,) = new.execute("SELECT count(*) FROM part WHERE seq = ? AND position < ?", (seq, wanted)).fetchone()
        if held < wanted:  # full forms have the places after these
            lost.append(id_)
    return lost
