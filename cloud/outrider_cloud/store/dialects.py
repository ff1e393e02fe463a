"""Which database speaks which dialect. Reads and writes nothing."""

import sqlalchemy as sa

from outrider_cloud.store.dialect import Dialect
from outrider_cloud.store.file_dialect import FileDialect
from outrider_cloud.store.server_dialect import ServerDialect

_DIALECTS: dict[str, Dialect] = {"sqlite": FileDialect(), "postgresql": ServerDialect()}
"""By the name that SQLAlchemy gives each."""


def dialect_named(name: str) -> Dialect:
    """The dialect that SQLAlchemy calls ``name``."""
    return _DIALECTS[name]


def dialect_of(connection: sa.Connection) -> Dialect:
    """The dialect that a connection speaks."""
    return _DIALECTS[connection.dialect.name]
