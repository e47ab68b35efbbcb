"""Indexes on vector tables: the plan, the build, what a broken one leaves, and that searches use them."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import structlog
from pgvector import Vector
from pgvector.psycopg import register_vector

from pgmeaning.database import sql_files as sql
from pgmeaning.indexes import build as indexing
from pgmeaning.indexes import trial
from pgmeaning.indexes.resources import cores, resources
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.embedders import Clustered
from tests.integration.test_cli import output
from tests.types import Connect, Connection

VECTORS = 'pgmeaning_data."docs__synthetic-384"'
NEARNESS = (
    "(SELECT i.indexrelid AS index, i.indisvalid, pg_get_indexdef(i.indexrelid) AS definition FROM pgmeaning.target AS t "
    "JOIN pg_index AS i ON i.indrelid = t.vectors WHERE pg_get_indexdef(i.indexrelid) ~ 'USING hnsw') AS nearness"
)


def fill(
    db: Connection, dsn: str, rows: int = 500, model: str = "synthetic-384", dimensions: int | None = None
) -> None:
    """A collection of rows in clusters of forty."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, part int)")
    db.execute(
        "INSERT INTO docs SELECT i, 'topic' || i %% (%s / 40 + 1) || ' word ' || i, i %% 100 FROM generate_series(1, %s) AS i",
        (rows, rows),
    )
    db.execute("SELECT pgmeaning.attach('docs', '{body}', model => %s, dimensions => %s)", (model, dimensions))
    full = 4096 if model == "synthetic-4096" else 384
    assert Sidecar(dsn, Settings(), load=lambda _: Clustered(full)).run(drain=True) == 0


def build(dsn: str, kind: str | None = None, dimensions: int | None = None) -> list[indexing.Plan]:
    """Build as `pgmeaning index` does; returns the plans as they are afterwards."""
    settings = Settings()
    with indexing.connected(dsn) as connection:
        if kind is not None:
            connection.execute(sql.query("want_index"), {"collection": "docs", "kind": kind, "dimensions": dimensions})
        for plan in indexing.plans(connection, settings, "docs"):
            with indexing.only_builder(connection, plan) as held:
                assert held
                indexing.build(connection, plan, settings)
        return indexing.plans(connection, settings, "docs")


def one(db: Connection, statement: str, *arguments: object) -> Any:
    row = db.execute(statement, arguments).fetchone()
    assert row is not None
    return row[0]


def kinds(db: Connection) -> list[tuple[str, bool]]:
    """What each index for nearness holds, and whether it is complete."""
    return db.execute(
        "SELECT CASE WHEN definition ~ 'bit_hamming_ops' THEN 'signature' WHEN definition ~ 'subvector' THEN 'prefix' "
        f"ELSE 'direct' END, indisvalid FROM {NEARNESS} ORDER BY 1"
    ).fetchall()


def answers(db: Connection, mode: str | None, keys: range = range(1, 400, 23), **more: object) -> list[list[int]]:
    return [
        [
            row["id"]
            for (row,) in db.execute(
                "SELECT key FROM pgmeaning.similar('docs', %s, 10, mode => %s, candidates => %s, filter => %s)",
                (str(key), mode, more.get("candidates"), more.get("filter")),
            ).fetchall()
        ]
        for key in keys
    ]


def recall(found: list[list[int]], exact: list[list[int]]) -> float:
    return float(np.mean([len({*some} & {*all_}) / len(all_) for some, all_ in zip(found, exact, strict=True)]))


def scans(db: Connection) -> int:
    """How often indexes for nearness were used."""
    db.execute("SELECT pg_stat_force_next_flush()")
    return int(
        one(
            db,
            f"SELECT sum(s.idx_scan) FROM pg_stat_user_indexes AS s JOIN {NEARNESS} ON nearness.index = s.indexrelid",
        )
    )


# The plan


