"""Messages that could not be taken: parked with their first bytes, never retried. Functions of a connection."""

from typing import Any

import sqlalchemy as sa
from msgspec import Struct

from outrider_cloud.store.schema import dead_letters

HEAD_BYTES = 256
KEPT = 10_000
"""The oldest go when there are more, so that hostile traffic cannot fill the disk."""


class DeadLetter(Struct, kw_only=True, frozen=True):
    """One message that was not taken, and why."""

    received_ms: int
    topic: str
    device: str
    input: str
    """The input's id, when one could be read."""
    reason: str
    detail: str
    size: int
    head: bytes


def park(connection: sa.Connection, letter: DeadLetter, *, kept: int = KEPT) -> None:
    """Stores one, and lets the oldest go when there are too many."""
    row = {field: getattr(letter, field) for field in letter.__struct_fields__}
    newest = connection.execute(sa.insert(dead_letters).values(row)).inserted_primary_key
    if newest is not None:
        connection.execute(sa.delete(dead_letters).where(dead_letters.c.id <= newest[0] - kept))


def latest(connection: sa.Connection, limit: int) -> list[dict[str, Any]]:
    """The newest ``limit``, newest first; ``head`` in hexadecimal."""
    rows = connection.execute(sa.select(dead_letters).order_by(dead_letters.c.id.desc()).limit(limit)).mappings()
    return [{**row, "head": row["head"].hex()} for row in rows]
