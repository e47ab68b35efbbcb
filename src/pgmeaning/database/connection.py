"""The sidecar's connections, which pin the settings that keys and plans depend on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from pgmeaning.database import sql_files as sql
from pgmeaning.database.dsn import checked
from pgmeaning.errors import DatabaseError

Connection = psycopg.Connection[Any]
T = TypeVar("T")

# A key's jsonb must come out the same in every session; and statements by key must use the index, even if their plan
# was cached while the table was still empty.
OPTIONS = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "timezone": "UTC",
        "datestyle": "ISO,YMD",
        "intervalstyle": "postgres",
        "lc_monetary": "C",
        "bytea_output": "hex",
        "extra_float_digits": "1",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "enable_seqscan": "off",
        "jit": "off",  # before 18, a disabled plan node costs so much that every statement would be compiled
        "plan_cache_mode": "force_custom_plan",
        "default_transaction_isolation": r"read\ committed",
        "default_transaction_read_only": "off",
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "60s",
        # The server lets go of our locks soon after it has lost us. (Through a Unix socket it ignores these.)
        "tcp_keepalives_idle": "15",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "30s",
        "idle_session_timeout": "0",
        "search_path": "pg_catalog",
        # Citus would send what we make to its workers. Without it, a name that nobody reads.
        "citus.enable_ddl_propagation": "off",
    }.items()
)

# The version that has it; an older one would refuse the connection if it were among the options.
TRANSACTION_TIMEOUT = 170000
# Seconds to wait for a server that does not answer, unless the DSN says otherwise.
CONNECT_TIMEOUT = 10
# Error classes that no row causes: connection, lost races, the server's resources, an operator, a locked object.
PASSING = ("08", "25", "40", "53", "55", "57", "58")

# A deadlock, a serialization failure or a server restart must cost a retry, not a row.
RETRIED = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


def connect(dsn: str, name: str, **pinned: str) -> Connection:
    """An autocommit connection with the pinned settings, plus `pinned`; `name` shows in pg_stat_activity.

    Raises DatabaseError for a DSN that is none.
    """
    dsn = checked(dsn)
    given = psycopg.conninfo.conninfo_to_dict(dsn)
    more = " ".join(f"-c {key}={value}" for key, value in pinned.items())
    # prepare_threshold: a prepared statement breaks when a source changes the type of a column. Statements on our own
    # tables are prepared by hand and planned each time: a plan made for an empty queue would scan a full one.
    connection = psycopg.connect(
        dsn, autocommit=True, prepare_threshold=None, application_name=f"pgmeaning {name}",
        options=f"{given.get('options') or ''} {OPTIONS} {more}".strip(), keepalives_idle=30, tcp_user_timeout=30_000,
        client_encoding="UTF8", connect_timeout=given.get("connect_timeout") or CONNECT_TIMEOUT,
    )  # fmt: skip
    if connection.info.server_version >= TRANSACTION_TIMEOUT:
        connection.execute(sql.query("no_transaction_timeout"))
    return connection


def current_role(connection: Connection) -> str:
    """The role whose rights a connection has."""
    return str((connection.execute(sql.query("current_role")).fetchone() or ("",))[0])


def check_direct(dsn: str, what: str = "the sidecar") -> None:
    """Raise DatabaseError if there is a pooler in between that shares server connections, or drops settings.

    A sidecar listens, holds session-level locks, and depends on its settings; otherwise it would hang now and then, and
    write keys that match no row.
    """
    try:
        with connect(dsn, "sidecar") as first, connect(dsn, "sidecar") as second:
            shared = any(_backend(first, what) == _backend(second, what) for _ in range(3))
    except psycopg.OperationalError as error:
        if "startup parameter" not in str(error):
            raise
        raise _pooled(what, str(error).strip().split("\n")[0]) from error
    if shared:
        raise _pooled(what, "two open connections share one server process")


def _backend(connection: Connection, what: str) -> int:
    pid, settings_arrived = connection.execute(sql.query("migrate/own_backend")).fetchone() or (0, False)
    if not settings_arrived:
        raise _pooled(what, "the connection's settings do not reach the server")
    return int(pid)


def _pooled(what: str, reason: str) -> DatabaseError:
    return DatabaseError(
        f"{what} cannot work through a connection pooler: {reason}",
        hint="give it the server's own address; applications may use the pooler, see docs/pgbouncer.md",
    )


def is_passing(error: psycopg.Error) -> bool:
    """Whether trying again later may help, because no row's content caused the error."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate[:2] in PASSING


def retrying(work: Callable[[], T], times: int = 5) -> T:
    """Run a whole transaction, again if it fails with a deadlock or a serialization failure."""
    for _ in range(times - 1):
        try:
            return work()
        except RETRIED:
            continue
    return work()