def test_a_plan_says_what_would_be_built_and_what_it_costs(db: Connection, dsn: str) -> None:
    fill(db, dsn)
    plan = db.execute("SELECT kind, present, row_count, bytes, statement FROM pgmeaning.plan_index('docs')").fetchall()
    assert plan == [("none", "none", 500, None, None)]
    kind, size, seconds, statement, reason = db.execute(
        "SELECT kind, bytes, build_seconds, statement, reason FROM pgmeaning.plan_index('docs', min_rows => 100)"
    ).fetchall()[0]
    assert kind == "direct"
    assert size > 500 * 384 * 4
    assert seconds > 0
    assert statement.startswith("CREATE INDEX CONCURRENTLY")
    assert "384 dimensions" in reason


def test_the_size_foretold_is_about_the_size_built(db: Connection, dsn: str) -> None:
    fill(db, dsn, 2000)
    for kind in ("direct", "signature"):
        build(dsn, kind)
        foretold, built = db.execute(
            "SELECT p.bytes, r.index_bytes FROM pgmeaning.plan_index('docs') AS p, pgmeaning.index_report AS r"
        ).fetchall()[0]
        assert 0.7 < foretold / built < 1.4, kind


def test_vectors_too_long_for_hnsw_are_indexed_by_signature(db: Connection, dsn: str) -> None:
    fill(db, dsn, 50, "synthetic-4096")
    rows = db.execute("SELECT kind FROM pgmeaning.plan_index('docs', min_rows => 10)").fetchall()
    assert rows == [("signature",)]


@pytest.mark.parametrize(
    ("model", "kind", "dimensions", "words"),
    [
        ("synthetic-4096", "direct", None, "does not take vectors of 4096"),
        ("synthetic-4096", "prefix", 1, "prefix of 1 dimensions"),
        ("synthetic-4096", "prefix", 4096, "prefix of 4096 dimensions"),
        ("synthetic-4096", "btree", None, "no kind of index 'btree'"),
    ],
)
def test_an_index_that_cannot_be_is_refused(
    db: Connection, model: str, kind: str, dimensions: int | None, words: str
) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', '{body}', model => %s)", (model,))
    for call in ("want_index('docs', %s, %s)", "plan_index('docs', %s, %s)"):
        with pytest.raises(psycopg.Error) as caught:
            db.execute(f"SELECT pgmeaning.{call}", (kind, dimensions))
        assert (caught.value.sqlstate, words in str(caught.value)) == ("PM014", True), caught.value
        assert caught.value.diag.message_hint


# What a build uses, and how long it takes


def notices(connection: Connection) -> list[str]:
    """What the server says to this connection from now on, down to its own debugging."""
    said: list[str] = []
    connection.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
    connection.execute("SET client_min_messages = debug1")
    return said


def test_a_build_uses_parallel_workers(db: Connection, dsn: str) -> None:
    fill(db, dsn, 50)
    settings = Settings(index_workers=1)
    with indexing.connected(dsn) as connection:
        said = notices(connection)
        (plan,) = indexing.plans(connection, settings, "docs", "signature")
        indexing.build(connection, plan, settings)
        assert "using 1 parallel workers" in said
        left = one(connection, "SHOW max_parallel_maintenance_workers")
        assert left == one(db, "SHOW max_parallel_maintenance_workers")


def test_by_default_a_build_here_uses_all_cores_but_not_of_an_old_pgvector(db: Connection) -> None:
    sound = one(db, "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'") >= "0.8.2"
    may = resources(db, Settings())
    if one(db, "SELECT inet_client_addr() IS NOT DISTINCT FROM inet_server_addr()"):
        assert may.workers == (min(cores() - 1, 8) if sound else 0)
    assert may.memory >= 1024


