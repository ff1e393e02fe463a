"""From a path to an outbox that works: opened, mended when it is damaged, in this boot's time. Runs in the writer's thread.

A file that SQLite, or this module, finds damaged is put aside under a name with a stamp; what can be read of it goes on in a
new one (`outrider_edge.outbox.mending`). What is only out of reach (no room, no right, no disk) is left as it is.
"""

import logging
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from outrider_edge.outbox.clock import RunClock
from outrider_edge.outbox.coding import RowDamagedError
from outrider_edge.outbox.mending import Mended, finish, mend
from outrider_edge.outbox.rows import OutboxStore
from outrider_edge.outbox.schema import open_file

log = logging.getLogger(__name__)

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_OUT_OF_REACH = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
_NO_TEXT = "Could not decode to UTF-8"
"""What Python says, without a code, of a text that was changed on the disk."""
_INCREMENTAL = 2
STEP_PAGES = 256
"""Given back to the disk in one step: a megabyte."""
SLACK_PAGES = 64
"""Free pages that stay in the file for what comes next."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """One open file, or memory."""

    connection: sqlite3.Connection
    store: OutboxStore

    def close(self, *, clean: bool) -> None:
        """Closes it; ``clean``: the next start need not look for damage."""
        if clean:
            with suppress(sqlite3.Error):  # then the next start looks
                self.store.remember({_LEFT: "clean"})
        with suppress(sqlite3.Error):
            self.connection.close()

    def tidy(self) -> bool:
        """Gives some of what is free back to the disk; in the end, the write-ahead log too. Whether there is more to do.

        Raises:
            sqlite3.Error: it cannot be done now.
        """
        (free,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        if free > SLACK_PAGES:
            pages = min(STEP_PAGES, free - SLACK_PAGES)
            self.connection.executescript(f"PRAGMA incremental_vacuum({pages})")  # `execute` stops after the first page
            return True
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return False


_LEFT = "left"
"""Under this name the file remembers whether it was closed in good order."""


def open_memory(clock: RunClock) -> Opened:
    """An outbox without a file."""
    return _entered(open_file(None), clock)


def open_sound(path: Path, clock: RunClock, *, damage: str = "") -> tuple[Opened, Mended | None]:
    """The outbox in that file; and what was done, when it had to be mended.

    Args:
        path: of the file.
        clock: this machine's.
        damage: what was found wrong with it while it was in use; '' for nothing.

    Raises:
        OperatorSetupError: the file was written by a newer version.
        sqlite3.Error: it cannot be opened or written now.
        OSError: a damaged one cannot be put aside now.
    """
    finish(path)
    if not damage:
        try:
            return _checked(path, clock), None
        except (sqlite3.Error, RowDamagedError) as error:
            if not (is_damage(error) or _is_foreign(error)):
                raise
            damage = str(error)
    mended = mend(path, damage)
    return _checked(path, clock), mended


def is_damage(error: BaseException) -> bool:
    """Whether the file's content is not what was written."""
    return isinstance(error, RowDamagedError) or _code(error) in _DAMAGE or _NO_TEXT in str(error)


def is_out_of_reach(error: BaseException) -> bool:
    """Whether the connection should be opened afresh before it is used again."""
    return _code(error) in _OUT_OF_REACH


def _is_foreign(error: BaseException) -> bool:
    """On opening: a database whose tables are not an outbox's."""
    return _code(error) == sqlite3.SQLITE_ERROR


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _checked(path: Path, clock: RunClock) -> Opened:
    connection = open_file(path)
    try:
        left = connection.execute("SELECT value FROM meta WHERE name = ?", (_LEFT,)).fetchone()
        if left is not None and left[0] != "clean":
            _look_through(connection)
        _reclaimable(connection)
        return _entered(connection, clock)
    except BaseException:  # interrupted too: nobody else would close it
        connection.close()
        raise


def _look_through(connection: sqlite3.Connection) -> None:
    """After a kill or a power cut."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise RowDamagedError(verdict)


def _reclaimable(connection: sqlite3.Connection) -> None:
    """A file of an older version learns to give pages back: once, by writing it anew."""
    if connection.execute("PRAGMA auto_vacuum").fetchone()[0] == _INCREMENTAL:
        return
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("VACUUM")
    except sqlite3.OperationalError as error:  # no room for a second copy: at the next start
        log.warning("outbox.not_reclaimable", extra={"error": str(error)})


def _entered(connection: sqlite3.Connection, clock: RunClock) -> Opened:
    store = OutboxStore(connection=connection, clock=clock)
    connection.execute("BEGIN IMMEDIATE")
    try:
        store.enter_boot()
        store.remember({_LEFT: "in use"})
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if _code(error) != sqlite3.SQLITE_FULL or not store.is_of_this_boot():
            raise
    return Opened(connection=connection, store=store)
