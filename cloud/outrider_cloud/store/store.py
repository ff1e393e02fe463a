"""The durable store: one SQLite file, one writer thread, changes committed in groups. Knows no table by name.

A change is a function of a connection; `Store.write` returns once its transaction is on the disk (WAL,
``synchronous=FULL``). Changes that wait together share one commit. A change may run twice (when its group fails, each of
the group runs alone), so it must do nothing but talk to its connection.
"""

import asyncio
import fcntl
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy import event

from outrider_cloud.store.migrations import upgrade
from outrider_link.files import make_folder
from outrider_wire.errors import OperatorSetupError

T = TypeVar("T")
Item = TypeVar("Item")
Change = Callable[[sa.Connection], T]
Bulk = Callable[[sa.Connection, Sequence[Item]], Sequence[T]]
"""Makes the same change for many items in a few statements; one result an item, in their order."""

_GROUP = 256
_BUSY_MS = 10_000
_CHECKPOINTS = 20
_CHECKPOINT_PAUSE_S = 0.25
_DAMAGE = ("malformed", "not a database", "corrupt")
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA secure_delete=ON",  # what a task does not keep is gone from the file as well
    f"PRAGMA busy_timeout={_BUSY_MS}",
)
_Outcome = tuple["Future[Any] | asyncio.Future[Any]", Any, BaseException | None]


@dataclass(frozen=True)
class _Waiting:
    """A change that waits for its commit: one of its own, or an item of a bulk that others of its group join."""

    change: Any
    future: "Future[Any] | asyncio.Future[Any]"
    bulk: bool = False
    item: Any = None

    def begins(self) -> bool:
        """From here on it cannot be cancelled; one that was is not made."""
        return self.future.set_running_or_notify_cancel() if isinstance(self.future, Future) else not self.future.done()


