"""Rows and tables that a scan cannot read: a row fails alone, a table is told, and a drain ends."""

from __future__ import annotations

import pytest

from tests.types import Connection, Drain


def failed(db: Connection) -> list[tuple[object, ...]]:
    return db.execute("SELECT (key ->> 'id')::int FROM pgmeaning.failures ORDER BY 1").fetchall()


@pytest.fixture
def halves(db: Connection) -> Connection:
    """A table `docs` of 1,000 rows, of which those divisible by 300 cannot be read."""
    if db.info.server_version < 180000:
        pytest.skip("virtual generated columns came with PostgreSQL 18")
    db.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, body text GENERATED ALWAYS AS ((1 / (id % 300))::text || id) VIRTUAL);"
        "INSERT INTO docs SELECT generate_series(1, 1000);"
        "SELECT pgmeaning.attach('docs', ARRAY['body'])"
    )
    return db


def test_rows_that_a_scan_cannot_read_fail_alone(halves: Connection, drain: Drain) -> None:
    assert drain(attempts=1) == 1
    assert halves.execute("SELECT count(*) FROM docs_embedding").fetchone() == (997,)
    assert failed(halves) == [(300,), (600,), (900,)]
    assert "division by zero" in str(halves.execute("SELECT error FROM pgmeaning.failures").fetchone())
    assert halves.execute("SELECT state, problem FROM pgmeaning.status").fetchall() == [("ready", None)]


def test_rows_that_failed_are_not_tried_again_by_a_scan_that_cannot_read_them(halves: Connection, drain: Drain) -> None:
    assert drain(attempts=1) == 1
    halves.execute("SELECT pgmeaning.refresh('docs')")
    assert drain(attempts=1) == 1
    assert halves.execute("SELECT DISTINCT attempts FROM pgmeaning.failures").fetchall() == [(1,)]


def test_a_table_that_cannot_be_scanned_is_told_and_a_drain_ends(db: Connection, drain: Drain) -> None:
    db.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'text');"
        "SELECT pgmeaning.attach('docs', ARRAY['body'])"
    )
    plan = "CREATE OR REPLACE FUNCTION plan(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN {} END $$"
    db.execute(plan.format("RETURN true;").encode())
    db.execute("CREATE INDEX ON docs (body) WHERE plan(1)")
    db.execute(plan.format("RAISE 'no plan for it';").encode())  # whatever reads the table must be planned
    assert drain() == 1
    (found,) = db.execute("SELECT state, problem FROM pgmeaning.status").fetchall()
    assert found[0] == "broken"
    assert "no plan for it" in found[1]
    db.execute(plan.format("RETURN true;").encode())
    db.execute("UPDATE pgmeaning.target SET scan_retry_at = now()")
    assert drain() == 0
    assert db.execute("SELECT state, problem FROM pgmeaning.status").fetchall() == [("ready", None)]
