"""The outbox's tables and how an older file becomes a newer one. Knows SQL, and nothing of what the rows mean to the uplink."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from outrider_edge.outbox import backfill
from outrider_wire.errors import OperatorSetupError

_V1 = """
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE input (                  -- one escalated input, from acceptance until it is pruned long after its end
    seq INTEGER PRIMARY KEY,          -- order of arrival
    id TEXT NOT NULL UNIQUE,
    task TEXT NOT NULL,
    state TEXT NOT NULL,              -- of the answer: pending, then one terminal state, set once
    delivery TEXT NOT NULL,           -- of the question: queued, offered, received, done
    report BLOB NOT NULL,             -- AnswerReport, MessagePack
    envelope BLOB NOT NULL,           -- Escalation without the bytes of its parts, MessagePack
    bytes INTEGER NOT NULL,           -- payload still held
    offers INTEGER NOT NULL DEFAULT 0,
    age_s REAL NOT NULL DEFAULT 0,    -- run time in boots before this one
    at_s REAL NOT NULL                -- run time of this boot when it came (or 0, when it is older than this boot)
);
CREATE INDEX input_open ON input (seq) WHERE delivery <> 'done';
CREATE INDEX input_pending ON input (task) WHERE state = 'pending';

CREATE TABLE part (                   -- payload, until the receipt
    seq INTEGER NOT NULL,
    position INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    data BLOB,                        -- NULL: in the payload folder, under its digest
    PRIMARY KEY (seq, position)
) WITHOUT ROWID;
CREATE INDEX part_digest ON part (sha256);

CREATE TABLE tally (                  -- the account
    task TEXT NOT NULL,
    name TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (task, name)
) WITHOUT ROWID;
"""

_V2 = """
CREATE TABLE monitor (                -- the watch over one certificate; the newest of each task is in force
    seq INTEGER PRIMARY KEY,
    task TEXT NOT NULL,
    certificate TEXT NOT NULL,
    state BLOB NOT NULL,              -- Watched, MessagePack
    UNIQUE (task, certificate)
);

CREATE TABLE shadow (                 -- what shadow mode would have done: the newest inputs …
    seq INTEGER PRIMARY KEY,
    task TEXT NOT NULL,
    id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,           -- by the device's own clock
    model TEXT NOT NULL,
    score REAL NOT NULL,
    why TEXT NOT NULL,
    would_send INTEGER NOT NULL
);

CREATE TABLE shadow_tally (           -- … and how many there were
    task TEXT NOT NULL,
    model TEXT NOT NULL,
    would_send INTEGER NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (task, model, would_send)
) WITHOUT ROWID;
"""

_V3 = """
ALTER TABLE input ADD COLUMN keep_s REAL NOT NULL DEFAULT 0;      -- how long the question is worth having, from acceptance
ALTER TABLE input ADD COLUMN worth INTEGER NOT NULL DEFAULT 1;    -- outrider_edge.outbox.policy.Worth
ALTER TABLE input ADD COLUMN gain REAL NOT NULL DEFAULT 1;        -- expected gain of the answer, 0 … 1
ALTER TABLE input ADD COLUMN ended INTEGER;                       -- order of ending; NULL while the question is open
CREATE INDEX input_expiry ON input (at_s - age_s + keep_s) WHERE delivery <> 'done';
CREATE INDEX input_worth ON input (worth, delivery = 'received', gain, seq) WHERE delivery <> 'done';
CREATE INDEX input_spare ON input (seq) WHERE worth = 0 AND delivery = 'queued';
CREATE INDEX input_ended ON input (ended) WHERE ended IS NOT NULL;
"""

Step = str | Callable[[sqlite3.Connection], None]

MIGRATIONS: tuple[tuple[Step, ...], ...] = ((_V1,), (_V2,), (_V3, backfill.to_schema_3))
"""Entry number n takes a file of schema n to schema n + 1, in one transaction; an empty file has schema 0."""

WAL_BYTES = 4 << 20
"""What the write-ahead log may keep of the disk between two large transactions."""


def open_file(path: Path | None) -> sqlite3.Connection:
    """The outbox's file (None: memory), with what durability rests on set, and brought to the newest schema.

    Raises:
        OperatorSetupError: it was written by a newer version.
        sqlite3.Error: it cannot be opened or written, is damaged, or is no outbox.
    """
    connection = sqlite3.connect(path or ":memory:", isolation_level=None)
    try:
        connection.execute(
            "PRAGMA auto_vacuum = INCREMENTAL"
        )  # of an empty file; an older one is brought over by `reclaim`
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        migrate(connection)
    except (sqlite3.Error, OperatorSetupError, backfill.RowDamagedError):
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection) -> None:
    """Brings the file to the newest schema, each step in one transaction.

    Raises:
        OperatorSetupError: the file was written by a newer version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise OperatorSetupError(
            f"the outbox has schema {version}, and this version knows {len(MIGRATIONS)}",
            reason="outbox_too_new",
            fix="run the version that wrote it, or give another data_dir",
        )
    for number in range(version, len(MIGRATIONS)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for step in MIGRATIONS[number]:
                _take(connection, step)
            connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
        except BaseException:  # interrupted too: half a step is none
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _take(connection: sqlite3.Connection, step: Step) -> None:
    if callable(step):
        step(connection)
        return
    statement = ""
    for line in step.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
