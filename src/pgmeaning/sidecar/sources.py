"""Looks after the sources: tables that were dropped, renamed or changed behind our back, and our own objects there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import structlog
from psycopg.rows import dict_row

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection
from pgmeaning.sidecar.key_types import KeyTypes
from pgmeaning.sidecar.run import Run

log = structlog.get_logger()

# What the loss of pgvector, or of functions of ours, looks like.
LOST = (psycopg.errors.UndefinedObject, psycopg.errors.UndefinedFunction)
# The looks at all sources may take this share of the time.
LOOK_SHARE = 0.02
# What one look changes, the next one may have to look at; after so many, something changes all the time.
FIRST_LOOKS = 5


class Sources:
    """Looks at all collections. `looked` is set once a look has found nothing to change.

    `schema_problem` says why the schema is not the one that this package makes, or None.
    """

    def __init__(self, run: Run, schema_problem: Callable[[Connection], str | None]) -> None:
        self.looked = threading.Event()
        self._run = run
        self._schema_problem = schema_problem
        self._key_types = KeyTypes(run)
        self._grace = timedelta(seconds=run.settings.orphan_grace)
        self._reader = ""
        self._looks = 0
        self._look_due = 0.0
        self._changed = False
        self._barred = False  # whether a lock was in the way of the last look

    def look(self, connection: Connection) -> None:
        """One look, and what follows from it."""
        self._reader = self._reader or self._run.reader()
        due = time.monotonic() >= self._look_due
        self._changed, self._barred = False, self._barred and not due
        self._look_after_orphans(connection)
        if due:
            self._look_at_all(connection)
        if not self._key_types.follow(connection):
            self._changed = True
        self._looks += 1
        enough = self._looks >= FIRST_LOOKS and self._key_types.idle
        if not self._barred and (enough or not self._changed):
            self.looked.set()
        elif self.hurries:
            self._look_due = 0.0

    @property
    def hurries(self) -> bool:
        """Whether the next look should follow at once; if a lock is in the way, only the first ones do."""
        return not self.looked.is_set() and self._looks < FIRST_LOOKS

    def _look_after_orphans(self, connection: Connection) -> None:
        for collection_id, name in connection.execute(sql.query("maintenance/orphans")).fetchall():
            self._alone(connection, name, partial(self._look_after_orphan, connection, collection_id, name))

    def _look_after_orphan(self, connection: Connection, collection_id: int, name: str) -> None:
        arguments = {"collection_id": collection_id, "grace": self._grace, "reader": self._reader}
        row = connection.execute(sql.query("maintenance/look_after_orphan"), arguments).fetchone()
        if row and row[0]:
            self._changed = True
            log.warning("a collection without its table", collection=name, outcome=row[0])

    def _look_at_all(self, connection: Connection) -> None:
        started = time.monotonic()
        with connection.cursor(row_factory=dict_row) as cursor:
            sources = cursor.execute(sql.query("maintenance/check_sources"), {"reader": self._reader}).fetchall()
        connection.execute(sql.query("queue/forget_queued"))
        # With thousands of collections a look takes a while: the next one is put off, so that idling costs little.
        ended = time.monotonic()
        self._look_due = ended + (ended - started) / LOOK_SHARE
        for source in sources:
            self._alone(connection, source["name"], partial(self._look_at, connection, source))

    def _look_at(self, connection: Connection, source: dict[str, Any]) -> None:
        collection = {"collection_id": source["id"]}
        if source["problem"]:
            if source["problem"] != source["known_problem"]:
                log.warning("collection is broken", collection=source["name"], problem=source["problem"])
                connection.execute(sql.query("maintenance/set_problem"), {**collection, "problem": source["problem"]})
                self._changed = True
        else:
            if source["renamed"]:
                log.info("the source was renamed", collection=source["name"])
                connection.execute(sql.query("maintenance/record_rename"), collection)
                self._changed = True
            if source["differs"]:
                self._look_after(connection, source)

    def _look_after(self, connection: Connection, source: dict[str, Any]) -> None:
        """Mend what differs, and have the rows scanned that may have changed unseen."""
        row = connection.execute(sql.query("maintenance/look_after"), {"collection_id": source["id"]}).fetchone()
        changed, warning = row or ([], None)
        self._changed = self._changed or bool(changed) or source["known_problem"] is not None
        if source["known_problem"]:
            log.info("collection is mended", collection=source["name"])
        elif changed:
            log.info("the source or our objects changed", collection=source["name"], changed=changed)
        if warning:
            log.warning("cannot be mended", collection=source["name"], problem=warning)

    def _alone(self, connection: Connection, collection: str, work: Callable[[], None]) -> None:
        """Work in a transaction, unless another sidecar does such work. After an error the next pass tries again."""
        try:
            with connection.transaction():
                if connection.execute(sql.query("try_maintenance")).fetchone() == (True,):
                    work()
        except psycopg.Error as error:
            # Who waits for the first looks waits for the lock, too: until then rows may change unseen.
            self._barred = self._barred or isinstance(error, psycopg.errors.LockNotAvailable)
            if connection.closed or (isinstance(error, LOST) and self._schema_problem(connection)):
                raise  # the sidecar stops: what the schema consists of is gone
            log.warning("cannot check a collection's source", collection=collection, error=str(error).strip())
