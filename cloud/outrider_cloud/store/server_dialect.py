"""The store as a PostgreSQL database (13 or later), for workers on several machines. Knows none of the store's tables by name.

Alone while it writes: every writing transaction holds one advisory lock from its first statement to its commit (PostgreSQL 15
manual, §13.3.5), as BEGIN IMMEDIATE does for a file. At READ COMMITTED each of its statements then sees all that was committed
before, and two of them cannot wait for each other. Whoever reads has one snapshot (REPEATABLE READ, read only).

A commit that was cut off may stand or not. Each group's number is written in its own transaction; whoever takes the lock next
knows that the cut-off one has ended, and reads in that row how.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from outrider_cloud.lease_clock import Lease
from outrider_cloud.store.dialect import Blame, first_line, make_engine
from outrider_cloud.store.migrations import upgrade
from outrider_cloud.store.schema import METADATA
from outrider_wire.errors import OperatorSetupError

log = logging.getLogger(__name__)

_LOCK = 0x6F_7574_7269_6465  # "outride": what it is held for in this database
_WAIT_MS = 10_000
_IDLE_MS = 30_000
"""A worker that is silent so long within a writing transaction has gone, or been stopped: the server ends its session."""
_CONNECTING: Mapping[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "outrider-cloud",
    "options": f"-c lock_timeout={_WAIT_MS}",
}
_OLDEST_VERSION = 130_000
_ENTER = f"""SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    set_config('idle_in_transaction_session_timeout', '{_IDLE_MS}', true) FROM pg_advisory_xact_lock({_LOCK})"""  # noqa: S608 (two numbers of our own)
_WRITERS = """CREATE TABLE IF NOT EXISTS outrider_writers
    (writer text PRIMARY KEY, committed bigint NOT NULL, at timestamptz NOT NULL DEFAULT now())"""
_FORGET_WRITERS = "DELETE FROM outrider_writers WHERE at < now() - interval '7 days'"
_MARK = """INSERT INTO outrider_writers (writer, committed) VALUES (%s, %s)
    ON CONFLICT (writer) DO UPDATE SET committed = excluded.committed, at = now()"""
_STANDS = "SELECT committed FROM outrider_writers WHERE writer = %s"
_DURABLE = """SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')"""
_FACTS = """SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), current_setting('fsync')"""
_NO_BOOT = "server"
"""Leases are of the server's clock, which all workers share, and of no machine's boot."""
_LOST = ("08", "57P", "53300", "55P03")
"""SQLSTATE of: no connection, the server is going down or coming up, too many connections, a lock that others hold (manual,
appendix A)."""
_OWN = ("21", "22", "23", "40", "42")
"""SQLSTATE of what a statement itself did wrong, and of a transaction that may simply be made again."""
_NOT_ALLOWED = "42501"
_DAMAGE = ("XX001", "XX002")


class ServerDialect:
    """`outrider_cloud.store.dialect.Dialect` of a server."""

    remains = "the server's write-ahead log, until its segments are used again, its replicas and its backups"

    def open(self, url: str, password: str) -> sa.Engine:
        """Connects; two that start at once migrate one after the other, by the lock of every writer."""
        where = sa.make_url(url)
        try:
            engine = _engine(where.set(drivername="postgresql+psycopg", password=password or where.password))
            with engine.connect() as connection:
                _check(connection, where)
            upgrade(engine, self)
            with engine.begin() as connection:
                self.enter(connection)
                connection.exec_driver_sql(_WRITERS)
                connection.exec_driver_sql(_FORGET_WRITERS)
        except ModuleNotFoundError as error:
            raise OperatorSetupError(
                "a store on PostgreSQL needs psycopg, and it is not installed",
                reason="missing_extra",
                fix="pip install 'outrider[postgres]'",
            ) from error
        except sa.exc.SQLAlchemyError as error:
            said = first_line(getattr(error, "orig", None) or error)
            raise OperatorSetupError(
                f"the store at {where.host or 'the local socket'} cannot be used: {said}",
                reason="store_unusable",
                fix="check that the server runs, store.url, and the password (store.password_file or PGPASSWORD)",
            ) from error
        return engine

    def enter(self, connection: sa.Connection) -> None:
        """Takes the lock, and reads the clock once it is held."""
        connection.info["now_ms"] = connection.exec_driver_sql(_ENTER).scalar_one()

    def mark(self, connection: sa.Connection, writer: str, group: int) -> None:
        """Into a row of this writer's."""
        connection.exec_driver_sql(_MARK, (writer, group))

    def stands(self, connection: sa.Connection, writer: str, group: int) -> bool:
        """As that row says."""
        return bool(connection.exec_driver_sql(_STANDS, (writer,)).scalar() == group)

    def touch(self, connection: sa.Connection) -> None:
        """Nothing: that a group is marked is written."""

    def term(self, connection: sa.Connection, lease: Lease) -> Lease:
        """The same length by the server's clock. Should that be set, leases end sooner or later; what is answered twice then is
        still billed and told once."""
        now_ms: int = connection.info["now_ms"]
        return Lease(boot=_NO_BOOT, now_ms=now_ms, until_ms=now_ms + lease.until_ms - lease.now_ms)

    def is_lost(self, error: BaseException) -> bool:
        """By the driver, or by SQLSTATE; one that could not connect gives none."""
        if not isinstance(error, sa.exc.DBAPIError):
            return False
        state = _state(error)
        return error.connection_invalidated or state.startswith(_LOST) or (_is_operational(error) and not state)

    def blames(self, error: sa.exc.DatabaseError) -> Blame:
        """By SQLSTATE."""
        state = _state(error)
        if state in _DAMAGE:
            return "damage"
        return "change" if state.startswith(_OWN) and state != _NOT_ALLOWED else "store"

    def reading(self, engine: sa.Engine) -> sa.Engine:
        """At REPEATABLE READ, read only."""
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def glance(self, engine: sa.Engine) -> "_ServerGlance":
        """On a connection without transactions."""
        return _ServerGlance(engine)

    def compact(self, engine: sa.Engine) -> bool:
        """VACUUM FULL of every table: their files are written anew and the old ones deleted; see `remains`."""
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in METADATA.sorted_tables:
                connection.exec_driver_sql(f"VACUUM (FULL) {table.name}")
        return True


