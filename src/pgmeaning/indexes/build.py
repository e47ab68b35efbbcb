"""Builds the planned indexes of vector tables, one builder at a time, and blocks nobody.

CREATE INDEX CONCURRENTLY lets rows be written meanwhile. It cannot run in a transaction, and leaves an invalid index
behind if it fails: such an index is found and built again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
import structlog
from psycopg import sql as compose
from psycopg.rows import class_row

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, connect
from pgmeaning.errors import PgmeaningError
from pgmeaning.indexes import recall
from pgmeaning.indexes.resources import SHARE, Resources, no_shared_memory, resources
from pgmeaning.settings import Settings

log = structlog.get_logger()

# A sidecar otherwise only joins keys; here searches must be planned as in any other session.
AS_ANYBODY = {"enable_hashjoin": "on", "enable_mergejoin": "on", "enable_seqscan": "on", "lock_timeout": "0"}
# Rows that may be owed when an index is built: a table that is always written to always has some.
MAY_BE_OWED = 1000
# A look counts the rows of every small vector table, so it is not done in each round of maintenance.
LOOK_EVERY = 5
# With thousands of collections a look takes a while: looks may take this share of the time.
LOOK_SHARE = 0.01
# The time until the next try, after a build that gave way; the database has that of one that failed.
RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A vector table's index as it is, and as it should be."""

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
    memory: int | None  # bytes, so that the build keeps what it makes in memory
    build_seconds: float | None
    usual_seconds: float | None  # the same before it is corrected by how long earlier builds took here
    statement: str | None
    reason: str
    there: bool  # whether the index is as it should be
    broken: list[str]  # what failed builds left behind, and prefixes of other dimensions; quoted
    others: list[str]  # our indexes of other kinds
    settled: bool  # whether everything is embedded, apart from rows just being written
    measure_due: bool

    @property
    def due(self) -> bool:
        """Whether there is anything to build or drop."""
        return not self.there or bool(self.broken) or bool(self.others)


def connected(dsn: str) -> Connection:
    """A connection for building, which waits for locks without a timeout."""
    return connect(dsn, "index", **AS_ANYBODY)


def plans(
    connection: Connection, settings: Settings, collection: str | None = None, kind: str | None = None,
    dimensions: int | None = None,
) -> list[Plan]:  # fmt: skip
    """The plan of each vector table, or of a collection's; `kind` and `dimensions` override the recorded wish."""
    may = resources(connection, settings)
    arguments = {
        "collection": collection, "kind": kind, "dimensions": dimensions, "min_rows": settings.index_rows,
        "may_be_owed": MAY_BE_OWED, "workers": may.workers, "memory": may.memory * 2**20,
    }  # fmt: skip
    with connection.cursor(row_factory=class_row(Plan)) as cursor:
        return cursor.execute(sql.query("index/plan_indexes"), arguments).fetchall()


@contextmanager
def only_builder(connection: Connection, plan: Plan) -> Iterator[bool]:
    """Try to lock this vector table's index: True means that nobody else builds it, nor will meanwhile."""
    key = {"vectors": plan.vectors}
    row = connection.execute(sql.query("try_index_lock"), key).fetchone()
    held = row == (True,)
    try:
        yield held
    finally:
        if held and not connection.closed:
            connection.execute(sql.query("drop_index_lock"), key)


def build(connection: Connection, plan: Plan, settings: Settings) -> None:
    """Carry out the plan: drop broken indexes, build, then drop those it replaces. Raises psycopg.Error."""
    for index in plan.broken:
        log.info("dropping an index that cannot be used", collection=plan.collection, index=index)
        _drop(connection, index)
    if not plan.there:
        _create(connection, plan, settings)
    for index in plan.others:
        _drop(connection, index)


def measure(connection: Connection, plan: Plan, settings: Settings) -> recall.Report:
    """Measure recall, and store the result where searches look. Raises CollectionError, psycopg.Error."""
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
    may = resources(connection, settings)
    started = time.monotonic()
    log.info(
        "building an index", collection=plan.collection, model=plan.model, kind=plan.kind, rows=plan.row_count,
        workers=may.workers, foretold=round(plan.build_seconds or 0),
    )  # fmt: skip
    try:
        _run(connection, plan, may)
    except (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory) as error:
        if not (may.workers and no_shared_memory(error)):
            raise
        log.warning(
            "index is built by one process: the server has too little shared memory for several (a container's "
            "--shm-size); PGMEANING_INDEX_WORKERS=0 spares the attempt", collection=plan.collection, error=str(error),
        )  # fmt: skip
        _drop_broken(connection, plan, settings)
        started = time.monotonic()
        _run(connection, plan, Resources(0, may.memory))
    seconds = time.monotonic() - started
    log.info("index built", collection=plan.collection, kind=plan.kind, seconds=round(seconds, 1))
    record(
        connection, plan, "index/record_build", build_seconds=seconds, build_kind=plan.kind,
        usual_seconds=plan.usual_seconds,
    )  # fmt: skip


