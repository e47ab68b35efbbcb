"""A swap: a collection's model or definition changes while it serves, and nothing is lost or mixed."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import psycopg
import pytest

import pgmeaning
from pgmeaning.models.base import load_embedder
from pgmeaning.models.vectors import prefix
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Document
from tests.conftest import running
from tests.types import Connect, Connection, Drain

ROWS = 40


@pytest.fixture
def docs(db: Connection, drain: Drain) -> None:
    """A table of 40 rows, attached and embedded."""
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
    db.execute(f"INSERT INTO docs SELECT i, 'title ' || i, 'body ' || i FROM generate_series(1, {ROWS}) AS i".encode())
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    assert drain() == 0


def one(db: Connection, query: str) -> Any:
    row = db.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def refused(db: Connection, statement: str, sqlstate: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        db.execute(statement.encode())
    assert caught.value.sqlstate == sqlstate, caught.value
    assert caught.value.diag.message_hint
    return caught.value


def start(db: Connection, what: str = "model => 'synthetic-4096'") -> str:
    return str(one(db, f"SELECT pgmeaning.swap_start('docs', {what})"))


def activate(db: Connection) -> None:
    db.execute("SELECT pgmeaning.swap_activate('docs')")


def models(db: Connection) -> list[tuple[str, int]]:
    return [tuple(row) for row in db.execute("SELECT model, count(*) FROM docs_embedding GROUP BY 1").fetchall()]


def swap(db: Connection) -> dict[str, Any]:
    with db.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        found = cursor.execute("SELECT * FROM pgmeaning.swaps ORDER BY swap DESC LIMIT 1").fetchone()
    assert found is not None
    return found


def vectors(db: Connection, view: str = "docs_embedding") -> dict[int, np.ndarray[Any, Any]]:
    return {
        key: np.array([float(number) for number in text.strip("[]").split(",")], np.float32)
        for key, text in db.execute(f"SELECT id, embedding::text FROM {view} WHERE chunk = 0".encode()).fetchall()
    }


# ---------------------------------------------------------------- The way through


def test_a_swap_ends_with_every_row_under_the_new_model(docs: None, db: Connection, drain: Drain) -> None:
    assert start(db) == "docs@2"
    assert models(db) == [("synthetic-384", ROWS)]
    assert drain() == 0
    activate(db)
    assert models(db) == [("synthetic-4096", ROWS)]
    db.execute("SELECT pgmeaning.swap_finish('docs')")
    assert db.execute("SELECT collection, model, role FROM pgmeaning.status").fetchall() == [
        ("docs", "synthetic-4096", "active")
    ]


def test_the_next_swap_goes_on_counting(docs: None, db: Connection, drain: Drain) -> None:
    for number, model in ((2, "synthetic-4096"), (3, "synthetic-384")):
        assert start(db, f"model => '{model}'") == f"docs@{number}"
        assert drain() == 0
        activate(db)
        db.execute("SELECT pgmeaning.swap_finish('docs')")
    assert models(db) == [("synthetic-384", ROWS)]


def test_searches_are_answered_from_the_generation_that_serves(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    key = one(db, "SELECT '[' || array_to_string(array_agg(0.1), ',') || ']' FROM generate_series(1, 4096)")
    refused(db, f"SELECT * FROM pgmeaning.nearest('docs', '{key}'::vector)", "PM014")
    assert len(db.execute(f"SELECT * FROM pgmeaning.nearest('docs@2', '{key}'::vector)".encode()).fetchall()) == 10
    activate(db)
    assert len(db.execute(f"SELECT * FROM pgmeaning.nearest('docs', '{key}'::vector)".encode()).fetchall()) == 10


def test_a_swap_asks_no_text_which_model_is_meant(docs: None, db: Connection) -> None:
    start(db)
    assert one(db, "SELECT pgmeaning._query_model(NULL, NULL, 'embed(')") == "synthetic-384"


def test_the_typed_search_means_the_generation_that_serves(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    activate(db)
    assert one(db, "SELECT (pgmeaning._collection_of('docs'::regtype)).name") == "docs"


@pytest.mark.parametrize("change", ["INSERT INTO docs VALUES (99, 't', 'new')",
                                    "UPDATE docs SET body = 'x' WHERE id = 3",
                                    "DELETE FROM docs WHERE id = 3"])  # fmt: skip
@pytest.mark.parametrize("when", ["filling", "activated", "rolled back"])
def test_writes_go_to_both_generations(docs: None, db: Connection, drain: Drain, change: str, when: str) -> None:
    start(db)
    drain()
    if when != "filling":
        activate(db)
    if when == "rolled back":
        db.execute("SELECT pgmeaning.swap_rollback('docs')")
    db.execute(change.encode())
    assert drain() == 0
    rows = {key for (key,) in db.execute("SELECT id FROM docs").fetchall()}
    expected = dict(db.execute("SELECT id, body FROM docs").fetchall())
    tables = db.execute("SELECT model, vectors::text FROM pgmeaning.target").fetchall()
    for model, table in tables:
        found = vectors(db, table)
        assert set(found) == rows
        made = load_embedder(model).embed_documents([expected[key] for key in found])
        assert np.allclose(np.stack(list(found.values())), made, atol=1e-6)


def test_a_rollback_has_what_came_since(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    activate(db)
    db.execute("INSERT INTO docs VALUES (99, 't', 'new')")
    db.execute("UPDATE docs SET body = 'changed' WHERE id = 1")
    drain()
    db.execute("SELECT pgmeaning.swap_rollback('docs')")
    assert models(db) == [("synthetic-384", ROWS + 1)]
    expected = load_embedder("synthetic-384").embed_documents(["changed"])[0]
    assert np.allclose(vectors(db)[1], expected, atol=1e-6)
    activate(db)
    assert models(db) == [("synthetic-4096", ROWS + 1)]


def test_a_cancelled_swap_leaves_nothing(docs: None, db: Connection, drain: Drain) -> None:
    objects = (
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'pgmeaning_data'::regnamespace",
        "SELECT count(*) FROM pg_proc WHERE pronamespace::regnamespace::text LIKE 'pgmeaning%'",
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'docs'::regclass",
    )
    before = [one(db, query) for query in objects]
    start(db)
    drain()
    db.execute("SELECT pgmeaning.swap_cancel('docs')")
    assert [one(db, query) for query in objects] == before
    assert swap(db)["state"] == "cancelled"
    assert start(db) == "docs@2"


# ---------------------------------------------------------------- What may change


def test_a_new_template_embeds_another_text(docs: None, db: Connection, drain: Drain) -> None:
    start(db, "template => '{title}: {body}'")
    drain()
    activate(db)
    expected = load_embedder("synthetic-384").embed_documents(["title 7: body 7"])[0]
    assert np.allclose(vectors(db)[7], expected, atol=1e-6)


def test_new_columns_replace_the_old_template(docs: None, db: Connection, drain: Drain) -> None:
    start(db, "columns => '{title}'")
    drain()
    activate(db)
    expected = load_embedder("synthetic-384").embed_documents(["title 7"])[0]
    assert np.allclose(vectors(db)[7], expected, atol=1e-6)
    assert one(db, "SELECT columns::text FROM pgmeaning.collection WHERE name = 'docs'") == "{title}"


def test_a_smaller_dimension_of_the_same_model_runs_no_model(docs: None, db: Connection, drain: Drain) -> None:
    before = vectors(db)
    start(db, "dimensions => 64")
    assert drain() == 0
    activate(db)
    after = vectors(db)
    assert set(after) == set(before)
    for key, vector in after.items():
        assert np.allclose(vector, prefix(before[key][None], 64)[0], atol=1e-6)
    assert (swap(db)["reused"], swap(db)["documents"]) == (ROWS, 0)


def test_half_precision_takes_the_vectors_over(docs: None, db: Connection, drain: Drain) -> None:
    before = vectors(db)
    start(db, "vector_type => 'halfvec'")
    assert drain() == 0
    activate(db)
    assert all(np.allclose(vector, before[key], atol=1e-3) for key, vector in vectors(db).items())
    assert swap(db)["reused"] == ROWS


def test_half_precision_is_not_taken_for_whole(docs: None, db: Connection, drain: Drain) -> None:
    for kind in ("halfvec", "vector"):
        start(db, f"vector_type => '{kind}'")
        assert drain() == 0
        activate(db)
        db.execute("SELECT pgmeaning.swap_finish('docs')")
    expected = load_embedder("synthetic-384").embed_documents(["body 7"])[0]
    assert np.array_equal(vectors(db)[7], expected)


def test_only_what_differs_is_embedded(docs: None, db: Connection, drain: Drain) -> None:
    db.execute("UPDATE docs SET body = 'changed ' || id WHERE id <= 3")
    start(db, "language => 'english'")
    assert drain() == 0
    found = swap(db)
    assert found["reused"] + found["documents"] == ROWS
    assert found["documents"] <= 3
    expected = load_embedder("synthetic-384").embed_documents(["changed 1"])[0]
    assert np.allclose(vectors(db, 'pgmeaning_data."docs@2__synthetic-384"')[1], expected, atol=1e-6)


def test_a_chunk_whose_text_stays_keeps_its_vector(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
    text = "\n\n".join(f"Paragraph {i} is about {word}. " * 600 for i, word in enumerate(("rice", "bikes", "cats")))
    db.execute("INSERT INTO docs VALUES (1, 't', %s)", (text,))
    db.execute("SELECT pgmeaning.attach('docs', '{body}', chunking => '{\"method\": \"paragraphs\", \"size\": 64}')")
    drain()
    start(db, "dimensions => 64")
    assert drain() == 0
    assert (swap(db)["reused"], swap(db)["documents"]) == (1, 0)
    activate(db)
    texts = [text for (text,) in db.execute("SELECT chunk_text FROM docs_embedding ORDER BY chunk").fetchall()]
    assert len(texts) >= 2
    whole = load_embedder("synthetic-384").embed_documents([Document(text=text) for text in texts])
    found = db.execute("SELECT embedding::text FROM docs_embedding ORDER BY chunk").fetchall()
    for (stored,), vector in zip(found, whole, strict=True):
        numbers = np.array([float(number) for number in stored.strip("[]").split(",")], np.float32)
        assert np.allclose(numbers, prefix(vector[None], 64)[0], atol=1e-6)


def test_the_words_of_a_new_language_are_those_of_the_row(docs: None, db: Connection, drain: Drain) -> None:
    start(db, "language => 'english'")
    drain()
    activate(db)
    assert one(db, "SELECT count(*) FROM pgmeaning_data.\"docs@2__synthetic-384\" WHERE words @@ 'bodi'") == ROWS


@pytest.mark.parametrize(
    ("what", "sqlstate"),
    [
        ("model => 'synthetic-384'", "PM014"),
        ("model => 'nonesuch'", "PM005"),
        ("dimensions => 5000", "PM006"),
        ("columns => '{nonesuch}'", "PM004"),
        ("template => 'no placeholder'", "PM004"),
        ("vector_type => 'text'", "PM014"),
        ("image => 'id'", "PM004"),
        ("language => 'klingon'", "PM014"),
        ("model => 'synthetic-4096', until => 2", "PM014"),
        ("model => 'synthetic-4096', rows_per_second => 0", "PM014"),
        ("model => 'synthetic-4096', rows_per_second => 1e-300", "PM014"),
        ("model => 'synthetic-4096', rows_per_second => 1e300", "PM014"),
        ("model => 'synthetic-4096', share => 'NaN'", "PM014"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(docs: None, db: Connection, what: str, sqlstate: str) -> None:
    refused(db, f"SELECT pgmeaning.swap_start('docs', {what})", sqlstate)
    assert one(db, "SELECT count(*) FROM pgmeaning.swap") == 0


# ---------------------------------------------------------------- What activation refuses


def test_an_unfilled_generation_is_not_activated(docs: None, db: Connection) -> None:
    start(db)
    refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM023")
    assert models(db) == [("synthetic-384", ROWS)]


def test_a_row_without_its_vector_keeps_a_generation_from_serving(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    db.execute('DELETE FROM pgmeaning_data."docs@2__synthetic-4096" WHERE id = 5')
    error = refused(db, "SELECT pgmeaning.swap_activate('docs', overrule => 'I insist')", "PM023")
    assert '{"id": 5}' in str(error.diag.message_detail)
    db.execute("SELECT pgmeaning.refresh('docs@2')")
    drain()
    activate(db)


def test_a_stale_vector_keeps_a_generation_from_serving(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    db.execute("SET session_replication_role = replica")
    db.execute("UPDATE docs SET body = 'unseen' WHERE id = 5")
    db.execute("SET session_replication_role = origin")
    refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM023")


def test_a_row_that_is_owed_is_not_passed_over(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    db.execute("INSERT INTO docs VALUES (99, 't', 'new')")
    error = refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM023")
    assert "no sidecar runs that has model synthetic-4096" in str(error.diag.message_detail)


def test_failed_rows_are_left_behind_only_for_a_reason_that_is_recorded(
    docs: None, db: Connection, drain: Drain
) -> None:
    start(db)
    drain()
    db.execute("INSERT INTO docs VALUES (99, 't', 'new')")
    db.execute(
        "INSERT INTO pgmeaning.queue (collection_id, model, key, failed_at, last_error) "
        "SELECT id, model, '{\"id\": 99}', now(), 'poison' FROM pgmeaning.collection"
    )
    db.execute("DELETE FROM pgmeaning.inbox")
    assert "failures" in str(refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM023"))
    db.execute("SELECT pgmeaning.swap_activate('docs', overrule => 'nobody reads row 99')")
    (recorded,) = swap(db)["overruled"]
    assert (recorded["gate"], recorded["reason"], recorded["by"]) == (
        "failures", "nobody reads row 99", one(db, "SELECT current_user"),
    )  # fmt: skip


def test_short_recall_keeps_a_generation_from_serving(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    db.execute(
        "INSERT INTO pgmeaning.vector_index (collection_id, model, kind, measured_at, recall_goal, recall) "
        "SELECT id, model, 'scan', now(), 0.99, 0.7 FROM pgmeaning.collection WHERE name = 'docs@2'"
    )
    assert "recall" in str(refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM023"))
    db.execute("SELECT pgmeaning.swap_activate('docs', overrule => 'measured by hand')")


def record(db: Connection, value: float, low: float, high: float) -> None:
    db.execute(
        "SELECT pgmeaning.record_evaluation('docs@2', 'docs', 20, 'nDCG@10', %s, 0.8, %s, %s)", (value, low, high)
    )


def test_a_worse_generation_serves_only_for_a_reason_that_is_recorded(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    record(db, 0.6, -0.3, -0.1)
    error = refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM023")
    assert "nDCG@10 0.6000, not 0.8000" in str(error.diag.message_detail)
    db.execute("SELECT pgmeaning.swap_activate('docs', overrule => 'the licence of the old one ended')")
    assert [(each["gate"], each["reason"]) for each in swap(db)["overruled"]] == [
        ("quality", "the licence of the old one ended")
    ]


def test_one_language_that_is_worse_closes_the_gate(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    record(db, 0.9, 0.05, 0.15)
    db.execute(
        "SELECT pgmeaning.record_evaluation('docs@2', 'docs', 10, 'nDCG@10', 0.1, 0.4, -0.5, -0.1, "
        '\'{"way": "vectors", "tag": "de"}\')'
    )
    error = refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM023")
    assert "nDCG@10 of vectors of de 0.1000, not 0.4000" in str(error.diag.message_detail)


def test_a_difference_that_may_be_chance_closes_no_gate(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    record(db, 0.6, -0.3, -0.1)
    record(db, 0.79, -0.03, 0.01)  # the last one counts
    activate(db)


def test_an_evaluation_can_be_required(docs: None, db: Connection, drain: Drain) -> None:
    start(db, "model => 'synthetic-4096', require_evaluation => true")
    drain()
    refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM023")
    record(db, 0.9, 0.05, 0.15)
    activate(db)


def test_a_model_that_was_changed_behind_our_back_writes_nothing(docs: None, db: Connection, drain: Drain) -> None:
    start(db, "model => 'synthetic-4096', until => 0.5")
    drain()
    half = one(db, 'SELECT count(*) FROM pgmeaning_data."docs@2__synthetic-4096"')
    assert half == ROWS // 2
    db.execute("SET session_replication_role = replica")  # as a superuser may: no trigger of ours refuses it
    db.execute("UPDATE pgmeaning.model SET fingerprint = 'another' WHERE name = 'synthetic-4096'")
    db.execute("SET session_replication_role = origin")
    db.execute("SELECT pgmeaning.swap_adjust('docs')")
    assert drain() == 1
    assert one(db, 'SELECT count(*) FROM pgmeaning_data."docs@2__synthetic-4096"') == half
    assert swap(db)["state"] == "broken"
    assert "fingerprint" in swap(db)["problem"]
    assert "fingerprint" in one(db, "SELECT problem FROM pgmeaning.status WHERE collection = 'docs@2'")
    refused(db, "SELECT pgmeaning.swap_activate('docs', overrule => 'I insist')", "PM023")


def test_the_model_of_a_generation_cannot_be_changed(docs: None, db: Connection) -> None:
    start(db)
    refused(db, "UPDATE pgmeaning.model SET location = 'elsewhere' WHERE name = 'synthetic-4096'", "PM006")


# ---------------------------------------------------------------- Its pace


def test_half_of_the_rows_can_be_filled_first(docs: None, db: Connection, drain: Drain) -> None:
    start(db, "model => 'synthetic-4096', until => 0.25")
    assert drain() == 0
    assert one(db, 'SELECT count(*) FROM pgmeaning_data."docs@2__synthetic-4096"') == ROWS // 4
    assert swap(db)["filled"] == 0.25
    refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM023")
    db.execute("SELECT pgmeaning.swap_adjust('docs')")
    assert drain() == 0
    activate(db)


def test_a_row_that_changes_is_embedded_however_far_the_scan_may_go(docs: None, db: Connection, drain: Drain) -> None:
    start(db, "model => 'synthetic-4096', until => 0")
    db.execute("UPDATE docs SET body = 'fresh' WHERE id = 30")
    assert drain() == 0
    assert one(db, 'SELECT array_agg(id) FROM pgmeaning_data."docs@2__synthetic-4096"') == [30]


def test_no_more_tokens_are_spent_than_were_allowed(docs: None, db: Connection, drain: Drain) -> None:
    start(db, "model => 'synthetic-4096', max_tokens => 10, price => 2e6")
    assert drain(claim_rows=4) == 0
    found = swap(db)
    assert 10 <= found["tokens"] < 10 + 4
    assert found["cost"] == pytest.approx(found["tokens"] * 2)
    db.execute("SELECT pgmeaning.swap_adjust('docs', max_tokens => 1000)")
    assert drain() == 0
    activate(db)


def test_a_slow_swap_takes_so_many_rows_a_second(docs: None, db: Connection, drain: Drain) -> None:
    start(db, "model => 'synthetic-4096', rows_per_second => 40")
    assert drain() == 0
    seconds = one(
        db,
        "SELECT extract(epoch FROM scan_finished_at - scan_started_at)::float8 FROM pgmeaning.target "
        "WHERE model = 'synthetic-4096'",
    )
    assert seconds > 0.9  # 40 rows, then the end is looked for a second later


# ---------------------------------------------------------------- What else may happen meanwhile


def test_a_second_swap_is_refused(docs: None, db: Connection) -> None:
    start(db)
    error = refused(db, "SELECT pgmeaning.swap_start('docs', dimensions => 64)", "PM022")
    assert "docs@2" in str(error.diag.message_detail)


@pytest.mark.parametrize("call", ["swap_activate('docs')", "swap_rollback('docs')", "swap_finish('docs')",
                                  "swap_cancel('docs')", "swap_adjust('docs')"])  # fmt: skip
def test_without_a_swap_there_is_nothing_to_do(docs: None, db: Connection, call: str) -> None:
    assert "swap_start" in str(refused(db, f"SELECT pgmeaning.{call}", "PM022").diag.message_hint)


@pytest.mark.parametrize("call", ["swap_rollback('docs')", "swap_finish('docs')"])
def test_what_does_not_serve_yet_is_neither_rolled_back_nor_finished(docs: None, db: Connection, call: str) -> None:
    start(db)
    refused(db, f"SELECT pgmeaning.{call}", "PM022")


@pytest.mark.parametrize("call", ["swap_activate('docs')", "swap_cancel('docs')"])
def test_what_serves_already_is_neither_activated_nor_cancelled(
    docs: None, db: Connection, drain: Drain, call: str
) -> None:
    start(db)
    drain()
    activate(db)
    refused(db, f"SELECT pgmeaning.{call}", "PM022")


@pytest.mark.parametrize("call", ["detach('docs@2')", "rename_collection('docs', 'papers')",
                                  "rename_collection('docs@2', 'papers')", "set_default_collection('docs@2')",
                                  "swap_start('docs@2', dimensions => 64)"])  # fmt: skip
def test_a_generation_is_managed_by_its_swap_alone(docs: None, db: Connection, call: str) -> None:
    start(db)
    refused(db, f"SELECT pgmeaning.{call}", "PM022")


def test_no_collection_may_have_the_name_of_a_generation(docs: None, db: Connection) -> None:
    refused(db, "SELECT pgmeaning.attach('docs', '{body}', collection => 'docs@2')", "PM002")
    refused(db, "SELECT pgmeaning.rename_collection('docs', 'docs@7')", "PM002")


@pytest.mark.parametrize("when", ["filling", "activated"])
def test_detach_takes_both_generations(docs: None, db: Connection, drain: Drain, when: str) -> None:
    start(db)
    drain()
    if when == "activated":
        activate(db)
    db.execute("SELECT pgmeaning.detach('docs')")
    assert one(db, "SELECT count(*) FROM pgmeaning.collection") == 0
    assert one(db, "SELECT count(*) FROM pg_tables WHERE schemaname = 'pgmeaning_data'") == 0
    assert swap(db)["state"] == "cancelled"


def test_pause_stops_both_generations(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    db.execute("SELECT pgmeaning.pause('docs')")
    assert swap(db)["state"] == "paused"
    drain()
    assert one(db, 'SELECT count(*) FROM pgmeaning_data."docs@2__synthetic-4096"') == 0
    db.execute("SELECT pgmeaning.resume('docs')")
    drain()
    activate(db)


def test_a_users_view_of_the_view_survives(docs: None, db: Connection, drain: Drain) -> None:
    db.execute("CREATE VIEW mine AS SELECT id, model, embedding FROM docs_embedding")
    start(db)
    drain()
    activate(db)
    assert one(db, "SELECT DISTINCT model FROM mine") == "synthetic-4096"


def test_rights_on_the_view_survive_another_type(docs: None, db: Connection, drain: Drain) -> None:
    role = f"reader_{one(db, 'SELECT current_database()')}"
    db.execute(f"CREATE ROLE {role}".encode())
    try:
        db.execute(f"GRANT SELECT ON docs_embedding TO {role}".encode())
        start(db, "vector_type => 'halfvec'")
        drain()
        activate(db)
        assert one(db, f"SELECT has_table_privilege('{role}', 'docs_embedding', 'SELECT')") is True
    finally:
        db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_a_dependent_object_is_named_before_a_view_of_another_type_is_made(
    docs: None, db: Connection, drain: Drain
) -> None:
    db.execute("CREATE VIEW mine AS SELECT id, embedding FROM docs_embedding")
    start(db, "vector_type => 'halfvec'")
    drain()
    assert "mine" in str(refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM018").diag.message_detail)
    assert models(db) == [("synthetic-384", ROWS)]


def test_a_swap_that_is_rolled_back_with_its_transaction_never_was(
    docs: None, connect: Connect, db: Connection
) -> None:
    other = connect(autocommit=False)
    other.execute("SELECT pgmeaning.swap_start('docs', dimensions => 64)")
    other.rollback()
    assert one(db, "SELECT count(*) FROM pgmeaning.collection") == 1


def test_of_two_activations_at_once_one_is_refused(docs: None, db: Connection, connect: Connect, drain: Drain) -> None:
    start(db)
    drain()
    other = connect(autocommit=False)
    other.execute("SELECT pgmeaning.swap_activate('docs')")
    outcome: list[str | None] = []

    def second() -> None:
        try:
            activate(db)
        except psycopg.Error as error:
            outcome.append(error.sqlstate)

    thread = threading.Thread(target=second)
    thread.start()
    other.commit()
    thread.join(30)
    assert outcome == ["PM022"]
    assert models(other) == [("synthetic-4096", ROWS)]


def test_an_open_transaction_that_reads_the_view_is_not_waited_for_without_end(
    docs: None, db: Connection, connect: Connect, drain: Drain
) -> None:
    start(db)
    drain()
    reader = connect(autocommit=False)
    reader.execute("SELECT count(*) FROM docs_embedding")
    db.execute("SET lock_timeout = '100ms'")
    refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM015")
    reader.rollback()
    activate(db)


def test_a_dropped_table_takes_both_generations_along(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    drain()
    db.execute("DROP TABLE docs")
    drain(orphan_grace=0)
    assert one(db, "SELECT count(*) FROM pgmeaning.collection") == 0
    assert swap(db)["state"] == "cancelled"


# ---------------------------------------------------------------- What it would take, and what it says


def test_explain_swap_changes_nothing_and_says_what_a_swap_takes(docs: None, db: Connection) -> None:
    call = "pgmeaning.explain_swap('docs', model => 'synthetic-4096', price => 0.5)"
    found = dict(db.execute(f"SELECT item, value FROM {call}".encode()).fetchall())
    assert found["rows"] == str(ROWS)
    assert found["tokens"] == str(ROWS)  # the synthetic model counts one for each
    assert found["kept"] == "none"
    assert "synthetic-384 -> synthetic-4096" in found["changes"]
    assert "SHARE ROW EXCLUSIVE on public.docs" in found["locks"]
    assert one(db, "SELECT count(*) FROM pgmeaning.collection") == 1


def test_explain_swap_knows_what_needs_no_model(docs: None, db: Connection) -> None:
    found = dict(db.execute("SELECT item, value FROM pgmeaning.explain_swap('docs', dimensions => 64)").fetchall())
    assert (found["kept"], found["tokens"]) == ("all", "0")


def test_every_state_of_a_swap_names_the_next_command(docs: None, db: Connection, drain: Drain) -> None:
    start(db)
    assert (swap(db)["state"], swap(db)["next"]) == ("waiting", "pgmeaning sidecar")
    drain()
    assert swap(db)["state"] == "ready"
    assert "swap_activate" in swap(db)["next"]
    activate(db)
    assert "swap_finish" in swap(db)["next"]
    db.execute("SELECT pgmeaning.swap_finish('docs')")
    assert swap(db)["next"] is None


def test_a_sidecar_for_other_models_does_not_pass_for_one_that_fills(docs: None, db: Connection, dsn: str) -> None:
    start(db)
    with running(Sidecar(dsn, Settings(maintenance=0.1), ["synthetic-384"])):
        found = swap(db)
    assert (found["state"], found["next"]) == ("waiting", "pgmeaning sidecar")
    assert "synthetic-4096" in found["problem"]


def test_the_client_swaps_as_sql_does(docs: None, dsn: str, drain: Drain) -> None:
    with pgmeaning.connect(dsn) as client:
        assert {row["item"] for row in client.explain_swap("docs", dimensions=64)} >= {"rows", "tokens", "disk"}
        assert client.swap_start("docs", dimensions=64, until=0.5) == "docs@2"
        client.swap_adjust("docs")
        drain()
        client.swap_activate("docs")
        assert client.swaps("docs")[0]["state"] == "activated"
        client.swap_rollback("docs")
        client.swap_cancel("docs")
        assert client.swaps("docs")[0]["state"] == "cancelled"
