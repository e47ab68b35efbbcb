"""Long documents: cut into chunks, written row by row, and embedded anew only where their text changed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector

from pgmeaning.models.base import load_embedder
from pgmeaning.models.vectors import Vectors
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Document
from tests.conftest import running, wait_until
from tests.images import BLUE, RED, encoded, plain_image
from tests.integration.embedders import Gate, Watched, raising
from tests.integration.test_sidecar_crash import process, reached
from tests.types import Connection

Act = Callable[[list[str], Vectors], Vectors]
VECTORS = 'pgmeaning_data."docs__synthetic-384"'
PARAGRAPHS = '{"method": "paragraphs", "size": 16}'


class Words(Watched):
    """A model whose tokens are words, with two around each text."""

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        return [2 + len((document.text or "").split()) for document in documents]


def embed_all(dsn: str, act: Act | None = None, status: int = 0, **settings: Any) -> Words:
    """Drain with a model of words; it tells what it was given."""
    words = Words(act)
    assert Sidecar(dsn, Settings(**settings), load=words.load).run(drain=True) == status
    return words


def paragraph(name: object, words: int = 12) -> str:
    return " ".join(f"{name}w{number}" for number in range(words))


def text_of(*names: object) -> str:
    return "\n\n".join(map(paragraph, names))


def make_docs(db: Connection, chunking: str = PARAGRAPHS, more: str = "") -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute(f"SELECT pgmeaning.attach('docs', ARRAY['body'], chunking => %s{more})".encode(), (chunking,))


def put(db: Connection, key: int, body: str | None) -> None:
    db.execute("INSERT INTO docs VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body", (key, body))


def chunks(db: Connection, key: int = 1) -> list[tuple[int, str | None]]:
    return db.execute("SELECT chunk, chunk_text FROM docs_embedding WHERE id = %s ORDER BY chunk", (key,)).fetchall()


def are_right(db: Connection, key: int, *texts: str) -> None:
    """The chunks of a row are these, each with the vector of its text, and the row's hash on the first."""
    register_vector(db)
    found = db.execute(
        "SELECT chunk, chunk_text, embedding, content_hash FROM docs_embedding WHERE id = %s ORDER BY chunk",
        (key,),
    ).fetchall()
    assert [(number, text) for number, text, *_ in found] == list(enumerate(texts))
    expected = load_embedder("synthetic-384").embed_documents(list(texts))
    np.testing.assert_allclose(
        np.array([v.to_numpy() if hasattr(v, "to_numpy") else v for *_, v, _ in found]), expected, atol=1e-6
    )
    assert [h for *_, h in found][1:] == [hashlib.sha256(text.encode()).digest() for text in texts[1:]]
    # What the database computes and what the sidecar wrote must agree, or each scan embeds the row again.
    owed = db.execute("SELECT pgmeaning._content_hash('s', c) FROM pgmeaning.collection AS c").fetchone()
    assert owed is not None
    row_hash = db.execute(f"SELECT {owed[0]} FROM docs AS s WHERE id = %s".encode(), (key,)).fetchone()
    assert row_hash == (found[0][3],)


def test_a_long_row_becomes_chunks_and_a_short_one_stays_whole(db: Connection, dsn: str) -> None:
    make_docs(db)
    put(db, 1, text_of("a", "b", "c"))
    put(db, 2, "short")
    embed_all(dsn)
    are_right(db, 1, paragraph("a"), paragraph("b"), paragraph("c"))
    assert chunks(db, 2) == [(0, None)]


@pytest.mark.parametrize(
    ("after", "given"),
    [
        ("abcdX", "X"),  # at the end
        ("Xabcd", "X"),  # in front: all numbers shift
        ("abXcd", "X"),
        ("aXcd", "X"),
        ("bcd", ""),  # the first is gone: the row's hash moves
        ("abc", ""),
        ("dcba", ""),
        ("bad", ""),
        ("XYab", "XY"),
        ("aabb", ""),  # the same text twice is given once, or not at all
    ],
)
def test_only_chunks_whose_text_changed_are_embedded_anew(db: Connection, dsn: str, after: str, given: str) -> None:
    make_docs(db)
    put(db, 1, text_of(*"abcd"))
    embed_all(dsn)
    put(db, 1, text_of(*after))
    words = embed_all(dsn)
    new = Counter({paragraph(name): 1 for name in (given or ("ab" if after == "aabb" else ""))})
    assert words.embedded == new
    are_right(db, 1, *map(paragraph, after))


