"""The one thread that touches the outbox's file, and group commit. Knows transactions and threads, not what is written.

Jobs wait in a queue while a commit is under way; the next transaction takes all of them, so many waiting callers pay for
one disk flush. A job that fails is undone alone; when the commit fails, every job of it fails. Rows that live in memory
need no thread: their jobs are done at once.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from outrider_edge.outbox.clock import RunClock
from outrider_edge.outbox.rows import OutboxStore
from outrider_edge.outbox.schema import open_file
from outrider_wire.errors import OperatorSetupError

log = logging.getLogger(__name__)

T = TypeVar("T")
GROUP = 512
"""Jobs in one transaction, at most."""


@dataclass
class _Job:
    work: Callable[[OutboxStore], Any]
    future: "asyncio.Future[Any]"
    done: Callable[[Any], None] | None
    result: Any = None
    error: Exception | None = field(default=None)


class Writer(Protocol):
    """Runs jobs over an `OutboxStore`, in the order they are given. Made and used on one event loop."""

    async def start(self) -> None:
        """Opens it; see `OutboxWriter.start` for what it raises."""

    async def stop(self) -> None:
        """Ends after every job that was given before."""

    def run(self, work: Callable[[OutboxStore], T], *, done: Callable[[T], None] | None = None) -> "asyncio.Future[T]":
        """Gives it a job. The future resolves once its transaction is done, just after ``done`` was called with the result.

        ``done`` is called whether or not anybody still waits; it must not raise.
        """
        ...


class MemoryWriter:
    """A `Writer` over memory. A hop to a thread costs more than the job."""

    def __init__(self, *, clock: RunClock) -> None:
        self._clock = clock
        self._opened: tuple[sqlite3.Connection, OutboxStore] | None = None

    async def start(self) -> None:
        """Makes the tables."""
        self._opened = _opened(None, self._clock)

    async def stop(self) -> None:
        """Forgets everything."""
        if self._opened is not None:
            self._opened[0].close()
            self._opened = None

    def run(self, work: Callable[[OutboxStore], T], *, done: Callable[[T], None] | None = None) -> "asyncio.Future[T]":
        """Does a job, here and now."""
        if self._opened is None:
            raise _closed()
        job = _Job(work, asyncio.get_running_loop().create_future(), done)
        _commit(*self._opened, [job])
        _resolve([job])
        return job.future


class OutboxWriter:
    """A `Writer` over a file, in a thread of its own."""

    def __init__(self, *, path: Path, clock: RunClock) -> None:
        self._path = path
        self._clock = clock
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Opens the file and brings it to the newest schema.

        Raises:
            OperatorSetupError: it cannot be opened, is damaged, or is newer than this version.
        """
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(self._loop, opened), name="outbox", daemon=True)
        self._thread.start()
        await opened

    async def stop(self) -> None:
        """Ends after every job that was given before."""
        if self._thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    def run(self, work: Callable[[OutboxStore], T], *, done: Callable[[T], None] | None = None) -> "asyncio.Future[T]":
        """Queues a job; its transaction is durable when the future resolves."""
        if self._loop is None or self._thread is None:
            raise _closed()
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(work, future, done))
        return future

    def _run(self, loop: asyncio.AbstractEventLoop, opened: "asyncio.Future[None]") -> None:
        try:
            connection, store = _opened(self._path, self._clock)
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits the start
            loop.call_soon_threadsafe(opened.set_exception, error)
            return
        loop.call_soon_threadsafe(opened.set_result, None)
        while batch := self._take():
            _commit(connection, store, batch)
            loop.call_soon_threadsafe(_resolve, batch)
        connection.close()

    def _take(self) -> list[_Job]:
        """Waits for a job and takes what has gathered behind it; empty at the end."""
        batch: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            batch.append(job)
            if len(batch) >= GROUP:
                break
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
        else:
            if batch:
                self._jobs.put(None)
        return batch


def _opened(path: Path | None, clock: RunClock) -> tuple[sqlite3.Connection, OutboxStore]:
    connection = open_file(path)
    store = OutboxStore(connection=connection, clock=clock)
    connection.execute("BEGIN IMMEDIATE")
    store.enter_boot()
    connection.execute("COMMIT")
    return connection, store


def _commit(connection: sqlite3.Connection, store: OutboxStore, batch: list[_Job]) -> None:
    """All of the batch in one transaction."""
    try:
        connection.execute("BEGIN")
        before = connection.total_changes
        for job in batch:
            _do(connection, store, job, alone=len(batch) == 1)
        if connection.in_transaction:
            if connection.total_changes != before:
                store.touch()
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        log.error("outbox.commit_failed", extra={"error": str(error), "jobs": len(batch)})
        for job in batch:
            job.error = _unwritable(error)


def _do(connection: sqlite3.Connection, store: OutboxStore, job: _Job, *, alone: bool) -> None:
    """One job. When it fails it is undone: to its savepoint, or, ``alone``, with the transaction."""
    if not alone:
        connection.execute("SAVEPOINT job")
    try:
        job.result = job.work(store)
    except Exception as error:  # noqa: BLE001 - handed to whoever awaits the job; the batch goes on without it
        job.error = _unwritable(error) if isinstance(error, sqlite3.Error) else error
        connection.execute("ROLLBACK" if alone else "ROLLBACK TO job")
    if not alone:
        connection.execute("RELEASE job")


def _resolve(batch: list[_Job]) -> None:
    for job in batch:
        if job.error is None and job.done is not None:
            job.done(job.result)
    for job in batch:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


def _closed() -> OperatorSetupError:
    return OperatorSetupError("the outbox is not open", reason="outbox_closed", fix="start it first")


def _unwritable(error: Exception) -> OperatorSetupError:
    return OperatorSetupError(
        f"the outbox cannot be written: {error}", reason="outbox_unwritable", fix="free the disk, or repair it"
    )