def test_a_build_without_shared_memory_goes_on_with_one_process(db: Connection, dsn: str) -> None:
    fill(db, dsn, 50)
    if one(db, "SHOW dynamic_shared_memory_type") != "posix" or not Path("/dev/shm").exists():
        pytest.skip("the server's shared memory has no limit that is known here")
    limit = os.statvfs("/dev/shm")
    beyond = 2 * limit.f_blocks * limit.f_frsize
    settings = Settings(index_workers=1, index_memory=beyond // 2**20)
    with structlog.testing.capture_logs() as logs, indexing.connected(dsn) as connection:
        (plan,) = indexing.plans(connection, settings, "docs", "signature")
        indexing.build(connection, replace(plan, memory=beyond), settings)
    assert kinds(db) == [("signature", True)]
    (said,) = [entry["event"] for entry in logs if entry["log_level"] == "warning"]
    assert said.startswith("index is built by one process")


def test_more_rows_workers_or_too_little_memory_change_the_time_foretold(db: Connection, dsn: str) -> None:
    fill(db, dsn, 500)

    def seconds(workers: int, megabytes: int) -> float:
        return float(
            one(
                db,
                "SELECT p.build_seconds FROM pgmeaning.target AS t "
                "CROSS JOIN LATERAL pgmeaning._index_plan(t, 'direct', NULL, 1, %s, %s) AS p",
                workers,
                megabytes << 20,
            )
        )

    alone = seconds(0, 1024)
    assert 0.5 < seconds(1, 1024) / alone < 0.7
    assert 2 < seconds(0, 0) / alone < 3.1
    hnsw = "SELECT pgmeaning._hnsw_seconds(%s, 64, 1544, 0, 1000000000)"
    assert 4 < one(db, hnsw, 1_000_000) / one(db, hnsw, 200_000) < 8


def test_earlier_builds_correct_the_time_foretold(db: Connection, dsn: str) -> None:
    fill(db, dsn, 50)
    foretold = "SELECT build_seconds FROM pgmeaning.plan_index('docs', 'direct')"
    usual = one(db, foretold)
    build(dsn, "direct")
    db.execute("UPDATE pgmeaning.vector_index SET build_seconds = 30, usual_seconds = 10")
    assert one(db, foretold) == pytest.approx(3 * usual)
    db.execute("UPDATE pgmeaning.vector_index SET build_seconds = 0.3, usual_seconds = 0.01")
    assert one(db, foretold) == pytest.approx(usual), "a build within a second says nothing"


def test_a_trial_foretells_by_how_fast_a_sample_is_built(
    db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(db, dsn, 300)
    monkeypatch.setattr(trial, "ROWS", 50)
    with indexing.connected(dsn) as connection:
        (plan,) = indexing.plans(connection, Settings(), "docs", "direct")
        assert trial.foretold(connection, plan) not in (None, plan.build_seconds)
        assert trial.foretold(connection, replace(plan, row_count=100)) == plan.build_seconds, "too few to try"
    (shown,) = command("index", "docs", "--kind", "direct", "--plan", "--trial", "--dsn", dsn)
    assert shown["build_seconds"] > 0
    assert one(db, "SELECT count(*) FROM pg_class WHERE relname = 'pgmeaning_trial'") == 0
    assert kinds(db) == []


# Searching


@pytest.mark.parametrize(
    ("model", "dimensions", "kind", "prefix"),
    [
        ("synthetic-384", None, "direct", None),
        ("synthetic-384", None, "signature", None),
        ("synthetic-4096", None, "signature", None),
        ("synthetic-4096", None, "prefix", None),
        ("synthetic-4096", None, "prefix", 256),
        ("synthetic-4096", 2500, "direct", None),
    ],
)
def test_a_search_uses_whichever_index_is_there_and_rescores_exactly(
    db: Connection, dsn: str, model: str, dimensions: int | None, kind: str, prefix: int | None
) -> None:
    fill(db, dsn, 400, model, dimensions)
    exact = answers(db, "exact")
    (plan,) = build(dsn, kind, prefix)
    assert (plan.present, plan.there, plan.due) == (kind, True, False)
    before = scans(db)
    found = answers(db, None)
    assert scans(db) - before == len(found)
    assert recall(found, exact) >= 0.99
    assert answers(db, "exact") == exact
    assert scans(db) - before == len(found), "the exact way went by an approximate index"


def test_more_candidates_than_a_scan_of_the_index_gives_at_once_are_found(db: Connection, dsn: str) -> None:
    fill(db, dsn, 3000)
    build(dsn, "direct")
    hits = db.execute("SELECT key FROM pgmeaning.similar('docs', '5', 2500, mode => 'index')").fetchall()
    assert len(hits) == 2500


def test_as_much_is_found_where_most_of_the_index_is_dead(db: Connection, dsn: str) -> None:
    fill(db, dsn, 400)
    build(dsn, "direct")
    db.execute(f"ALTER TABLE {VECTORS} SET (autovacuum_enabled = off)".encode())
    for _ in range(3):
        db.execute("UPDATE docs SET body = body || ' again'")
        assert Sidecar(dsn, Settings(), load=lambda _: Clustered(384)).run(drain=True) == 0
    assert recall(answers(db, None, candidates=60), answers(db, "exact")) >= 0.99


@pytest.mark.parametrize("kind", ["direct", "signature"])
def test_k_rows_are_found_though_the_rows_of_the_nearest_vectors_are_gone(db: Connection, dsn: str, kind: str) -> None:
    fill(db, dsn, 400, "synthetic-4096" if kind == "signature" else "synthetic-384")
    build(dsn, kind)
    (nearest,) = answers(db, "exact", range(1, 2))
    more = db.execute("SELECT (key ->> 'id')::int FROM pgmeaning.similar('docs', '1', 150, mode => 'exact')").fetchall()
    db.execute("DELETE FROM docs WHERE id = ANY (%s)", ([key for (key,) in more],))
    found, exact = answers(db, None, range(1, 2))[0], answers(db, "exact", range(1, 2))[0]
    assert len(found) == 10
    assert not {*found} & {*nearest}
    assert recall([found], [exact]) >= 0.9


def test_a_search_leaves_the_callers_settings_as_they_were(db: Connection, dsn: str) -> None:
    fill(db, dsn)
    build(dsn, "direct")
    register_vector(db)
    with db.transaction():
        db.execute("SET LOCAL hnsw.ef_search = 77")
        db.execute("SET LOCAL hnsw.iterative_scan = strict_order")
        db.execute("SELECT * FROM pgmeaning.nearest('docs', %s, 10)", (Vector(np.ones(384)),))
        for name, value in {
            "hnsw.ef_search": "77",
            "hnsw.iterative_scan": "strict_order",
            "enable_seqscan": "on",
        }.items():
            assert one(db, "SELECT current_setting(%s)", name) == value


@pytest.mark.parametrize("kind", ["direct", "signature", "none"])
@pytest.mark.parametrize("condition", ["part < 1", "part < 0", "part < 50", "id % 3 = 0"])
def test_filters_do_not_starve_where_there_is_an_index(db: Connection, dsn: str, kind: str, condition: str) -> None:
    fill(db, dsn, 2000, "synthetic-4096", 1024)
    db.execute(f"ANALYZE docs; ANALYZE {VECTORS.replace('384', '4096')}".encode())
    exact = answers(db, "exact", filter=condition)
    build(dsn, kind)
    found = answers(db, "signature" if kind == "none" else "index", filter=condition)
    assert [len(row) for row in found] == [len(row) for row in exact]
    if any(exact):
        assert recall(found, exact) >= 0.99


def test_an_index_that_was_asked_for_and_is_not_there_is_an_error(db: Connection, dsn: str) -> None:
    fill(db, dsn, 20)
    with pytest.raises(psycopg.Error) as caught:
        answers(db, "index", range(1, 2))
    assert (caught.value.sqlstate, "plan_index" in str(caught.value.diag.message_hint)) == ("PM014", True)


def test_an_index_is_known_whatever_the_sessions_settings_of_strings_and_paths(db: Connection, dsn: str) -> None:
    fill(db, dsn, 200, "synthetic-4096")
    for kind, dimensions in (("prefix", 64), ("signature", None)):
        build(dsn, kind, dimensions)
        db.execute("SET search_path = public, pgmeaning_data; SET standard_conforming_strings = off")
        assert kinds(db) == [(kind, True)]
        db.execute("SET search_path = pg_catalog; SET standard_conforming_strings = on")
        assert kinds(db) == [(kind, True)]


def test_an_index_that_somebody_made_by_hand_is_used(db: Connection, dsn: str) -> None:
    fill(db, dsn)
    db.execute(f"CREATE INDEX by_hand ON {VECTORS} USING hnsw (embedding vector_cosine_ops)".encode())
    before = scans(db)
    answers(db, None, range(1, 2))
    assert scans(db) == before + 1


def test_a_search_by_vector_scans_the_index_once(db: Connection, dsn: str) -> None:
    fill(db, dsn)
    build(dsn, "direct")
    vector = one(db, f"SELECT embedding::text FROM {VECTORS} WHERE id = 1")
    before = scans(db)
    assert len(db.execute("SELECT key FROM pgmeaning.nearest('docs', %s::vector)", (vector,)).fetchall()) == 10
    assert scans(db) == before + 1


# Building


def test_another_kind_replaces_the_one_there_is(db: Connection, dsn: str) -> None:
    fill(db, dsn, 300, "synthetic-4096")
    for kind, dimensions in (("signature", None), ("prefix", 512), ("prefix", 256), ("none", None)):
        (plan,) = build(dsn, kind, dimensions)
        assert not plan.due
        assert kinds(db) == ([] if kind == "none" else [(kind, True)])
        if kind == "prefix":
            assert one(db, "SELECT index_dimensions FROM pgmeaning.index_report") == dimensions


def test_an_index_of_the_users_own_is_never_dropped(db: Connection, dsn: str) -> None:
    fill(db, dsn)
    db.execute(f"CREATE INDEX by_hand ON {VECTORS} USING hnsw (embedding vector_cosine_ops)".encode())
    (plan,) = build(dsn, "signature")
    assert kinds(db) == [("direct", True), ("signature", True)]
    assert not plan.due


def broken(db: Connection, dsn: str, connect: Connect) -> None:
    """Leave an invalid index behind: a build that waits for an open transaction, and is cancelled."""
    holder = connect(autocommit=False)
    holder.execute("INSERT INTO docs VALUES (100000, 'x', 0)")
    holder.execute(f"LOCK TABLE {VECTORS} IN ROW EXCLUSIVE MODE".encode())
    with indexing.connected(dsn) as builder:
        pid = builder.info.backend_pid
        plan = indexing.plans(builder, Settings(), "docs", "direct")[0]
        thread = threading.Thread(target=lambda: expect_cancel(builder, plan))
        thread.start()
        wait_until(lambda: kinds(db) == [("direct", False)])
        wait_until(lambda: one(db, "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", pid) == "Lock")
        db.execute("SELECT pg_cancel_backend(%s)", (pid,))
        thread.join(30)
    holder.rollback()


def expect_cancel(builder: Connection, plan: indexing.Plan) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled):
        indexing.build(builder, plan, Settings())


def test_what_a_broken_build_left_is_found_and_built_anew(db: Connection, dsn: str, connect: Connect) -> None:
    fill(db, dsn)
    broken(db, dsn, connect)
    assert kinds(db) == [("direct", False)]
    assert one(db, "SELECT index FROM pgmeaning.status") == "broken direct"
    assert answers(db, None, range(1, 2)) == answers(db, "exact", range(1, 2))
    (plan,) = build(dsn, "direct")
    assert (plan.due, kinds(db)) == (False, [("direct", True)])


@pytest.mark.parametrize("cut", ["pg_cancel_backend", "pg_terminate_backend"])
def test_a_build_that_is_cut_is_told_leaves_nothing_and_is_not_tried_again_at_once(
    db: Connection, dsn: str, connect: Connect, cut: str
) -> None:
    fill(db, dsn)
    holder = connect(autocommit=False)
    holder.execute(f"LOCK TABLE {VECTORS} IN ROW EXCLUSIVE MODE".encode())
    db.execute("SELECT pgmeaning.want_index('docs', 'direct')")
    with running(Sidecar(dsn, Settings(maintenance=0.05))):
        wait_until(lambda: kinds(db) == [("direct", False)])
        db.execute(
            f"SELECT {cut}(pid) FROM pg_stat_activity WHERE application_name LIKE 'pgmeaning index %' "
            "AND datname = current_database()".encode()
        )
        wait_until(lambda: one(db, "SELECT problem FROM pgmeaning.index_report") is not None)
        holder.rollback()
        wait_until(lambda: kinds(db) == [])
    assert one(db, "SELECT retry_at > now() FROM pgmeaning.vector_index")
    with indexing.connected(dsn) as connection:
        assert [plan.settled for plan in indexing.plans(connection, Settings())] == [False]


def test_the_time_until_the_next_build_doubles(db: Connection, dsn: str) -> None:
    fill(db, dsn)
    waits = []
    with indexing.connected(dsn) as connection:
        (plan,) = indexing.plans(connection, Settings())
        for _ in range(3):
            indexing.record(connection, plan, "index/record_index_problem", problem="cut")
            waits.append(one(db, "SELECT extract(epoch FROM retry_at - now())::float8 FROM pgmeaning.vector_index"))
    assert [round(wait / 60) for wait in waits] == [1, 2, 4]
    db.execute("SELECT pgmeaning.want_index('docs', 'direct')")
    assert one(db, "SELECT retry_at FROM pgmeaning.vector_index") is None


def test_a_sidecar_builds_the_index_once_the_backfill_is_over(db: Connection, dsn: str) -> None:
    settings = Settings(maintenance=0.05, index_rows=200)
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 300) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    db.execute("UPDATE pgmeaning.target SET scanning = false")
    db.execute(
        "INSERT INTO pgmeaning.queue (collection_id, model, key) SELECT 1, 'synthetic-384', jsonb_build_object('id', i) FROM generate_series(1, 1500) i"
    )
    with indexing.connected(dsn) as connection:
        assert [plan.settled for plan in indexing.plans(connection, settings)] == [False]
        db.execute("DELETE FROM pgmeaning.queue")
        assert [plan.settled for plan in indexing.plans(connection, settings)] == [True]
        db.execute("UPDATE pgmeaning.target SET scanning = true")
        assert [plan.settled for plan in indexing.plans(connection, settings)] == [False]
    with running(Sidecar(dsn, settings)):
        wait_until(lambda: kinds(db) == [("direct", True)])
    assert one(db, "SELECT vectors FROM pgmeaning.status") == 300
    assert one(db, "SELECT build_seconds > 0 FROM pgmeaning.index_report")


