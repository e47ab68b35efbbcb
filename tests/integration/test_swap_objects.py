"""What a swap does with the view and the rights that others have or made: keeps them, takes them back, or says why not."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.installation import BY_A_SUPERUSER
from tests.integration.test_swap import ROWS, activate, docs, models, one, refused, start
from tests.types import Connection, Drain

__all__ = ["docs"]


@pytest.fixture
def role(db: Connection) -> Iterator[str]:
    """A role without rights."""
    name = f"reader_{one(db, 'SELECT current_database()')}"
    db.execute(f"CREATE ROLE {name}".encode())
    yield name
    db.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


@pytest.mark.parametrize("what", ["vector_type => 'halfvec'", "model => 'synthetic-4096'"])
def test_what_was_said_of_the_view_and_granted_on_its_columns_survives(
    docs: None, db: Connection, drain: Drain, role: str, what: str
) -> None:
    db.execute(f"GRANT SELECT (id, embedding) ON docs_embedding TO {role}".encode())
    db.execute("COMMENT ON VIEW docs_embedding IS 'it''s ours'")
    db.execute("COMMENT ON COLUMN docs_embedding.id IS 'the key'")
    db.execute("ALTER VIEW docs_embedding SET (security_barrier = true)")
    start(db, what)
    drain()
    activate(db)
    can = f"has_column_privilege('{role}', 'docs_embedding', '%s', 'SELECT')"
    assert one(db, f"SELECT {can % 'embedding'} AND {can % 'id'} AND NOT {can % 'model'}")
    assert one(db, "SELECT obj_description('docs_embedding'::regclass)") == "it's ours"
    assert one(db, "SELECT col_description('docs_embedding'::regclass, 1)") == "the key"
    options = one(db, "SELECT reloptions FROM pg_class WHERE relname = 'docs_embedding'")
    assert set(options) == {"security_invoker=true", "security_barrier=true"}


@pytest.mark.parametrize("installation", [BY_A_SUPERUSER], indirect=True)
def test_the_reader_keeps_no_right_on_columns_that_only_a_cancelled_generation_used(db: Connection) -> None:
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text, author text)")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    db.execute("SELECT pgmeaning.attach('docs', '{author}', collection => 'others')")
    readable = (
        "SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute AS a WHERE a.attrelid = 'docs'::regclass "
        "AND a.attnum > 0 AND has_column_privilege('pgmeaning_reader', 'docs', a.attname, 'SELECT')"
    )
    before = one(db, readable)
    start(db, "template => '{title} {author}'")
    assert one(db, readable) == ["id", "title", "body", "author"]
    db.execute("SELECT pgmeaning.swap_cancel('docs')")
    assert one(db, readable) == before == ["id", "body", "author"]


def test_a_table_in_the_place_of_the_view_is_named(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    db.execute("DROP VIEW docs_embedding")
    db.execute("CREATE TABLE docs_embedding (id int)")
    error = refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM002")
    assert "docs_embedding" in str(error)
    db.execute("DROP TABLE docs_embedding")
    activate(db)
    assert models(db) == [("synthetic-4096", ROWS)]


def test_a_schema_of_the_view_that_is_gone_is_named(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    db.execute("DROP VIEW docs_embedding")
    db.execute("UPDATE pgmeaning.collection SET view_schema = 'gone'")
    assert "schema gone" in str(refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM010"))