def test_a_chunk_that_keeps_its_vector_keeps_the_time_it_was_made(db: Connection, dsn: str) -> None:
    make_docs(db)
    put(db, 1, text_of("a", "b"))
    embed_all(dsn)
    before = db.execute("SELECT chunk_text, embedded_at FROM docs_embedding ORDER BY chunk").fetchall()
    put(db, 1, text_of("x", "a", "b"))
    embed_all(dsn)
    after = db.execute("SELECT chunk_text, embedded_at FROM docs_embedding ORDER BY chunk").fetchall()
    assert after[1:] == before


def test_a_row_that_shrinks_loses_its_surplus_chunks(db: Connection, dsn: str) -> None:
    make_docs(db)
    for names in ("abcdef", "ab"):
        put(db, 1, text_of(*names))
        embed_all(dsn)
        are_right(db, 1, *map(paragraph, names))
    put(db, 1, "short")
    embed_all(dsn)
    assert chunks(db) == [(0, None)]
    put(db, 1, text_of("a", "b"))
    embed_all(dsn)
    are_right(db, 1, paragraph("a"), paragraph("b"))


@pytest.mark.parametrize("change", ["DELETE FROM docs", "TRUNCATE docs", "UPDATE docs SET body = NULL"])
def test_all_chunks_of_a_row_go_with_it(db: Connection, dsn: str, change: str) -> None:
    make_docs(db)
    put(db, 1, text_of("a", "b"))
    embed_all(dsn)
    db.execute(change.encode())
    embed_all(dsn)
    assert chunks(db) == []


@pytest.mark.parametrize("body", ["x", "😀", "\n\nx", " " * 5000 + "x"])
def test_texts_without_much_in_them_are_one_chunk(db: Connection, dsn: str, body: str) -> None:
    make_docs(db)
    put(db, 1, body)
    embed_all(dsn)
    assert chunks(db) == [(0, None)]


def test_a_chunk_that_cannot_be_embedded_fails_its_row_alone(db: Connection, dsn: str) -> None:
    make_docs(db)
    put(db, 1, text_of("a", "b", "c"))
    put(db, 2, text_of("d", "e"))
    embed_all(dsn, raising(paragraph("b")), status=1, attempts=1)
    assert chunks(db, 1) == []
    are_right(db, 2, paragraph("d"), paragraph("e"))
    (failure,) = db.execute("SELECT key, error FROM pgmeaning.failures").fetchall()
    assert failure[0] == {"id": 1}
    assert "cannot stand" in failure[1]


def test_a_row_that_fails_keeps_the_chunks_that_it_had(db: Connection, dsn: str) -> None:
    make_docs(db)
    put(db, 1, text_of("a", "b"))
    embed_all(dsn)
    put(db, 1, text_of("x", "b"))
    embed_all(dsn, raising(paragraph("x")), status=1, attempts=1)
    assert [text for _, text in chunks(db)] == [paragraph("a"), paragraph("b")]
    db.execute("SELECT pgmeaning.retry('docs')")
    assert embed_all(dsn).embedded == Counter([paragraph("x")])
    are_right(db, 1, paragraph("x"), paragraph("b"))


def test_a_row_that_changes_while_it_is_embedded_ends_as_it_was_changed(db: Connection, dsn: str) -> None:
    make_docs(db)
    put(db, 1, text_of("a", "b"))
    gate = Gate(paragraph("b"))
    with running(Sidecar(dsn, Settings(), load=Words(gate).load)):
        gate.reached()
        put(db, 1, text_of("b", "c", "a"))
        gate.open()
        wait_until(lambda: db.execute("SELECT owed FROM pgmeaning.status").fetchone() == (0,))
    are_right(db, 1, paragraph("b"), paragraph("c"), paragraph("a"))


@pytest.mark.parametrize("harm", [f"DELETE FROM {VECTORS}", f"DELETE FROM {VECTORS} WHERE chunk = 1"])
def test_chunks_that_vanish_while_they_were_to_be_kept_are_embedded(db: Connection, dsn: str, harm: str) -> None:
    make_docs(db)
    put(db, 1, text_of("a", "b"))
    embed_all(dsn)
    put(db, 1, text_of("a", "b", "x"))
    put(db, 2, "another")
    gate = Gate(paragraph("x"))
    with running(Sidecar(dsn, Settings(), load=Words(gate).load)):
        gate.reached()
        db.execute(harm.encode())
        gate.open()
        wait_until(lambda: db.execute("SELECT owed FROM pgmeaning.status").fetchone() == (0,))
    are_right(db, 1, paragraph("a"), paragraph("b"), paragraph("x"))
    assert chunks(db, 2) == [(0, None)]


