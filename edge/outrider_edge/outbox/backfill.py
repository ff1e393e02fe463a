"""What an older file's rows lack, worked out from what they hold: used once, by the migration. Commits nothing."""

import sqlite3

from outrider_edge.outbox.coding import ENVELOPE, RowDamagedError, decoded
from outrider_edge.outbox.policy import worth_of

__all__ = ["RowDamagedError", "to_schema_3"]


def to_schema_3(connection: sqlite3.Connection) -> None:
    """Until when each open question is kept, and what it is worth; ended ones in their order of arrival.

    Raises:
        RowDamagedError: an envelope does not parse.
    """
    connection.execute("UPDATE input SET ended = seq WHERE delivery = 'done'")
    after = 0
    while rows := connection.execute(_NEXT, (after, _AT_ONCE)).fetchall():
        for seq, state, data in rows:
            envelope = decoded(ENVELOPE, data)
            values = (envelope.keep_for_s, *worth_of(envelope, state), seq)
            connection.execute("UPDATE input SET keep_s = ?, worth = ?, gain = ? WHERE seq = ?", values)
        after = rows[-1][0]


_AT_ONCE = 500
"""Rows in memory at a time."""
_NEXT = "SELECT seq, state, envelope FROM input WHERE delivery <> 'done' AND seq > ? ORDER BY seq LIMIT ?"
