"""Brings posting lists up to date: the words of new rows, and of blocks that have lost many rows.

A step is a statement of the database, and a transaction of its own: at most 16,000 rows, about a second. Of two
sidecars the second finds the collection's lists locked and passes on.
"""

from __future__ import annotations

import threading
import time

import psycopg
import structlog

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, is_passing
from pgmeaning.settings import Settings

log = structlog.get_logger()

# With many collections a look takes a while: looks that find nothing may take this share of the time.
LOOK_SHARE = 0.01
# The time until the next try, after one that failed.
RETRY_SECONDS = 60.0


class WordIndexer:
    """Indexes words for a sidecar, on its own connection and thread, so that nothing waits for it."""

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        self._settings = settings
        self._stopping = stopping
        self._postponed: dict[int, float] = {}

    def run(self, connection: Connection) -> None:
        """Run until the sidecar stops."""
        pause = 0.0
        while not self._stopping.wait(pause):
            started = time.monotonic()
            done = self.step(connection)
            pause = 0.0 if done else max(self._settings.maintenance, (time.monotonic() - started) / LOOK_SHARE)

    def finish(self, connection: Connection) -> None:
        """Index all that there is to index, also once the sidecar stops."""
        while self.step(connection):
            pass

    def step(self, connection: Connection) -> int:
        """One step for each collection that has words; returns how many rows were indexed."""
        due = [number for (number,) in connection.execute(sql.query("word_indexes")).fetchall()]
        return sum(self._try(connection, number) for number in due if not self._is_postponed(number))

    def _try(self, connection: Connection, collection_id: int) -> int:
        try:
            row = connection.execute(sql.query("index_words"), {"collection_id": collection_id}).fetchone()
            return int(row[0]) if row and row[0] else 0
        except psycopg.Error as error:
            if connection.closed:
                raise
            self._postponed[collection_id] = time.monotonic() + (1.0 if is_passing(error) else RETRY_SECONDS)
            if not is_passing(error) and not isinstance(error, psycopg.errors.LockNotAvailable):
                self._record(connection, collection_id, str(error).strip())
            return 0

    def _record(self, connection: Connection, collection_id: int, problem: str) -> None:
        log.warning("words not indexed", collection_id=collection_id, error=problem)
        arguments = {"collection_id": collection_id, "problem": problem}
        connection.execute(sql.query("record_words_problem"), arguments)

    def _is_postponed(self, collection_id: int) -> bool:
        return time.monotonic() < self._postponed.get(collection_id, 0)
