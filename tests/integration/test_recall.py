"""The test of recall: what it measures, what it picks, and that searches go by it."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector import Vector
from pgvector.psycopg import register_vector

from pgmeaning.errors import CollectionError
from pgmeaning.indexes import build as indexing
from pgmeaning.indexes import recall
from pgmeaning.models.synthetic import SyntheticEmbedder
from pgmeaning.models.vectors import Vectors, unit_length
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Document
from tests.conftest import running, wait_until
from tests.integration.embedders import Clustered
from tests.integration.test_index import build, command, fill, one
from tests.types import Connection


def report(dsn: str, **settings: Any) -> recall.Report:
    chosen = Settings(recall_sample=40, **settings)
    with indexing.connected(dsn) as connection:
        (plan,) = indexing.plans(connection, chosen, "docs")
        return indexing.measure(connection, plan, chosen)


def test_the_recall_measured_is_that_of_queries_which_are_not_stored(db: Connection, dsn: str) -> None:
    fill(db, dsn, 3000)
    build(dsn, "direct")
    found = report(dsn, recall_goal=0.9)
    register_vector(db)
    strangers = Clustered(384).embed_documents([Document(text=f"topic{i} unheard of {i}") for i in range(70)])
    exact, approximate = (
        [
            [
                key["id"]
                for (key,) in db.execute(
                    "SELECT key FROM pgmeaning.nearest('docs', %s, mode => %s)", (Vector(vector), mode)
                )
            ]
            for vector in strangers
        ]
        for mode in ("exact", "index")
    )
    own = np.mean([len({*some} & {*all_}) / 10 for some, all_ in zip(approximate, exact, strict=True)])
    assert own == pytest.approx(found.recall, abs=0.06)
    assert own >= 0.88


def test_a_higher_goal_takes_more_candidates(db: Connection, dsn: str) -> None:
    fill(db, dsn, 1500)
    build(dsn, "signature")
    low, high = report(dsn, recall_goal=0.6), report(dsn, recall_goal=0.995)
    assert low.candidates is not None
    assert high.candidates is not None
    assert low.candidates < high.candidates
    assert low.recall < high.recall


def test_searches_take_the_candidates_that_the_test_picked(db: Connection, dsn: str) -> None:
    fill(db, dsn, 1500)
    build(dsn, "signature")
    untested = candidates_of_a_search(db, 10)
    found = report(dsn)
    assert found.candidates is not None
    assert candidates_of_a_search(db, 10) == found.candidates != untested
    assert candidates_of_a_search(db, 30) == found.candidates * 3
    assert candidates_of_a_search(db, 1) == found.candidates
    build(dsn, "direct")
    assert candidates_of_a_search(db, 10) != found.candidates, "another kind has not been tested"


def candidates_of_a_search(db: Connection, k: int) -> int:
    """How many rows an index handed to a search, by PostgreSQL's own count of rows fetched."""
    before = rows_fetched(db)
    db.execute("SELECT FROM pgmeaning.similar('docs', '1', %s)", (k,))
    return rows_fetched(db) - before - 1  # the row itself was fetched, too


def rows_fetched(db: Connection) -> int:
    db.execute("SELECT pg_stat_force_next_flush()")
    count = (
        "SELECT sum(s.idx_tup_fetch) FROM pg_stat_user_indexes AS s JOIN pgmeaning.target AS t ON t.vectors = s.relid"
    )
    return int(one(db, count))


def test_a_goal_out_of_reach_is_reported_with_the_best_reached(db: Connection, dsn: str) -> None:
    # Every row hides in the noise of the others: signatures of few bits do not tell which is nearest.
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'one word ' || i FROM generate_series(1, 20000) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body}', model => 'synthetic-4096', dimensions => 512)")
    assert Sidecar(dsn, Settings(), load=lambda _: OneSided(4096)).run(drain=True) == 0
    build(dsn, "signature")
    found = report(dsn, recall_goal=1.0)
    assert found.recall < 1
    reached, problem = db.execute("SELECT reached, problem FROM pgmeaning.index_report").fetchall()[0]
    assert reached is False
    assert "the best" in problem
    assert "goal is 1" in problem


class OneSided(SyntheticEmbedder):
    """Vectors so near to one direction that nearly all signs agree."""

    def embed_documents(self, documents: Any) -> Vectors:
        return unit_length(1 + 0.1 * super().embed_documents(documents) * 64)


