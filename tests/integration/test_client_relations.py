"""The client's relations, page by page, beside what SQL finds; and vectors that know their model."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest

import pgmeaning
from pgmeaning import Client, Embedding, load_embedder
from pgmeaning.client import relations as module
from pgmeaning.errors import ArgumentError, CollectionError, DatabaseError
from tests.integration.docs import cache
from tests.integration.relations import clustered, distances, filled, put, random_vectors, unit
from tests.integration.test_relations import doubled
from tests.types import Connection


@pytest.fixture
def client(dsn: str) -> Iterator[Client]:
    with pgmeaning.connect(dsn) as opened:
        yield opened


@pytest.fixture
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 7)


# Relations


def test_matches_are_those_of_sql_and_tell_how_far_they_are(client: Client, db: Connection, short_pages: None) -> None:
    filled(db, "docs", clustered(30, 5)[0])
    put(db, "docs", [31, 32], ["owed", "too"], "synthetic-384")
    told: list[tuple[int, int]] = []
    found = list(client.matches("docs", "docs", 2, threshold=0.3, progress=lambda *far: told.append(far)))
    expected = db.execute("SELECT * FROM pgmeaning.matches('docs', 'docs', 2, 0.3)").fetchall()
    assert [(m.key, m.other_key, m.distance, m.score) for m in found] == expected
    assert [done for done, _ in told] == [7, 14, 21, 28, 32]


def test_matches_come_as_they_are_found(client: Client, db: Connection, short_pages: None) -> None:
    filled(db, "docs", random_vectors(20))
    found = client.matches("docs", "docs")
    assert next(found).key == {"id": 1}
    db.execute("DELETE FROM docs WHERE id > 10")
    assert [match.key["id"] for match in found] == list(range(2, 11))


def test_what_is_wrong_with_a_call_is_said_at_once(client: Client, db: Connection) -> None:
    filled(db, "docs", random_vectors(3))
    with pytest.raises(CollectionError):
        client.matches("docs", "nope")
    with pytest.raises(DatabaseError, match="threshold is 3"):
        client.matches("docs", "docs", threshold=3)
    with pytest.raises(ArgumentError):
        client.classify("docs", "a label")
    with pytest.raises(ArgumentError):
        client.duplicates("docs", None)  # type: ignore[call-overload]
    for k in (0, -1):
        with pytest.raises(ArgumentError):
            client.clusters("docs", k)


def test_vectors_replaced_between_two_pages_end_it(client: Client, db: Connection, short_pages: None) -> None:
    filled(db, "docs", random_vectors(20))
    found = client.matches("docs", "docs")
    next(found)
    db.execute("SELECT pgmeaning.detach('docs')")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    with pytest.raises(CollectionError, match="replaced meanwhile"):
        list(found)


def test_duplicates_are_those_of_sql(client: Client, db: Connection, short_pages: None) -> None:
    vectors, pairs = doubled()
    filled(db, "docs", vectors)
    found = client.duplicates("docs", 0.05)
    assert {tuple(sorted((m.key["id"], m.other_key["id"]))) for m in found} == pairs
    assert [m.distance for m in found] == sorted(m.distance for m in found)
    groups: dict[int, set[int]] = {}
    for number, key in db.execute("SELECT group_number, key FROM pgmeaning.duplicates('docs', 0.05, true)"):
        groups.setdefault(number, set()).add(key["id"])
    assert [{key["id"] for key in group} for group in client.duplicates("docs", 0.05, grouped=True)] == list(
        groups.values()
    )


def test_clusters_have_all_their_rows(client: Client, db: Connection, short_pages: None) -> None:
    vectors, members = clustered(60, 3)
    filled(db, "docs", vectors, [f"{['apple', 'banana', 'cherry'][member]} of them" for member in members])
    put(db, "docs", [61], ["owed"], "synthetic-384")
    found = client.clusters("docs", 3, word_count=1)
    assert [cluster.number for cluster in found] == [1, 2, 3]
    for cluster in found:
        own = {key["id"] for key in cluster.keys}
        member = members[cluster.key["id"] - 1]
        assert own == set(np.flatnonzero(members == member) + 1)
        assert cluster.words == (["apple", "banana", "cherry"][member],)
        assert cluster.size == len(own)
        assert cluster.centroid.model == "synthetic-384"
    assert [cluster.keys for cluster in client.clusters("docs", 3)] == [cluster.keys for cluster in found]


def test_an_empty_collection_has_no_clusters(client: Client, db: Connection) -> None:
    filled(db, "docs", random_vectors(0))
    assert client.clusters("docs") == []
    assert client.duplicates("docs") == []
    assert list(client.matches("docs", "docs")) == []


def test_classes_are_those_of_sql(client: Client, db: Connection, short_pages: None) -> None:
    labels = ["one", "two"]
    queries = load_embedder("synthetic-384").embed_queries(labels)
    vectors = unit(queries[np.arange(20) % 2] + random_vectors(20))
    filled(db, "docs", vectors)
    for label in labels:
        cache(db, label)
    found = list(client.classify("docs", labels))
    assert [label.label for label in found] == [labels[p] for p in distances(vectors, queries).argmin(axis=1)]
    assert [label.key["id"] for label in found] == list(range(1, 21))


# Vectors that know their model


def embedding(db: Connection, client: Client, model: str = "synthetic-384") -> Embedding:
    cache(db, "q", model)
    return client.embed("q", model=model)


def test_a_vector_knows_its_model_also_in_a_slice_a_copy_and_a_pickle(client: Client, db: Connection) -> None:
    filled(db, "docs", random_vectors(3))
    vector = embedding(db, client)
    fingerprint = db.execute("SELECT fingerprint FROM pgmeaning.model WHERE name = 'synthetic-384'").fetchone()
    assert vector.dtype == np.float32
    same: Any
    for same in (vector, vector[:10], vector.copy(), pickle.loads(pickle.dumps(vector)), vector * 2):
        assert (same.model, (same.fingerprint,)) == ("synthetic-384", fingerprint)
    assert np.array_equal(pickle.loads(pickle.dumps(vector)), vector)


def test_nearest_takes_a_vector_of_its_model_and_refuses_another(client: Client, db: Connection) -> None:
    filled(db, "docs", random_vectors(3))
    own = embedding(db, client)
    assert len(client.nearest("docs", own)) == 3
    db.execute(
        "INSERT INTO pgmeaning.model SELECT (jsonb_populate_record(m, "
        '\'{"name": "other", "status": "supported", "fingerprint": "0123"}\')).* FROM pgmeaning.model AS m '
        "WHERE m.name = 'synthetic-384'"
    )
    other = Embedding(own, "other", "0123")
    with pytest.raises(DatabaseError, match="not of the model") as caught:
        client.nearest("docs", other)
    assert caught.value.sqlstate == "PM030"
    assert "'other'" in str(caught.value.detail)
    assert len(client.nearest("docs", np.asarray(other))) == 3  # which says nothing


def test_a_vector_of_another_name_with_the_same_fingerprint_is_taken(client: Client, db: Connection) -> None:
    filled(db, "docs", random_vectors(3))
    own = embedding(db, client)
    assert len(client.nearest("docs", Embedding(own, "renamed", own.fingerprint))) == 3


def test_a_refused_page_is_no_empty_page(client: Client, db: Connection, short_pages: None) -> None:
    filled(db, "docs", random_vectors(20))
    found: Any = client.matches("docs", "docs")
    next(found)
    db.execute("DROP TABLE docs")
    with pytest.raises((CollectionError, DatabaseError, psycopg.Error)):
        list(found)
