"""All that differs between the databases that a store can be, as one seam. Knows no table of the store's.

A writing transaction is alone: nobody else writes to the store between `Dialect.enter` and its end, on whichever machine. So
every change reads what stands and writes what follows, in any number of statements, without a thought for others.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec
import sqlalchemy as sa

from outrider_cloud.lease_clock import Lease

Blame = Literal["change", "store", "damage"]
"""Whose failure an error is: the change's own, the store's for now (no room, no server), or the store's until a person mends it."""


class Glance(Protocol):
    """Reads single rows by their key, on a connection of its own."""

    waits: bool
    """Whether a row takes a message to another machine and back: not to be waited for by the event loop."""

    def row(self, statement: str, values: Sequence[object]) -> tuple[Any, ...] | None:
        """One row; ``?`` in the statement stands for a value.

        Raises:
            SQLAlchemyError: it cannot be read, or not now.
        """
        ...

    def close(self) -> None:
        """Lets go of the connection."""
        ...


class Dialect(Protocol):
    """One kind of database."""

    remains: str
    """Where bytes of what was deleted are left when `compact` is through, in words; '': nowhere."""

    def open(self, url: str, password: str) -> sa.Engine:
        """An engine on a database whose schema is up to date.

        Raises:
            OperatorSetupError: it cannot be used.
        """
        ...

    def enter(self, connection: sa.Connection) -> None:
        """The first thing in a writing transaction: from here to its end nobody else writes."""
        ...

    def mark(self, connection: sa.Connection, writer: str, group: int) -> None:
        """The last thing in a writing transaction: that this writer's group of that number stands, if the transaction does."""
        ...

    def stands(self, connection: sa.Connection, writer: str, group: int) -> bool:
        """Whether the last group that was marked is that one; asked in a writing transaction."""
        ...

    def touch(self, connection: sa.Connection) -> None:
        """Writes something that changes nothing."""
        ...

    def term(self, connection: sa.Connection, lease: Lease) -> Lease:
        """A lease by the clock that all workers of this store share; in a writing transaction."""
        ...

    def is_lost(self, error: BaseException) -> bool:
        """Whether the database cannot be reached, so that the same again would fail in the same way."""
        ...

    def blames(self, error: sa.exc.DatabaseError) -> Blame:
        """Whose failure it is."""
        ...

    def reading(self, engine: sa.Engine) -> sa.Engine:
        """For queries: each sees one snapshot, and writes nothing."""
        ...

    def glance(self, engine: sa.Engine) -> Glance:
        """To read single rows with."""
        ...

    def compact(self, engine: sa.Engine) -> bool:
        """Writes everything anew, so that what was deleted is gone from the files; whether that went all the way."""
        ...


def make_engine(url: sa.URL | str, **options: Any) -> sa.Engine:
    """An engine as every dialect wants it."""
    return sa.create_engine(
        url,
        hide_parameters=True,  # what a device sent has no place in a log
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
        **options,
    )


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
