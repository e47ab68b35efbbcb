"""connect(): from whatever a program has, a DSN, a URL, a connection, a pool or an engine, to a client."""

from __future__ import annotations

import sys
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from pgmeaning.client.client import Client
from pgmeaning.client.links import (
    Borrowed,
    Connection,
    Link,
    Once,
    Own,
    OwnConnection,
    Pool,
    Shared,
    of_engine,
    of_pool,
)
from pgmeaning.database import sql_files as sql
from pgmeaning.database.dsn import checked
from pgmeaning.database.values import check_vector, register_times, register_vectors, translated_errors, vector_types
from pgmeaning.errors import ArgumentError, SchemaOutdated
from pgmeaning.secret_values import secret

if TYPE_CHECKING:
    import sqlalchemy
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.orm import Session

HINT = "give a DSN, a psycopg connection, a psycopg_pool.ConnectionPool, or SQLAlchemy's engine, connection or session"


def connect(
    target: str | sqlalchemy.URL | Connection | Pool | sqlalchemy.Engine | AsyncEngine | sqlalchemy.Connection | Session
    | None = None, *, connect_timeout: float = 10, reconnect_timeout: float = 5, statement_timeout: float | None = None,
) -> Client:  # fmt: skip
    """A client for a database in which `pgmeaning migrate` was run.

    Without a target: that of PGMEANING_DSN (or of the file PGMEANING_DSN_FILE), else of libpq's PG* variables. A target
    is a DSN, also with a driver's name (postgresql+asyncpg://...); a psycopg connection or SQLAlchemy's Connection or
    Session, in whose transaction the client then works; or a psycopg_pool.ConnectionPool or SQLAlchemy's engine, of
    which each call takes a connection. Of an engine with another driver than psycopg, its URL is taken.

    The timeouts are seconds, for a connection of the client's own: to connect, to wait for a server that is being
    restarted, and for each statement. Only between calls, and outside of a transaction, is it made again if lost. What
    SET had changed in it is gone then, also a role: put that into the DSN, as in options='-c role=reader'.

    Raises ConnectionFailed if it cannot connect, SchemaOutdated if the schema is missing or of another version.
    """
    times = (connect_timeout, reconnect_timeout, statement_timeout)
    link = _link(target, *times)
    try:
        with translated_errors(), link.use() as connection:
            if not isinstance(link, Own):
                _check_schema(connection)
                check_vector(vector_types(connection))
    except BaseException:
        link.close()
        raise
    return Client(link)


def connect_once(dsn: str, application_name: str) -> Client:
    """A client for a session that is set up by hand: its connection does not come back when it was lost.

    Raises ConnectionFailed if it cannot connect, SchemaOutdated if the schema is missing or of another version.
    """
    with translated_errors():
        connection = psycopg.connect(
            checked(dsn), autocommit=True, application_name=application_name, prepare_threshold=None
        )
    try:
        with translated_errors():
            _check_schema(connection)
            check_vector(vector_types(connection))
    except BaseException:
        connection.close()
        raise
    return Client(Once(connection))


def answers(client: Client) -> bool:
    """Whether the server still knows the client's connection, after a restart or an idle time-out."""
    try:
        client.connection.execute(sql.query("client/ping"))
    except psycopg.Error:
        return False
    return True


def _link(target: Any, connecting: float, reconnecting: float, statement: float | None) -> Link:
    found = _given(target)
    if found is None:
        dsn = target if isinstance(target, str) else _url(target)
        opened = _opening(dsn or secret("PGMEANING_DSN"), connecting, statement)
        return Own(opened, reconnecting)
    if statement is not None:
        raise ArgumentError(
            "statement_timeout is for connections that the client opens itself",
            hint="set it where these are opened: options='-c statement_timeout=30s'",
        )
    return found


