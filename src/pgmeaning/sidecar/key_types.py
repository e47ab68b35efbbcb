"""Lets vector tables follow a key whose type changed, as from int to bigint, so that no vector is made again."""

from __future__ import annotations

import threading
import time

import psycopg
import structlog

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, connect
from pgmeaning.sidecar.run import Run

log = structlog.get_logger()

# Searches queue up behind whoever waits to alter a vector table, so it waits for this long only.
PATIENCE = {"lock_timeout": "300ms"}
# Most tables are altered within this time; a large one goes on while maintenance does other things.
WAIT_SECONDS = 1.0
# What could not follow is tried again after so many rounds of maintenance.
RETRY_ROUNDS = 20


class KeyTypes:
    """Alters vector tables, on a thread and a connection of its own: leases are extended however long it takes."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._thread: threading.Thread | None = None
        self._postponed: dict[int, float] = {}

    def follow(self, connection: Connection) -> bool:
        """Start altering what differs; returns whether there was nothing to alter."""
        if self.idle:
            found = connection.execute(sql.query("maintenance/changed_keys")).fetchall()
            due = [(key, name) for key, name in found if time.monotonic() >= self._postponed.get(key, 0)]
            if not due:
                return True
            self._thread = threading.Thread(target=self._alter, args=(due,), name="pgmeaning keys", daemon=True)
            self._thread.start()
        if self._thread is not None:
            self._thread.join(WAIT_SECONDS)
        return False

    @property
    def idle(self) -> bool:
        """Whether nothing is being altered."""
        return self._thread is None or not self._thread.is_alive()

    def _alter(self, collections: list[tuple[int, str]]) -> None:
        try:
            with connect(self._run.dsn, f"keys {self._run.id}", **PATIENCE) as connection:
                for collection_id, name in collections:
                    self._alter_one(connection, collection_id, name)
        except psycopg.Error as error:
            log.warning("keys not followed", error=str(error).strip())

    def _alter_one(self, connection: Connection, collection_id: int, name: str) -> None:
        """Another sidecar may be faster: then there is nothing left to do."""
        started = time.monotonic()
        try:
            row = connection.execute(sql.query("maintenance/follow_key"), {"collection_id": collection_id}).fetchone()
        except psycopg.errors.LockNotAvailable:
            return  # the next round tries again
        if row and row[0]:
            self._postponed[collection_id] = time.monotonic() + RETRY_ROUNDS * self._run.settings.maintenance
            log.warning("the vectors cannot follow a key whose type changed", collection=name, reason=row[0])
        else:
            log.info(
                "the vectors follow a key whose type changed", collection=name,
                seconds=round(time.monotonic() - started, 1),
            )  # fmt: skip
