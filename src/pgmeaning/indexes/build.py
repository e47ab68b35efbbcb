"""Builds the indexes of vector tables: the one that is planned, one builder at a time, and nobody waits for it.

CREATE INDEX CONCURRENTLY lets rows be written meanwhile. It cannot run in a transaction, and leaves an invalid index
behind when it breaks off: that is found and built anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import structlog
from psycopg import sql as compose
from psycopg.rows import class_row

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, connect
from pgmeaning.errors import PgmeaningError
from pgmeaning.indexes import recall
from pgmeaning.settings import Settings

log = structlog.get_logger()

# Sidecars only join keys; what a search does is planned as for anybody else.
AS_ANYBODY = {"enable_hashjoin": "on", "enable_mergejoin": "on", "enable_seqscan": "on", "lock_timeout": "0"}
# Rows that may be owed while an index is built: a table that is always written to always owes some.
MAY_BE_OWED = 1000
# One look is a count of every small vector table: so not at each round of maintenance.
LOOK_EVERY = 5
# After a build that failed or gave way, how long until the next try.
RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a vector table's index is, and what it should be."""

    collection_id: int
    collection: str
    model: str
    vectors: int  # the table's oid
    table: str  # its name, quoted
    present: str
    kind: str
    dimensions: int | None
    row_count: int
    bytes: int | None
    build_seconds: float | None
    statement: str | None
    reason: str
    there: bool  # whether it is as it should be
    broken: list[str]  # what broken builds left behind, and prefixes of other dimensions; quoted
    others: list[str]  # our indexes of other kinds
    settled: bool  # whether all is embedded, but for what is always being written
    measure_due: bool

    @property
    def due(self) -> bool:
        """Whether anything is to be built or dropped."""
        return not self.there or bool(self.broken) or bool(self.others)


def connected(dsn: str) -> Connection:
    """A connection to build with, that waits for locks as long as it takes."""
    return connect(dsn, "index", **AS_ANYBODY)


def plans(
    connection: Connection, settings: Settings, collection: str | None = None, kind: str | None = None,
    dimensions: int | None = None,
) -> list[Plan]:  # fmt: skip
    """The plan of every vector table, or of a collection's; `kind` and `dimensions` instead of what is wanted of it."""
    arguments = {
        "collection": collection, "kind": kind, "dimensions": dimensions, "min_rows": settings.index_rows,
        "may_be_owed": MAY_BE_OWED,
    }  # fmt: skip
    with connection.cursor(row_factory=class_row(Plan)) as cursor:
        return cursor.execute(sql.query("index/plan_indexes"), arguments).fetchall()


@contextmanager
def only_builder(connection: Connection, plan: Plan) -> Iterator[bool]:
    """Whether nobody else is at this vector table's index; if so, nobody else will be."""
    key = {"vectors": plan.vectors}
    row = connection.execute(sql.query("try_index_lock"), key).fetchone()
    held = row == (True,)
    try:
        yield held
    finally:
        if held and not connection.closed:
            connection.execute(sql.query("drop_index_lock"), key)


def build(connection: Connection, plan: Plan, settings: Settings) -> None:
    """Bring the index to the plan: drop what is broken, build, then drop what it replaces. Raises psycopg.Error."""
    for index in plan.broken:
        log.info("dropping what cannot be used", collection=plan.collection, index=index)
        _drop(connection, index)
    if not plan.there:
        _create(connection, plan, settings)
    for index in plan.others:
        _drop(connection, index)


def measure(connection: Connection, plan: Plan, settings: Settings) -> recall.Report:
    """Measure what searches find, and keep it where they look. Raises CollectionError, psycopg.Error."""
    report = recall.measure(
        connection, plan.collection_id, plan.model, sample=settings.recall_sample, goal=settings.recall_goal
    )
    recall.record(connection, plan.collection_id, plan.model, report)
    log.info(
        "recall measured", collection=plan.collection, kind=report.kind, recall=round(report.recall, 4),
        candidates=report.candidates, milliseconds=round(report.milliseconds, 2),
    )  # fmt: skip
    if report.recall < report.recall_goal:
        log.warning("recall below its goal", collection=plan.collection, recall=report.recall, goal=report.recall_goal)
    return report