def _given(target: Any) -> Link | None:
    """The link to what the caller has opened; None for an address."""
    if isinstance(target, psycopg.Connection):
        return Borrowed(lambda: target)
    if isinstance(target, psycopg.AsyncConnection) or iscoroutinefunction(getattr(target, "getconn", None)):
        raise ArgumentError(f"{type(target).__name__} is asynchronous", hint=f"{HINT}; connect_async takes them, too")
    if hasattr(target, "getconn") and hasattr(target, "putconn"):
        return Shared(of_pool(target))
    alchemy = sys.modules.get("sqlalchemy")
    if alchemy is None:  # then it is nothing of SQLAlchemy's, which need not be imported
        return None
    return _of_alchemy(alchemy, target)


def _of_alchemy(alchemy: Any, target: Any) -> Link | None:
    if isinstance(target, alchemy.Engine) and _is_psycopg(target):
        return Shared(of_engine(target))
    if isinstance(target, alchemy.Connection):
        return Borrowed(_driver_of(lambda: target))
    orm = sys.modules.get("sqlalchemy.orm")
    if orm is not None and isinstance(target, orm.Session):
        return Borrowed(_driver_of(target.connection))
    return None


def _is_psycopg(engine: Any) -> bool:
    return engine.dialect.driver == "psycopg" and not engine.dialect.is_async


def _driver_of(alchemy: Callable[[], Any]) -> Callable[[], Connection]:
    """Gives psycopg's connection, in a transaction that SQLAlchemy knows of and will end."""

    def current() -> Connection:
        outer = alchemy()
        if not _is_psycopg(outer):
            raise ArgumentError(f"the driver of this connection is {outer.dialect.driver}", hint="use psycopg")
        if not outer.in_transaction():
            outer.begin()
        driver: Connection = outer.connection.driver_connection
        if not driver.autocommit and driver.info.transaction_status == TransactionStatus.IDLE:
            driver.execute(sql.query("current_role"))  # begins it, or transaction() would end it
        return driver

    return current


def _url(target: Any) -> str:
    """The DSN of a URL, or of an engine whose driver is another."""
    url = getattr(target, "url", target)
    if target is None:
        return ""
    if not hasattr(url, "render_as_string"):
        raise ArgumentError(f"connect() takes no {type(target).__name__}", hint=HINT)
    return str(url.render_as_string(hide_password=False))


def _opening(dsn: str, connecting: float, statement: float | None) -> Callable[[], OwnConnection]:
    """A function that opens a connection, with our types, to a database whose schema is this package's."""
    dsn = checked(dsn)
    given = psycopg.conninfo.conninfo_to_dict(dsn)
    options: dict[str, Any] = {
        "connect_timeout": max(1, round(connecting)),
        "keepalives_idle": 30,
        "tcp_user_timeout": 30_000,
    }
    options = {name: given.get(name) or value for name, value in options.items()}
    if statement is not None:
        options["options"] = f"{given.get('options') or ''} -c statement_timeout={round(statement * 1000)}".strip()

    def opened() -> OwnConnection:
        with translated_errors():
            # prepare_threshold: behind a pooler the next statement may go to a server that has not prepared it.
            connection = OwnConnection.connect(
                dsn, autocommit=True, application_name="pgmeaning client", prepare_threshold=None, **options
            )
        try:
            with translated_errors():
                _check_schema(connection)
                register_vectors(connection)
                register_times(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    return opened


def _check_schema(connection: Connection) -> None:
    """Compare the schema's revision with the migrations' names: importing Alembic would take long."""
    if connection.execute(sql.query("migrate/installed_tables")).fetchone() != (True, True):
        raise SchemaOutdated("this database has no pgmeaning schema", hint="run: pgmeaning migrate")
    (revision,) = connection.execute(sql.query("migrate/installed_revision")).fetchone() or (None,)
    if revision != sql.newest_migration():
        raise SchemaOutdated(
            f"the database's pgmeaning schema is {revision or 'unknown'}, this package needs {sql.newest_migration()}",
            hint="run: pgmeaning migrate, or install the version of the package that matches the database",
        )