@pytest.mark.parametrize("step", ["read", "embedding", "uncommitted", "written"])
def test_a_sidecar_killed_at_this_step_leaves_whole_rows(db: Connection, dsn: str, step: str) -> None:
    make_docs(db)
    body = "\n\n".join("x" * 3000 + str(number) for number in range(8))  # a token each 256 characters
    put(db, 1, body)
    with process(dsn, step, lease=1.1) as started:
        reached(started)
    assert len(chunks(db)) in (0, 8)
    assert Sidecar(dsn, Settings()).run(drain=True) == 0
    are_right(db, 1, *body.split("\n\n"))


def test_a_megabyte_goes_through_the_model_in_batches_of_the_usual_size(db: Connection, dsn: str) -> None:
    make_docs(db, '{"method": "tokens", "size": 64}')
    body = " ".join(f"w{number}" for number in range(160_000))
    put(db, 1, body)
    put(db, 2, "short")
    words = embed_all(dsn, batch_tokens=2048, batch_rows=32)
    assert len(body) > 1_000_000
    assert len(chunks(db)) >= 2500
    assert max(map(len, words.batches)) <= 32
    assert max(sum(len(text.split()) for text in texts) for texts in words.batches) <= 2048
    assert " ".join(str(text) for _, text in chunks(db)) == body
    put(db, 1, body + " end")
    assert len(embed_all(dsn).embedded) == 1


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"document_chunks": 3}, "more than 3 chunks"), ({"document_characters": 100}, "more than 100 characters")],
)
def test_a_document_beyond_the_limits_fails_alone(
    db: Connection, dsn: str, settings: dict[str, Any], error: str
) -> None:
    make_docs(db)
    put(db, 1, text_of(*"abcdefgh"))
    put(db, 2, "short")
    embed_all(dsn, status=1, attempts=1, **settings)
    assert error in str(db.execute("SELECT error FROM pgmeaning.failures").fetchall())
    assert (chunks(db, 1), chunks(db, 2)) == ([], [(0, None)])


