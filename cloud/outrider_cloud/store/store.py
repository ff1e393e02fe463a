"""The durable store: one database, one writer thread, changes committed in groups. Knows no table by name.

A change is a function of a connection; `Store.write` returns once its transaction is on the disk, and nobody else writes while
it is made. Changes that wait together share one commit. A change may run twice (when its group fails, each of the group runs
alone), so it must do nothing but talk to its connection. What a SQLite file and a PostgreSQL server do differently is in
`outrider_cloud.store.dialect`.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import sqlalchemy as sa

from outrider_cloud.store.dialect import Glance, first_line
from outrider_cloud.store.dialects import dialect_named, dialect_of
from outrider_cloud.store.writer import Waiting, Writer

T = TypeVar("T")
Item = TypeVar("Item")
Change = Callable[[sa.Connection], T]
Bulk = Callable[[sa.Connection, Sequence[Item]], Sequence[T]]
"""Makes the same change for many items in a few statements; one result an item, in their order."""


class Store:
    """The database behind one address; several processes may open the same: of one machine a file, of several a server.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql://USER@HOST:PORT/NAME``.
        password: of a server that asks for one.
    """

    def __init__(self, *, url: str, password: str = "") -> None:
        self._url = url
        self._password = password
        self._dialect = dialect_named(url.partition(":")[0])
        self._writer = Writer(dialect=self._dialect, note=self._note)
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="store-reader")
        self._engine: sa.Engine | None = None
        self._reading: sa.Engine | None = None
        self._glancing: Glance | None = None
        self.damage = ""
        """What the database is found to be damaged by; '' while it is sound. For a person to mend."""
        self.full = ""
        """Why the last change could not be written; '' when it was."""
        self.forgotten = 0
        """The newest mark of something forgotten that this process has heard of (`outrider_cloud.store.forgotten`)."""

    @property
    def trouble(self) -> str:
        """Why nothing durable can be promised; '' while all is well."""
        return self.damage or self.full

    @property
    def remains(self) -> str:
        """Where bytes of what was deleted are left when `compact` is through; '': nowhere."""
        return self._dialect.remains

    async def probe(self) -> None:
        """Tries to write: after trouble, whether it is over. Raises what `write` raises."""
        await self.write(lambda connection: dialect_of(connection).touch(connection))

    def open(self) -> None:
        """Brings the schema up to date, of a file that is made when absent or of a server's database, and starts the writer.

        Raises:
            OperatorSetupError: it cannot be used.
        """
        self._engine = engine = self._dialect.open(self._url, self._password)
        self._reading = self._dialect.reading(engine)
        self._glancing = self._dialect.glance(engine)
        self._writer.start(engine)

    def close(self) -> None:
        """Commits what waits, then lets go of the database."""
        self._writer.end()
        self._readers.shutdown()
        if self._glancing is not None:
            self._glancing.close()
        if self._engine is not None:
            self._engine.dispose()

    def submit(self, change: Change[T]) -> Future[T]:
        """Queues a change; the future resolves when it is durable."""
        future: Future[T] = Future()
        self._writer.put(Waiting(change, future))
        return future

    async def write(self, change: Change[T]) -> T:
        """Runs a change and waits until it is durable."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writer.put(Waiting(change, future))
        return await future

    async def write_each(self, bulk: Bulk[Item, T], item: Item) -> T:
        """Runs a change on one item, together with those that wait beside it, and waits until it is durable."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writer.put(Waiting(bulk, future, bulk=True, item=item))
        return await future

    async def read(self, query: Change[T]) -> T:
        """Runs a query beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.run, query)

    async def glance(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        """One row by its key, ``?`` in the statement standing for a value.

        Of a file it is read in the calling thread, which is the event loop's: that takes less than a hop to another, nothing
        is waited for, and no other task runs meanwhile.

        Raises:
            SQLAlchemyError: it cannot be read, or not now.
        """
        glancing = self._glancing
        if glancing is None:
            raise RuntimeError("the store is not open")
        try:
            if glancing.waits:
                return await asyncio.get_running_loop().run_in_executor(self._readers, glancing.row, statement, values)
            return glancing.row(statement, values)
        except sa.exc.DatabaseError as error:
            self._note(error)
            raise

    def run(self, query: Change[T]) -> T:
        """Runs a query in the calling thread, on one snapshot; once more where its connection was cut off."""
        try:
            return self._run(query)
        except sa.exc.DatabaseError as error:
            if not error.connection_invalidated:
                self._note(error)
                raise
        try:
            return self._run(query)
        except sa.exc.DatabaseError as error:
            self._note(error)
            raise

    def compact(self) -> bool:
        """Writes everything anew, so that nothing of what was deleted is left in the files; but see `remains`.

        Nobody can write meanwhile: a store of gigabytes takes minutes. In the calling thread.

        Returns:
            Whether it went all the way: with a file, not while somebody reads.
        """
        return self._dialect.compact(_opened(self._engine))

    def _run(self, query: Change[T]) -> T:
        with _opened(self._reading).connect() as connection:
            return query(connection)

    def _note(self, error: BaseException | None) -> None:
        """Remembers how the last change fared; what is no fault of the store's is the change's own affair."""
        if error is None:
            self.full = ""
        elif isinstance(error, sa.exc.DatabaseError):
            blame, said = self._dialect.blames(error), first_line(error.orig or error)
            if blame == "damage":
                self.damage = said
            elif blame == "store":
                self.full = said


def _opened(engine: sa.Engine | None) -> sa.Engine:
    if engine is None:
        raise RuntimeError("the store is not open")
    return engine