class Store:
    """The database behind one folder; several processes of one machine may open the same."""

    def __init__(self, *, url: str) -> None:
        self._url = url
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_all, name="store-writer", daemon=True)
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="store-reader")
        self._engine: sa.Engine | None = None
        self._glancing: sa.PoolProxiedConnection | None = None
        self.damage = ""
        """What the file is found to be damaged by; '' while it is sound. For a person to mend."""
        self.full = ""
        """Why the last change could not be written; '' when it was."""

    @property
    def trouble(self) -> str:
        """Why nothing durable can be promised; '' while all is well."""
        return self.damage or self.full

    async def probe(self) -> None:
        """Tries to write: after trouble, whether there is room again. Raises what `write` raises."""
        await self.write(lambda connection: connection.exec_driver_sql("PRAGMA user_version = 0"))

    def open(self) -> None:
        """Makes the file and its folder when absent, brings the schema up to date, starts the writer.

        Raises:
            OperatorSetupError: the file cannot be used.
        """
        path = Path(self._url.removeprefix("sqlite:///"))
        try:
            make_folder(path.parent)
            self._engine = _engine(self._url)
            with path.with_name(path.name + ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # two processes may start at once
                upgrade(self._engine)
        except (OSError, sa.exc.SQLAlchemyError) as error:
            raise OperatorSetupError(
                f"the store {path} cannot be used: {_first_line(error)}",
                reason="store_unusable",
                fix="check the folder's rights and free space, or restore the file from a copy",
            ) from error
        self._writer.start()

    def close(self) -> None:
        """Commits what waits, then lets go of the file."""
        if self._writer.is_alive():
            self._waiting.put(None)
            self._writer.join()
        self._readers.shutdown()
        if self._glancing is not None:
            self._glancing.close()
        if self._engine is not None:
            self._engine.dispose()

    def submit(self, change: Change[T]) -> Future[T]:
        """Queues a change; the future resolves when it is durable."""
        future: Future[T] = Future()
        self._waiting.put(_Waiting(change, future))
        return future

    async def write(self, change: Change[T]) -> T:
        """Runs a change and waits until it is durable."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.put(_Waiting(change, future))
        return await future

    async def write_each(self, bulk: Bulk[Item, T], item: Item) -> T:
        """Runs a change on one item, together with those that wait beside it, and waits until it is durable."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.put(_Waiting(bulk, future, bulk=True, item=item))
        return await future

    async def read(self, query: Change[T]) -> T:
        """Runs a query beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.run, query)

    def glance(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        """One row by its key, in the calling thread, which is the event loop's: that takes less than a hop to another.

        Nothing is waited for.

        Raises:
            SQLAlchemyError: the file cannot be read, or not now.
        """
        try:
            if self._glancing is None:
                self._glancing = self._opened().raw_connection()
                self._glancing.cursor().execute("PRAGMA busy_timeout=0")
            row: tuple[Any, ...] | None = self._glancing.cursor().execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raised = sa.exc.OperationalError(statement, None, error)
            self._note(raised)
            raise raised from error
        return row

    def run(self, query: Change[T]) -> T:
        """Runs a query in the calling thread."""
        try:
            with self._opened().connect() as connection:
                return query(connection)
        except sa.exc.DatabaseError as error:
            self._note(error)
            raise

    def compact(self) -> bool:
        """Writes the file anew and empties its log, so that nothing of what was deleted is left in their bytes.

        ``secure_delete`` overwrites deleted rows, but not the copies that the moving of rows between pages left behind.
        Nobody can write meanwhile: a store of gigabytes takes minutes. In the calling thread.

        Returns:
            Whether the log could be emptied: not while somebody reads.
        """
        connection = self._opened().raw_connection()
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

    def _note(self, error: BaseException | None) -> None:
        """Remembers how the last change fared; what is no fault of the file's is the change's own affair."""
        if error is None:
            self.full = ""
        elif isinstance(error, sa.exc.DatabaseError) and not isinstance(error, sa.exc.IntegrityError):
            said = _first_line(error.orig or error)
            if any(sign in said for sign in _DAMAGE):
                self.damage = said
            else:
                self.full = said

    def _opened(self) -> sa.Engine:
        if self._engine is None:
            raise RuntimeError("the store is not open")
        return self._engine

    def _next_group(self) -> list[_Waiting | None]:
        """What waits, at least one; None stands last and means the end."""
        group = [self._waiting.get()]
        while group[-1] is not None and len(group) < _GROUP:
            try:
                group.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return group

    def _write_all(self) -> None:
        engine = self._opened().execution_options(immediate=True)
        with engine.connect() as connection:
            while True:
                group = self._next_group()
                _commit(connection, [one for one in group if one and one.begins()], self._note)
                if group[-1] is None:
                    return


def _commit(connection: sa.Connection, group: Sequence[_Waiting], note: Callable[[BaseException | None], None]) -> None:
    """One transaction for the group; when it fails, one for each, so that a bad change harms no other."""
    if not group:
        return
    try:
        with connection.begin():
            results = _run(connection, group)
    except Exception as error:  # noqa: BLE001 (a change's own error belongs to whoever waits for it)
        if len(group) == 1:
            note(error)
            _tell([(group[0].future, None, error)])
        else:
            for one in group:
                _commit(connection, [one], note)
        return
    note(None)
    _tell([(one.future, result, None) for one, result in zip(group, results, strict=True)])


def _tell(outcomes: Sequence[_Outcome]) -> None:
    """Resolves futures, those of an event loop in one visit to it: each visit wakes it up."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for outcome in outcomes:
        if isinstance(outcome[0], Future):
            _resolve([outcome])
        else:
            by_loop.setdefault(outcome[0].get_loop(), []).append(outcome)
    for loop, theirs in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, theirs)


def _resolve(outcomes: Sequence[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():  # whoever waited has gone
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


def _run(connection: sa.Connection, group: Sequence[_Waiting]) -> list[Any]:
    """The results of a group, in its order; neighbours of one bulk are made together."""
    results: list[Any] = []
    for change, beside in groupby(group, key=lambda one: one.change if one.bulk else one):
        if isinstance(change, _Waiting):
            results += [one.change(connection) for one in beside]
        else:
            results += change(connection, [one.item for one in beside])
    return results


def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(
        url,
        hide_parameters=True,  # what a device sent has no place in a log
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )

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


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