def _create(connection: Connection, plan: Plan, settings: Settings) -> None:
    started = time.monotonic()
    log.info("building an index", collection=plan.collection, model=plan.model, kind=plan.kind, rows=plan.row_count)
    with _maintenance(connection, plan, settings):
        connection.execute(compose.SQL(plan.statement or ""))  # composed and quoted by the database
    seconds = time.monotonic() - started
    log.info("index built", collection=plan.collection, kind=plan.kind, seconds=round(seconds, 1))
    record(connection, plan, "index/record_build", build_seconds=seconds)


@contextmanager
def _maintenance(connection: Connection, plan: Plan, settings: Settings) -> Iterator[None]:
    """Memory for the whole graph if the bound allows it: one that outgrows it is built many times slower."""
    megabytes = min(settings.index_memory, 64 + (plan.bytes or 0) * 3 // 2 // 2**20)
    arguments = {"memory": f"{megabytes}MB", "workers": str(settings.index_workers)}
    connection.execute(sql.query("index/index_settings"), arguments)
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute(sql.query("index/reset_index_settings"))


def _drop(connection: Connection, index: str) -> None:
    connection.execute(compose.SQL("DROP INDEX CONCURRENTLY IF EXISTS ") + compose.SQL(index))


def record(connection: Connection, plan: Plan, statement: str, **values: object) -> None:
    """Note something about a vector table's index, unless the collection is gone."""
    arguments = {"collection_id": plan.collection_id, "model": plan.model, **values}
    connection.execute(sql.query(statement), arguments)


class Indexer:
    """What a sidecar does about indexes, on a connection and a thread of its own: nothing else waits for it."""

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        self._settings = settings
        self._stopping = stopping
        self._connection: Connection | None = None
        self._building: Plan | None = None
        self._postponed: dict[tuple[int, str], float] = {}

    def run(self, connection: Connection) -> None:
        """Until the sidecar stops."""
        self._connection = connection
        while not self._stopping.wait(self._settings.maintenance * LOOK_EVERY):
            for plan in plans(connection, self._settings):
                if plan.settled and not self._is_postponed(plan) and not self._stopping.is_set():
                    self._attend(connection, plan)

    def _attend(self, connection: Connection, plan: Plan) -> None:
        if not plan.due and not plan.measure_due:
            return
        with only_builder(connection, plan) as held:
            if held:
                self._try(connection, plan)

    def _try(self, connection: Connection, plan: Plan) -> None:
        self._building = plan
        try:
            if plan.due:
                build(connection, plan, self._settings)
            else:
                measure(connection, plan, self._settings)
        except (psycopg.Error, PgmeaningError) as error:
            self._postponed[plan.collection_id, plan.model] = time.monotonic() + RETRY_SECONDS
            if connection.closed:
                raise
            if isinstance(error, psycopg.errors.QueryCanceled):
                return  # it gave way, or the sidecar stops
            log.warning(
                "index not built or measured", collection=plan.collection, kind=plan.kind, error=str(error).strip()
            )
            record(connection, plan, "index/record_index_problem", problem=str(error).strip())
        finally:
            self._building = None

    def _is_postponed(self, plan: Plan) -> bool:
        return time.monotonic() < self._postponed.get((plan.collection_id, plan.model), 0)

    def give_way(self, connection: Connection) -> None:
        """Break a build off when somebody waits to drop or alter the table: it would hold them up to its end."""
        plan = self._building
        if plan is not None:
            row = connection.execute(sql.query("index/somebody_waits"), {"vectors": plan.vectors}).fetchone()
            if row == (True,):
                log.info("index build gives way", collection=plan.collection)
                self.cancel()

    def cancel(self) -> None:
        """Break off what is being built, from any thread."""
        if self._building is not None and self._connection is not None:
            self._connection.cancel_safe(timeout=5)