def test_a_sidecar_builds_nothing_below_the_row_count(db: Connection, dsn: str) -> None:
    fill(db, dsn, 50)
    with indexing.connected(dsn) as connection:
        assert [plan.due for plan in indexing.plans(connection, Settings(index_rows=51))] == [False]
        assert [plan.due for plan in indexing.plans(connection, Settings(index_rows=50))] == [True]


def test_a_collection_that_cannot_have_what_was_settled_keeps_no_other_from_its_index(db: Connection, dsn: str) -> None:
    fill(db, dsn, 50)
    db.execute("CREATE TABLE others (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('others', '{body}', model => 'synthetic-4096')")
    db.execute(
        "INSERT INTO pgmeaning.vector_index (collection_id, model, wanted) VALUES (2, 'synthetic-4096', 'direct')"
    )
    with running(Sidecar(dsn, Settings(maintenance=0.02, index_rows=20))):
        wait_until(lambda: ("direct", True) in kinds(db))
        wait_until(
            lambda: one(db, "SELECT problem FROM pgmeaning.index_report WHERE collection = 'others'") is not None
        )


def test_one_builder_at_a_time(db: Connection, dsn: str) -> None:
    fill(db, dsn, 20)
    with indexing.connected(dsn) as first, indexing.connected(dsn) as second:
        (plan,) = indexing.plans(first, Settings())
        with indexing.only_builder(first, plan) as held:
            assert held
            with indexing.only_builder(second, plan) as also:
                assert not also
        with indexing.only_builder(second, plan) as later:
            assert later


