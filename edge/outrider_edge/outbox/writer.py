"""The one thread that touches the outbox's file, and group commit. Knows transactions, threads and faults, not what is written.

Jobs wait in a queue while a commit is under way; the next transaction takes all of them, so many waiting callers pay for
one disk flush. A job that fails is undone alone; when the commit fails, every job of it fails. Rows that live in memory
need no thread: their jobs are done at once.

A disk that is full, read-only or gone fails the jobs, and the next ones try again. A damaged file is mended, and the jobs that
found it are done over. Between jobs, what is free in the file goes back to the disk.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from outrider_edge.outbox.clock import RunClock
from outrider_edge.outbox.coding import RowDamagedError
from outrider_edge.outbox.opening import Opened, is_damage, is_out_of_reach, open_memory, open_sound
from outrider_edge.outbox.rows import OutboxStore
from outrider_wire.errors import OperatorSetupError

log = logging.getLogger(__name__)

T = TypeVar("T")
GROUP = 512
"""Jobs in one transaction, at most."""
IDLE_S = 0.2
"""Without a job for so long, the file is tidied, step by step."""
REOPEN_S = 1.0
"""Between two tries to open a file that is out of reach."""
MEND_S = 60.0
"""Between two times that a file is mended: a disk that damages everything is not written without end."""


@dataclass
class _Job:
    work: Callable[[OutboxStore], Any]
    future: "asyncio.Future[Any]"
    done: Callable[[Any], None] | None
    result: Any = None
    error: Exception | None = None


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
        self._opened: Opened | None = None

    async def start(self) -> None:
        """Makes the tables."""
        self._opened = open_memory(self._clock)

    async def stop(self) -> None:
        """Forgets everything."""
        if self._opened is not None:
            self._opened.connection.close()
            self._opened = None

    def run(self, work: Callable[[OutboxStore], T], *, done: Callable[[T], None] | None = None) -> "asyncio.Future[T]":
        """Does a job, here and now."""
        if self._opened is None:
            raise _closed()
        job = _Job(work, asyncio.get_running_loop().create_future(), done)
        _commit(self._opened, [job])
        _resolve([job])
        return job.future


class OutboxWriter:
    """A `Writer` over a file, in a thread of its own.

    Args:
        path: of the file.
        clock: this machine's.
        on_opened: called on the event loop when a file was opened that is another than before: later than at the start,
            or mended.
    """

    def __init__(self, *, path: Path, clock: RunClock, on_opened: Callable[[], None] = lambda: None) -> None:
        self.fault = ""
        """Why nothing can be written now; '' when it can. Read from any thread."""
        self.mended = 0
        """Damaged files that were put aside since the start."""
        self._path = path
        self._clock = clock
        self._on_opened = on_opened
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._opened: Opened | None = None
        self._tried_at = self._mended_at = float("-inf")
        self._untidy = True
        self._damage = ""

    async def start(self) -> None:
        """Opens the file and brings it to the newest schema. One that is out of reach is opened later: see `fault`.

        Raises:
            OperatorSetupError: it was written by a newer version.
        """
        self._loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(self._loop, started), name="outbox", daemon=True)
        self._thread.start()
        await started

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

    # In the thread

    def _run(self, loop: asyncio.AbstractEventLoop, started: "asyncio.Future[None]") -> None:
        try:
            self._open()
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits the start
            loop.call_soon_threadsafe(started.set_exception, error)
            return
        loop.call_soon_threadsafe(started.set_result, None)
        while (batch := self._take()) is not None:
            if not batch:
                self._tidy()
                continue
            self._work(batch)
            self._untidy = True
            loop.call_soon_threadsafe(_resolve, batch)
        if self._opened is not None:
            self._opened.close(clean=True)

    def _take(self) -> list[_Job] | None:
        """Waits for a job and takes what has gathered behind it. Empty: there was none for a while; None: the end."""
        batch: list[_Job] = []
        try:
            job = self._jobs.get(timeout=IDLE_S if self._untidy else None)
            while job is not None:
                batch.append(job)
                if len(batch) >= GROUP:
                    return batch
                job = self._jobs.get_nowait()
        except queue.Empty:
            return batch
        if batch:
            self._jobs.put(None)
        return batch or None

    def _work(self, batch: list[_Job]) -> None:
        waits_s = MEND_S - (time.monotonic() - self._mended_at) if self._damage else 0.0
        if self._opened is None and waits_s <= 0 and time.monotonic() - self._tried_at >= REOPEN_S:
            self._reopen()
        if self._opened is None:
            _fail(batch, _unwritable(self.fault))
            return
        error = _commit(self._opened, batch)
        if error is not None and is_damage(error):
            self._opened.close(clean=False)
            self._opened = None
            self._damage = str(error)
            if time.monotonic() - self._mended_at >= MEND_S:
                self._reopen()
            if self._opened is None:
                self._say(f"the file is damaged: {error}")
                _fail(batch, _unwritable(self.fault))
                return
            error = _commit(self._opened, batch)
        self._say(str(error) if error is not None else "")
        if error is not None and is_out_of_reach(error):
            self._opened.close(clean=False)
            self._opened = None

    def _open(self) -> bool:
        """Whether it is open now, or why not.

        Raises:
            OperatorSetupError: it was written by a newer version.
        """
        self._tried_at = time.monotonic()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._opened, mended = open_sound(self._path, self._clock, damage=self._damage)
        except OperatorSetupError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a damaged file does to what reads it, this thread must go on
            self._say(str(error) or repr(error))
            return False
        self._damage = ""
        if mended is not None:
            self._mended_at = time.monotonic()
            self.mended += 1
        self._say("")
        return True

    def _reopen(self) -> None:
        try:
            opened = self._open()
        except OperatorSetupError as error:
            self._say(error.what)
            return
        if opened and self._loop is not None:
            self._loop.call_soon_threadsafe(self._on_opened)

    def _tidy(self) -> None:
        """One step, and then another look at the queue."""
        self._untidy = False
        if self._opened is not None:
            try:
                self._untidy = self._opened.tidy()
            except sqlite3.Error as error:  # no harm done; after the next job it is tried again
                log.info("outbox.not_tidied", extra={"error": str(error)})

    def _say(self, fault: str) -> None:
        if fault and not self.fault:
            log.error("outbox.unwritable", extra={"error": fault})
        elif self.fault and not fault:
            log.warning("outbox.writable_again", extra={"error": self.fault})
        self.fault = fault


def _commit(opened: Opened, batch: Sequence[_Job]) -> Exception | None:
    """All of the batch in one transaction. What is wrong with the file, if anything."""
    connection, store = opened.connection, opened.store
    trouble: Exception | None = None
    for job in batch:
        job.result, job.error = None, None
    try:
        connection.execute("BEGIN")
        before = connection.total_changes
        for job in batch:
            trouble = _do(connection, store, job, alone=len(batch) == 1) or trouble
        if trouble is not None and is_damage(trouble):  # nothing of it is kept here: all of it is done over elsewhere
            _fail(batch, _unwritable(str(trouble)))
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return trouble
        if connection.in_transaction:
            if connection.total_changes != before:
                store.touch()
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        _fail(batch, _unwritable(str(error)))
        return error
    return trouble


def _do(connection: sqlite3.Connection, store: OutboxStore, job: _Job, *, alone: bool) -> Exception | None:
    """One job. When it fails it is undone: to its savepoint, or, ``alone``, with the transaction. What is wrong with the file."""
    if not alone:
        connection.execute("SAVEPOINT job")
    trouble: Exception | None = None
    try:
        job.result = job.work(store)
    except Exception as error:  # handed to whoever awaits the job; the batch goes on without it
        trouble = error if isinstance(error, sqlite3.Error | RowDamagedError) else None
        job.error = error if trouble is None else _unwritable(str(error))
        if not connection.in_transaction and isinstance(error, sqlite3.Error):
            raise  # SQLite has undone the whole transaction: a full disk
        connection.execute("ROLLBACK" if alone else "ROLLBACK TO job")
    if not alone:
        connection.execute("RELEASE job")
    return trouble


def _fail(batch: Sequence[_Job], error: Exception) -> None:
    for job in batch:
        job.error = error


def _resolve(batch: Sequence[_Job]) -> None:
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


def _unwritable(why: str) -> OperatorSetupError:
    return OperatorSetupError(
        f"the outbox cannot be written: {why}", reason="outbox_unwritable", fix="free the disk, or repair it"
    )
