"""embed() and prepare(): a query's vector from the cache, or from a sidecar outside the caller's transaction."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector
from psycopg.conninfo import make_conninfo

from pgmeaning import load_embedder
from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.errors import ModelUnavailable
from pgmeaning.models.base import Embedder
from pgmeaning.models.synthetic import SyntheticEmbedder
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Model
from tests.conftest import running, wait_until
from tests.integration.docs import cache
from tests.probes import are_probes
from tests.types import Connect, Connection, Rows


def embed(connection: Connection, text: str | None, **named: object) -> Any:
    arguments = "".join(f", {name} => %({name})s" for name in named)
    row = connection.execute(f"SELECT pgmeaning.embed(%(input)s{arguments})", {"input": text, **named}).fetchone()
    assert row is not None
    return row[0]


def rows(db: Connection, statement: str) -> Rows:
    return db.execute(statement).fetchall()


def count(db: Connection, relation: str) -> int:
    row = db.execute(f"SELECT count(*) FROM {relation}").fetchone()
    assert row is not None
    return int(row[0])


class Held(SyntheticEmbedder):
    """An embedder that says when it is asked, and answers when it is let go."""

    def __init__(self) -> None:
        super().__init__(384)
        self.asked = threading.Event()
        self.let_go = threading.Event()

    def embed_queries(self, queries: Any) -> Any:
        if are_probes(queries):
            return super().embed_queries(queries)
        self.asked.set()
        assert self.let_go.wait(30)
        return super().embed_queries(queries)


# The vector


def test_a_cached_query_needs_no_sidecar(db: Connection) -> None:
    cache(db, "how to cook rice")
    assert embed(db, "how to cook rice") is not None


def test_the_vector_is_the_models_own_to_the_last_bit(db: Connection, sidecar: Sidecar) -> None:
    register_vector(db)
    for model in ("synthetic-384", "synthetic-4096"):
        expected = load_embedder(model).embed_queries(["how to cook rice"])[0]
        for _asked_then_cached in range(2):
            assert np.array_equal(embed(db, "how to cook rice", model=model).to_numpy(), expected)


def test_null_has_no_vector_and_asks_nobody(db: Connection) -> None:
    assert embed(db, None) is None


TEXTS = [
    "", " ", "it's", 'say "hi"', "back\\slash", "\\", "\\'; SELECT 1; --", "100 % $1 {x} %s", "two\nlines\r\n\ttab",
    "naïve 米饭 🍚", "x" * 1_000_000,
]  # fmt: skip


@pytest.mark.parametrize("scs", ["on", "off"])
def test_any_text_reaches_the_model_as_it_is(connect: Connect, sidecar: Sidecar, scs: str) -> None:
    connection = connect(options=f"-c standard_conforming_strings={scs} -c escape_string_warning=off")
    register_vector(connection)
    for text, expected in zip(TEXTS, load_embedder("synthetic-384").embed_queries(TEXTS), strict=True):
        assert np.array_equal(embed(connection, text).to_numpy(), expected), text[:20]


def test_an_unknown_model_is_refused_with_the_known_ones(db: Connection) -> None:
    with pytest.raises(psycopg.Error, match="no embedding model 'nope'") as caught:
        embed(db, "x", model="nope")
    assert caught.value.sqlstate == "PM005"
    assert "synthetic-384" in str(caught.value.diag.message_detail)


# Where it works


def test_a_miss_is_answered_inside_any_kind_of_transaction(db: Connection, sidecar: Sidecar) -> None:
    for level in (
        "REPEATABLE READ",
        "SERIALIZABLE",
        "REPEATABLE READ, READ ONLY",
        "SERIALIZABLE, READ ONLY, DEFERRABLE",
    ):
        with db.transaction():
            db.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            db.execute("SELECT count(*) FROM pgmeaning.model")  # the snapshot is taken before the reply exists
            assert embed(db, level) is not None
            assert embed(db, level) is not None


def test_a_miss_is_answered_inside_plpgsql_and_do_blocks(db: Connection, sidecar: Sidecar) -> None:
    db.execute(
        "DO $$ DECLARE v public.vector; BEGIN v := pgmeaning.embed('in a block'); "
        "IF v IS NULL THEN RAISE 'nothing'; END IF; END $$"
    )
    db.execute(
        "CREATE FUNCTION asks(q text) RETURNS public.vector LANGUAGE plpgsql AS "
        "$$ BEGIN RETURN pgmeaning.embed(q); EXCEPTION WHEN division_by_zero THEN RETURN NULL; END $$"
    )
    assert db.execute("SELECT asks('in a function')").fetchone() != (None,)


def test_a_miss_is_answered_in_a_prepared_statement(db: Connection, sidecar: Sidecar) -> None:
    db.execute("PREPARE ask(text) AS SELECT pgmeaning.embed($1)")
    for number in range(7):  # past the sixth, the plan is the generic one
        assert db.execute(f"EXECUTE ask('prepared {number}')").fetchone() != (None,)


def test_a_miss_survives_the_roll_back_of_its_transaction(db: Connection, sidecar: Sidecar) -> None:
    with db.transaction(force_rollback=True):
        assert embed(db, "rolled back") is not None
    assert count(db, "pgmeaning.query_cache") == 1
    assert count(db, "pgmeaning.request") == 0


def test_many_sessions_ask_at_once(connect: Connect, sidecar: Sidecar) -> None:
    connections = [connect() for _ in range(8)]

    def ask(number: int) -> Any:
        return [embed(connections[number], f"question {(number + i) % 10}") for i in range(10)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert all(vector is not None for vectors in answers for vector in vectors)
    assert answers[0][1] == answers[1][0]


# What ends a wait


def test_without_a_sidecar_the_error_says_so_when_time_is_up(db: Connection) -> None:
    db.execute("SET statement_timeout = '20s'")  # a wait that goes on would end as another error
    with pytest.raises(psycopg.Error, match=r"no sidecar answered within 00:00:00\.3") as caught:
        embed(db, "x", timeout="0.3 seconds")
    assert caught.value.sqlstate == "PM007"
    assert "Sidecars alive: 0" in str(caught.value.diag.message_detail)
    assert "pgmeaning sidecar" in str(caught.value.diag.message_hint)
    assert count(db, "pgmeaning.request") == 0, "nobody waits for it any more"


def test_odd_timeouts_do_what_they_say(db: Connection, sidecar: Sidecar) -> None:
    for too_short in ("0", "-1 second"):
        with pytest.raises(psycopg.Error) as caught:
            embed(db, "x", timeout=too_short)
        assert caught.value.sqlstate == "PM007"
    for timeout in ("10 years", "100 days", None):
        assert embed(db, f"x {timeout}", timeout=timeout) is not None


def waiting(db: Connection) -> bool:
    return count(db, "pgmeaning.request") == 1


@pytest.mark.parametrize("how", ["driver", "pg_cancel_backend"])
def test_a_cancel_ends_the_wait_at_once_and_the_next_call_works(
    db: Connection, connect: Connect, dsn: str, how: str
) -> None:
    asking = connect()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(embed, asking, "never answered", timeout="1 minute")
        wait_until(lambda: waiting(db))
        if how == "driver":
            asking.cancel_safe()
        else:
            db.execute("SELECT pg_cancel_backend(%s)", (asking.info.backend_pid,))
        with pytest.raises(psycopg.errors.QueryCanceled):
            future.result(10)
    with running(Sidecar(dsn, Settings())):
        assert embed(asking, "answered") is not None


def test_the_call_after_a_wait_that_was_given_up_says_nothing_of_it(db: Connection, dsn: str) -> None:
    notices: list[str | None] = []
    db.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    with pytest.raises(psycopg.Error, match="no sidecar answered"):
        embed(db, "too late", timeout="-1 second")
    wait_until(lambda: loopback_is_idle(dsn))  # its answer has come, and nobody has read it
    with running(Sidecar(dsn, Settings())):
        assert embed(db, "answered") is not None
    assert notices == []


def loopback_is_idle(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT state FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'pgmeaning loopback'"
        ).fetchone() == ("idle",)


def test_statement_timeout_ends_the_wait_at_once_and_the_next_call_works(db: Connection, dsn: str) -> None:
    db.execute("SET statement_timeout = '200ms'")
    with ThreadPoolExecutor(1) as pool, pytest.raises(psycopg.errors.QueryCanceled):
        pool.submit(embed, db, "never answered", timeout="1 minute").result(10)
    db.execute("SET statement_timeout = 0")
    with running(Sidecar(dsn, Settings())):
        assert embed(db, "answered") is not None


def test_a_model_that_cannot_run_is_the_reason_given_at_once(db: Connection, dsn: str) -> None:
    def load(_model: object) -> Any:
        raise ModelUnavailable("needs a GPU", hint="buy one")

    with (
        running(Sidecar(dsn, Settings(), load=load)),
        ThreadPoolExecutor(1) as pool,
        pytest.raises(psycopg.Error, match="model 'synthetic-384' could not embed the query") as caught,
    ):
        pool.submit(embed, db, "x", timeout="1 minute").result(10)
    assert caught.value.sqlstate == "PM008"
    assert "needs a GPU" in str(caught.value.diag.message_detail)
    assert count(db, "pgmeaning.request") == 0


def test_when_a_sidecar_dies_while_it_answers_another_one_does(db: Connection, connect: Connect, dsn: str) -> None:
    held = Held()
    asking = connect()
    with running(Sidecar(dsn, Settings(), load=lambda _: held)) as first, ThreadPoolExecutor(1) as pool:
        future = pool.submit(embed, asking, "who answers?", timeout="20 seconds")
        assert held.asked.wait(10)
        with running(Sidecar(dsn, Settings(), load=lambda _: SyntheticEmbedder(384))):
            killed = db.execute("SELECT pg_terminate_backend(claimed_pid) FROM pgmeaning.request").fetchall()
            assert killed == [(True,)]
            assert future.result(10) is not None, f"{first.id} had it"
        held.let_go.set()


def test_a_query_waits_for_one_batch_of_bulk_work_at_most(db: Connection, dsn: str) -> None:
    batches: list[str] = []
    begun = threading.Event()

    class Slow(SyntheticEmbedder):
        def embed_documents(self, documents: Any) -> Any:
            if are_probes(documents):
                return super().embed_documents(documents)
            batches.append(documents[0].text)
            begun.set()
            threading.Event().wait(0.05)  # what a real model takes
            return super().embed_documents(documents)

    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 200) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    with running(Sidecar(dsn, Settings(batch_rows=2), load=lambda _: Slow(384))):
        assert begun.wait(10)
        embed(db, "open the loopback")
        before = len(batches)
        assert embed(db, "asked in between") is not None
        assert batches.index("asked in between") - before <= 2, "one may have begun just before it was asked"
        assert count(db, "docs_embedding") < 200, "the bulk work had ended before"


# The loopback


def loopback_pids(db: Connection) -> list[int]:
    rows = db.execute(
        "SELECT pid FROM pg_stat_activity "
        "WHERE application_name = 'pgmeaning loopback' AND datname = current_database()"
    )
    return [pid for (pid,) in rows.fetchall()]


def test_a_session_keeps_its_loopback(db: Connection, sidecar: Sidecar) -> None:
    embed(db, "one")
    first = loopback_pids(db)
    embed(db, "two")
    assert loopback_pids(db) == first
    assert len(first) == 1


def test_a_killed_loopback_is_opened_again(db: Connection, connect: Connect, sidecar: Sidecar) -> None:
    asking = connect()
    for number in range(3):
        assert embed(asking, f"before {number}") is not None
        (pid,) = loopback_pids(db)
        db.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
    assert embed(asking, "after") is not None


def test_without_a_loopback_the_error_names_prepare_which_needs_none(db: Connection, sidecar: Sidecar) -> None:
    db.execute("DROP EXTENSION dblink CASCADE")
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    for statement in ("SELECT pgmeaning.embed('rice')", "SELECT * FROM pgmeaning.search('docs', 'rice')"):
        with pytest.raises(psycopg.Error, match="no dblink loopback") as caught:
            db.execute(statement)
        assert caught.value.sqlstate == "PM009"
        assert "CALL pgmeaning.prepare('rice')" in str(caught.value.diag.message_hint)
    db.execute("CALL pgmeaning.prepare('rice')")
    assert embed(db, "rice") is not None
    assert db.execute("SELECT * FROM pgmeaning.search('docs', 'rice')").fetchall() == []


def test_a_loopback_that_cannot_log_in_says_so_and_a_migration_mends_it(
    db: Connection, connect: Connect, dsn: str, sidecar: Sidecar
) -> None:
    own = f"pgmeaning_loopback_{rows(db, 'SELECT oid FROM pg_database WHERE datname = current_database()')[0][0]}"
    db.execute("REFRESH MATERIALIZED VIEW pgmeaning.loopback")
    db.execute(f"CREATE ROLE {own} LOGIN PASSWORD 'another'")
    try:
        with pytest.raises(psycopg.Error, match="no dblink loopback") as caught:
            embed(connect(), "x")
        assert "password authentication failed" in str(caught.value.diag.message_detail)
        assert ensure_loopback(db) is None
        assert embed(connect(), "x") is not None
    finally:
        db.execute(f'REVOKE CONNECT ON DATABASE "{db.info.dbname}" FROM "{own}"')
        db.execute(f'DROP OWNED BY "{own}"')
        db.execute(f'DROP ROLE IF EXISTS "{own}"')


def test_two_databases_of_one_server_ask_their_own_sidecars(
    dsn: str, server_dsn: str, template: str, db: Connection
) -> None:
    other = f"{db.info.dbname}_copy"
    with psycopg.connect(server_dsn, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{other}" TEMPLATE "{template}"')
        try:
            other_dsn = make_conninfo(dsn, dbname=other)
            with psycopg.connect(other_dsn, autocommit=True) as copy:
                with (
                    running(Sidecar(dsn, Settings())),
                    pytest.raises(psycopg.Error, match="no dblink loopback") as caught,
                ):
                    embed(copy, "from the copy")
                assert "leads to this database" in str(caught.value.diag.message_detail)
                with running(Sidecar(other_dsn, Settings())):
                    assert embed(copy, "from the copy") is not None
                assert count(copy, "pgmeaning.query_cache") == 1
                assert count(db, "pgmeaning.query_cache") == 0
        finally:
            admin.execute(f'DROP DATABASE "{other}" WITH (FORCE)')


def test_two_sidecars_that_start_at_once_do_not_trip_over_the_loopback(connect: Connect) -> None:
    connections = [connect() for _ in range(6)]
    connections[0].execute("DROP SERVER pgmeaning_loopback CASCADE")
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ensure_loopback, connections)) == [None] * 6


def test_loading_a_model_holds_up_no_query_for_another(db: Connection, connect: Connect, dsn: str) -> None:
    opened = threading.Event()

    def load(model: Model) -> Embedder:
        if model.name == "synthetic-384":
            assert opened.wait(60)
        return load_embedder(model)

    with running(Sidecar(dsn, load=load)), ThreadPoolExecutor(1) as pool:
        embed(db, "loaded before", model="synthetic-4096")
        slow = pool.submit(
            lambda: connect().execute("SELECT pgmeaning.embed('one', model => 'synthetic-384', timeout => '1min')")
        )
        try:
            wait_until(lambda: db.execute("SELECT FROM pgmeaning.request WHERE claimed_by IS NOT NULL").rowcount == 1)
            assert embed(db, "two", model="synthetic-4096") is not None
            assert not slow.done()
        finally:
            opened.set()
        assert slow.result(60).fetchone() is not None


def test_a_query_that_waits_for_a_model_to_load_says_so(db: Connection, dsn: str) -> None:
    loading, loaded = threading.Event(), threading.Event()

    def load(_: Model) -> Any:
        loading.set()
        assert loaded.wait(60)
        return SyntheticEmbedder(384)

    def refused(statement: str) -> psycopg.Error:
        with pytest.raises(psycopg.Error, match=r"is still loading, \d+ s so far") as caught:
            db.execute(statement.encode())
        return caught.value

    with running(Sidecar(dsn, Settings(), load=load, load_reranker=load)):
        try:
            error = refused("SELECT pgmeaning.embed('q', timeout => '2 s')")
            assert (error.sqlstate, loading.is_set()) == ("PM007", True)
            assert "timeout =>" in str(error.diag.message_hint)
            refused("CALL pgmeaning.prepare('p', timeout => '2 s')")
            refused("SELECT * FROM pgmeaning.rerank('q', '{a}', timeout => '2 s')")
        finally:
            loaded.set()
        assert db.execute("SELECT pgmeaning.embed('q', timeout => '30 s') IS NOT NULL").fetchone() == (True,)
