"""A vector column that nobody manages: whose vectors are these?"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import pgmeaning
from pgmeaning.client.doctor import Diagnosis, adopt
from pgmeaning.errors import ArgumentError, DatabaseError
from pgmeaning.models.base import load_embedder
from pgmeaning.models.vectors import Vectors, prefix, unit_length
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.installation import INSTALLATIONS
from tests.integration.embedders import Watched
from tests.integration.test_cli import run
from tests.types import Connection, Drain

ROWS = 20
MODEL = "synthetic-384"


@pytest.fixture
def docs(db: Connection) -> None:
    """A table whose vectors, unmanaged, are the model's."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text, embedding vector)")
    db.execute(f"INSERT INTO docs SELECT i, 't' || i, 'body ' || i FROM generate_series(1, {ROWS}) AS i".encode())
    store(db, load_embedder(MODEL).embed_documents([f"body {key}" for key in range(1, ROWS + 1)]))


def store(db: Connection, vectors: Vectors, first: int = 1) -> None:
    for key, vector in enumerate(vectors, start=first):
        db.execute("UPDATE docs SET embedding = %s::vector WHERE id = %s", (str(vector.tolist()), key))


def diagnose(dsn: str, **arguments: object) -> Diagnosis:
    with pgmeaning.connect(dsn) as client:
        return client.doctor("docs.embedding", MODEL, **({"texts": ["body"]} | arguments))  # type: ignore[arg-type]


def test_vectors_of_the_model_pass(docs: None, dsn: str) -> None:
    found = diagnose(dsn)
    assert (found.passed, found.same, found.sample, found.rows) == (True, ROWS, ROWS, ROWS)


@pytest.mark.parametrize("type", ["vector(384)", "halfvec(384)"])
def test_the_type_of_the_column_does_not_matter(docs: None, db: Connection, dsn: str, type: str) -> None:
    db.execute(f"ALTER TABLE docs ALTER embedding TYPE {type}".encode())
    assert diagnose(dsn).passed


def test_a_template_says_what_was_embedded(docs: None, db: Connection, dsn: str) -> None:
    store(db, load_embedder(MODEL).embed_documents([f"t{key}: body {key}" for key in range(1, ROWS + 1)]))
    assert diagnose(dsn, texts=(), template="{title}: {body}").passed
    assert diagnose(dsn).same == 0


def test_two_models_in_one_column_are_noticed(docs: None, db: Connection, dsn: str) -> None:
    store(db, unit_length(np.random.default_rng(1).normal(size=(8, 384)).astype(np.float32)))
    found = diagnose(dsn)
    assert (found.passed, found.same, found.foreign) == (False, ROWS - 8, 8)
    assert "mixed: 8 of 20" in found.verdict


def test_vectors_of_older_texts_are_stale(docs: None, db: Connection, dsn: str) -> None:
    right = load_embedder(MODEL).embed_documents([f"body {key}" for key in range(1, 6)])
    noise = unit_length(np.random.default_rng(1).normal(size=right.shape).astype(np.float32))
    store(db, unit_length(right + 0.5 * noise))
    found = diagnose(dsn)
    assert (found.passed, found.same, found.stale) == (False, ROWS - 5, 5)


def test_what_cannot_be_the_models_is_counted_apart(docs: None, db: Connection, dsn: str) -> None:
    db.execute("UPDATE docs SET embedding = NULL WHERE id <= 2")
    db.execute("UPDATE docs SET embedding = array_fill(0, ARRAY[384])::vector WHERE id = 3")
    db.execute("UPDATE docs SET embedding = array_fill(1, ARRAY[768])::vector WHERE id = 4")
    db.execute("UPDATE docs SET body = NULL WHERE id = 5")
    found = diagnose(dsn)
    assert (found.lacking, found.unusable, found.wrong_length, found.without_text) == (2, 1, 1, 1)
    assert not found.passed


def test_vectors_that_are_not_of_unit_length_are_compared_all_the_same(docs: None, db: Connection, dsn: str) -> None:
    store(db, 3 * load_embedder(MODEL).embed_documents([f"body {key}" for key in range(1, ROWS + 1)]))
    found = diagnose(dsn)
    assert (found.passed, found.not_unit) == (True, ROWS)