def test_a_build_shows_in_status_and_gives_way_to_a_detach(db: Connection, dsn: str, connect: Connect) -> None:
    fill(db, dsn)
    holder = connect(autocommit=False)
    holder.execute(f"LOCK TABLE {VECTORS} IN ROW EXCLUSIVE MODE".encode())
    with running(Sidecar(dsn, Settings(maintenance=0.05, index_rows=200))):
        wait_until(lambda: one(db, "SELECT index FROM pgmeaning.status") == "building direct")
        assert one(db, "SELECT index_progress BETWEEN 0 AND 1 FROM pgmeaning.status")
        detacher = connect()
        detacher.execute("SET lock_timeout = '30s'")
        thread = threading.Thread(target=detacher.execute, args=("SELECT pgmeaning.detach('docs')",))
        thread.start()
        # Behind the holder, not behind the build.
        wait_until(
            lambda: one(db, "SELECT pg_blocking_pids(%s)", detacher.info.backend_pid) == [holder.info.backend_pid]
        )
        holder.rollback()
        thread.join(30)
        assert not thread.is_alive()
    assert one(db, "SELECT to_regclass(%s)", VECTORS) is None


def test_rows_are_written_and_found_while_an_index_is_there(db: Connection, dsn: str) -> None:
    fill(db, dsn)
    build(dsn, "direct")
    db.execute("DELETE FROM docs WHERE id <= 100")
    db.execute("INSERT INTO docs SELECT i, 'topic7 new ' || i, 0 FROM generate_series(1001, 1020) AS i")
    assert Sidecar(dsn, Settings(), load=lambda _: Clustered(384)).run(drain=True) == 0
    assert answers(db, None, range(1001, 1010)) == answers(db, "exact", range(1001, 1010))


# The command


def command(*arguments: str) -> Any:
    return json.loads(output(*arguments, "--json"))


def test_the_command_plans_builds_and_reports(db: Connection, dsn: str) -> None:
    fill(db, dsn)
    (plan,) = command("index", "docs", "--plan", "--dsn", dsn)
    assert (plan["kind"], plan["row_count"]) == ("none", 500)
    (report,) = command("index", "docs", "--kind", "signature", "--dsn", dsn)
    assert (report["index"], report["wanted"], report["no_index"]) == ("signature", "signature", None)
    (report,) = command("index", "docs", "--kind", "none", "--dsn", dsn)
    assert (report["index"], report["no_index"]) == ("none", "asked for")


def test_the_command_says_why_it_builds_nothing(db: Connection, dsn: str) -> None:
    fill(db, dsn)
    (report,) = command("index", "docs", "--dsn", dsn)
    assert (report["index"], report["no_index"]) == ("none", "below 10000 rows a scan is fast")
    *_, last = output("index", "docs", "--dsn", dsn).splitlines()
    assert last == "no index for synthetic-384: below 10000 rows a scan is fast"