def test_the_report_names_index_recall_time_and_candidates(db: Connection, dsn: str) -> None:
    fill(db, dsn)
    build(dsn, "direct")
    report(dsn)
    row = db.execute(
        "SELECT index, measured, measured_rows, sample, recall_goal, recall >= recall_goal, reached, candidates > 0, milliseconds > 0, "
        "milliseconds_95 >= milliseconds, exact_milliseconds > 0, index_bytes > 0, build_seconds > 0, problem FROM pgmeaning.index_report"
    ).fetchall()
    assert row == [("direct", "direct", 500, 40, 0.99, True, True, True, True, True, True, True, True, None)]


def test_where_all_is_compared_recall_is_one(db: Connection, dsn: str) -> None:
    fill(db, dsn, 100)
    found = report(dsn)
    assert (found.kind, found.recall, found.candidates) == ("exact", 1, None)


def test_the_scan_by_signature_is_measured_where_there_is_no_index(db: Connection, dsn: str) -> None:
    fill(db, dsn, 700, "synthetic-4096")
    found = report(dsn)
    assert found.kind == "scan"
    # Asked directly: what a scan compares exactly, no count of PostgreSQL's shows.
    assert (
        one(db, "SELECT w.candidates FROM pgmeaning.target AS t, pgmeaning._search_plan(t, NULL, 10, NULL) AS w")
        == found.candidates
    )


def test_any_of_several_equal_rows_counts_as_found(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'topic' || i % 5 FROM generate_series(1, 500) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    assert Sidecar(dsn, Settings(), load=lambda _: Clustered(384)).run(drain=True) == 0
    build(dsn, "direct")
    assert report(dsn).recall == 1


def test_too_few_rows_are_not_measured(db: Connection, dsn: str) -> None:
    fill(db, dsn, 5)
    with pytest.raises(CollectionError, match="too few"):
        report(dsn)


def test_a_sidecar_tests_what_it_built_and_what_it_is_asked_to(db: Connection, dsn: str) -> None:
    fill(db, dsn)
    with running(Sidecar(dsn, Settings(maintenance=0.02, index_rows=200, recall_sample=20))):
        wait_until(lambda: db.execute("SELECT 1 FROM pgmeaning.index_report WHERE reached").fetchall())
        assert one(db, "SELECT measured FROM pgmeaning.index_report") == "direct"
        db.execute("UPDATE pgmeaning.vector_index SET recall = 0, measured_at = NULL")
        db.execute("SELECT pgmeaning.measure_index('docs')")
        wait_until(lambda: db.execute("SELECT 1 FROM pgmeaning.index_report WHERE reached").fetchall())


def test_a_table_that_has_grown_fourfold_is_measured_again(db: Connection, dsn: str) -> None:
    fill(db, dsn, 500)
    report(dsn)
    with indexing.connected(dsn) as connection:
        assert [plan.measure_due for plan in indexing.plans(connection, Settings())] == [False]
        db.execute("UPDATE pgmeaning.vector_index SET measured_rows = 100")
        assert [plan.measure_due for plan in indexing.plans(connection, Settings())] == [True]


def test_a_test_that_fails_leaves_its_reason_in_the_report(db: Connection, dsn: str) -> None:
    fill(db, dsn, 5)
    db.execute("SELECT pgmeaning.measure_index('docs')")
    with running(Sidecar(dsn, Settings(maintenance=0.02))):
        wait_until(lambda: one(db, "SELECT problem FROM pgmeaning.index_report") is not None)
    assert "too few" in one(db, "SELECT problem FROM pgmeaning.index_report")


def test_the_command_measures_on_request(db: Connection, dsn: str) -> None:
    fill(db, dsn)
    (found,) = command("index", "docs", "--kind", "direct", "--dsn", dsn)
    assert (found["measured"], found["reached"]) == ("direct", True)
    (found,) = command("index", "docs", "--measure", "--goal", "0.5", "--dsn", dsn)
    assert found["recall_goal"] == 0.5


def test_measuring_sees_one_snapshot_and_writes_nothing(db: Connection, dsn: str) -> None:
    fill(db, dsn)
    with indexing.connected(dsn) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        measurement = recall.Measurement(connection, 1, "synthetic-384")
        queries = measurement.sample(10)
        db.execute("DELETE FROM docs")
        db.execute("DELETE FROM docs_embedding")
        assert measurement.trial(measurement.with_answers(queries), 500).recall >= 0.99
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("DELETE FROM pgmeaning.vector_index")