def _run(connection: Connection, plan: Plan, may: Resources) -> None:
    with _maintenance(connection, plan, may):
        connection.execute(compose.SQL(plan.statement or ""))  # composed and quoted by the database


def _drop_broken(connection: Connection, plan: Plan, settings: Settings) -> None:
    """Drop what a failed build of this vector table left."""
    for left in plans(connection, settings, plan.collection):
        for index in left.broken if left.model == plan.model else ():
            _drop(connection, index)


@contextmanager
def _maintenance(connection: Connection, plan: Plan, may: Resources) -> Iterator[None]:
    """Allow memory for the whole graph, up to the limit: a graph that outgrows it is built many times slower."""
    wanted = max(64 + (plan.memory or 0) // 2**20, SHARE * (may.workers + 1))
    arguments = {"memory": f"{min(may.memory, wanted)}MB", "workers": str(may.workers)}
    connection.execute(sql.query("index/index_settings"), arguments)
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute(sql.query("index/reset_index_settings"))


def _drop(connection: Connection, index: str) -> None:
    connection.execute(compose.SQL("DROP INDEX CONCURRENTLY IF EXISTS ") + compose.SQL(index))


def record(connection: Connection, plan: Plan, statement: str, **values: object) -> None:
    """Record something about a vector table's index, unless the collection is gone."""
    arguments = {"collection_id": plan.collection_id, "model": plan.model, **values}
    connection.execute(sql.query(statement), arguments)


class Indexer:
    """Builds and measures indexes for a sidecar, on its own connection and thread, so that nothing waits for it."""

    def __init__(
        self, settings: Settings, stopping: threading.Event,
        built: Callable[[str, float, str], object] = lambda *_: None,
    ) -> None:  # fmt: skip
        """`built` is told of each build: collection, seconds, and 'built', 'failed' or 'gave way'."""
        self._built = built
        self._settings = settings
        self._stopping = stopping
        self._connection: Connection | None = None
        self._building: Plan | None = None
        self._postponed: dict[tuple[int, str], float] = {}  # what gave way
        self._cancelled = False  # by ourselves
        self._cut: tuple[Plan, str] | None = None  # a build that ended with its connection, and why

    def run(self, connection: Connection) -> None:
        """Run until the sidecar stops."""
        self._connection = connection
        if self._cut is not None:
            self._record_failure(connection, *self._cut)
            self._cut = None
        pause = 0.0
        while not self._stopping.wait(max(self._settings.maintenance * LOOK_EVERY, pause)):
            started = time.monotonic()
            found = plans(connection, self._settings)
            pause = (time.monotonic() - started) / LOOK_SHARE
            for plan in found:
                if plan.settled and not self._is_postponed(plan) and not self._stopping.is_set():
                    self._attend(connection, plan)

    def _attend(self, connection: Connection, plan: Plan) -> None:
        if not plan.due and not plan.measure_due:
            return
        with only_builder(connection, plan) as held:
            if held:
                self._try(connection, plan)

    def _try(self, connection: Connection, plan: Plan) -> None:
        self._cancelled = False
        self._building = plan
        started = time.monotonic()
        try:
            if plan.due:
                build(connection, plan, self._settings)
                self._built(plan.collection, time.monotonic() - started, "built")
            else:
                measure(connection, plan, self._settings)
        except (psycopg.Error, PgmeaningError) as error:
            if plan.due:
                gave_way = self._cancelled or self._stopping.is_set()
                self._built(plan.collection, time.monotonic() - started, "gave way" if gave_way else "failed")
            if connection.closed:  # recorded over the next connection
                self._cut = plan, str(error).strip()
                raise
            if self._cancelled or self._stopping.is_set():
                self._postponed[plan.collection_id, plan.model] = time.monotonic() + RETRY_SECONDS
            else:
                self._record_failure(connection, plan, str(error).strip())
        finally:
            self._building = None

    def _record_failure(self, connection: Connection, plan: Plan, problem: str) -> None:
        """Say why, so that no sidecar tries again before its time; and drop the index that the build left half-made."""
        log.warning("index not built or measured", collection=plan.collection, kind=plan.kind, error=problem)
        record(connection, plan, "index/record_index_problem", problem=problem)
        self._building = plan  # so that this gives way, too
        with suppress(psycopg.errors.QueryCanceled):
            _drop_broken(connection, plan, self._settings)
        self._building = None

    def _is_postponed(self, plan: Plan) -> bool:
        return time.monotonic() < self._postponed.get((plan.collection_id, plan.model), 0)

    def give_way(self, connection: Connection) -> None:
        """Cancel a build if somebody waits to drop or alter the table: they would wait until it ends."""
        plan = self._building
        if plan is not None:
            row = connection.execute(sql.query("index/somebody_waits"), {"vectors": plan.vectors}).fetchone()
            if row == (True,):
                log.info("index build gives way", collection=plan.collection)
                self.cancel()

    def cancel(self) -> None:
        """Cancel a build in progress; may be called from any thread."""
        if self._building is not None and self._connection is not None:
            self._cancelled = True
            self._connection.cancel_safe(timeout=5)
