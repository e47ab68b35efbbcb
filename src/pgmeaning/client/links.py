"""Where a client's statements run: a connection of its own, a given one, or one at a time of a pool or an engine.

Each link hands out an open connection for as long as a block runs, to one thread at a time. Inside the block another
`use` by the same thread gets the same connection, so that several statements may be one transaction.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import tuple_row

from pgmeaning.database.values import register_times, register_types, translated, translated_errors, vector_types
from pgmeaning.errors import ArgumentError, ConnectionFailed, PgmeaningError

Connection = psycopg.Connection[Any]
# A pool or an engine may have kept so many connections that the server has closed meanwhile.
STALE = 100


class Pool(Protocol):
    """What psycopg_pool's pools have."""

    def getconn(self, timeout: float | None = None) -> Connection:
        """An open connection."""

    def putconn(self, conn: Connection) -> None:
        """Take it back."""


class Link(Protocol):
    """Where statements run."""

    def use(self) -> AbstractContextManager[Connection]:
        """An open connection for the block; raises ConnectionFailed."""

    @property
    def connection(self) -> Connection:
        """The one connection; raises ArgumentError where there are several."""

    def close(self) -> None:
        """Close what the link has opened itself."""


# ---------------------------------------------------------------- A connection of the client's own


class OwnConnection(psycopg.Connection[Any]):
    """Knows whether a transaction block is open, which it keeps for one thread."""

    turn: threading.RLock
    blocks = 0

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """As psycopg's."""
        with self.turn:
            self.blocks += 1
            try:
                with super().transaction(savepoint_name, force_rollback) as transaction:
                    yield transaction
            finally:
                self.blocks -= 1


class Own:
    """A connection that comes back after the server was restarted; threads take turns."""

    def __init__(self, opened: Callable[[], OwnConnection], patience: float) -> None:
        self._opened = opened
        self._patience = patience
        self._turn = threading.RLock()
        self._closed = False
        self._connection = self._open()

    def _open(self) -> OwnConnection:
        connection = self._opened()
        connection.turn = self._turn
        return connection

    @property
    def connection(self) -> Connection:
        """The open connection."""
        with self._turn:
            self._mend()
            return self._connection

    @contextmanager
    def use(self) -> Iterator[Connection]:
        """The connection, made again if it was lost since it was last used."""
        with self._turn:
            self._mend()
            yield self._connection

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._connection.close()

    def _mend(self) -> None:
        connection = self._connection
        in_transaction = connection.blocks > 0 or connection.info.transaction_status in (
            TransactionStatus.INTRANS, TransactionStatus.INERROR,
        )  # fmt: skip
        if self._closed or not is_lost(connection):
            return
        connection.close()
        if in_transaction:
            raise ConnectionFailed(
                "the connection was lost within a transaction, and with it what the transaction had done",
                hint="run the whole transaction again",
            )
        self._connection = self._open_again()

    def _open_again(self) -> OwnConnection:
        """Wait for a server that is being restarted."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._open()
            except ConnectionFailed:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(min(0.1, self._patience))


def is_lost(connection: Connection) -> bool:
    """Whether the server has closed the connection, as far as has arrived here; asks nothing of the server."""
    if connection.closed or connection.pgconn.status != ConnStatus.OK:
        return True
    with suppress(psycopg.Error, OSError, ValueError):
        while connection.info.transaction_status != TransactionStatus.ACTIVE and _has_arrived(connection):
            connection.pgconn.consume_input()
            if connection.pgconn.status != ConnStatus.OK:
                return True
        return False
    return True


def _has_arrived(connection: Connection) -> bool:
    """Whether there is something to read: a notification, say, or that the server has hung up."""
    waiting = select.poll()  # not select(), which takes no descriptor above 1023
    waiting.register(connection.pgconn.socket, select.POLLIN)
    return bool(waiting.poll(0))


# ---------------------------------------------------------------- Connections of others

_types: WeakKeyDictionary[Connection, Any] = WeakKeyDictionary()


class _Cursor(psycopg.Cursor[Any]):
    """Knows vectors and times as ours do; on the connection itself they stay as its owner has them."""

    def __init__(self, connection: Connection, **options: Any) -> None:
        super().__init__(connection, **options)
        register_types(self, _types.get(connection) or {})
        register_times(self)


@contextmanager
def as_ours(connection: Connection) -> Iterator[Connection]:
    """Rows and parameters as our statements expect them while the block runs, however the connection's owner set it."""
    if connection not in _types:
        with translated_errors(), psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
            _types[connection] = vector_types(cursor)
    kept = connection.row_factory, connection.cursor_factory, connection.prepare_threshold
    connection.row_factory, connection.cursor_factory, connection.prepare_threshold = tuple_row, _Cursor, None
    try:
        yield connection
    finally:
        connection.row_factory, connection.cursor_factory, connection.prepare_threshold = kept


