"""Messages that could not be taken: parked with all that a second try needs, retried by a person alone. Functions of a connection."""

from typing import Any

import sqlalchemy as sa
from msgspec import Struct

from outrider_cloud.store import forgotten
from outrider_cloud.store.schema import dead_letters

HEAD_BYTES = 256
PAYLOAD_BYTES = 256 * 1024
"""More of one message is not kept: then it can be looked at, and not taken in again."""
KEPT = 10_000
KEPT_BYTES = 64 * 1024 * 1024
"""The oldest go when there are more, so that hostile traffic cannot fill the disk."""
_ROW_BYTES = 512
"""What a row takes beside its payload."""


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
    payload: bytes
    """At most `PAYLOAD_BYTES` of it."""
    content_type: str = ""
    correlation: bytes | None = None
    mark: int = 0
    """The newest mark of something forgotten that was known when it came."""

    @property
    def whole(self) -> bool:
        """Whether all of it was kept."""
        return len(self.payload) == self.size


def park(connection: sa.Connection, letter: DeadLetter, *, kept: int = KEPT, kept_bytes: int = KEPT_BYTES) -> int:
    """Stores one, unless it was forgotten, and lets the oldest go when there are too many; how many went."""
    if forgotten.covers(connection, forgotten.Said(letter.device, letter.input, letter.mark)):
        return 0
    row = {field: getattr(letter, field) for field in letter.__struct_fields__ if field != "mark"}
    connection.execute(sa.insert(dead_letters).values(row))
    here = dead_letters.c
    newer = (
        sa.select(
            here.id,
            sa.func.count().over(order_by=here.id.desc()).label("n"),
            sa.func.sum(sa.func.length(here.payload) + _ROW_BYTES).over(order_by=here.id.desc()).label("bytes"),
        )
    ).subquery()
    too_old = sa.select(newer.c.id).where((newer.c.n > kept) | (newer.c.bytes > kept_bytes))
    return connection.execute(sa.delete(dead_letters).where(here.id.in_(too_old))).rowcount


def latest(connection: sa.Connection, limit: int) -> list[dict[str, Any]]:
    """The newest ``limit``, newest first; of the payload its first bytes, as ``head`` in hexadecimal."""
    here = dead_letters.c
    plain = [column for column in here if column.name not in ("payload", "correlation")]
    query = sa.select(
        *plain,
        sa.func.substr(here.payload, 1, HEAD_BYTES).label("head"),
        (sa.func.length(here.payload) == here.size).label("whole"),
    )
    rows = connection.execute(query.order_by(here.id.desc()).limit(limit)).mappings()
    return [{**row, "head": (row["head"] or b"").hex(), "whole": bool(row["whole"])} for row in rows]


def find(connection: sa.Connection, letter_id: int) -> DeadLetter | None:
    """One of them."""
    row = connection.execute(sa.select(dead_letters).where(dead_letters.c.id == letter_id)).mappings().one_or_none()
    return DeadLetter(**{field: row[field] for field in DeadLetter.__struct_fields__ if field in row}) if row else None


def remove(connection: sa.Connection, letter_id: int) -> None:
    """Lets one go: it was taken in after all."""
    connection.execute(sa.delete(dead_letters).where(dead_letters.c.id == letter_id))
