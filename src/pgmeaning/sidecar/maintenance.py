"""What a sidecar does besides embedding: leases, heartbeats, altered source tables, the periodic reconcile."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import psycopg
import structlog
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from pgmeaning.database import migrate
from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, check_direct, connect
from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.database.vector_version import vector_advice
from pgmeaning.errors import DatabaseError, SchemaOutdated
from pgmeaning.indexes.build import Indexer
from pgmeaning.sidecar.in_flight import InFlight
from pgmeaning.sidecar.queue import Queue
from pgmeaning.sidecar.requests import trim_cache
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.schema import Schema
from pgmeaning.sidecar.serving import Serving
from pgmeaning.sidecar.sources import Sources
from pgmeaning.version import __version__

log = structlog.get_logger()

HOUSEKEEPING_SECONDS = 60.0
PROGRESS_SECONDS = 30.0
# Between the first looks at the sources, while there is something to change.
FIRST_PAUSE = 0.05


class Maintenance:
    """Runs every settings.maintenance seconds."""

    def __init__(
        self, run: Run, in_flight: InFlight, serving: Serving, indexer: Indexer,
        outdated: Callable[[str], None],
    ) -> None:  # fmt: skip
        """`outdated` is told, in one line, why the sidecar must stop: the schema is not this package's any more."""
        self._run = run
        self._settings = run.settings
        self._in_flight = in_flight
        self._serving = serving
        self._embedders = serving.embedders
        self._rerankers = serving.rerankers
        self._indexer = indexer
        self._outdated = outdated
        self._schema = Schema()
        self._sources = Sources(run, self.schema_problem)
        self._extended = time.monotonic()
        self._cleaned = 0.0
        self._trimmed = 0.0
        self._failed_crashed = 0.0
        self._said = time.monotonic()
        self._said_rows = 0

    @property
    def looked_at_sources(self) -> threading.Event:
        """Set once they are as they should be: what was mended before we started is not broken."""
        return self._sources.looked

    def start_up(self) -> None:
        """Before any work, check for a direct connection, the right schema, and a loopback that works."""
        check_direct(self._run.dsn)
        self._refuse_superusers()
        with connect(self._run.dsn, "sidecar") as connection:
            migrate.refuse_standby(connection)
            state = migrate.known_state(connection)
            if state.revision != state.head:
                raise SchemaOutdated(
                    f"the database's pgmeaning schema is {state.revision or 'missing'}, "
                    f"this package needs {state.head}",
                    hint="pgmeaning migrate",
                )
            problem = self._schema.problem(connection, state)
            if problem is not None:
                raise SchemaOutdated(problem)
            try:
                problem = ensure_loopback(connection, self._settings.loopback_hosts)
                if problem:
                    log.warning("the loopback does not work as it should", problem=problem)
                if old := vector_advice(connection):
                    log.warning("pgvector is old", advice=old)
                # Last: whoever sees the sidecar may send it requests.
                self._heartbeat(connection)
            except psycopg.errors.InsufficientPrivilege as error:
                raise DatabaseError(
                    f"role {connection.info.user!r} may not run a sidecar: {error.diag.message_primary}",
                    hint="run it as pgmeaning_sidecar, or where there are no roles, as the owner of schema pgmeaning",
                ) from error

    def _refuse_superusers(self) -> None:
        """Whoever owns a source table can run code as the role that reads it, so that role had better be nobody."""
        settings = self._settings
        for dsn, variable in ((self._run.dsn, "PGMEANING_DSN"), (settings.reader_dsn, "PGMEANING_READER_DSN")):
            if not dsn or settings.allow_superuser:
                continue
            with connect(dsn, "sidecar") as connection:
                role = connection.execute(sql.query("superuser")).fetchone()
            if role is not None:
                raise DatabaseError(
                    f"the sidecar would run as superuser {role[0]}, and whoever owns an attached table can run code as "
                    "the role that reads it",
                    hint=f"pgmeaning migrate --roles makes roles for it: set {variable}. Where all tables are your "
                    "own: pgmeaning sidecar --allow-superuser, or PGMEANING_ALLOW_SUPERUSER=1",
                )

    def run(self, connection: Connection) -> None:
        """Run until the sidecar stops."""
        queue = Queue(connection, self._run.id, self._settings)
        while True:
            changed = self._schema.changed(connection)
            if changed is not None:
                return self._outdated(changed)
            self._serving.look(connection)
            self._heartbeat(connection)
            self._run.health.reached()
            self._run.usage.flush(connection)
            self._extend(queue)
            self._end_lost(connection)
            self._indexer.give_way(connection)
            self._clean(connection)  # before the look that a drain waits for: it may start a scan
            self._sources.look(connection)
            self._fail_crashed(queue)
            self._say_progress(connection)
            pause = min(self._settings.maintenance, self._settings.lease / 4)
            if self._run.stopping.wait(FIRST_PAUSE if self._sources.hurries else pause):
                return self._run.usage.flush(connection)

    def _say_progress(self, connection: Connection) -> None:
        """Say now and then how far collections are, while they come along."""
        done = self._in_flight.rows_done
        if done == self._said_rows or time.monotonic() - self._said < PROGRESS_SECONDS:
            return
        self._said, self._said_rows = time.monotonic(), done
        with connection.cursor(row_factory=dict_row) as cursor:
            for row in cursor.execute(sql.query("maintenance/progress")).fetchall():
                log.info("progress", **{name: value for name, value in row.items() if value is not None})

    def schema_problem(self, connection: Connection) -> str | None:
        """Why the schema is not the one that this package makes, in one line, or None."""
        return self._schema.problem(connection)

    def _heartbeat(self, connection: Connection) -> None:
        arguments = {
            "id": self._run.id, "host": socket.gethostname(), "pid": os.getpid(), "version": __version__,
            "models": self._embedders.names + self._rerankers.names, "named": list(self._run.models or ()),
            "problems": Jsonb(self._embedders.problems | self._rerankers.problems),
            "rows_done": self._in_flight.rows_done, "rates": Jsonb(self._in_flight.rates.now()),
        }  # fmt: skip
        connection.execute(sql.query("maintenance/heartbeat"), arguments)

    def _extend(self, queue: Queue) -> None:
        if time.monotonic() - self._extended > self._settings.lease / 3:
            queue.extend(self._in_flight.all())
            self._extended = time.monotonic()

    def _end_lost(self, connection: Connection) -> None:
        arguments = {"lease": timedelta(seconds=self._settings.lease)}
        for sidecar, sessions in connection.execute(sql.query("maintenance/end_lost"), arguments).fetchall():
            log.warning("a sidecar gives no sign of life: its sessions are ended", sidecar=sidecar, sessions=sessions)

    def _fail_crashed(self, queue: Queue) -> None:
        """Scans the whole queue, so only when there is no other work, or now and then."""
        if not self._in_flight or time.monotonic() - self._failed_crashed > HOUSEKEEPING_SECONDS:
            queue.fail_crashed()
            self._failed_crashed = time.monotonic()

    def _clean(self, connection: Connection) -> None:
        if time.monotonic() - self._cleaned > HOUSEKEEPING_SECONDS:
            grace = timedelta(seconds=self._settings.orphan_grace)
            connection.execute(sql.query("maintenance/housekeeping"), {"grace": grace})
            connection.execute(sql.query("scan/overdue_scans"), {"period": timedelta(seconds=self._settings.reconcile)})
            self._cleaned = time.monotonic()
        if time.monotonic() - self._trimmed > min(HOUSEKEEPING_SECONDS, self._settings.cache_seconds):
            trim_cache(connection, self._settings.cache_rows, self._settings.cache_seconds)
            self._trimmed = time.monotonic()
