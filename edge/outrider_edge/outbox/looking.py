"""What a person, or an application that was away, sees of the outbox: entries, sums, reports that came in the end. Reads only.

The same queries serve the agent's local API and a file that is read while the agent is down.
"""
# ruff: noqa: S608 - statements are put together from constants of this module; every value is bound

import sqlite3
from pathlib import Path
from typing import Literal, NamedTuple

from msgspec import Struct

from outrider_edge.outbox.clock import RunClock
from outrider_edge.outbox.coding import ENVELOPE, REPORT, decoded
from outrider_edge.outbox.policy import Worth
from outrider_edge.outbox.schema import MIGRATIONS
from outrider_wire.errors import OperatorSetupError
from outrider_wire.messages import Escalation
from outrider_wire.report import AnswerReport

WORTHS: dict[Worth, Literal["spare", "waited", "precious"]] = {
    Worth.SPARE: "spare",
    Worth.WAITED: "waited",
    Worth.PRECIOUS: "precious",
}
MOST = 1_000
"""Entries on one page."""


class EntryView(Struct, kw_only=True, frozen=True):
    """One entry in a list."""

    seq: int
    id: str
    task: str
    state: str
    """Of the answer."""
    delivery: str
    """Of the question: ``queued``, ``offered``, ``received``, ``done``."""
    worth: Literal["spare", "waited", "precious"]
    gain: float
    offers: int
    bytes: int
    """Of payload that is still held."""
    age_s: float
    """Run time since it was accepted."""
    left_s: float
    """Until it expires."""


class EntryDetail(Struct, kw_only=True, frozen=True):
    """All that is known of one entry, but for the bytes of its payload."""

    entry: EntryView
    report: AnswerReport
    envelope: Escalation


class TotalView(Struct, kw_only=True, frozen=True):
    """The entries of one task in one state of delivery."""

    task: str
    delivery: str
    count: int
    bytes: int
    oldest_s: float
    """Age of the oldest one."""


class Page(Struct, kw_only=True, frozen=True):
    """Open entries, the oldest first, and the sums of all."""

    entries: list[EntryView]
    totals: list[TotalView]
    next: int | None
    """Where the next page begins: its ``after``; None: this was the last."""


class Ended(NamedTuple):
    """One input that ended, and its number in the order of ending."""

    number: int
    report: AnswerReport


_AGE = "max(0.0, age_s + :now - at_s)"
_ENTRY = (
    f"SELECT seq, id, task, state, delivery, worth, gain, offers, bytes, {_AGE}, max(0.0, keep_s - {_AGE}) FROM input"
)


class LookRows:
    """Queries over one file (or memory).

    Args:
        connection: of the newest schema.
        now: in run time of the boot that the file was written in.
    """

    def __init__(self, *, connection: sqlite3.Connection, now: float) -> None:
        self._sql = connection
        self._now = now

    def page(self, *, after: int = 0, limit: int = 100, task: str = "", delivery: str = "") -> Page:
        """Open entries after that ``seq``; ``task`` and ``delivery`` narrow both them and the sums."""
        which = "delivery <> 'done' AND (:task = '' OR task = :task) AND (:delivery = '' OR delivery = :delivery)"
        values = {"now": self._now, "task": task, "delivery": delivery, "after": after, "limit": limit + 1}
        rows = self._sql.execute(
            f"{_ENTRY} WHERE {which} AND seq > :after ORDER BY seq LIMIT :limit", values
        ).fetchall()
        entries = [_entry(row) for row in rows[:limit]]
        sums = self._sql.execute(
            f"SELECT task, delivery, count(*), sum(bytes), max({_AGE}) FROM input WHERE {which} GROUP BY task, delivery",
            values,
        )
        totals = [
            TotalView(task=name, delivery=where, count=count, bytes=size, oldest_s=round(oldest_s, 3))
            for name, where, count, size, oldest_s in sums
        ]
        return Page(entries=entries, totals=totals, next=entries[-1].seq if len(rows) > limit else None)

    def entry(self, id_: str) -> EntryDetail | None:
        """One entry, ended ones included; None: it is not known, or long forgotten."""
        values = {"now": self._now, "id": id_}
        if (found := self._sql.execute(f"{_ENTRY} WHERE id = :id", values).fetchone()) is None:
            return None
        report, envelope = self._sql.execute("SELECT report, envelope FROM input WHERE id = :id", values).fetchone()
        return EntryDetail(entry=_entry(found), report=decoded(REPORT, report), envelope=decoded(ENVELOPE, envelope))

    def ended(self, after: int, limit: int) -> list[Ended]:
        """Inputs that somebody waited for and that have ended since, in that order.

        A number that this file has not come to is of another file, which was lost: then all of them.
        """
        last = self.last_ended()
        rows = self._sql.execute(
            "SELECT ended, report FROM input WHERE ended > ? AND state IN ('cloud', 'expired', 'refused')"
            " ORDER BY ended LIMIT ?",
            (after if after <= last else 0, limit),
        )
        return [Ended(number, decoded(REPORT, report)) for number, report in rows]

    def last_ended(self) -> int:
        """The number of the last one that ended."""
        number: int = self._sql.execute("SELECT coalesce(max(ended), 0) FROM input WHERE ended IS NOT NULL").fetchone()[
            0
        ]
        return number


def open_read_only(path: Path, clock: RunClock) -> tuple[sqlite3.Connection, LookRows]:
    """A file whose agent is down. Nothing of it is changed.

    Raises:
        OperatorSetupError: there is none, it cannot be read, or an agent of this version has not brought it up to date.
    """
    if not path.is_file():
        raise OperatorSetupError(
            f"there is no outbox at {path}", reason="no_outbox", fix="name the edge.toml of this device"
        )
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != len(MIGRATIONS):
            connection.close()
            raise OperatorSetupError(
                f"the outbox at {path} has schema {version}, and this version reads {len(MIGRATIONS)}",
                reason="outbox_of_another_version",
                fix="start the agent once: outrider edge run",
            )
        meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    except sqlite3.Error as error:
        raise OperatorSetupError(
            f"the outbox at {path} cannot be read: {error}", reason="outbox_unreadable", fix="see outrider doctor"
        ) from error
    now = clock.now() if meta.get("boot_id") == clock.boot_id else float(meta.get("seen_s", 0.0))
    return connection, LookRows(connection=connection, now=now)


def _entry(row: tuple[int, str, str, str, str, int, float, int, int, float, float]) -> EntryView:
    seq, id_, task, state, delivery, worth, gain, offers, size, age_s, left_s = row
    return EntryView(
        seq=seq,
        id=id_,
        task=task,
        state=state,
        delivery=delivery,
        worth=WORTHS[Worth(worth)],
        gain=round(gain, 6),
        offers=offers,
        bytes=size,
        age_s=round(age_s, 3),
        left_s=round(left_s, 3),
    )
