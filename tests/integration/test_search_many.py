"""search_many(): several queries, one call of the model."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pytest

from pgmeaning.models.base import Embedder, load_embedder
from pgmeaning.models.vectors import Vectors
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Document, Model
from tests.conftest import running
from tests.integration.docs import Docs
from tests.probes import are_probes
from tests.types import Connection


class Counting:
    """The synthetic model, and the queries of each call of it."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def load(self, model: Model) -> Embedder:
        inner = load_embedder(model)
        self.dimensions = inner.dimensions
        self.embed_documents = inner.embed_documents
        self.count_tokens = inner.count_tokens
        return self

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        if are_probes(queries):
            return self.embed_documents(queries)
        self.calls.append([query.text or "" for query in queries])
        return self.embed_documents(queries)


DOCS = Docs(
    columns="id int PRIMARY KEY, body text",
    rows="SELECT i, 'body ' || i FROM generate_series(1, 60) AS i",
    attach="'{body}'",
    embedded=True,
)


def first_hits(db: Connection, queries: Sequence[str | None]) -> list[tuple[int, int]]:
    return [
        (index, key["id"])
        for index, key in db.execute(
            "SELECT query_index, key FROM pgmeaning.search_many('docs', %s::text[], k => 1)", (list(queries),)
        ).fetchall()
    ]


def test_all_queries_go_through_the_model_in_one_call(docs: None, db: Connection, dsn: str) -> None:
    model = Counting()
    with running(Sidecar(dsn, Settings(), load=model.load)):
        wanted = [f"body {i}" for i in range(1, 51)]
        assert first_hits(db, wanted) == [(i, i) for i in range(1, 51)]
    assert [sorted(call) for call in model.calls] == [sorted(wanted)]


def test_a_query_that_comes_twice_or_is_cached_is_not_asked_again(docs: None, db: Connection, dsn: str) -> None:
    model = Counting()
    with running(Sidecar(dsn, Settings(), load=model.load)):
        db.execute("SELECT pgmeaning.embed('body 3')")
        assert first_hits(db, ["body 9", "body 3", "body 9"]) == [(1, 9), (2, 3), (3, 9)]
    assert model.calls == [["body 3"], ["body 9"]]


def test_it_finds_what_search_finds(docs: None, db: Connection, sidecar: Sidecar) -> None:
    many = db.execute(
        "SELECT key, distance FROM pgmeaning.search_many('docs', '{body 2,body 4}', 5, filter => 'id < 9') "
        "WHERE query_index = 2"
    ).fetchall()
    assert (
        many
        == db.execute("SELECT key, distance FROM pgmeaning.search('docs', 'body 4', 5, filter => 'id < 9')").fetchall()
    )


def test_no_queries_find_nothing(docs: None, db: Connection) -> None:
    assert first_hits(db, []) == []


def test_a_null_among_the_queries_is_refused(docs: None, db: Connection) -> None:
    with pytest.raises(psycopg.Error) as caught:
        first_hits(db, [None])
    assert caught.value.sqlstate == "PM014"
