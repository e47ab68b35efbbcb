"""Index methods besides HNSW: pgvectorscale's diskann, and VectorChord's vchordrq.

VectorChord is in no package that could be installed here: its name is given to HNSW, which shows that plans, searches
and measurements go by the method's name, and nothing about VectorChord itself.
"""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from pgmeaning.database import migrate
from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.embedded_server.server import EmbeddedServer
from pgmeaning.indexes import build as indexing
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.integration.embedders import Clustered
from tests.integration.test_cli import output
from tests.integration.test_index import answers, build, fill, one, recall
from tests.needs import needs_vectorscale
from tests.types import Connection

NAMED = """
CREATE ACCESS METHOD vchordrq TYPE INDEX HANDLER hnswhandler;
CREATE OPERATOR CLASS vector_cosine_ops FOR TYPE vector USING vchordrq AS OPERATOR 1 <=> (vector, vector)
FOR ORDER BY float_ops, FUNCTION 1 vector_negative_inner_product(vector, vector), FUNCTION 2 vector_norm(vector)
"""


@pytest.fixture(scope="module")
def scale_dsn() -> Iterator[str]:
    """A database with diskann, a method named vchordrq, and 600 rows in clusters."""
    folder = Path(tempfile.mkdtemp(prefix="pgmeaning-scale-"))
    folder.chmod(0o755)
    try:
        settings = {"fsync": "off", **needs_vectorscale(folder / "vectorscale")}
        with EmbeddedServer(folder / "data", settings=settings) as server:
            migrate.upgrade(server.dsn)
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                ensure_loopback(connection)
                connection.execute("CREATE EXTENSION vectorscale")
                connection.execute("SELECT pgmeaning.set_default_model('synthetic-384')")
                connection.execute(NAMED)
                fill(connection, server.dsn, 600)
            yield server.dsn
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def scale(scale_dsn: str) -> Iterator[Connection]:
    with psycopg.connect(scale_dsn, autocommit=True) as connection:
        yield connection


def scans(connection: Connection) -> int:
    connection.execute("SELECT pg_stat_force_next_flush()")
    return int(
        one(
            connection,
            "SELECT coalesce(sum(s.idx_scan), 0) FROM pg_stat_user_indexes AS s JOIN pg_class AS r ON r.oid = s.indexrelid "
            "JOIN pg_am AS m ON m.oid = r.relam WHERE m.amname IN ('diskann', 'vchordrq')",
        )
    )


@pytest.mark.parametrize("kind", ["diskann", "vchordrq"])
def test_another_method_is_built_used_and_measured_as_hnsw_is(scale: Connection, scale_dsn: str, kind: str) -> None:
    exact = answers(scale, "exact")
    (plan,) = build(scale_dsn, kind)
    assert (plan.present, plan.kind, plan.there, plan.due) == (kind, kind, True, False)
    before = scans(scale)
    found = answers(scale, None)
    assert scans(scale) - before >= len(found)
    assert recall(found, exact) >= 0.99
    settings = Settings(recall_sample=40)
    with indexing.connected(scale_dsn) as connection:
        report = indexing.measure(connection, plan, settings)
    assert (report.kind, report.recall >= 0.99) == (kind, True)
    assert one(scale, "SELECT index FROM pgmeaning.index_report") == kind
    assert one(scale, "SELECT index FROM pgmeaning.status WHERE collection = 'docs'") == kind


def test_diskann_finds_as_much_behind_a_filter(scale: Connection, scale_dsn: str) -> None:
    build(scale_dsn, "diskann")
    for condition in ("part < 50", "part = 3"):
        found, exact = (answers(scale, mode, filter=condition) for mode in (None, "exact"))
        assert recall(found, exact) >= 0.99, condition


def test_matches_go_by_diskann_too(scale: Connection, scale_dsn: str) -> None:
    build(scale_dsn, "diskann")
    before = scans(scale)
    pairs = "SELECT key, other_key FROM pgmeaning.matches('docs', 'docs', k => 1, mode => %s) ORDER BY key"
    found, exact = (scale.execute(pairs, (mode,)).fetchall() for mode in ("index", "exact"))
    assert scans(scale) > before
    assert np.mean([a == b for a, b in zip(found, exact, strict=True)]) >= 0.97


def test_a_scan_of_another_method_leaves_the_callers_settings_as_they_were(scale: Connection, scale_dsn: str) -> None:
    build(scale_dsn, "diskann")
    with scale.transaction():
        scale.execute("SET LOCAL diskann.query_search_list_size = 77")
        scale.execute("SET LOCAL diskann.query_rescore = 9")
        answers(scale, None, range(1, 3))
        assert one(scale, "SHOW diskann.query_search_list_size") == "77"
        assert one(scale, "SHOW diskann.query_rescore") == "9"