class _ServerGlance:
    waits = True

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._one_at_a_time = threading.Lock()
        self._connection: sa.Connection | None = None

    def row(self, statement: str, values: Sequence[object]) -> tuple[Any, ...] | None:
        with self._one_at_a_time:
            try:
                return self._row(statement, values)
            except sa.exc.DBAPIError as error:
                self.close()
                if not error.connection_invalidated:
                    raise
            return self._row(statement, values)  # the server was started again meanwhile

    def _row(self, statement: str, values: Sequence[object]) -> tuple[Any, ...] | None:
        if self._connection is None:
            self._connection = self._engine.connect()
        found = self._connection.exec_driver_sql(statement.replace("?", "%s"), tuple(values)).first()
        return None if found is None else tuple(found)

    def close(self) -> None:
        if self._connection is not None:
            with suppress(sa.exc.SQLAlchemyError):
                self._connection.close()
            self._connection = None


def _engine(url: sa.URL) -> sa.Engine:
    options = {key: value for key, value in _CONNECTING.items() if key not in url.query}
    engine = make_engine(url, connect_args=options, isolation_level="READ COMMITTED", pool_size=8)
    engine.dialect.type_compiler_instance = _text_compiler(engine.dialect)

    def configure(connection: Any, _record: Any) -> None:
        connection.adapters.register_dumper(str, _whole_text())
        connection.execute(_DURABLE)
        connection.commit()

    event.listen(engine, "connect", configure)
    return engine


def _text_compiler(dialect: sa.Dialect) -> Any:
    """Texts have no longest: their bounds are the wire's, and SQLite keeps none either."""
    from sqlalchemy.dialects.postgresql.base import PGTypeCompiler

    class TextCompiler(PGTypeCompiler):
        def visit_VARCHAR(self, type_: Any, **options: Any) -> str:  # noqa: N802 (SQLAlchemy's name)
            return "TEXT"

    return TextCompiler(dialect)


def _whole_text() -> Any:
    """A device may write U+0000 into a text, which PostgreSQL takes nowhere: U+FFFD stands for it."""
    from psycopg.types.string import StrDumper

    class WholeText(StrDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)

    return WholeText


def _check(connection: sa.Connection, where: sa.URL) -> None:
    """What a store asks of a server.

    Raises:
        OperatorSetupError: it is too old, does not keep every text, or does not write to the disk.
    """
    version, encoding, fsync = connection.exec_driver_sql(_FACTS).one()
    for is_wrong, what, fix in (
        (version < _OLDEST_VERSION, "is older than PostgreSQL 13", "use a newer one"),
        (encoding != "UTF8", f"keeps texts as {encoding}", "create the database with: createdb -E UTF8 -T template0"),
        (fsync != "on", "runs with fsync off: what it says it keeps may be lost", "set fsync = on"),
    ):
        if is_wrong:
            raise OperatorSetupError(
                f"the server at {where.host or 'the local socket'} {what}", reason="store_unusable", fix=fix
            )


def _state(error: sa.exc.DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")


def _is_operational(error: sa.exc.DBAPIError) -> bool:
    return isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
