"""What one row or one model does wrong stays with it; a lost connection or server costs time, but no row."""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psycopg
import pytest

from pgmeaning.database import migrate
from pgmeaning.embedded_server.server import EmbeddedServer
from pgmeaning.errors import ModelUnavailable, SchemaOutdated
from pgmeaning.models.base import Embedder, load_embedder
from pgmeaning.models.vectors import Vectors
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Document, Model
from tests.conftest import running, wait_until
from tests.integration.embedders import Gate, Watched, raising, returning
from tests.types import Connection, Drain

QUICK = Settings(maintenance=0.1, poll=0.1, attempts=3, backoff=0.01)


def make(db: Connection, table: str = "docs", rows: int = 3, model: str = "synthetic-384") -> None:
    db.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, body text)".encode())
    db.execute("SELECT pgmeaning.attach(%s::regclass, ARRAY['body'], model => %s)", (table, model))
    db.execute(f"INSERT INTO {table} SELECT i, 'text ' || i FROM generate_series(1, {rows}) AS i".encode())


def count(db: Connection, query: str) -> int:
    row = db.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def has_row(db: Connection, query: str, *arguments: object) -> bool:
    return db.execute(query.encode(), arguments).fetchone() is not None


def drained(dsn: str, watched: Watched, settings: Settings = QUICK) -> int:
    return Sidecar(dsn, settings, load=watched.load).run(drain=True)


def test_a_poison_row_among_500_fails_alone_after_its_attempts(db: Connection, dsn: str) -> None:
    make(db, rows=500)
    watched = Watched(raising("text 77"))
    assert drained(dsn, watched) == 1
    assert count(db, "SELECT count(*) FROM docs_embedding") == 499
    assert db.execute("SELECT key, attempts, error, will_retry FROM pgmeaning.failures").fetchall() == [
        ({"id": 77}, 3, "ValueError: cannot stand ['text 77']", False)
    ]
    assert sum(batch == ["text 77"] for batch in watched.batches) == 3


def test_each_failed_attempt_waits_twice_as_long_as_the_one_before(db: Connection, dsn: str) -> None:
    make(db, rows=1)
    waits = "SELECT visible_at - now() FROM pgmeaning.queue WHERE attempts = %s AND claimed_by IS NULL"
    with running(Sidecar(dsn, Settings(backoff=100, poll=0.1), load=Watched(raising("text 1")).load)):
        for attempt, seconds in [(1, 100), (2, 200), (3, 300), (4, 300)]:
            wait_until(partial(has_row, db, waits, attempt))
            row = db.execute(waits, (attempt,)).fetchone()
            assert row is not None
            assert row[0].total_seconds() == pytest.approx(seconds, abs=20)
            db.execute("UPDATE pgmeaning.queue SET visible_at = now()")


def test_retry_tries_a_failed_row_again(db: Connection, dsn: str) -> None:
    make(db)
    assert drained(dsn, Watched(raising("text 2"))) == 1
    assert db.execute("SELECT pgmeaning.retry('docs')").fetchone() == (1,)
    assert drained(dsn, Watched()) == 0
    assert count(db, "SELECT count(*) FROM pgmeaning.failures") == 0
    assert count(db, "SELECT count(*) FROM docs_embedding") == 3


def test_a_failed_row_that_is_changed_is_tried_again(db: Connection, dsn: str) -> None:
    make(db)
    assert drained(dsn, Watched(raising("text 2"))) == 1
    db.execute("UPDATE docs SET body = 'better' WHERE id = 2")
    assert drained(dsn, Watched(raising("text 2"))) == 0


@pytest.mark.parametrize("number", [math.nan, math.inf, 0.0, 1e30])
def test_a_vector_that_is_none_fails_only_its_row(db: Connection, dsn: str, number: float) -> None:
    make(db, rows=20)
    assert drained(dsn, Watched(returning({"text 7": number}))) == 1
    assert count(db, "SELECT count(*) FROM docs_embedding") == 19
    assert db.execute("SELECT key FROM pgmeaning.failures").fetchall() == [({"id": 7},)]


def test_a_vector_of_a_wrong_length_fails_only_its_row(db: Connection, dsn: str) -> None:
    def _short(texts: list[str], vectors: Vectors) -> Vectors:
        return vectors[:, :383] if "text 7" in texts else vectors

    make(db, rows=20)
    assert drained(dsn, Watched(_short)) == 1
    assert count(db, "SELECT count(*) FROM docs_embedding") == 19


def test_too_few_vectors_fail_only_the_row_that_has_none(db: Connection, dsn: str) -> None:
    def _fewer(texts: list[str], vectors: Vectors) -> Vectors:
        return vectors[[text != "text 7" for text in texts]]

    make(db, rows=20)
    assert drained(dsn, Watched(_fewer)) == 1
    assert count(db, "SELECT count(*) FROM docs_embedding") == 19


def test_a_prefix_of_zeros_is_refused_as_a_vector_without_direction(db: Connection, dsn: str) -> None:
    def _late(texts: list[str], vectors: Vectors) -> Vectors:
        vectors = np.array(vectors)
        vectors[[text == "text 2" for text in texts], :64] = 0
        return vectors

    db.execute("UPDATE pgmeaning.model SET min_dimensions = 64 WHERE name = 'synthetic-384'")
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'], dimensions => 64)")
    db.execute("INSERT INTO docs VALUES (1, 'text 1'), (2, 'text 2')")
    assert drained(dsn, Watched(_late)) == 1
    assert db.execute("SELECT id, round(vector_norm(embedding)::numeric, 5) FROM docs_embedding").fetchall() == [(1, 1)]


class Uncountable(Watched):
    """A model that cannot count the tokens of anything."""

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        raise RuntimeError("cannot count")