def test_hnsw_is_chosen_while_its_graph_fits_into_memory(scale: Connection, scale_dsn: str) -> None:
    build(scale_dsn, "none")
    scale.execute("SELECT pgmeaning.want_index('docs', 'auto')")

    def chosen(megabytes: float) -> tuple[Any, ...]:
        row: tuple[Any, ...] = scale.execute(
            "SELECT p.kind, p.reason FROM pgmeaning.target AS t "
            "CROSS JOIN LATERAL pgmeaning._index_plan(t, NULL, NULL, 1, 0, %s) AS p WHERE t.dimensions = 384",
            (int(megabytes * 2**20),),
        ).fetchall()[0]
        return row

    assert chosen(64)[0] == "direct"
    kind, reason = chosen(1)
    assert kind == "vchordrq"
    assert reason == "a graph of HNSW would take 1327 kB to build, and there are 1024 kB"
    scale.execute("DROP ACCESS METHOD vchordrq CASCADE")
    assert chosen(1)[0] == "diskann"
    scale.execute(NAMED)


def test_an_index_by_hand_of_another_method_is_used(scale: Connection, scale_dsn: str) -> None:
    build(scale_dsn, "none")
    scale.execute(
        'CREATE INDEX by_hand ON pgmeaning_data."docs__synthetic-384" USING diskann (embedding vector_cosine_ops)'
    )
    assert one(scale, "SELECT present FROM pgmeaning.plan_index('docs')") == "diskann"
    before = scans(scale)
    answers(scale, None, range(1, 3))
    assert scans(scale) > before
    build(scale_dsn, "direct")
    assert one(scale, "SELECT count(*) FROM pg_class WHERE relname = 'by_hand'") == 1, "it is not ours to drop"
    scale.execute("DROP INDEX pgmeaning_data.by_hand")


def test_the_command_builds_diskann(scale_dsn: str) -> None:
    assert "diskann" in output("index", "docs", "--kind", "diskann", "--dsn", scale_dsn)


def test_diskann_takes_no_half_precision_and_longer_vectors_than_hnsw(scale: Connection, scale_dsn: str) -> None:
    scale.execute("CREATE TABLE halves (id int PRIMARY KEY, body text)")
    scale.execute("SELECT pgmeaning.attach('halves', '{body}', vector_type => 'halfvec')")
    with pytest.raises(psycopg.Error, match="diskann takes no vectors in half precision") as caught:
        scale.execute("SELECT pgmeaning.plan_index('halves', 'diskann')")
    assert caught.value.sqlstate == "PM014"
    scale.execute("CREATE TABLE long AS SELECT id, body FROM docs WHERE id <= 60")
    scale.execute("ALTER TABLE long ADD PRIMARY KEY (id)")
    scale.execute("SELECT pgmeaning.attach('long', '{body}', model => 'synthetic-4096')")
    models = ["synthetic-4096"]
    assert Sidecar(scale_dsn, Settings(), models, load=lambda _: Clustered(4096)).run(drain=True) == 0
    with indexing.connected(scale_dsn) as connection:
        (plan,) = indexing.plans(connection, Settings(), "long", "diskann")
        indexing.build(connection, plan, Settings())
    near = "SELECT key FROM pgmeaning.similar('long', '7', 5, mode => %s)"
    assert scale.execute(near, ("index",)).fetchall() == scale.execute(near, ("exact",)).fetchall()


def test_a_method_that_is_not_installed_is_refused(db: Connection) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    for kind, extension in {"diskann": "vectorscale", "vchordrq": "vchord"}.items():
        with pytest.raises(psycopg.Error, match=f"no index method {kind}") as caught:
            db.execute("SELECT pgmeaning.want_index('docs', %s)", (kind,))
        assert caught.value.sqlstate == "PM014"
        assert extension in (caught.value.diag.message_hint or "")


def test_a_large_table_gets_lists_and_is_searched_with_probes(db: Connection) -> None:
    """What VectorChord would be asked; its own part of it was not run."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    cost = (
        "SELECT k.statement FROM pgmeaning.target AS t "
        "CROSS JOIN LATERAL pgmeaning._index_cost(t, 'vchordrq', NULL, %s, 0, 0) AS k"
    )
    statement = one(db, cost, 1_000_000)
    assert "build.internal.lists = [2000]" in statement
    probes = "SELECT pgmeaning._vchordrq_probes(%s, %s)"
    assert one(db, probes, statement, 100) == "10"
    assert one(db, probes, statement, 400) == "20"
    assert one(db, probes, "lists = [8, 1000]", 400) == "8,20"
    assert one(db, probes, one(db, cost, 50_000), 400) == "", "an index without lists takes no probes"