def test_rows_with_keys_of_several_columns_keep_their_chunks(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (chunk text, at timestamptz, k numeric, body text, PRIMARY KEY (chunk, at, k))")
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'], chunking => %s)", (PARAGRAPHS,))
    for number in range(3):
        db.execute(
            "INSERT INTO docs VALUES ('a\"%%', '2026-01-01 12:00+02', %s, %s)", (number, text_of(number, "b", "c"))
        )
    embed_all(dsn)
    db.execute("UPDATE docs SET body = %s || E'\\n\\n' || body WHERE k = 1", (paragraph("x"),))
    assert embed_all(dsn).embedded == Counter([paragraph("x")])
    assert db.execute("SELECT k, count(*) FROM docs_embedding GROUP BY k ORDER BY k").fetchall() == [
        (0, 3), (1, 4), (2, 3)
    ]  # fmt: skip


def test_a_refresh_finds_what_no_trigger_saw_and_embeds_that_alone(db: Connection, dsn: str) -> None:
    make_docs(db)
    for key in range(1, 4):
        put(db, key, text_of(f"a{key}", f"b{key}"))
    embed_all(dsn)
    db.execute("SET session_replication_role = replica")
    put(db, 1, text_of("a1", "x"))
    db.execute("DELETE FROM docs WHERE id = 3")
    db.execute("SET session_replication_role = DEFAULT")
    db.execute("SELECT pgmeaning.refresh('docs')")
    assert embed_all(dsn).embedded == Counter([paragraph("x")])
    are_right(db, 1, paragraph("a1"), paragraph("x"))
    assert chunks(db, 3) == []
    db.execute("SELECT pgmeaning.refresh('docs')")
    assert not embed_all(dsn).embedded


def test_a_template_is_filled_in_before_the_text_is_cut(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
    db.execute("SELECT pgmeaning.attach('docs', template => E'{title}\\n\\n{body}', chunking => %s)", (PARAGRAPHS,))
    db.execute("INSERT INTO docs VALUES (1, 'Title', %s)", (text_of("a", "b"),))
    embed_all(dsn)
    are_right(db, 1, "Title\n\n" + paragraph("a"), paragraph("b"))


def test_images_go_with_the_first_chunk(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, photo bytea)")
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'], image => 'photo', chunking => %s)", (PARAGRAPHS,))
    db.execute("INSERT INTO docs VALUES (1, %s, %s)", (text_of("a", "b", "c"), encoded(plain_image(RED))))
    embed_all(dsn)
    before = dict(db.execute("SELECT chunk, embedding::text FROM docs_embedding").fetchall())
    db.execute("UPDATE docs SET photo = %s", (encoded(plain_image(BLUE)),))
    assert embed_all(dsn).embedded == Counter([paragraph("a")])
    after = dict(db.execute("SELECT chunk, embedding::text FROM docs_embedding").fetchall())
    assert [number for number in after if after[number] != before[number]] == [0]
    db.execute("UPDATE docs SET body = %s", (text_of("b", "a"),))
    assert embed_all(dsn).embedded == Counter([paragraph("a"), paragraph("b")])


def test_status_and_the_registry_show_the_whole_chunking(db: Connection, dsn: str) -> None:
    make_docs(db, '{"method": "markdown"}')
    put(db, 1, text_of(*"abcdefgh"))
    expected = {"method": "markdown", "size": 512, "overlap": 0}
    assert db.execute("SELECT chunking FROM pgmeaning.status").fetchone() == (expected,)
    assert db.execute("SELECT chunking FROM pgmeaning.collection").fetchone() == (expected,)


@pytest.mark.parametrize(
    ("chunking", "said"),
    [
        ("[]", "not an object"), ("3", "not an object"), ("{}", "no method"), ('{"method": null}', "no method"),
        ('{"method": "pages"}', "no method 'pages'"), ('{"method": ["tokens"]}', "no method"),
        ('{"method": "tokens", "length": 5}', "'length'"),
        ('{"method": "tokens", "size": 15}', "size of chunking is 15"),
        ('{"method": "tokens", "size": 1000001}', "size"), ('{"method": "tokens", "size": 1e300}', "size"),
        ('{"method": "tokens", "size": "512"}', "size"), ('{"method": "tokens", "size": 20.5}', "size"),
        ('{"method": "tokens", "size": 64, "overlap": 64}', "overlap of chunking is 64"),
        ('{"method": "tokens", "size": 64, "overlap": -1}', "overlap"),
        ('{"method": "tokens", "overlap": true}', "overlap"),
    ],
)  # fmt: skip
def test_a_chunking_that_makes_no_sense_is_refused(db: Connection, chunking: str, said: str) -> None:
    with pytest.raises(psycopg.Error, match=said) as caught:
        make_docs(db, chunking)
    assert caught.value.sqlstate == "PM014"
    assert caught.value.diag.message_hint


def test_a_size_beyond_what_the_model_reads_is_refused(db: Connection) -> None:
    with pytest.raises(psycopg.Error, match="size of chunking is 257") as caught:
        make_docs(db, '{"method": "tokens", "size": 257}', ", model => 'all-MiniLM-L6-v2'")
    assert "all-MiniLM-L6-v2" in str(caught.value.diag.message_hint)


def test_images_alone_cannot_be_cut(db: Connection) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, photo bytea)")
    with pytest.raises(psycopg.Error, match="no text to cut") as caught:
        db.execute("SELECT pgmeaning.attach('docs', image => 'photo', chunking => %s)", (PARAGRAPHS,))
    assert caught.value.sqlstate == "PM004"


def test_in_half_precision_chunks_keep_their_vectors_and_rows_are_found(db: Connection, dsn: str) -> None:
    make_docs(db, PARAGRAPHS, ", vector_type => 'halfvec'")
    put(db, 1, text_of("a", "b"))
    put(db, 2, text_of("c", "a"))
    embed_all(dsn)
    put(db, 1, text_of("x", "a", "b"))
    assert embed_all(dsn).embedded == Counter([paragraph("x")])
    assert [text for _, text in chunks(db)] == [paragraph("x"), paragraph("a"), paragraph("b")]
    assert db.execute("SELECT key FROM pgmeaning.similar('docs', '1')").fetchall() == [({"id": 2},)]
