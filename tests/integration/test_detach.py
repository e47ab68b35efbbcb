"""detach, pause, resume, refresh, retry, and what becomes of a collection whose tables are dropped."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.docs import Docs
from tests.integration.test_attach import leftovers, refused
from tests.types import Connection, Drain

DOCS = Docs(columns="id int PRIMARY KEY, title text, body text, image bytea")


def test_detach_leaves_nothing_but_kept_vectors(docs: Connection, drain: Drain) -> None:
    before = leftovers(docs)
    docs.execute("INSERT INTO docs VALUES (1, 'one')")
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    docs.execute("SELECT pgmeaning.detach('docs')")
    assert leftovers(docs) == before
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    assert drain() == 0
    docs.execute("SELECT pgmeaning.detach('docs', keep_vectors => true)")
    assert docs.execute("SELECT count(*) FROM docs_embedding").fetchone() == (1,)
    docs.execute("INSERT INTO docs VALUES (2, 'two')")
    assert docs.execute("SELECT count(*) FROM pgmeaning._unfolded").fetchone() == (0,)


def test_detach_names_what_depends_on_the_vectors(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    docs.execute("CREATE VIEW mine AS SELECT * FROM docs_embedding")
    assert "mine" in str(refused(docs, "SELECT pgmeaning.detach('docs')", "PM018").diag.message_detail)
    docs.execute("DROP VIEW mine; SELECT pgmeaning.detach('docs')")


def test_detach_works_after_table_and_schema_were_renamed(db: Connection) -> None:
    db.execute("CREATE SCHEMA one; CREATE TABLE one.docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('one.docs', columns => '{body}')")
    db.execute("ALTER SCHEMA one RENAME TO two; ALTER TABLE two.docs RENAME TO papers")
    db.execute("SELECT pgmeaning.detach('docs')")
    assert db.execute("SELECT to_regclass('two.docs_embedding')").fetchone() == (None,)


def test_detach_beside_a_busy_sidecar_never_deadlocks(docs: Connection, dsn: str) -> None:
    docs.execute("INSERT INTO docs SELECT i, 'title ' || i FROM generate_series(1, 3000) AS i")
    with running(Sidecar(dsn, Settings(claim_rows=16, batch_rows=16))):
        for _ in range(3):
            docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
            wait_until(lambda: docs.execute("SELECT FROM docs_embedding LIMIT 1").rowcount == 1)
            docs.execute("UPDATE docs SET title = title || '!' WHERE id < 500; SELECT pgmeaning.detach('docs')")


def test_an_unknown_collection_is_an_error_that_lists_those_there_are(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    for function in ("detach", "pause", "resume", "refresh", "retry"):
        assert "docs" in str(refused(docs, f"SELECT pgmeaning.{function}('nope')", "PM001").diag.message_detail)
        refused(docs, f"SELECT pgmeaning.{function}(NULL)", "PM001")


def test_a_paused_collection_records_changes_and_embeds_them_after_resume(docs: Connection, drain: Drain) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}'); SELECT pgmeaning.pause('docs')")
    docs.execute("INSERT INTO docs VALUES (1, 'one')")
    assert drain() == 0
    assert docs.execute("SELECT count(*) FROM docs_embedding").fetchone() == (0,)
    docs.execute("SELECT pgmeaning.resume('docs')")
    assert drain() == 0
    assert docs.execute("SELECT count(*) FROM docs_embedding").fetchone() == (1,)


def test_refresh_finds_rows_that_triggers_could_not_see(docs: Connection, drain: Drain) -> None:
    docs.execute(
        "SELECT pgmeaning.attach('docs', columns => '{title}'); INSERT INTO docs VALUES (1, 'one'), (2, 'two')"
    )
    assert drain() == 0
    docs.execute("SET session_replication_role = replica")
    docs.execute(
        "INSERT INTO docs VALUES (3, 'new'); UPDATE docs SET title = 'changed' WHERE id = 2; DELETE FROM docs WHERE id = 1"
    )
    docs.execute("SELECT pgmeaning.refresh('docs')")
    assert drain() == 0
    found = docs.execute(
        "SELECT id, content_hash = sha256(convert_to(jsonb_build_array(title)::text, 'UTF8')) "
        "FROM docs_embedding LEFT JOIN docs USING (id) ORDER BY 1"
    ).fetchall()
    assert found == [(2, True), (3, True)]


def test_retry_puts_failed_rows_back_and_counts_them(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    docs.execute(
        "INSERT INTO pgmeaning.queue (collection_id, model, key, attempts, failed_at, last_error) "
        "SELECT id, model, jsonb_build_object('id', i), 5, now(), 'broken' FROM pgmeaning.collection, generate_series(1, 3) AS i"
    )
    assert docs.execute("SELECT pgmeaning.retry('docs')").fetchone() == (3,)
    assert docs.execute("SELECT pgmeaning.retry('docs')").fetchone() == (0,)
    assert docs.execute("SELECT count(*) FROM pgmeaning.queue WHERE failed_at IS NULL AND attempts = 0").fetchone() == (
        3,
    )


def test_without_a_grace_period_a_dropped_source_is_cleaned_up_at_once(docs: Connection, dsn: str) -> None:
    before = docs.execute("SELECT count(*) FROM pg_class").fetchone()
    docs.execute("CREATE TABLE gone (id int PRIMARY KEY, body text); INSERT INTO gone VALUES (1, 'one')")
    docs.execute("SELECT pgmeaning.attach('gone', columns => '{body}'); DROP TABLE gone")
    with running(Sidecar(dsn, Settings(maintenance=0.1, orphan_grace=0))):
        wait_until(lambda: docs.execute("SELECT FROM pgmeaning.collection").rowcount == 0)
        wait_until(lambda: docs.execute("SELECT count(*) FROM pg_class").fetchone() == before)


def test_the_name_of_a_dropped_tables_collection_is_free_at_once(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{body}'); DROP TABLE docs")
    docs.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, body text); SELECT pgmeaning.attach('docs', columns => '{body}')"
    )


def test_a_dropped_vector_table_breaks_its_collection_alone(docs: Connection, drain: Drain) -> None:
    docs.execute("CREATE TABLE other (id int PRIMARY KEY, body text); INSERT INTO other VALUES (1, 'one')")
    docs.execute("SELECT pgmeaning.attach('docs', columns => '{body}'), pgmeaning.attach('other', columns => '{body}')")
    docs.execute("DROP TABLE pgmeaning_data.\"docs__synthetic-384\" CASCADE; INSERT INTO docs VALUES (1, NULL, 'one')")
    drain()
    assert docs.execute("SELECT count(*) FROM other_embedding").fetchone() == (1,)
    docs.execute("SELECT pgmeaning.detach('docs')")