def test_an_empty_column_does_not_pass(docs: None, db: Connection, dsn: str) -> None:
    db.execute("UPDATE docs SET embedding = NULL")
    assert (diagnose(dsn).passed, diagnose(dsn).verdict) == (False, "it holds no vector")


@pytest.mark.parametrize(("column", "texts"), [("embedding", ["body"]), ("docs.body", ["body"]),
                                               ("docs.nope", ["body"]),
                                               ("docs.embedding", [])])  # fmt: skip
def test_what_makes_no_sense_is_refused(docs: None, dsn: str, column: str, texts: list[str]) -> None:
    with pgmeaning.connect(dsn) as client, pytest.raises(ArgumentError) as caught:
        client.doctor(column, MODEL, texts)
    assert caught.value.hint


def test_rows_without_a_text_do_not_count(docs: None, db: Connection, dsn: str) -> None:
    db.execute("UPDATE docs SET body = CASE id WHEN 1 THEN NULL ELSE ' ' END WHERE id <= 5")
    found = diagnose(dsn)
    assert (found.passed, found.same, found.without_text) == (True, ROWS - 5, 5)
    db.execute("UPDATE docs SET body = NULL")
    assert (diagnose(dsn).passed, diagnose(dsn).verdict) == (False, "it holds no vector of a text")


def test_names_are_quoted_as_in_sql(docs: None, db: Connection, dsn: str) -> None:
    db.execute("""CREATE SCHEMA "My.1%" """)
    db.execute("""ALTER TABLE docs SET SCHEMA "My.1%" """)
    db.execute("""ALTER TABLE "My.1%".docs RENAME COLUMN embedding TO "Em""bed.d%" """)
    db.execute("""ALTER TABLE "My.1%".docs RENAME COLUMN body TO "the {body}'s %" """)
    with pgmeaning.connect(dsn) as client:
        found = client.doctor(""" "My.1%".docs."Em""bed.d%" """, MODEL, ["the {body}'s %"])
        assert (found.passed, found.vector) == (True, 'Em"bed.d%')
        client.attach('"My.1%".docs', ["the {body}'s %"], adopt=found.vector, collection="odd")
    assert db.execute('SELECT count(*) FROM "My.1%".odd_embedding').fetchone() == (ROWS,)


def test_the_databases_errors_are_ours(docs: None, dsn: str) -> None:
    with pytest.raises(DatabaseError, match="nothing"):
        diagnose(dsn, texts=["nothing"])


def test_the_command_exits_as_it_finds(docs: None, db: Connection, dsn: str) -> None:
    command = ("--dsn", dsn, "doctor", "--column", "docs.embedding", "--model", MODEL, "--text", "body")
    found = run(*command, "--json")
    assert (found.returncode, json.loads(found.stdout)["same"]) == (0, ROWS)
    store(db, unit_length(np.random.default_rng(1).normal(size=(ROWS, 384)).astype(np.float32)))
    assert run(*command).returncode == 1


# ---------------------------------------------------------------- Taking them up


def test_a_column_that_passes_is_taken_up_without_the_model(docs: None, db: Connection, dsn: str) -> None:
    watched = Watched()
    with pgmeaning.connect(dsn) as client:
        assert client.attach("docs", ["body"], adopt="embedding") == "docs"
    assert db.execute("SELECT state FROM pgmeaning.collection").fetchone() == ("active",)
    assert Sidecar(dsn, Settings(), load=watched.load).run(drain=True) == 0
    assert not watched.embedded
    made = load_embedder(MODEL).embed_documents([f"body {key}" for key in range(1, ROWS + 1)])
    stored = db.execute("SELECT embedding::text FROM docs_embedding ORDER BY id").fetchall()
    assert np.allclose([json.loads(text) for (text,) in stored], made, atol=1e-5)


