"""Rows without content have no vector: all that is embedded of them is null, empty or white space."""

from __future__ import annotations

from typing import Any

import pytest

from tests.images import encoded
from tests.integration.docs import cache
from tests.types import Connection, Drain

CHUNKS = ', chunking => \'{"method": "tokens", "size": 16}\''
BLANK = ["", " " * 5000, " ", "\n\t \r\n", "\u00a0", "\u3000\u2003", "\u200b"]


def vectors(db: Connection) -> list[Any]:
    return [id for (id,) in db.execute("SELECT DISTINCT id FROM docs_embedding ORDER BY id").fetchall()]


def status(db: Connection) -> Any:
    return db.execute("SELECT state, owed, failed FROM pgmeaning.status WHERE collection = 'docs'").fetchone()


@pytest.mark.parametrize(
    "attach",
    ["columns => '{title,body}'", "template => 'Title: {title}. Body: {body}'", "columns => '{title,body}'" + CHUNKS],
)
def test_a_row_of_nulls_and_blanks_has_no_vector(db: Connection, drain: Drain, attach: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
    db.execute("INSERT INTO docs VALUES (1, 'cat', ' '), (2, NULL, 'dog'), (3, NULL, NULL), (4, '', NULL)")
    for blank in BLANK:
        db.execute("INSERT INTO docs SELECT max(id) + 1, %s, %s FROM docs", (blank, blank))
    db.execute(f"SELECT pgmeaning.attach('docs', {attach})".encode())
    assert drain() == 0
    assert vectors(db) == [1, 2]
    assert status(db) == ("ready", 0, 0)
    cache(db, "cat")
    assert len(db.execute("SELECT FROM pgmeaning.search('docs', 'cat')").fetchall()) == 2
    db.execute("CALL pgmeaning.wait_for('docs', '3')")
    db.execute("CALL pgmeaning.wait_for('docs')")


@pytest.mark.parametrize("attach", ["template => 'Body: {body}'", "columns => '{body}'" + CHUNKS])
def test_a_row_that_becomes_blank_loses_its_vector_and_gets_one_with_its_next_text(
    db: Connection, drain: Drain, attach: str
) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES (1, 'cat'), (2, repeat('many words ', 40))")
    db.execute(f"SELECT pgmeaning.attach('docs', {attach})".encode())
    assert drain() == 0
    assert vectors(db) == [1, 2]
    db.execute("UPDATE docs SET body = ' '")
    assert drain() == 0
    assert (vectors(db), status(db)) == ([], ("ready", 0, 0))
    db.execute("UPDATE docs SET body = 'cat' WHERE id = 2")
    assert drain() == 0
    assert vectors(db) == [2]


def test_a_reconcile_takes_the_vector_of_a_row_that_became_blank_unnoticed(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES (1, 'cat'), (2, 'dog')")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    assert drain() == 0
    db.execute("SET session_replication_role = replica")
    db.execute("UPDATE docs SET body = E' \\n' WHERE id = 1")
    db.execute("RESET session_replication_role")
    db.execute("SELECT pgmeaning.refresh('docs')")
    assert drain() == 0
    assert vectors(db) == [2]


def test_an_image_is_content_however_blank_the_text(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, photo bytea)")
    db.execute("INSERT INTO docs VALUES (1, ' ', %s), (2, ' ', NULL)", (encoded(),))
    db.execute("SELECT pgmeaning.attach('docs', template => 'A photo of {body}', image => 'photo')")
    assert drain() == 0
    assert vectors(db) == [1]
