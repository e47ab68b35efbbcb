"""Swaps beside a clumsy administrator: what changes underneath, and what other roles may do by it."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from pgmeaning.models.base import load_embedder
from pgmeaning.types import Document
from tests.conftest import wait_until
from tests.images import encoded
from tests.integration.roles import Role
from tests.types import Connect, Connection, Drain


@pytest.fixture
def docs(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, at timestamptz DEFAULT '2026-01-02 03:04+00')")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 20) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body,at}')")
    assert drain() == 0


def one(db: Connection, query: str) -> Any:
    row = db.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def start(db: Connection, what: str = "model => 'synthetic-4096'") -> None:
    db.execute(f"SELECT pgmeaning.swap_start('docs', {what})".encode())


def refused(db: Connection, statement: str, sqlstate: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        db.execute(statement.encode())
    assert caught.value.sqlstate == sqlstate, caught.value
    return caught.value


def test_vectors_of_text_and_image_are_not_taken_for_those_of_the_text(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, pic bytea)")
    text = "\n\n".join(f"Paragraph {i}. " * 1500 for i in range(3))
    db.execute("INSERT INTO docs VALUES (1, %s, %s)", (text, encoded()))
    chunking = '{"method": "paragraphs", "size": 64}'
    db.execute("SELECT pgmeaning.attach('docs', '{body}', image => 'pic', chunking => %s)", (chunking,))
    assert drain() == 0
    start(db, "image => ''")
    assert drain() == 0
    db.execute("SELECT pgmeaning.swap_activate('docs')")
    first = one(db, "SELECT chunk_text FROM docs_embedding WHERE chunk = 0")
    stored = one(db, "SELECT embedding::text FROM docs_embedding WHERE chunk = 0")
    made = load_embedder("synthetic-384").embed_documents([Document(text=first)])[0]
    assert [float(number) for number in stored.strip("[]").split(",")] == pytest.approx(made.tolist(), abs=1e-6)


def test_a_collection_that_was_detached_meanwhile_is_not_swapped(docs: None, db: Connection, connect: Connect) -> None:
    other = connect(autocommit=False)
    other.execute("SELECT pgmeaning.detach('docs')")
    waiting, watching = connect(), connect()
    outcome: list[str | None] = []

    def swap() -> None:
        try:
            start(waiting)
        except psycopg.Error as error:
            outcome.append(error.sqlstate)

    thread = threading.Thread(target=swap)
    thread.start()
    wait_until(lambda: watching.execute(
        "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'", (waiting.info.backend_pid,)
    ).rowcount == 1)  # fmt: skip
    other.commit()
    thread.join(30)
    assert outcome == ["PM001"]
    assert one(db, "SELECT count(*) FROM pgmeaning.collection") == 0


def test_a_key_that_is_widened_makes_no_view_of_a_generation(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    db.execute("ALTER TABLE docs ALTER id TYPE bigint")
    assert drain() == 0
    assert one(db, "SELECT count(*) FROM pg_views WHERE viewname LIKE 'docs%'") == 1
    db.execute("SELECT pgmeaning.swap_activate('docs')")
    db.execute("SELECT pgmeaning.swap_finish('docs')")
    db.execute("SELECT pgmeaning.detach('docs')")


def test_what_serves_has_no_pace(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    db.execute("SELECT pgmeaning.swap_activate('docs')")
    refused(db, "SELECT pgmeaning.swap_adjust('docs', until => 0)", "PM022")


def test_swaps_can_be_read_however_often_although_a_vector_table_is_gone(
    docs: None, db: Connection, drain: Drain
) -> None:
    start(db)
    drain()
    db.execute('DROP TABLE pgmeaning_data."docs@2__synthetic-4096"')
    for _ in range(8):
        assert one(db, "SELECT count(*) FROM pgmeaning.swaps") == 1


def test_whoever_was_granted_the_vectors_reads_those_that_serve(
    docs: None, db: Connection, drain: Drain, role: Role
) -> None:
    db.execute(f'GRANT SELECT ON docs, docs_embedding, pgmeaning_data."docs__synthetic-384" TO {role.name}'.encode())
    start(db)
    drain()
    db.execute("SELECT pgmeaning.swap_activate('docs')")
    assert one(role.connection, "SELECT count(*) FROM docs_embedding") == 20


def test_a_sessions_settings_make_no_row_look_stale(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    db.execute("SET datestyle = 'German'; SET timezone = 'Asia/Tokyo'")
    db.execute("SELECT pgmeaning.swap_activate('docs')")


def test_a_swap_whose_table_was_dropped_can_be_given_up(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    db.execute("DROP TABLE docs")
    db.execute("SELECT pgmeaning.swap_cancel('docs')")
    assert one(db, "SELECT count(*) FROM pgmeaning.collection") == 1


def test_a_broken_collection_is_not_swapped(docs: None, db: Connection) -> None:
    db.execute("ALTER TABLE docs RENAME body TO text")
    assert "body" in str(
        refused(db, "SELECT pgmeaning.swap_start('docs', dimensions => 64)", "PM010").diag.message_detail
    )


def test_a_table_of_another_role_is_compared_by_a_sidecar_alone(
    docs: None, db: Connection, drain: Drain, role: Role
) -> None:
    db.execute(f"GRANT CREATE ON SCHEMA public TO {role.name}".encode())
    db.execute(f"ALTER TABLE docs OWNER TO {role.name}".encode())
    drain()
    start(db)
    drain()
    db.execute("UPDATE pgmeaning.target SET scan_started_at = now() - interval '2 hours'")
    error = refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM023")
    assert "would run code" in str(error.diag.message_detail)
    db.execute("SELECT pgmeaning.refresh('docs@2')")
    drain()
    db.execute("SELECT pgmeaning.swap_activate('docs')")
    db.execute("ALTER TABLE docs OWNER TO CURRENT_USER")
