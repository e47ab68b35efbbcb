"""prepare() and wait_for(): procedures that commit, and so run outside a transaction block."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgmeaning.errors import InputError
from pgmeaning.models.synthetic import SyntheticEmbedder
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running
from tests.integration.docs import Docs
from tests.types import Connect, Connection, Drain

CALLS = [
    ("CALL pgmeaning.prepare('rice')", ()),  # simple protocol
    ("CALL pgmeaning.prepare(%s)", ("rice",)),  # extended protocol
    ("CALL pgmeaning.wait_for('docs')", ()),
    ("CALL pgmeaning.wait_for(%s)", ("docs",)),
]


DOCS = Docs(columns="id bigint PRIMARY KEY, body text", rows="VALUES (1, 'one'), (2, 'two')", attach="'{body}'")


def test_they_work_in_autocommit_whatever_the_isolation_and_the_protocol(
    docs: None, connect: Connect, sidecar: Sidecar
) -> None:
    for isolation in ("read committed", "repeatable read", "serializable"):
        connection = connect(options=f"-c default_transaction_isolation={isolation.replace(' ', chr(92) + ' ')}")
        for call, arguments in CALLS:
            connection.execute(call, arguments)


def test_inside_a_transaction_block_they_say_what_to_do(docs: None, connect: Connect) -> None:
    connection = connect(autocommit=False)
    for call, arguments in CALLS:
        connection.execute("SELECT 1")
        with pytest.raises(psycopg.Error, match="cannot run inside a transaction block") as caught:
            connection.execute(call, arguments)
        assert caught.value.sqlstate == "PM012"
        assert "COMMIT first" in str(caught.value.diag.message_hint)
        connection.rollback()


def test_the_first_statement_of_a_block_is_inside_it(docs: None, connect: Connect) -> None:
    with pytest.raises(psycopg.Error) as caught:
        connect(autocommit=False).execute("CALL pgmeaning.prepare('rice')")
    assert caught.value.sqlstate == "PM012"


def test_a_function_cannot_call_them(docs: None, db: Connection) -> None:
    db.execute("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL pgmeaning.prepare('rice'); END $$")
    with pytest.raises(psycopg.Error) as caught:
        db.execute("SELECT f()")
    assert caught.value.sqlstate == "PM012"


def test_a_path_of_the_callers_own_changes_nothing(docs: None, db: Connection, sidecar: Sidecar) -> None:
    db.execute("CREATE SCHEMA own")
    db.execute("CREATE FUNCTION own.format(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 1 / 0 || '' $$")
    db.execute("SET search_path = own")
    db.execute("CALL pgmeaning.prepare('rice')")
    db.execute("CALL pgmeaning.wait_for('docs')")


def test_a_prepared_query_is_found_without_a_sidecar(docs: None, db: Connection, dsn: str) -> None:
    with running(Sidecar(dsn, Settings())):
        db.execute("CALL pgmeaning.prepare('rice')")
    assert db.execute("SELECT pgmeaning.embed('rice') IS NOT NULL").fetchone() == (True,)


def test_prepare_without_a_sidecar_gives_up_when_time_is_up(db: Connection) -> None:
    with pytest.raises(psycopg.Error, match="no sidecar answered") as caught:
        db.execute("CALL pgmeaning.prepare('rice', timeout => '0.2 seconds')")
    assert caught.value.sqlstate == "PM007"


def test_wait_for_gives_up_when_time_is_up(docs: None, db: Connection) -> None:
    with pytest.raises(psycopg.Error, match="still owes vectors") as caught:
        db.execute("CALL pgmeaning.wait_for('docs', timeout => '0.2 seconds')")
    assert caught.value.sqlstate == "PM007"
    assert "sidecar" in str(caught.value.diag.message_hint)


def test_wait_for_knows_a_row_by_any_spelling_of_its_key(docs: None, db: Connection, drain: Drain) -> None:
    drain()
    db.execute("INSERT INTO docs VALUES (3, 'three')")
    for key in ("3", '"3"', '{"id": 3}', '{"id": "3"}', '{"id": 3, "more": 1}'):
        with pytest.raises(psycopg.Error) as caught:
            db.execute("CALL pgmeaning.wait_for('docs', %s, '0.05 seconds')", (key,))
        assert caught.value.sqlstate == "PM007"
    db.execute("CALL pgmeaning.wait_for('docs', '1', '0.05 seconds')")


def test_wait_for_refuses_what_is_no_key(docs: None, db: Connection) -> None:
    for key in ('"abc"', '{"nr": 1}', "[1]", "true"):
        with pytest.raises(psycopg.Error, match="is not a key of collection 'docs'") as caught:
            db.execute("CALL pgmeaning.wait_for('docs', %s)", (key,))
        assert caught.value.sqlstate == "PM014"


class Picky(SyntheticEmbedder):
    """Refuses one text."""

    def embed_documents(self, documents: Any) -> Any:
        if any(document.text == "poison" for document in documents):
            raise InputError("cannot read this")
        return super().embed_documents(documents)


def test_wait_for_tells_of_a_failed_row_until_it_is_changed(docs: None, db: Connection, dsn: str) -> None:
    with running(Sidecar(dsn, Settings(attempts=1), load=lambda _: Picky(384))):
        db.execute("INSERT INTO docs VALUES (3, 'poison')")
        with pytest.raises(psycopg.Error, match="could not be embedded") as caught:
            db.execute("CALL pgmeaning.wait_for('docs', '3')")
        assert caught.value.sqlstate == "PM008"
        assert "pgmeaning.failures" in str(caught.value.diag.message_hint)
        db.execute("UPDATE docs SET body = 'three' WHERE id = 3")
        db.execute("CALL pgmeaning.wait_for('docs', '3')")
    assert db.execute("SELECT count(*) FROM docs_embedding WHERE id = 3").fetchone() == (1,)
