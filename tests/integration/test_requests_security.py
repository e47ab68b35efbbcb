"""Questions to sidecars: nobody sees or ends another's, and nobody's keep others waiting."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psycopg
import pytest
import structlog
from psycopg.conninfo import make_conninfo

from pgmeaning.database import sql_files as sql
from pgmeaning.models.synthetic import SyntheticEmbedder
from pgmeaning.models.vectors import Vectors
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.dumps import dump, restore
from tests.integration.strangers import PASSWORD, Stranger, stranger_of
from tests.integration.test_embed import Held, count, embed
from tests.types import Connect, Connection

SECRET = "what my doctor said"
LOOPBACKS = "FROM pg_stat_activity WHERE application_name = 'pgmeaning loopback' AND datname = current_database()"


class Failing(SyntheticEmbedder):
    def embed_queries(self, queries: object) -> Vectors:
        raise ValueError("too odd")


@pytest.fixture
def stranger(db: Connection, dsn: str) -> Iterator[Stranger]:
    with stranger_of(db, dsn) as found:
        yield found


# Nobody sees or ends another's


def test_no_text_is_in_a_statement_that_monitoring_shows(
    db: Connection, connect: Connect, dsn: str, stranger: Stranger
) -> None:
    held = Held()
    with running(Sidecar(dsn, Settings(), load=lambda _: held)), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(embed, stranger.connection, SECRET, model="synthetic-384", timeout="1 minute")
        assert held.asked.wait(10)
        shown = [query for (query,) in db.execute(f"SELECT query {LOOPBACKS}".encode()).fetchall()]
        assert len(shown) == 1
        assert shown[0].startswith("CALL pgmeaning._ask(")
        assert not any(word in shown[0] for word in SECRET.split())
        held.let_go.set()
        assert asked.result(10) is not None


def test_a_session_cannot_reach_the_loopback_that_it_keeps(stranger: Stranger, sidecar: Sidecar) -> None:
    embed(stranger.connection, "opens it", model="synthetic-384")
    for statement in (
        "SELECT * FROM pgmeaning_dblink.dblink('pgmeaning', 'SELECT query FROM pg_stat_activity') AS r (query text)",
        "SELECT pgmeaning_dblink.dblink_exec('pgmeaning', 'SELECT 1')",
        "SELECT pgmeaning_dblink.dblink_disconnect('pgmeaning')",
        "SELECT pgmeaning_dblink.dblink_get_connections()",
        "SELECT pgmeaning._close_loopback('pgmeaning_dblink.dblink')",
        "SELECT pgmeaning._loopback_address()",
    ):
        assert stranger.refusal(statement) == "42501", statement


def test_one_role_can_neither_cancel_nor_end_the_loopback_of_another(
    db: Connection, connect: Connect, stranger: Stranger, sidecar: Sidecar
) -> None:
    embed(connect(), "opens it")
    embed(stranger.connection, "opens one, too", model="synthetic-384")
    pids = [pid for (pid,) in db.execute(f"SELECT pid {LOOPBACKS}".encode()).fetchall()]
    assert len(pids) == 2
    for pid in pids:
        assert stranger.refusal(f"SELECT pg_cancel_backend({pid})") == "42501"
        assert stranger.refusal(f"SELECT pg_terminate_backend({pid})") == "42501"


def test_where_anybody_may_call_dblink_no_connection_is_left_to_them(
    db: Connection, dsn: str, stranger: Stranger
) -> None:
    db.execute("ALTER EXTENSION dblink SET SCHEMA public")
    held = Held()
    ask = "SELECT pgmeaning.embed('hold on', model => 'synthetic-384', timeout => '1 minute')"
    left = "SELECT coalesce(cardinality(public.dblink_get_connections()), 0)"
    with running(Sidecar(dsn, Settings(), load=lambda _: held)), ThreadPoolExecutor(1) as pool:
        cancelled = pool.submit(stranger.connection.execute, ask.encode())
        assert held.asked.wait(10)
        stranger.connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            cancelled.result(10)
        assert stranger.connection.execute(left.encode()).fetchone() == (0,)
        held.let_go.set()
        assert embed(stranger.connection, "answered", model="synthetic-384") is not None
        assert stranger.connection.execute(left.encode()).fetchone() == (0,)
    with running(Sidecar(dsn, Settings(), load=lambda _: Failing(384))):
        assert stranger.refusal("SELECT pgmeaning.embed('fails', model => 'synthetic-384')") == "PM008"
        assert stranger.connection.execute(left.encode()).fetchone() == (0,)


def test_a_connection_that_a_session_made_in_advance_is_not_asked(
    db: Connection, stranger: Stranger, sidecar: Sidecar
) -> None:
    db.execute("ALTER EXTENSION dblink SET SCHEMA public")
    host, port, name = db.info.host, db.info.port, db.info.dbname
    address = make_conninfo(host=host, port=port, dbname=name, user=stranger.name, password=PASSWORD)
    stranger.connection.execute(f"SELECT public.dblink_connect('pgmeaning', '{address}')".encode())
    assert embed(stranger.connection, "asked", model="synthetic-384") is not None


def test_what_tells_that_others_have_asked_is_for_nobody(stranger: Stranger) -> None:
    for call in (
        "SELECT pgmeaning._cached('synthetic-384', pgmeaning._input_hash('x'), true)",
        "SELECT FROM pgmeaning.query_cache",
        "SELECT FROM pgmeaning.request",
        "SELECT pgmeaning._answer('synthetic-384', true, 'x', '[1]')",
    ):
        assert stranger.refusal(call) == "42501", call


def test_a_request_is_known_to_who_asked_alone(db: Connection, stranger: Stranger) -> None:
    db.execute("SELECT pgmeaning._request('synthetic-384', ARRAY['a secret'], true, '1 minute')")
    found = stranger.connection.execute(
        "SELECT * FROM pgmeaning._await_reply(gen_random_uuid(), now() + interval '1 minute')"
    ).fetchone()
    assert found == (None, None, None, None)
    assert count(db, "pgmeaning.request") == 1


# Nobody's keep others waiting


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        ("'no-such-model', ARRAY['x'], true, '1 minute'", "PM005"),
        ("NULL, ARRAY['x'], true, '1 minute'", "PM005"),
        ("'synthetic-384', ARRAY['x'], true, '1 minute', ARRAY['a document']", "PM005"),
        ("'Qwen3-VL-Reranker-8B', ARRAY['x'], true, '1 minute'", "PM005"),
        ("'synthetic-4096', ARRAY['x'], true, '1 minute'", "PM006"),
        ("'synthetic-384', ARRAY[NULL], true, '1 minute'", "PM014"),
        ("'synthetic-384', ARRAY[repeat('x', 1048577)], true, '1 minute'", "PM014"),
        ("'Qwen3-VL-Reranker-8B', ARRAY['x'], true, '1 minute', array_fill('x'::text, ARRAY[10001])", "PM014"),
        (
            "'Qwen3-VL-Reranker-8B', ARRAY['x'], true, '1 minute', array_fill(repeat('x', 1000000), ARRAY[40])",
            "PM014",
        ),
        ("'synthetic-384', array_fill('x'::text, ARRAY[1001]), true, '1 minute'", "PM021"),
    ],
)
def test_what_no_sidecar_could_answer_is_refused_at_once(
    db: Connection, stranger: Stranger, arguments: str, refusal: str
) -> None:
    db.execute("UPDATE pgmeaning.model SET status = 'retired' WHERE name = 'synthetic-4096'")
    assert stranger.refusal(f"SELECT pgmeaning._request({arguments})") == refusal
    assert count(db, "pgmeaning.request") == 0


def test_a_role_has_so_many_requests_open_and_others_do_not_wait_behind_them(
    db: Connection, stranger: Stranger, dsn: str
) -> None:
    flood = (
        "SELECT pgmeaning._request('synthetic-384', ARRAY['flood ' || i], true, '1 day') "
        "FROM generate_series(1, {}) AS i"
    )
    stranger.connection.execute(flood.format(1000).encode())
    assert stranger.refusal(flood.format(1)) == "PM021"
    db.execute("SELECT pgmeaning._request('synthetic-384', ARRAY['mine'], true, '1 minute')")
    arguments = {"sidecar": uuid4(), "models": None, "limit": 2, "rerank": False}
    taken = db.execute(sql.query("requests/take_requests"), arguments).fetchall()
    assert "mine" in [row[2] for row in taken]


def test_requests_whose_time_is_over_are_no_longer_counted(db: Connection, stranger: Stranger) -> None:
    stranger.connection.execute(
        "SELECT pgmeaning._request('synthetic-384', array_fill('x'::text, ARRAY[1000]), true, '0')"
    )
    stranger.connection.execute("SELECT pgmeaning._request('synthetic-384', ARRAY['more'], true, '1 minute')")
    assert count(db, "pgmeaning.request") == 1


def test_the_loopback_counts_the_requests_of_the_role_that_asks(
    db: Connection, stranger: Stranger, sidecar: Sidecar
) -> None:
    stranger.connection.execute(
        "SELECT pgmeaning._request('synthetic-384', array_fill('x'::text, ARRAY[1000]), true, '1 minute')"
    )
    sidecar.stop()
    assert stranger.refusal("SELECT pgmeaning.embed('one more', model => 'synthetic-384')") == "PM021"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pgmeaning._request('synthetic-384', ARRAY['x'], true, '178000000 years')",
        "SELECT pgmeaning.embed('x', timeout => '178000000 years')",
        "SELECT pgmeaning.similarity('x', 'y', timeout => '178000000 years')",
        "CALL pgmeaning.prepare('x', timeout => '178000000 years')",
        "SELECT pgmeaning.embed('y', timeout => '-178000000 years')",
    ],
)
def test_a_timeout_of_any_length_is_one(db: Connection, dsn: str, statement: str) -> None:
    state = None
    with running(Sidecar(dsn, Settings())):
        try:
            db.execute(statement.encode())
        except psycopg.Error as error:
            state = error.sqlstate
    assert state == ("PM007" if "'-" in statement else None)
    late = "SELECT FROM pgmeaning.request WHERE expires_at > now() + interval '1 day'"
    assert db.execute(late.encode()).rowcount == 0


def test_the_text_of_what_failed_is_dropped(db: Connection, dsn: str) -> None:
    db.execute("SELECT pgmeaning._request('synthetic-384', ARRAY[%s::text], true, '1 day')", (SECRET,))
    with running(Sidecar(dsn, Settings(), load=lambda _: Failing(384))):
        wait_until(lambda: db.execute("SELECT FROM pgmeaning.request WHERE error IS NOT NULL").rowcount)
    assert db.execute("SELECT input, expires_at <= now() FROM pgmeaning.request").fetchall() == [("", True)]


def test_an_error_that_comes_again_and_again_is_logged_once(db: Connection, dsn: str) -> None:
    with structlog.testing.capture_logs() as lines, running(Sidecar(dsn, Settings(), load=lambda _: Failing(384))):
        for number in range(20):
            with pytest.raises(psycopg.Error):
                embed(db, f"odd {number}")
    assert len([line for line in lines if line["event"] == "query refused"]) == 1


def test_many_queries_at_once_are_asked_in_portions(db: Connection, sidecar: Sidecar) -> None:
    texts = [str(number) for number in range(1200)]
    asked = "SELECT cardinality(pgmeaning._vectors('synthetic-384', %s::text[], true, '1 minute'))"
    assert db.execute(asked.encode(), (texts,)).fetchone() == (1200,)


# A dump


def test_a_dump_holds_no_password_and_a_copy_does_not_ask_the_original(
    db: Connection, dsn: str, empty_dsn: str
) -> None:
    dumped = dump(db, dsn)
    assert b"USER MAPPING" not in dumped
    ((password,),) = db.execute("SELECT password FROM pgmeaning.loopback").fetchall()
    assert password.encode() not in dumped
    restore(db, dumped, empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as copy, running(Sidecar(dsn, Settings())):
        # As where both are called the same, on two servers of a host.
        copy.execute("ALTER SERVER pgmeaning_loopback OPTIONS (SET dbname %s)" % f"'{copy.info.dbname}'")  # noqa: UP031
        with pytest.raises(psycopg.Error, match="no dblink loopback") as caught:
            embed(copy, SECRET)
        assert caught.value.sqlstate == "PM009"
        assert count(db, "pgmeaning.request") + count(db, "pgmeaning.query_cache") == 0
        with running(Sidecar(empty_dsn, Settings())):
            assert embed(copy, SECRET) is not None
        assert count(db, "pgmeaning.query_cache") == 0
        assert db.execute("SELECT password FROM pgmeaning.loopback").fetchall() == [(password,)]


def test_a_loopback_that_leads_elsewhere_is_asked_nothing(
    db: Connection, connect: Connect, server_dsn: str, sidecar: Sidecar
) -> None:
    """As where everything that a database knows of itself is the same, and the other end is another."""
    db.execute("CREATE OR REPLACE FUNCTION pgmeaning._proof() RETURNS text LANGUAGE sql AS $$ SELECT 'SELECT false' $$")
    with pytest.raises(psycopg.Error, match="no dblink loopback") as caught:
        embed(connect(), SECRET)
    assert "leads to another server" in str(caught.value.diag.message_detail)
    assert count(db, "pgmeaning.query_cache") == 0