def test_a_model_that_cannot_count_tokens_still_embeds(db: Connection, dsn: str) -> None:
    make(db)
    assert drained(dsn, Uncountable()) == 0
    assert count(db, "SELECT count(*) FROM docs_embedding") == 3


# Models that cannot be loaded


def only_small(model: Model) -> Embedder:
    if model.name != "synthetic-384":
        raise ModelUnavailable("no such checkpoint", hint="mount it")
    return load_embedder(model)


def test_drain_with_a_model_that_cannot_be_loaded_does_the_others_and_ends_with_1(db: Connection, dsn: str) -> None:
    make(db, "unlucky", model="synthetic-4096")
    make(db, rows=1000)
    assert Sidecar(dsn, QUICK, load=only_small).run(drain=True) == 1
    assert count(db, "SELECT count(*) FROM docs_embedding") == 1000
    assert count(db, "SELECT count(*) FROM unlucky_embedding") == 0


def test_a_model_that_cannot_be_loaded_and_owes_nothing_does_not_spoil_a_drain(db: Connection, dsn: str) -> None:
    make(db, "unlucky", model="synthetic-4096")
    assert Sidecar(dsn, QUICK).run(drain=True) == 0
    make(db)
    assert Sidecar(dsn, QUICK, load=only_small).run(drain=True) == 0


def test_a_model_that_cannot_be_loaded_is_shown_as_a_problem_of_the_sidecar(db: Connection, dsn: str) -> None:
    make(db, "unlucky", model="synthetic-4096")
    problem = "SELECT problems FROM pgmeaning.sidecars WHERE problems <> '{}'"
    with running(Sidecar(dsn, QUICK, load=only_small)):
        wait_until(lambda: db.execute(problem.encode()).fetchone())
        assert db.execute(problem.encode()).fetchone() == ({"synthetic-4096": "no such checkpoint (mount it)"},)


# The database


def test_a_database_without_pgmeaning_is_refused_with_what_to_do(empty_dsn: str) -> None:
    with pytest.raises(SchemaOutdated, match="pgmeaning migrate"):
        Sidecar(empty_dsn, QUICK).run(drain=True)


def test_a_server_that_cannot_be_reached_is_an_error_at_once() -> None:
    with pytest.raises(psycopg.OperationalError):
        Sidecar("host=127.0.0.1 port=1", QUICK).run()


def test_connections_cut_while_rows_are_embedded_cost_no_row(db: Connection, dsn: str) -> None:
    make(db, rows=50)
    gate = Gate("text 20")
    watched = Watched(gate)
    cut = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name LIKE 'pgmeaning %'"""
    with running(Sidecar(dsn, QUICK, load=watched.load)) as sidecar:
        gate.reached()
        db.execute(cut.encode())
        gate.open()
        wait_until(lambda: count(db, "SELECT count(*) FROM docs_embedding") == 50)
        wait_until(lambda: not sidecar.in_flight)
    assert watched.embedded.total() == 50


def test_a_server_that_restarts_during_a_drain_costs_no_row() -> None:
    folder = Path(tempfile.mkdtemp(prefix="pgmeaning-test-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "data", settings={"fsync": "off"})
    try:
        server.start()
        restarted(server)
    finally:
        server.stop()
        shutil.rmtree(folder)


def restarted(server: EmbeddedServer) -> None:
    migrate.upgrade(server.dsn)
    gate = Gate("text 250")
    statuses: list[int] = []
    with psycopg.connect(server.dsn, autocommit=True) as db:
        make(db, rows=500)
    sidecar = Sidecar(server.dsn, QUICK, load=Watched(gate).load)
    thread = threading.Thread(target=lambda: statuses.append(sidecar.run(drain=True)))
    thread.start()
    gate.reached()
    server.stop()
    server.start()
    gate.open()
    thread.join(60)
    assert statuses == [0]
    with psycopg.connect(server.dsn, autocommit=True) as db:
        assert count(db, "SELECT count(*) FROM docs_embedding") == 500


# Shutting down


def test_stop_before_the_start_is_over_ends_the_run(dsn: str) -> None:
    sidecar = Sidecar(dsn, QUICK)
    sidecar.stop()
    assert sidecar.run() == 0


def test_no_thread_outlives_a_sidecar_whose_pipeline_was_full(db: Connection, dsn: str) -> None:
    make(db, rows=300)
    gate = Gate("text 1")
    settings = Settings(grace=0.1, claim_rows=10, batch_rows=10, poll=0.1)
    with running(Sidecar(dsn, settings, load=Watched(gate).load)):
        gate.reached()
        wait_until(lambda: count(db, "SELECT sum(claimed) FROM pgmeaning.sidecars") >= 30)
    gate.open()
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("pgmeaning ")])
    assert count(db, "SELECT count(*) FROM pgmeaning.queue WHERE claimed_by IS NOT NULL") == 0


def test_a_sidecar_that_may_not_do_its_work_gives_up_draining(db: Connection, dsn: str) -> None:
    make(db)
    db.execute("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not here'; END $$")
    db.execute("CREATE TRIGGER refuse BEFORE UPDATE ON pgmeaning.queue EXECUTE FUNCTION refuse()")
    assert Sidecar(dsn, QUICK).run(drain=True) == 1


def test_a_key_too_long_for_the_queue_holds_up_no_other_row(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id text PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")
    assert drain() == 0
    random = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 84) AS i)"
    db.execute(f"INSERT INTO docs VALUES ({random}, 'long'), ('short', 'short')".encode())
    assert drain() == 1
    assert "too large" in str(db.execute("SELECT error FROM pgmeaning.failures").fetchall())
    assert db.execute("SELECT id FROM docs_embedding").fetchall() == [("short",)]
