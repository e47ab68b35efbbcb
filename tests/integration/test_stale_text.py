"""What a row said before is not told of it: not its text, nor by which words it matches."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

import pgmeaning
from tests.integration.docs import Docs, cache
from tests.integration.roles import PASSWORD, Role
from tests.integration.test_chunks import embed_all, text_of
from tests.types import Connection, Drain, Rows

VECTORS = 'pgmeaning_data."docs__synthetic-384"'

# Rows of two tenants; each role is a tenant.
DOCS = Docs(
    columns="id int PRIMARY KEY, tenant text, body text, seen timestamptz DEFAULT '2026-01-01 12:00+02'",
    attach="'{body,seen}', language => 'simple', chunking => '{\"method\": \"paragraphs\", \"size\": 16}'",
)

TEXTS = {
    "search": "SELECT (key->>'id')::int, chunk_text FROM pgmeaning.search('docs', 'q', 20, grouped => false)",
    "a page": "SELECT (key->>'id')::int, chunk_text FROM pgmeaning.search('docs', 'q', after => (-1, '{\"id\": 0}'))",
    "hybrid": "SELECT (key->>'id')::int, chunk_text FROM pgmeaning.search('docs', 'q', 20, mode => 'hybrid')",
    "many": "SELECT (key->>'id')::int, chunk_text FROM pgmeaning.search_many('docs', '{q}', 20)",
    "nearest": "SELECT (key->>'id')::int, chunk_text FROM pgmeaning.nearest('docs', pgmeaning.embed('q'), 20)",
    "similar": "SELECT (key->>'id')::int, chunk_text FROM pgmeaning.similar('docs', '2', 20)",
    "view": "SELECT id, chunk_text FROM docs_embedding",
}


def firsts(rows: Rows, key: int) -> set[str | None]:
    """The first word of each text that is shown of a row, or None."""
    return {text and text.split()[0] for row, text in rows if row == key}


@pytest.fixture
def tenants(docs: Connection, dsn: str, role: Role) -> Connection:
    """Row 1 was another tenant's when it was embedded, and is the role's now; 2 is the role's, 3 the other's."""
    docs.execute(
        "INSERT INTO docs SELECT i, CASE i WHEN 2 THEN %s ELSE 'other' END, b "
        "FROM unnest(%s::text[]) WITH ORDINALITY AS u (b, i)",
        (role.name, [text_of("secret", "hidden", *range(9)), text_of("mine", "own"), text_of("third", "away")]),
    )
    docs.execute(
        "CREATE POLICY tenant ON docs USING (tenant = current_user); ALTER TABLE docs ENABLE ROW LEVEL SECURITY"
    )
    docs.execute(f"GRANT SELECT, INSERT, DELETE ON docs TO {role.name}")
    docs.execute(f"GRANT SELECT ON {VECTORS}, docs_embedding TO {role.name}")
    embed_all(dsn)
    for query in ("q", "secretw1", "minew1"):
        cache(docs, query)
    docs.execute("DELETE FROM docs WHERE id = 1")
    role.connection.execute(f"INSERT INTO docs VALUES (1, '{role.name}', 'new')")
    return docs


@pytest.mark.parametrize("way", TEXTS)
def test_the_text_of_the_row_before_is_withheld(tenants: Connection, role: Role, way: str) -> None:
    found = role.rows(TEXTS[way])
    assert firsts(found, 1) <= {None}
    assert firsts(found, 2) <= {"minew0", "ownw0"}, "what is still true is shown"
    assert found


def test_its_words_match_no_longer(tenants: Connection, role: Role) -> None:
    hits = role.rows("SELECT key->>'id', text_rank FROM pgmeaning.search('docs', 'secretw1', mode => 'hybrid')")
    assert [(key, rank) for key, rank in hits if rank is not None] == []
    hits = role.rows("SELECT key->>'id', text_rank FROM pgmeaning.search('docs', 'minew1', mode => 'hybrid')")
    assert [(key, rank) for key, rank in hits if rank is not None] == [("2", 1)]


def test_a_reranker_reads_what_the_row_says_now(tenants: Connection, role: Role) -> None:
    hits = role.rows(TEXTS["nearest"].replace("(key->>'id')::int", "key::text"))
    ((texts,),) = role.connection.execute(
        "SELECT pgmeaning._texts(c, %s::jsonb[], %s::text[]) "
        "FROM (SELECT (pgmeaning._collection('docs'::text)).*) AS c",
        ([key for key, _ in hits], [text for _, text in hits]),
    ).fetchall()
    assert any(text.startswith("new") for text in texts)
    assert "secret" not in str(texts)


def test_the_client_is_shown_the_row_as_it_is(tenants: Connection, dsn: str, role: Role) -> None:
    with pgmeaning.connect(psycopg.conninfo.make_conninfo(dsn, user=role.name, password=PASSWORD)) as client:
        hits = {hit.key["id"]: hit for hit in client.search("docs", "q")}
    assert hits[1].chunk_text is None
    assert (hits[1].text or "").startswith("new")
    assert (hits[2].chunk_text or "").startswith(("minew0", "ownw0"))


def test_the_text_is_shown_again_once_it_is_embedded(tenants: Connection, dsn: str, role: Role) -> None:
    role.connection.execute("DELETE FROM docs WHERE id = 1")
    role.connection.execute("INSERT INTO docs VALUES (1, %s, %s)", (role.name, text_of("later", "still")))
    embed_all(dsn)
    for way, statement in TEXTS.items():
        assert firsts(role.rows(statement), 1) <= {"laterw0", "stillw0"}, way


def test_settings_of_the_session_change_no_hash(tenants: Connection, role: Role) -> None:
    role.connection.execute("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET bytea_output = 'escape'")
    assert firsts(role.rows(TEXTS["search"]), 2) == {"minew0", "ownw0"}


def test_a_changed_row_has_no_old_text_for_anybody(docs: Connection, dsn: str) -> None:
    docs.execute("INSERT INTO docs VALUES (1, 'x', %s)", (text_of("secret", "hidden"),))
    embed_all(dsn)
    cache(docs, "q")
    assert docs.execute("SELECT count(chunk_text) FROM pgmeaning.search('docs', 'q')").fetchone() == (1,)
    docs.execute("UPDATE docs SET body = 'redacted'")
    assert docs.execute("SELECT count(*), count(chunk_text) FROM pgmeaning.search('docs', 'q')").fetchone() == (1, 0)


@pytest.mark.parametrize("change", ["RENAME body TO content", "DROP body"])
def test_what_cannot_be_compared_is_withheld(docs: Connection, dsn: str, change: str) -> None:
    docs.execute("INSERT INTO docs VALUES (1, 'x', %s)", (text_of("one", "two"),))
    embed_all(dsn)
    cache(docs, "q")
    docs.execute(f"ALTER TABLE docs {change}".replace("RENAME", "RENAME COLUMN").replace("DROP", "DROP COLUMN"))
    assert docs.execute("SELECT count(*), count(chunk_text) FROM pgmeaning.search('docs', 'q')").fetchone() == (1, 0)
    assert docs.execute("SELECT count(chunk_text) FROM docs_embedding").fetchone() == (2,), "no row security: as it is"


def test_nothing_is_hashed_where_documents_are_not_cut(db: Connection, drain: Drain) -> None:
    """An embedded column whose text cannot be made any more would be noticed."""
    name = f"odd_{uuid4().hex[:8]}"
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES (1, 'one')")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    cache(db, "q")
    assert drain() == 0
    db.execute(f"ALTER TABLE docs RENAME body TO {name}")
    assert db.execute("SELECT key->>'id' FROM pgmeaning.search('docs', 'q')").fetchall() == [("1",)]
