"""The connections that agents' questions go over: few, limited, each question in a transaction that only reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg

from pgmeaning.client.client import Client
from pgmeaning.client.connecting import answers, connect_once
from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import check_direct
from pgmeaning.database.values import translated_errors
from pgmeaning.errors import DatabaseError, SettingsError, TimedOut
from pgmeaning.settings import Settings

T = TypeVar("T")
# The time-out of the statement, the server's end, a connection that broke.
CANCELLED = "57014"


class Database:
    """Clients of one role; several threads may ask at once, each has a client to itself meanwhile."""

    def __init__(self, dsn: str, settings: Settings | None = None, *, role: str | None = None) -> None:
        """`role`: SET ROLE to it, as a role that the DSN's belongs to."""
        check_direct(dsn, "an agent's session")  # a pooler would hand its role and limits to others
        self._dsn = dsn
        self._role = role
        self.settings = settings or Settings()
        self._free = threading.Semaphore(self.settings.mcp_connections)
        self._lock = threading.Lock()
        self._idle: list[Client] = []
        self._busy: list[Client] = []

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def patience(self) -> float:
        """Seconds to wait for a sidecar: what asks ends before the statement is cancelled, and says why."""
        return max(0.5, self.settings.mcp_timeout - 1)

    def read(self, work: Callable[[Client], T]) -> T:
        """What the work returns, in one transaction that is READ ONLY. Raises DatabaseError, and whatever it raises."""
        with self.client() as client, translated_errors(), client.connection.transaction():
            return work(client)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client for one question; back afterwards, unless its connection broke."""
        if not self._free.acquire(timeout=self.settings.mcp_timeout):
            raise TimedOut(
                f"all {self.settings.mcp_connections} connections are in use", hint="ask again, or raise "
                "PGMEANING_MCP_CONNECTIONS",
            )  # fmt: skip
        try:
            client = self._take()
            try:
                yield client
            finally:
                self._give_back(client)
        finally:
            self._free.release()

    def sees_all(self) -> str | None:
        """The name of the role, if row security does not hold for it."""
        name, everything = self.read(lambda client: _one(client.connection.execute(sql.query("mcp/sees_all"))))
        return str(name) if everything else None

    def close(self) -> None:
        """Close the connections; questions that are being answered are cancelled."""
        with self._lock:
            for client in self._busy:
                with suppress(psycopg.Error):
                    client.connection.cancel_safe(timeout=5)
            for client in self._idle:
                client.close()
            self._idle.clear()

    def _take(self) -> Client:
        with self._lock:
            client = self._idle.pop() if self._idle else None
        if client is not None and not answers(client):
            client.close()
            client = None
        client = client or self._connected()
        with self._lock:
            self._busy.append(client)
        return client

    def _give_back(self, client: Client) -> None:
        with self._lock:
            self._busy.remove(client)
            if not client.connection.closed:
                self._idle.append(client)

    def _connected(self) -> Client:
        client = connect_once(self._dsn, "pgmeaning mcp")
        try:
            with translated_errors():
                milliseconds = round(self.settings.mcp_timeout * 1000)
                client.connection.execute(sql.query("mcp/session"), {"milliseconds": milliseconds, "role": self._role})
                client.connection.read_only = True  # of every transaction; asking a sidecar needs none
        except DatabaseError as error:
            client.close()
            if self._role is not None and error.sqlstate in ("22023", "42501"):
                raise SettingsError(
                    f"cannot take role {self._role!r}: {error}", hint="GRANT it to the role that logs in"
                ) from error
            raise
        return client


def _one(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row: tuple[Any, ...] = cursor.fetchone() or ()
    return row
