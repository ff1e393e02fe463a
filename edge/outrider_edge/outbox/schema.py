"""The outbox's tables and how an older file becomes a newer one. Knows SQL, and nothing of what the rows mean to the uplink."""

import sqlite3
from pathlib import Path

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

MIGRATIONS: tuple[str, ...] = (_V1, _V2)
"""Script number n takes a file of schema n to schema n + 1; an empty file has schema 0."""


def open_file(path: Path | None) -> sqlite3.Connection:
    """The outbox's file (None: memory), with what durability rests on set, and brought to the newest schema.

    Raises:
        OperatorSetupError: it cannot be opened, was written by a newer version, or is no outbox.
    """
    try:
        connection = sqlite3.connect(path or ":memory:", isolation_level=None)
    except sqlite3.Error as error:
        raise _unusable(error) from error
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        migrate(connection)
    except sqlite3.Error as error:
        connection.close()
        raise _unusable(error) from error
    except OperatorSetupError:
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
        connection.executescript(f"BEGIN;{MIGRATIONS[number]}PRAGMA user_version = {number + 1};COMMIT;")


def _unusable(error: sqlite3.Error) -> OperatorSetupError:
    return OperatorSetupError(
        f"the outbox cannot be opened: {error}",
        reason="outbox_damaged",
        fix="check the folder and the disk; or move the file away: what it held is lost to this device",
    )
