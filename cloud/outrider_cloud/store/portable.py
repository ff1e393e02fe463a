"""Statements that every database of the store runs alike. Knows no table and no connection.

`insert` is the one to take for an upsert: what it makes compiles for SQLite and for PostgreSQL, and that of SQLAlchemy's SQLite
dialect does not.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["insert", "random_name", "values_of"]


def insert(table: sa.Table) -> postgresql.Insert:
    """An INSERT with ``on_conflict_do_nothing`` and ``on_conflict_do_update``, which knows how many rows it made."""
    return postgresql.insert(table).execution_options(preserve_rowcount=True)


class _Values(FunctionElement[Any]):
    """The values of a JSON object, as text."""

    name = "values_of"
    inherit_cache = True


class _RandomName(FunctionElement[str]):
    """Another one for every row."""

    name = "random_name"
    type = sa.String()
    inherit_cache = True


def values_of(column: sa.ColumnElement[Any]) -> sa.TableValuedAlias:
    """The values of a column of JSON objects, all of them strings, as a table with the column ``value``, to be joined laterally."""
    return _Values(column).table_valued("value")


def random_name() -> sa.ColumnElement[str]:
    """24 or more hexadecimal digits that nobody can guess; another for every row."""
    return _RandomName()


@compiles(_Values, "sqlite")
def _values_in_file(element: _Values, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(_Values, "postgresql")
def _values_at_server(element: _Values, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each_text({compiler.process(element.clauses, **options)})"


@compiles(_RandomName, "sqlite")
def _name_in_file(_element: _RandomName, _compiler: SQLCompiler, **_options: Any) -> str:
    return "lower(hex(randomblob(12)))"


@compiles(_RandomName, "postgresql")
def _name_at_server(_element: _RandomName, _compiler: SQLCompiler, **_options: Any) -> str:
    return "replace(gen_random_uuid()::text, '-', '')"
