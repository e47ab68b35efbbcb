"""Applications may go through PgBouncer in transaction mode; a sidecar may not, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psycopg
import pytest

import pgmeaning
from pgmeaning.database import migrate
from pgmeaning.errors import DatabaseError, TimedOut
from pgmeaning.integrations.mcp.database import Database
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.docs import Docs
from tests.integration.pooler import pgbouncer
from tests.integration.test_embed import count, embed
from tests.integration.test_rerank import Judge
from tests.integration.test_transactions import ASKING, asked, value
from tests.types import Connection

DOCS = Docs(
    columns="id int PRIMARY KEY, body text",
    rows="SELECT i, 'body ' || i FROM generate_series(1, 20) AS i",
    attach="'{body}', language => 'english'",
    embedded=True,
)


@pytest.fixture
def answering(docs: None, dsn: str) -> Iterator[Sidecar]:
    with running(Sidecar(dsn, Settings(maintenance=0.1), load_reranker=Judge().load)) as sidecar:
        yield sidecar


@pytest.fixture
def pooled(dsn: str) -> Iterator[str]:
    """Two connections to the server, for however many clients."""
    with pgbouncer(dsn) as pooled:
        yield pooled


def through(dsn: str, prepare_threshold: int | None = None) -> Connection:
    return psycopg.connect(dsn, autocommit=True, prepare_threshold=prepare_threshold)


def ask_for_everything(pooled: str, name: str) -> int:
    """As one client: each way to ask, on its own and inside transactions; returns how many found something."""
    found = 0
    with through(pooled) as connection:
        for kind in ASKING:
            found += value(connection, asked(kind, name)) is not None
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                found += value(connection, asked(kind, f"{name} in a transaction")) is not None
    return found


def test_more_clients_than_connections_ask_for_everything_at_once(answering: Sidecar, pooled: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(partial(ask_for_everything, pooled), [f"client {number}" for number in range(6)]))
    assert found == [2 * len(ASKING)] * 6


def test_a_pool_of_one_connection_does_not_wait_for_itself(answering: Sidecar, dsn: str) -> None:
    with pgbouncer(dsn, size=1) as pooled, ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(partial(ask_for_everything, pooled), "abcd"))) == 4


def test_the_loopbacks_are_as_many_as_the_pools_connections(db: Connection, answering: Sidecar, pooled: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(partial(ask_for_everything, pooled), "abcdef"))
    loopbacks = "pg_stat_activity WHERE application_name = 'pgmeaning loopback' AND datname = current_database()"
    assert count(db, loopbacks) <= 2


def test_procedures_that_commit_work_and_still_refuse_a_transaction_block(
    db: Connection, answering: Sidecar, pooled: str
) -> None:
    with through(pooled) as connection:
        connection.execute("CALL pgmeaning.prepare('how to cook rice')")
        connection.execute("INSERT INTO docs VALUES (100, 'body 100')")
        connection.execute("CALL pgmeaning.wait_for('docs', '100')")
        with pytest.raises(psycopg.Error, match="cannot run inside a transaction block"), connection.transaction():
            connection.execute("CALL pgmeaning.prepare('x')")
    assert count(db, "docs_embedding") == 21
    assert count(db, "pgmeaning.query_cache") == 1


def test_python_clients_share_a_connection_for_any_number_of_calls(answering: Sidecar, dsn: str) -> None:
    with pgbouncer(dsn, size=1) as pooled, pgmeaning.connect(pooled) as one, pgmeaning.connect(pooled) as other:
        for number in range(8):  # drivers prepare a statement at its sixth use
            for client in (one, other):
                assert client.search("docs", f"body {number + 1}", k=1)[0].key == {"id": number + 1}
                assert client.embed(f"text {number}").shape == (384,)
                assert len(client.search_many("docs", ["body 1", f"body {number}"], k=1)) == 2
                assert client.status()[0]["vectors"] == 20
        one.attach("docs", template="{body}!", collection="other")
        one.wait_for("other")


def test_statements_prepared_within_a_transaction_work(answering: Sidecar, pooled: str) -> None:
    with through(pooled) as connection, connection.transaction():
        for number in range(7):
            statement, text = ASKING["search"].replace("{q}", "%(q)s::text"), {"q": f"body {number}"}
            assert connection.execute(statement, text, prepare=number == 0).fetchone() is not None


def test_a_cancel_goes_through_and_leaves_the_connection_fit_for_the_next(db: Connection, docs: None, dsn: str) -> None:
    with pgbouncer(dsn, size=1) as pooled, through(pooled) as asking, ThreadPoolExecutor(1) as pool:
        future = pool.submit(embed, asking, "never answered", timeout="1 minute")
        wait_until(lambda: count(db, "pgmeaning.request") == 1)
        asking.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            future.result(10)
        with running(Sidecar(dsn, Settings())), through(pooled) as another:
            assert embed(another, "answered") is not None


def test_a_connection_that_breaks_while_one_waits_takes_nothing_from_another(
    db: Connection, docs: None, pooled: str, dsn: str
) -> None:
    breaking, staying = through(pooled), through(pooled)
    with ThreadPoolExecutor(2) as pool, staying:
        broken = pool.submit(embed, breaking, "the same", timeout="1 minute")
        stayed = pool.submit(embed, staying, "the same", timeout="1 minute")
        wait_until(lambda: count(db, "pgmeaning.request") == 2)
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name <> 'pgmeaning loopback' "
            "AND state = 'active' AND pid <> pg_backend_pid() AND query LIKE '%embed%' ORDER BY query_start LIMIT 1"
        )
        wait_until(lambda: broken.done() or stayed.done())
        with running(Sidecar(dsn, Settings())):
            answers = [future.exception(10) for future in (broken, stayed)]
    breaking.close()
    assert sorted(error is None for error in answers) == [False, True]


def test_without_a_sidecar_the_error_is_the_same(docs: None, pooled: str) -> None:
    with pgmeaning.connect(pooled) as client, pytest.raises(TimedOut, match="no sidecar answered"):
        client.embed("x", timeout=0.2)


def test_a_migration_goes_through(db: Connection, pooled: str) -> None:
    db.execute("DROP FUNCTION pgmeaning.embed")
    db.execute("UPDATE pgmeaning.installation SET functions_hash = 'old'")
    migrate.upgrade(pooled)
    assert not migrate.check(pooled).due
    assert count(db, "pg_proc WHERE proname = 'embed' AND pronamespace = 'pgmeaning'::regnamespace") == 1


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("options", ["refused", "dropped"])
def test_a_sidecar_behind_it_says_at_once_that_it_needs_a_direct_connection(dsn: str, mode: str, options: str) -> None:
    ignored = "options" if options == "dropped" else ""
    with (
        pgbouncer(dsn, mode=mode, ignored=ignored) as pooled,
        pytest.raises(DatabaseError, match="cannot work through a connection pooler") as caught,
    ):
        Sidecar(pooled, Settings()).run(drain=True)
    assert "the server's own address" in str(caught.value.hint)


def test_a_pooler_that_keeps_the_settings_is_known_by_the_process_that_it_shares(dsn: str) -> None:
    """As if it passed them on: they are the role's own here."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        for setting in ("search_path = pg_catalog", "timezone = 'UTC'", "enable_seqscan = off"):
            admin.execute(f'ALTER DATABASE "{admin.info.dbname}" SET {setting}')
    with (
        pgbouncer(dsn, ignored="options") as pooled,
        pytest.raises(DatabaseError, match="two open connections share one server process"),
    ):
        Sidecar(pooled, Settings()).run(drain=True)


def test_an_agents_session_does_not_go_through_a_pooler(pooled: str) -> None:
    with pytest.raises(DatabaseError, match="an agent's session cannot work through a connection pooler"):
        Database(pooled, role="pg_database_owner")
