"""Vectors that outlive their collection: detach(keep_vectors => true), then attach."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

import pytest

from tests.integration.docs import Docs
from tests.integration.test_attach import refused
from tests.integration.test_orphans import clock, embedded, is_up_to_date, may_read, vectors
from tests.types import Connection, Drain

ROWS = "SELECT i, 'title ' || i, 'body ' || i FROM generate_series(1, 51) AS i"
DOCS = Docs("id int PRIMARY KEY, title text, body text", rows=ROWS, attach="columns => '{title}'", embedded=True)

KEEP = "SELECT pgmeaning.detach('docs', keep_vectors => true)"
ATTACH = "SELECT pgmeaning.attach('docs', columns => '{title}')"


def test_attach_takes_kept_vectors_up_and_only_what_differs_is_embedded(docs: Connection, drain: Drain) -> None:
    before = clock(docs)
    docs.execute("CREATE VIEW mine AS SELECT id FROM docs_embedding")
    docs.execute(KEEP)
    docs.execute(
        "UPDATE docs SET title = 'changed' WHERE id = 7; DELETE FROM docs WHERE id = 9; INSERT INTO docs VALUES (99, 'new')"
    )
    docs.execute(ATTACH)
    assert drain() == 0
    assert is_up_to_date(docs)
    assert embedded(docs, before) == [7, 99]
    docs.execute("UPDATE docs SET title = 'again' WHERE id = 8")
    assert drain() == 0
    assert embedded(docs, before) == [7, 8, 99]
    docs.execute("DROP VIEW mine; SELECT pgmeaning.detach('docs')")
    assert docs.execute(
        "SELECT to_regclass('docs_embedding'), to_regclass('pgmeaning_data.\"docs__synthetic-384\"')"
    ).fetchone() == (None, None)


OTHERS = [
    "columns => '{body}'",
    "template => '{title}!'",
    "columns => '{title,body}'",
    "columns => '{title}', vector_type => 'halfvec'",
    "columns => '{title}', language => 'simple'",
    "columns => '{title}', model => 'synthetic-4096'",
    "columns => '{title}', chunking => '{\"method\": \"tokens\"}'",
]


@pytest.mark.parametrize("other", OTHERS)
def test_vectors_of_another_kind_are_left_alone_and_the_view_shows_the_new_ones(
    docs: Connection, drain: Drain, other: str
) -> None:
    before = clock(docs)
    docs.execute(KEEP)
    docs.execute(f"SELECT pgmeaning.attach('docs', {other})".encode())
    assert docs.execute("SELECT FROM docs_embedding").rowcount == 0
    assert drain() == 0
    assert len(embedded(docs, before)) == 51
    assert vectors(docs) == 51
    docs.execute("SELECT pgmeaning.detach('docs')")
    assert vectors(docs) == 51
    docs.execute(ATTACH)
    assert docs.execute("SELECT FROM docs_embedding").rowcount == 51


def test_vectors_of_a_model_that_is_another_under_the_same_name_are_not_taken_up(docs: Connection) -> None:
    docs.execute(KEEP)
    docs.execute("SET session_replication_role = replica")  # past the guard, as only a superuser gets
    docs.execute("UPDATE pgmeaning.model SET fingerprint = 'another' WHERE name = 'synthetic-384'")
    docs.execute("RESET session_replication_role")
    docs.execute(ATTACH)
    assert docs.execute("SELECT FROM docs_embedding").rowcount == 0


def test_a_view_of_ones_own_on_vectors_that_do_not_fit_is_named(docs: Connection) -> None:
    docs.execute(KEEP)
    docs.execute("CREATE VIEW mine AS SELECT * FROM docs_embedding")
    error = refused(docs, "SELECT pgmeaning.attach('docs', columns => '{body}')", "PM018")
    assert "mine" in str(error.diag.message_detail)


def test_a_view_that_is_not_ours_still_bars_the_name(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.detach('docs'); CREATE VIEW docs_embedding AS SELECT 1 AS one")
    refused(docs, ATTACH, "PM002")


def test_kept_vectors_are_shown_again_to_whom_attach_names_alone(docs: Connection) -> None:
    roles = [f"{name}_{docs.info.dbname}" for name in ("old", "new")]
    docs.execute("SELECT pgmeaning.detach('docs')")
    for role in roles:
        docs.execute(f"CREATE ROLE {role}; GRANT SELECT ON docs TO {role}".encode())
    try:
        for role in roles:
            docs.execute(f"SELECT pgmeaning.attach('docs', columns => '{{title}}', grant_to => '{{{role}}}')".encode())
            docs.execute(KEEP)
        docs.execute(f"SELECT pgmeaning.attach('docs', columns => '{{title}}', grant_to => '{{{roles[1]}}}')".encode())
        assert [may_read(docs, role) for role in roles] == [[False, False], [True, True]]
    finally:
        for role in roles:
            docs.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_rows_that_a_policy_hides_are_hidden_again(docs: Connection) -> None:
    role = f"reader_{docs.info.dbname}"
    docs.execute(KEEP)
    docs.execute(f"CREATE ROLE {role}; GRANT SELECT ON docs TO {role}".encode())
    try:
        docs.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON docs USING (id <= 5)")
        docs.execute(f"SELECT pgmeaning.attach('docs', columns => '{{title}}', grant_to => '{{{role}}}')".encode())
        docs.execute(f"SET ROLE {role}".encode())
        assert docs.execute("SELECT FROM docs_embedding").rowcount == 5
    finally:
        docs.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_kept_words_and_chunks_are_taken_up_with_their_vectors(docs: Connection, drain: Drain) -> None:
    docs.execute("SELECT pgmeaning.detach('docs')")
    attach = "SELECT pgmeaning.attach('docs', columns => '{title}', language => 'simple', chunking => '{\"method\": \"tokens\", \"size\": 16}')"
    docs.execute("UPDATE docs SET title = repeat('many words ', 40) WHERE id = 1")
    docs.execute(attach.encode())
    assert drain() == 0
    before = clock(docs)
    docs.execute(KEEP)
    docs.execute("INSERT INTO docs VALUES (99, 'fresh')")
    docs.execute(attach.encode())
    assert drain() == 0
    assert embedded(docs, before) == [99]
    assert docs.execute("SELECT FROM pgmeaning_data.\"docs__synthetic-384\" WHERE words @@ 'fresh'").rowcount == 1


def test_an_orphans_vectors_may_be_kept_for_longer(docs: Connection, drain: Drain) -> None:
    before = clock(docs)
    docs.execute("DROP TABLE docs")
    assert drain() == 0
    docs.execute(KEEP)
    docs.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
    docs.execute(f"INSERT INTO docs {ROWS}".encode())
    docs.execute(ATTACH)
    assert drain() == 0
    assert embedded(docs, before) == []


def test_kept_vectors_that_were_dropped_by_hand_bar_nothing(docs: Connection, drain: Drain) -> None:
    docs.execute(KEEP)
    docs.execute('DROP TABLE pgmeaning_data."docs__synthetic-384" CASCADE')
    docs.execute(ATTACH)
    assert drain() == 0
    assert is_up_to_date(docs)
