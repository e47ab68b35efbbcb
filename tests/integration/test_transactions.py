"""Whatever asks a sidecar (embed, search in its modes, search_many, rerank) works wherever a statement may stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.test_embed import count
from tests.integration.test_rerank import Judge
from tests.types import Connect, Connection, Drain

# Each asks for a text that was not asked before, and finds something.
ASKING = {
    "embed": "SELECT pgmeaning.embed({q})::text",
    "search": "SELECT key::text FROM pgmeaning.search('docs', {q}, k => 1)",
    "search, typed": "SELECT (hit).body FROM pgmeaning.search(NULL::docs, {q}, k => 1)",
    "search, hybrid": "SELECT key::text FROM pgmeaning.search('docs', {q}, k => 1, mode => 'hybrid')",
    "search, reranked": "SELECT key::text FROM pgmeaning.search('docs', {q}, k => 1, rerank => 5)",
    "search_many": "SELECT key::text FROM pgmeaning.search_many('docs', ARRAY[{q}, {q} || ' again'], k => 1) LIMIT 1",
    "rerank": "SELECT index::text FROM pgmeaning.rerank({q}, ARRAY['one', 'two']) LIMIT 1",
}


@pytest.fixture
def db(db: Connection, dsn: str, drain: Drain) -> Iterator[Connection]:
    """Twenty embedded rows, and a sidecar that answers."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 20) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body}', language => 'english')")
    assert drain() == 0
    with running(Sidecar(dsn, Settings(), load_reranker=Judge().load)):
        yield db


def value(db: Connection, statement: str) -> Any:
    row = db.execute(statement).fetchone()
    assert row is not None
    return row[0]


def asked(kind: str, text: str) -> str:
    """The statement with a text of its own, which nothing else has brought into the cache."""
    return in_terms_of(kind, sql.Literal(f"{kind}: {text}").as_string())


def in_terms_of(kind: str, expression: str) -> str:
    return ASKING[kind].replace("{q}", expression)


LEVELS = [
    "READ COMMITTED",
    "READ COMMITTED, READ ONLY",
    "REPEATABLE READ",
    "REPEATABLE READ, READ ONLY",
    "SERIALIZABLE",
    "SERIALIZABLE, READ ONLY",
    "SERIALIZABLE, READ ONLY, DEFERRABLE",
]


def test_in_every_kind_of_transaction(db: Connection) -> None:
    for level in LEVELS:
        for kind in ASKING:
            with db.transaction():
                db.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
                db.execute("SELECT count(*) FROM docs")  # the snapshot is taken before the reply exists
                first = value(db, asked(kind, level))
                assert first is not None
                assert value(db, asked(kind, level)) == first
                assert value(db, asked(kind, f"then {level}")) is not None
            assert count(db, "pgmeaning.request") == 0


def test_in_a_session_that_is_read_only_or_serializable_by_default(db: Connection, connect: Connect) -> None:
    session = connect(options="-c default_transaction_read_only=on -c default_transaction_isolation=serializable")
    for kind in ASKING:
        assert value(session, asked(kind, "x")) is not None


def test_in_plpgsql_and_in_sql_functions(db: Connection) -> None:
    for kind in ASKING:
        statement = in_terms_of(kind, "q")
        db.execute(
            "CREATE OR REPLACE FUNCTION asks(q text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE v text; "
            f"BEGIN BEGIN v := ({statement}); EXCEPTION WHEN division_by_zero THEN NULL; END; RETURN v; END $$"
        )
        db.execute(f"CREATE OR REPLACE FUNCTION asks_in_sql(q text) RETURNS text LANGUAGE sql AS $$ {statement} $$")
        for number in range(7):  # past the sixth call, plans are generic
            assert value(db, f"SELECT asks('{kind}: in plpgsql {number}')") is not None
            assert value(db, f"SELECT asks_in_sql('{kind}: in sql {number}')") is not None


def test_in_do_blocks_also_those_that_commit(db: Connection) -> None:
    for kind in ASKING:
        db.execute(
            "DO $$ DECLARE q text; v text; BEGIN FOR i IN 1..3 LOOP "
            f"q := '{kind}: in a block ' || i; v := ({in_terms_of(kind, 'q')}); "
            "IF v IS NULL THEN RAISE 'nothing'; END IF; COMMIT; END LOOP; END $$"
        )


