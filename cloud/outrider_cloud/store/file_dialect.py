"""The store as one SQLite file, for the workers of one machine: WAL, ``synchronous=FULL``, one writer at a time."""

import fcntl
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from outrider_cloud.lease_clock import Lease
from outrider_cloud.store.dialect import Blame, first_line, make_engine
from outrider_cloud.store.migrations import upgrade
from outrider_link.files import make_folder
from outrider_wire.errors import OperatorSetupError

_BUSY_MS = 10_000
_CHECKPOINTS = 20
_CHECKPOINT_PAUSE_S = 0.25
_DAMAGE = ("malformed", "not a database", "corrupt")
_UNUSABLE = "check the folder's rights and free space, or restore the file from a copy"
_LOCKED = (
    "another process writes it and does not end: look for one that is stopped (state T), and let it go on or kill it"
)
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA secure_delete=ON",  # what a task does not keep is gone from the file as well
    f"PRAGMA busy_timeout={_BUSY_MS}",
)


class FileDialect:
    """`outrider_cloud.store.dialect.Dialect` of a file."""

    remains = ""

    def open(self, url: str, _password: str) -> sa.Engine:
        """Makes the file and its folder when absent."""
        path = Path(url.removeprefix("sqlite:///"))
        try:
            make_folder(path.parent)
            engine = _engine(url)
            with path.with_name(path.name + ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # two processes may start at once
                upgrade(engine, self)
        except (OSError, sa.exc.SQLAlchemyError) as error:
            raise OperatorSetupError(
                f"the store {path} cannot be used: {first_line(error)}",
                reason="store_unusable",
                fix=_LOCKED if "locked" in str(error) else _UNUSABLE,
            ) from error
        return engine

    def enter(self, connection: sa.Connection) -> None:
        """Nothing: BEGIN IMMEDIATE has seen to it."""

    def mark(self, connection: sa.Connection, writer: str, group: int) -> None:
        """Nothing: whether a commit to a file stands is known at once."""

    def stands(self, _connection: sa.Connection, _writer: str, _group: int) -> bool:
        """Never asked: a file is not lost."""
        return False

    def touch(self, connection: sa.Connection) -> None:
        """Writes the file's head."""
        connection.exec_driver_sql("PRAGMA user_version = 0")

    def term(self, _connection: sa.Connection, lease: Lease) -> Lease:
        """The lease itself: all workers run on one machine, and by its run time."""
        return lease

    def is_lost(self, _error: BaseException) -> bool:
        """Never: the next change may be smaller, or find room."""
        return False

    def blames(self, error: sa.exc.DatabaseError) -> Blame:
        """By what SQLite says."""
        if isinstance(error, sa.exc.IntegrityError):
            return "change"
        said = first_line(error.orig or error)
        return "damage" if any(sign in said for sign in _DAMAGE) else "store"

    def reading(self, engine: sa.Engine) -> sa.Engine:
        """The same: a transaction of WAL is a snapshot."""
        return engine

    def glance(self, engine: sa.Engine) -> "_FileGlance":
        """In the calling thread: that takes less than a hop to another."""
        return _FileGlance(engine)

    def compact(self, engine: sa.Engine) -> bool:
        """VACUUM, and the log emptied: not while somebody reads.

        ``secure_delete`` overwrites deleted rows, but not the copies that the moving of rows between pages left behind.
        """
        connection = engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute("VACUUM")
            for _ in range(_CHECKPOINTS):
                if cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0:
                    return True
                time.sleep(_CHECKPOINT_PAUSE_S)
            return False
        finally:
            connection.close()


class _FileGlance:
    waits = False

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connection: sa.PoolProxiedConnection | None = None

    def row(self, statement: str, values: Sequence[object]) -> tuple[Any, ...] | None:
        try:
            if self._connection is None:
                self._connection = self._engine.raw_connection()
                self._connection.cursor().execute("PRAGMA busy_timeout=0")
            row: tuple[Any, ...] | None = self._connection.cursor().execute(statement, tuple(values)).fetchone()
        except sqlite3.Error as error:
            raise sa.exc.OperationalError(statement, None, error) from error
        return row

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _engine(url: str) -> sa.Engine:
    engine = make_engine(url)

    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not guessed by the driver
        for pragma in _PRAGMAS:
            connection.execute(pragma)

    def begin(connection: sa.Connection) -> None:
        immediate = connection.get_execution_options().get("immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine
