"""The page's connections to the database: read-only ones that run a person's SQL, and others that ask sidecars."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from pgmeaning.client.client import Client
from pgmeaning.client.connecting import answers, connect_once
from pgmeaning.database import sql_files as sql
from pgmeaning.database.values import translated_errors

IDLE = 6  # as many as two people looking at four columns keep busy
SECONDS = 30.0


class Connections:
    """Clients to borrow, each for one thread at a time. A broken one is replaced, so the page survives a restart.

    `seconds`: the most that one statement may take.
    """

    def __init__(self, dsn: str, seconds: float = SECONDS) -> None:
        self._dsn = dsn
        self._seconds = seconds
        self._idle: queue.LifoQueue[Client] = queue.LifoQueue(IDLE)

    @contextmanager
    def asking(self) -> Iterator[Client]:
        """For statements of our own: what asks a sidecar commits its question. Raises DatabaseError."""
        client = self._borrowed()
        try:
            yield client
        finally:
            self._give_back(client)

    @contextmanager
    def reading(self) -> Iterator[Client]:
        """In a read-only transaction that is rolled back: a filter cannot write, nor change the session for later."""
        with self.asking() as client, translated_errors():
            client.connection.read_only = True
            try:
                with client.connection.transaction(force_rollback=True):
                    yield client
            finally:
                if not client.connection.closed:
                    client.connection.read_only = None
                    with suppress(psycopg.Error):
                        client.connection.execute(sql.query("console/unlock"))

    def close(self) -> None:
        """Close those that are idle."""
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def _borrowed(self) -> Client:
        with suppress(queue.Empty):
            while True:
                client = self._idle.get_nowait()
                if answers(client):
                    return client
                client.close()
        return self._connected()

    def _connected(self) -> Client:
        client = connect_once(self._dsn, "pgmeaning ui")
        client.connection.execute(sql.query("console/bounds"), {"milliseconds": int(1000 * self._seconds)})
        return client

    def _give_back(self, client: Client) -> None:
        if client.connection.closed:
            return
        try:
            self._idle.put_nowait(client)
        except queue.Full:
            client.close()
