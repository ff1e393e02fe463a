"""The one thread that writes: what waits together shares a commit, and is told of it once that is durable. Knows no database.

A group whose commit was cut off with its server is neither told that it stands nor made again until the server has said whether
it does; what comes meanwhile fails at once.
"""

import asyncio
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from outrider_cloud.store.dialect import Dialect

_GROUP = 256
_PAUSE_S = 0.5
_Outcome = tuple["Future[Any] | asyncio.Future[Any]", Any, BaseException | None]


@dataclass(frozen=True)
class Waiting:
    """A change that waits for its commit: one of its own, or an item of a bulk that others of its group join."""

    change: Any
    future: "Future[Any] | asyncio.Future[Any]"
    bulk: bool = False
    item: Any = None

    def begins(self) -> bool:
        """From here on it cannot be cancelled; one that was is not made."""
        return self.future.set_running_or_notify_cancel() if isinstance(self.future, Future) else not self.future.done()


class Writer:
    """Given how each change fared, ``note`` remembers it."""

    def __init__(self, *, dialect: Dialect, note: Callable[[BaseException | None], None]) -> None:
        self._dialect = dialect
        self._note = note
        self._waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="store-writer", daemon=True)
        self._engine: sa.Engine | None = None
        self._connection: sa.Connection | None = None
        self._name = uuid.uuid4().hex
        self._group = 0
        self._ending = threading.Event()

    def start(self, engine: sa.Engine) -> None:
        """Begins."""
        self._engine = engine.execution_options(immediate=True)
        self._thread.start()

    def put(self, waiting: Waiting) -> None:
        """Queues a change."""
        self._waiting.put(waiting)

    def end(self) -> None:
        """Commits what waits, and ends."""
        if self._thread.is_alive():
            self._ending.set()
            self._waiting.put(None)
            self._thread.join()

    def _write_all(self) -> None:
        while True:
            group = self._next_group()
            try:
                self._commit([one for one in group if one and one.begins()])
            except MemoryError as error:  # whoever waits must hear of it, and this thread go on
                _tell([(one.future, None, error) for one in group if one])
            if group[-1] is None:
                self._let_go()
                return

    def _next_group(self) -> list[Waiting | None]:
        """What waits, at least one; None stands last and means the end."""
        group = [self._waiting.get()]
        while group[-1] is not None and len(group) < _GROUP:
            try:
                group.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return group

    def _commit(self, group: Sequence[Waiting]) -> None:
        """One transaction for the group; when it fails, one for each, so that a bad change harms no other."""
        if not group:
            return
        results: list[Any] | None = None
        self._group += 1
        try:
            with self._connected() as connection, connection.begin():
                self._dialect.enter(connection)
                made = _run(connection, group)
                self._dialect.mark(connection, self._name, self._group)
                results = made
        except Exception as error:  # noqa: BLE001 (a change's own error belongs to whoever waits for it)
            lost = self._dialect.is_lost(error)
            if lost:
                self._let_go()
            if not (lost and results is not None and self._stands(error)):
                self._failed(group, error, together=lost or len(group) == 1)
                return
        self._note(None)
        _tell([(one.future, result, None) for one, result in zip(group, results or [], strict=True)])

    def _failed(self, group: Sequence[Waiting], error: Exception, *, together: bool) -> None:
        if together:
            self._note(error)
            _tell([(one.future, None, error) for one in group])
        else:
            for one in group:
                self._commit([one])

    def _stands(self, error: Exception) -> bool:
        """Whether the group whose commit was cut off stands, asked until there is an answer or this writer is to end."""
        while not self._ending.is_set():
            self._note(error)
            try:
                with self._connected() as connection, connection.begin():
                    self._dialect.enter(connection)
                    return self._dialect.stands(connection, self._name, self._group)
            except sa.exc.SQLAlchemyError as again:
                error = again
                self._let_go()
            self._refuse_all(error)
            self._ending.wait(_PAUSE_S)
        return False

    def _refuse_all(self, error: Exception) -> None:
        """What has come meanwhile has not been begun, and can be asked for again."""
        refused: list[_Outcome] = []
        ends = False
        with suppress(queue.Empty):
            while True:
                one = self._waiting.get_nowait()
                if one is None:
                    ends = True
                elif one.begins():
                    refused.append((one.future, None, error))
        if ends:
            self._waiting.put(None)
        _tell(refused)

    def _connected(self) -> "_Kept":
        if self._engine is None:
            raise RuntimeError("the writer has not been started")
        if self._connection is None:
            self._connection = self._engine.connect()
        return _Kept(self._connection)

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sa.exc.SQLAlchemyError):
                connection.close()


class _Kept:
    """A connection in a ``with`` block that stays open behind it."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sa.Connection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        pass


def _tell(outcomes: Sequence[_Outcome]) -> None:
    """Resolves futures, again and again where memory is wanting: who is told already stays as told."""
    while True:
        try:
            _tell_once(outcomes)
        except MemoryError:
            time.sleep(_PAUSE_S)
        else:
            return


def _tell_once(outcomes: Sequence[_Outcome]) -> None:
    """Those of an event loop in one visit to it: each visit wakes it up."""
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


def _run(connection: sa.Connection, group: Sequence[Waiting]) -> list[Any]:
    """The results of a group, in its order; neighbours of one bulk are made together."""
    results: list[Any] = []
    for change, beside in groupby(group, key=lambda one: one.change if one.bulk else one):
        if isinstance(change, Waiting):
            results += [one.change(connection) for one in beside]
        else:
            results += change(connection, [one.item for one in beside])
    return results