class Borrowed:
    """A connection of the caller's, as it is: in its transaction, if it is in one. Threads take turns."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        self._connection = connection
        self._turn = threading.RLock()

    @property
    def connection(self) -> Connection:
        """The connection."""
        return self._connection()

    @contextmanager
    def use(self) -> Iterator[Connection]:
        """The connection."""
        with self._turn, translated_errors():
            connection = self._connection()
            with as_ours(connection):
                yield connection

    def close(self) -> None:
        """It is its owner's to close."""


class Once(Borrowed):
    """A connection that ends for good when it is lost, with whatever was set in it: a role, limits, read-only."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(lambda: connection)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


class Shared:
    """Connections that a pool or an engine keeps, one for each thread that uses one."""

    def __init__(self, taken: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._taken = taken
        self._here = threading.local()

    @property
    def connection(self) -> Connection:
        """The one of this thread's block."""
        connection: Connection | None = getattr(self._here, "connection", None)
        if connection is None:
            raise ArgumentError(
                "this client has no connection of its own, but takes one at a time",
                hint="take one of the pool or engine yourself, or: with client.transaction() as connection",
            )
        return connection

    @contextmanager
    def use(self) -> Iterator[Connection]:
        """A connection in autocommit mode, in which no transaction is open."""
        held: Connection | None = getattr(self._here, "connection", None)
        with ExitStack() as stack:
            if held is None:
                held = stack.enter_context(self._own())
            yield held

    @contextmanager
    def _own(self) -> Iterator[Connection]:
        with self._taken() as connection, as_ours(connection):
            self._here.connection = connection
            try:
                yield connection
            finally:
                self._here.connection = None

    def close(self) -> None:
        """The pool or engine is its owner's to close."""


def of_pool(pool: Pool) -> Callable[[], AbstractContextManager[Connection]]:
    """Takes a connection of psycopg_pool's, which the server has not closed meanwhile."""

    @contextmanager
    def taken() -> Iterator[Connection]:
        with translated_errors():
            connection = _first_alive(pool.getconn, pool.putconn)
        before = connection.autocommit
        try:
            connection.autocommit = True
            yield connection
        finally:
            try:
                if not connection.closed:
                    _end(connection)
                    connection.autocommit = before
            finally:
                pool.putconn(connection)

    return taken


def _first_alive(take: Callable[[], Connection], give_back: Callable[[Connection], None]) -> Connection:
    for _ in range(STALE):
        connection = take()
        if not is_lost(connection):
            return connection
        connection.close()
        give_back(connection)
    raise ConnectionFailed("the pool has no connection that is alive", hint="is the server running?")


def _end(connection: Connection) -> None:
    """Leave no transaction open, whatever happened."""
    if connection.info.transaction_status != TransactionStatus.IDLE:
        connection.rollback()


def of_engine(engine: Any) -> Callable[[], AbstractContextManager[Connection]]:
    """Takes a connection of SQLAlchemy's, by psycopg, which the server has not closed meanwhile."""

    @contextmanager
    def taken() -> Iterator[Connection]:
        with _alchemy(engine) as alchemy:
            driver: Connection = alchemy.connection.driver_connection
            try:
                yield driver
            finally:
                if driver.closed:
                    alchemy.invalidate()
                else:
                    _end(driver)

    return taken


@contextmanager
def _alchemy(engine: Any) -> Iterator[Any]:
    with ExitStack() as stack:
        for _ in range(STALE):
            alchemy = stack.enter_context(_opened(engine))
            if not is_lost(alchemy.connection.driver_connection):
                yield alchemy
                return
            alchemy.invalidate()
            alchemy.close()
        raise ConnectionFailed("the engine has no connection that is alive", hint="is the server running?")


def _opened(engine: Any) -> Any:
    try:
        return engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    except PgmeaningError:
        raise
    except Exception as error:
        cause = getattr(error, "orig", None)
        if cause is None:
            raise
        raise translated(cause) from error