def test_in_a_trigger_of_the_very_table(db: Connection) -> None:
    db.execute("ALTER TABLE docs ADD COLUMN found text")
    db.execute("CREATE FUNCTION ask() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$")
    db.execute("CREATE TRIGGER ask BEFORE INSERT ON docs FOR EACH ROW EXECUTE FUNCTION ask()")
    for number, kind in enumerate(ASKING, 100):
        db.execute(
            "CREATE OR REPLACE FUNCTION ask() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN NEW.found := ({in_terms_of(kind, 'NEW.body')}); RETURN NEW; END $$"
        )
        assert value(db, f"INSERT INTO docs (id, body) VALUES ({number}, '{kind}') RETURNING found") is not None


@pytest.mark.parametrize("mode", ["auto", "force_generic_plan", "force_custom_plan"])
def test_in_prepared_statements(db: Connection, mode: str) -> None:
    db.execute(f"SET plan_cache_mode = {mode}")
    for kind in ASKING:
        db.execute(f"PREPARE ask (text) AS {in_terms_of(kind, '$1')}")
        for number in range(7):
            assert value(db, f"EXECUTE ask('{kind}: by name {number}')") is not None
            text = f"{kind}: by protocol {number}"
            row = db.execute(in_terms_of(kind, "%(q)s::text"), {"q": text}, prepare=True).fetchone()
            assert row is not None
        db.execute("DEALLOCATE ask")


def test_in_a_cursor_a_view_and_a_new_table(db: Connection) -> None:
    for number, kind in enumerate(ASKING):
        with db.transaction():
            db.execute(f"DECLARE found CURSOR FOR {asked(kind, 'by cursor')}")
            assert value(db, "FETCH found") is not None
        db.execute(f"CREATE MATERIALIZED VIEW kept_{number} AS {asked(kind, 'by view')}")
        db.execute("DELETE FROM pgmeaning.query_cache")
        db.execute(f"REFRESH MATERIALIZED VIEW kept_{number}")
        db.execute(f"CREATE TABLE copied_{number} AS {asked(kind, 'by table')}")
        assert (count(db, f"kept_{number}"), count(db, f"copied_{number}")) == (1, 1)


def test_in_a_transaction_that_rolls_back(db: Connection) -> None:
    for kind in ASKING:
        with db.transaction(force_rollback=True):
            db.execute("DELETE FROM docs WHERE id > 10")
            assert value(db, asked(kind, "rolled back")) is not None
            with db.transaction(force_rollback=True):
                assert value(db, asked(kind, "to a savepoint")) is not None
            assert value(db, asked(kind, "after the savepoint")) is not None
        assert count(db, "pgmeaning.request") == 0
        assert value(db, asked(kind, "rolled back")) is not None


def test_after_an_error_that_a_savepoint_took_back(db: Connection) -> None:
    for kind in ASKING:
        with db.transaction():
            with pytest.raises(psycopg.errors.DivisionByZero), db.transaction():
                db.execute(f"SELECT 1 / (length(({asked(kind, 'lost')})) * 0)")
            assert value(db, asked(kind, "found")) is not None


def test_what_the_transaction_itself_has_added_to_the_registry_is_not_yet_known_to_a_sidecar(db: Connection) -> None:
    """The request would be committed before the model is: it is refused at once, not timed out."""
    db.autocommit = False
    db.execute(
        "INSERT INTO pgmeaning.model "
        'SELECT (jsonb_populate_record(m, \'{"name": "mine", "status": "supported", "allowed": true}\')).* '
        "FROM pgmeaning.model AS m WHERE m.name = 'synthetic-384'"
    )
    with pytest.raises(psycopg.Error, match="there is no embedding model 'mine'"):
        db.execute("SELECT pgmeaning.embed('x', model => 'mine')")
    db.rollback()


def test_a_request_of_a_transaction_that_holds_locks_on_the_source_is_answered(db: Connection) -> None:
    with db.transaction():
        db.execute("LOCK TABLE docs IN ACCESS EXCLUSIVE MODE")
        db.execute("UPDATE docs SET body = body || '!'")
        for kind in ASKING:
            assert value(db, asked(kind, "under a lock")) is not None
    wait_until(lambda: value(db, "SELECT owed FROM pgmeaning.status") == 0)