def test_rows_without_a_usable_vector_are_embedded_as_ever(docs: None, db: Connection, dsn: str) -> None:
    rows = 400
    db.execute("INSERT INTO docs SELECT i, 't' || i, 'body ' || i FROM generate_series(21, %s) AS i", (rows,))
    store(db, load_embedder(MODEL).embed_documents([f"body {key}" for key in range(ROWS + 1, rows + 1)]), ROWS + 1)
    db.execute("UPDATE docs SET embedding = NULL WHERE id = 3")
    watched = Watched()
    with pgmeaning.connect(dsn) as client:
        client.attach("docs", ["body"], adopt="embedding")
    db.execute("UPDATE docs SET body = 'changed' WHERE id = 4")
    assert Sidecar(dsn, Settings(), load=watched.load).run(drain=True) == 0
    assert set(watched.embedded) == {"body 3", "changed"}
    assert db.execute("SELECT count(*) FROM docs_embedding").fetchone() == (rows,)


def test_a_column_of_another_model_is_not_taken_up_and_nothing_is_attached(
    docs: None, db: Connection, dsn: str
) -> None:
    store(db, unit_length(np.random.default_rng(1).normal(size=(ROWS, 384)).astype(np.float32)))
    with pgmeaning.connect(dsn) as client, pytest.raises(ArgumentError, match="cannot be adopted"):
        client.attach("docs", ["body"], adopt="embedding")
    assert db.execute("SELECT count(*) FROM pgmeaning.collection").fetchone() == (0,)


def test_longer_vectors_of_the_model_are_shortened(docs: None, db: Connection, dsn: str) -> None:
    with pgmeaning.connect(dsn) as client:
        client.attach("docs", ["body"], dimensions=64, adopt="embedding")
    stored = db.execute("SELECT embedding::text FROM docs_embedding ORDER BY id").fetchall()
    made = load_embedder(MODEL).embed_documents([f"body {key}" for key in range(1, ROWS + 1)])
    assert np.allclose([json.loads(text) for (text,) in stored], prefix(made, 64), atol=1e-5)


def test_the_command_line_takes_a_column_up(docs: None, db: Connection, dsn: str) -> None:
    found = run("--dsn", dsn, "attach", "docs", "--column", "body", "--adopt", "embedding")
    assert (found.returncode, found.stdout) == (0, "docs\n")
    assert db.execute("SELECT count(*) FROM docs_embedding").fetchone() == (ROWS,)


@pytest.mark.parametrize("installation", INSTALLATIONS, indirect=True)
def test_each_installation_takes_a_column_up(docs: None, db: Connection, dsn: str, drain: Drain) -> None:
    with pgmeaning.connect(dsn) as client:
        client.attach("docs", ["body"], adopt="embedding")
    assert db.execute("SELECT count(*) FROM docs_embedding").fetchone() == (ROWS,)
    assert drain() == 0


@pytest.mark.parametrize("changed", ["id = 7", "id <= 15"])
def test_rows_that_change_while_a_column_is_taken_up_are_embedded(
    docs: None, db: Connection, dsn: str, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*arguments: Any) -> int:
        db.execute(f"UPDATE docs SET body = 'changed ' || id WHERE {changed}".encode())
        return adopt(*arguments)

    watched = Watched()
    monkeypatch.setattr("pgmeaning.client.client.adopt_column", late)
    with pgmeaning.connect(dsn) as client:
        client.attach("docs", ["body"], adopt="embedding")
    assert Sidecar(dsn, Settings(), load=watched.load).run(drain=True) == 0
    texts = db.execute(f"SELECT body FROM docs WHERE {changed}".encode()).fetchall()
    assert sorted(watched.embedded) == sorted(text for (text,) in texts)
    made = load_embedder(MODEL).embed_documents([text for (text,) in texts])
    stored = db.execute(f"SELECT embedding::text FROM docs_embedding WHERE {changed} ORDER BY id".encode()).fetchall()
    order = np.argsort([int(text.split()[1]) for (text,) in texts])
    assert np.allclose([json.loads(text) for (text,) in stored], made[order], atol=1e-5)


@pytest.mark.parametrize("also", [{"chunking": {"method": "tokens", "size": 64}}, {"image": "title"}])
def test_what_a_column_cannot_hold_is_refused_and_nothing_is_attached(
    docs: None, db: Connection, dsn: str, also: dict[str, Any]
) -> None:
    with pgmeaning.connect(dsn) as client, pytest.raises(ArgumentError, match="adopt goes with no chunking"):
        client.attach("docs", ["body"], adopt="embedding", **also)
    assert db.execute("SELECT count(*) FROM pgmeaning.collection").fetchone() == (0,)
