"""Questions that wait in the file: which come next, which are too old, which make way. Reads only; decodes no envelope.

However many there are, each call looks at a few of them, through an index made for it.
"""
# ruff: noqa: S608 - statements are put together from constants of this module; every value is bound

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from outrider_edge.outbox.policy import Held, Need, Standing, Worth, victims

ORDER = "worth, delivery = 'received', gain, seq"
"""`outrider_edge.outbox.policy.Standing` in SQL; what has expired goes before all of it."""

_OPEN = "delivery <> 'done'"
_EXPIRES = "at_s - age_s + keep_s"
_HELD = "SELECT id, worth, delivery = 'received', gain, seq, bytes FROM input INDEXED BY"


class Waiting(NamedTuple):
    """One open question, as whoever offers it must know it."""

    seq: int
    id: str
    received: bool
    offers: int
    expires_at: float
    """In this boot's run time."""


class Sum(NamedTuple):
    """How much is open."""

    entries: int = 0
    bytes: int = 0
    """Of payload that is still held."""


class WaitingRows:
    """Queries over the open rows of one file (or of memory)."""

    def __init__(self, *, connection: sqlite3.Connection) -> None:
        self._sql = connection

    def sum(self) -> Sum:
        """All that is open. Looks at every open row: for a start."""
        return Sum(*self._sql.execute(f"SELECT count(*), coalesce(sum(bytes), 0) FROM input WHERE {_OPEN}").fetchone())

    def next_open(self, after: int, limit: int) -> list[Waiting]:
        """The oldest after that one that somebody waits for, or that is on its way already."""
        return self._some(f"{_OPEN} AND NOT (worth = {Worth.SPARE:d} AND delivery = 'queued')", after, limit)

    def next_spare(self, after: int, limit: int) -> list[Waiting]:
        """The oldest after that one that is kept to be learnt from and was never offered."""
        return self._some(f"worth = {Worth.SPARE:d} AND delivery = 'queued'", after, limit)

    def next_expiry(self) -> float:
        """When the next open question expires, in run time; infinity: none will."""
        query = f"SELECT {_EXPIRES} FROM input WHERE {_OPEN} ORDER BY {_EXPIRES} LIMIT 1"
        found = self._sql.execute(query).fetchone()
        return found[0] if found else float("inf")

    def expired(self, now: float, limit: int) -> list[str]:
        """Questions that are not worth asking any more, the oldest first."""
        query = f"SELECT id FROM input WHERE {_OPEN} AND {_EXPIRES} <= ? ORDER BY {_EXPIRES} LIMIT ?"
        return [id_ for (id_,) in self._sql.execute(query, (now, limit))]

    def victims(self, newcomer: Standing, need: Need, now: float) -> Sequence[Held] | None:
        """As `outrider_edge.outbox.policy.victims`."""
        return victims(newcomer, self._in_order(now), need)

    def shorten(self, keep_s: float) -> None:
        """No open question is kept longer than that."""
        self._sql.execute(f"UPDATE input SET keep_s = ? WHERE {_OPEN} AND keep_s > ?", (keep_s, keep_s))

    def _some(self, which: str, after: int, limit: int) -> list[Waiting]:
        query = (
            f"SELECT seq, id, delivery = 'received', offers, {_EXPIRES} FROM input"
            f" WHERE {which} AND seq > ? ORDER BY seq LIMIT ?"
        )
        return [
            Waiting(seq, id_, bool(received), offers, expires_at)
            for seq, id_, received, offers, expires_at in self._sql.execute(query, (after, limit))
        ]

    def _in_order(self, now: float) -> Iterator[Held]:
        """Lazily: whoever asks stops after a few."""
        for expired, query, values in (
            (True, f"{_HELD} input_expiry WHERE {_OPEN} AND {_EXPIRES} <= ? ORDER BY {_EXPIRES}", (now,)),
            (False, f"{_HELD} input_worth WHERE {_OPEN} AND {_EXPIRES} > ? ORDER BY {ORDER}", (now,)),
        ):
            for id_, worth, received, gain, seq, size in self._sql.execute(query, values):
                yield Held(id_, Standing(Worth(worth), bool(received), gain, seq), size, expired)
