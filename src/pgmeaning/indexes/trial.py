"""A small build: before the first one nothing else tells how fast this machine builds with these vectors."""

from __future__ import annotations

import time

from psycopg import sql as compose

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection
from pgmeaning.indexes.build import Plan

# Built within seconds; and how many times as large a table must be to be worth it.
ROWS = 5000
WORTH = 4


def foretold(connection: Connection, plan: Plan) -> float | None:
    """Seconds that the build will take, by a trial; None where that tells nothing. Raises psycopg.Error."""
    if plan.usual_seconds is None or plan.row_count < ROWS * WORTH:
        return plan.build_seconds
    return plan.usual_seconds * slowness(connection, plan)


def slowness(connection: Connection, plan: Plan) -> float:
    """How many times as long as usual a build of a sample takes, in a temporary table that is gone afterwards."""
    arguments = {
        "kind": plan.kind, "dimensions": plan.dimensions, "collection_id": plan.collection_id, "model": plan.model,
    }  # fmt: skip
    percent = min(100.0, 150.0 * ROWS / plan.row_count)
    with connection.transaction():
        parts = {"vectors": plan.table, "percent": str(percent), "rows": str(ROWS)}
        connection.execute(sql.composed("index/trial_copy", parts, parameters=False))
        (copied,) = connection.execute(sql.query("index/trial_count")).fetchone() or (0,)
        row = connection.execute(sql.query("index/trial_plan"), {**arguments, "rows": copied}).fetchone()
        if not copied or row is None:
            return 1.0
        statement, usual = row
        connection.execute(sql.query("index/trial_memory"))
        started = time.perf_counter()
        connection.execute(compose.SQL(statement))  # composed and quoted by the database
        return (time.perf_counter() - started) / float(usual)
