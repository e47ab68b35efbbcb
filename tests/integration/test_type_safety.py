"""No code of a table's owner runs as the sidecar or as the owner of pgmeaning, whatever types its columns have."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.types import Connection, Drain

TYPES = "CREATE TYPE shop.mood AS ENUM ('glad', 'sad')"
TRAP = """CREATE FUNCTION shop.trap(shop.mood) RETURNS {} LANGUAGE plpgsql AS
          $$ BEGIN INSERT INTO shop.caught VALUES (current_user || current_query()); RETURN '"x"'; END $$"""


@pytest.fixture
def owner(db: Connection, dsn: str) -> Iterator[Connection]:
    """A role that owns the schema shop and nothing else; its traps write down who ran them."""
    name = f"owner_{uuid4().hex[:12]}"
    db.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'of-this-test'")
    db.execute(f"CREATE SCHEMA shop AUTHORIZATION {name}")
    try:
        with psycopg.connect(make_conninfo(dsn, user=name, password="of-this-test"), autocommit=True) as connection:
            connection.execute("GRANT ALL ON SCHEMA shop TO PUBLIC")
            connection.execute("CREATE TABLE shop.caught (who text)")
            connection.execute("GRANT INSERT ON shop.caught TO PUBLIC")
            connection.execute(TYPES)
            for target in ("text", "json", "jsonb", "bytea"):
                connection.execute(TRAP.format(target).replace("trap", f"to_{target}"))
            yield connection
    finally:
        db.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(name)))
        db.execute(f"DROP ROLE {name}")


def set_traps(owner: Connection, context: str = "") -> None:
    for target in ("text", "json", "jsonb", "bytea"):
        owner.execute(f"CREATE CAST (shop.mood AS {target}) WITH FUNCTION shop.to_{target}(shop.mood) {context}")


def caught(db: Connection) -> list[str]:
    return [who for (who,) in db.execute("SELECT who FROM shop.caught").fetchall()]


@pytest.mark.parametrize(
    "columns",
    [
        "id int PRIMARY KEY, mood shop.mood",
        "id shop.mood PRIMARY KEY, mood text",
        "id int PRIMARY KEY, mood shop.mood[]",
    ],
)
def test_an_enum_with_a_cast_is_refused_as_a_column_and_as_a_key(
    owner: Connection, db: Connection, columns: str
) -> None:
    set_traps(owner)
    owner.execute(f"CREATE TABLE shop.docs ({columns})")
    with pytest.raises(psycopg.Error, match="has a cast of its own") as refused:
        db.execute("SELECT pgmeaning.attach('shop.docs', '{mood}')")
    assert refused.value.sqlstate == "PM004"


@pytest.mark.parametrize("kind", ["AS (word shop.mood)", "AS RANGE (subtype = int)"])
def test_types_that_are_made_of_others_are_refused(owner: Connection, db: Connection, kind: str) -> None:
    set_traps(owner)
    owner.execute(f"CREATE TYPE shop.made {kind}")
    owner.execute("CREATE TABLE shop.docs (id int PRIMARY KEY, body shop.made)")
    with pytest.raises(psycopg.Error, match=r"type shop\.(mood has a cast|made is not one that pgmeaning knows)"):
        db.execute("SELECT pgmeaning.attach('shop.docs', '{body}')")


def test_a_key_made_of_domains_is_refused_since_their_checks_run_when_a_key_is_read(
    owner: Connection, db: Connection
) -> None:
    owner.execute("CREATE DOMAIN shop.word AS text CHECK (VALUE <> '')")
    owner.execute("CREATE TABLE shop.docs (id shop.word[] PRIMARY KEY, body text)")
    with pytest.raises(psycopg.Error, match="consists of a domain"):
        db.execute("SELECT pgmeaning.attach('shop.docs', '{body}')")


@pytest.mark.parametrize("context", ["", "AS ASSIGNMENT", "AS IMPLICIT"])
@pytest.mark.parametrize("column", ["body", "id"])
def test_a_cast_that_is_made_later_runs_as_nobody(
    owner: Connection, db: Connection, dsn: str, column: str, context: str
) -> None:
    types = {"id": "int", "body": "text"} | {column: "shop.mood"}
    owner.execute(f"CREATE TABLE shop.docs (id {types['id']} PRIMARY KEY, body {types['body']})")
    db.execute("SELECT pgmeaning.attach('shop.docs', '{body}')")
    values = {"int": ("1", "2"), "shop.mood": ("glad", "sad"), "text": ("one", "two")}
    with running(Sidecar(dsn, Settings(maintenance=0.1))):
        for place in (0, 1):
            owner.execute(
                f"INSERT INTO shop.docs VALUES ('{values[types['id']][place]}', '{values[types['body']][place]}')"
            )
            if place == 0:
                db.execute("CALL pgmeaning.wait_for('docs')")
                set_traps(owner, context)
        owner.execute("UPDATE shop.docs SET body = body")
        owner.execute("DELETE FROM shop.docs WHERE format('%s', body) IN ('glad', 'one')")
        wait_until(lambda: db.execute("SELECT state FROM pgmeaning.status").fetchall() == [("broken",)])
        db.execute("SELECT * FROM pgmeaning.status")
    assert caught(db) == []
    (problem,) = db.execute("SELECT problem FROM pgmeaning.status").fetchone() or ("",)
    assert f"column {column} of shop.docs may not be embedded: type shop.mood has a cast of its own" in problem


@pytest.mark.parametrize("column", ["body", "id"])
def test_a_column_that_becomes_such_a_type_runs_no_code(
    owner: Connection, db: Connection, drain: Drain, dsn: str, column: str
) -> None:
    owner.execute("CREATE TABLE shop.docs (id text PRIMARY KEY, body text)")
    owner.execute("INSERT INTO shop.docs VALUES ('glad', 'sad')")
    db.execute("SELECT pgmeaning.attach('shop.docs', '{body}')")
    assert drain() == 0
    set_traps(owner, "AS IMPLICIT")
    owner.execute(f"ALTER TABLE shop.docs ALTER {column} TYPE shop.mood USING {column}::shop.mood")
    owner.execute("UPDATE shop.docs SET body = 'glad'")  # no sidecar has looked yet
    owner.execute("INSERT INTO shop.docs VALUES ('sad', 'sad')")
    assert drain() in (0, 1)
    assert caught(db) == []
    assert db.execute("SELECT state FROM pgmeaning.status").fetchall() == [("broken",)]


def test_an_enum_without_casts_is_embedded_by_its_labels(owner: Connection, db: Connection, drain: Drain) -> None:
    owner.execute("CREATE TABLE shop.docs (id shop.mood PRIMARY KEY, body shop.mood[])")
    owner.execute("INSERT INTO shop.docs VALUES ('glad', '{sad,glad}')")
    db.execute("SELECT pgmeaning.attach('shop.docs', '{body}')")
    owner.execute("INSERT INTO shop.docs VALUES ('sad', '{sad}')")
    assert drain() == 0
    assert db.execute("SELECT id::text FROM shop.docs_embedding ORDER BY id").fetchall() == [("glad",), ("sad",)]
    assert db.execute("SELECT key ->> 'id' FROM pgmeaning.similar('docs', '\"glad\"')").fetchall() == [("sad",)]


def test_a_key_column_that_was_renamed_costs_one_note_a_row(db: Connection) -> None:
    """And no more: keys that cannot be told from each other must not be joined with each other."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'one' FROM generate_series(1, 300) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    db.execute("ALTER TABLE docs RENAME id TO number")
    db.execute("UPDATE docs SET body = 'two'")
    assert db.execute("SELECT count(*) <= 900 FROM pgmeaning._unfolded").fetchone() == (True,)
    assert db.execute("SELECT owed > 0 FROM pgmeaning.status").fetchone() == (True,)
