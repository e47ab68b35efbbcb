"""clusters(): what a collection is about, without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest

from tests.integration.relations import as_text, clustered, distances, filled, put, random_vectors, unit
from tests.integration.roles import Role
from tests.types import Connection, Rows

CALL = "SELECT cluster, size, key, spread, words, centroid::text FROM pgmeaning.clusters"
TOPICS = ("the ripe banana and other fruit", "the fast engine of a car", "the star in a galaxy", "the bread and dough")


def rows(db: Connection, statement: str, *arguments: Any) -> Rows:
    return db.execute(statement.encode(), arguments).fetchall()


@pytest.fixture
def topics(db: Connection) -> Any:
    """Two hundred rows about four things; returns their vectors, and which thing each is about."""
    vectors, members = clustered(200, 4, 0.6)
    filled(db, "docs", vectors, [f"{TOPICS[member]} {number}" for number, member in enumerate(members)])
    return vectors, members


def test_rows_that_belong_together_are_one_cluster(topics: Any, db: Connection) -> None:
    vectors, members = topics
    found = rows(db, f"{CALL}('docs', 4)")
    assert [row[0] for row in found] == [1, 2, 3, 4]
    assert [row[1] for row in found] == sorted(np.bincount(members), reverse=True)
    for _, size, key, spread, _, centroid in found:
        own = members == members[key["id"] - 1]
        assert own.sum() == size
        mean = unit(vectors[own].mean(axis=0))
        assert np.array(eval_vector(centroid)) == pytest.approx(mean, abs=1e-5)
        away = distances(vectors[own], mean[None])[:, 0]
        assert spread == pytest.approx(away.mean(), abs=1e-5)
        assert key["id"] - 1 == np.flatnonzero(own)[away.argmin()]


def eval_vector(text: str) -> list[float]:
    return [float(number) for number in text[1:-1].split(",")]


def test_words_tell_clusters_from_each_other(topics: Any, db: Connection) -> None:
    _, members = topics
    for _, _, key, _, words, _ in rows(db, f"{CALL}('docs', 4, word_count => 2)"):
        assert set(words) <= set(TOPICS[members[key["id"] - 1]].split()) - {"the"}
        assert len(words) == 2


def test_a_seed_gives_the_same_clusters(topics: Any, db: Connection) -> None:
    assert rows(db, f"{CALL}('docs', 7, seed => 5)") == rows(db, f"{CALL}('docs', 7, seed => 5)")


def test_there_are_no_more_clusters_than_different_rows(db: Connection) -> None:
    filled(db, "docs", np.repeat(random_vectors(3), 4, axis=0))
    assert [row[1] for row in rows(db, f"{CALL}('docs', 9223372036854775807)")] == [4, 4, 4]


def test_an_empty_collection_has_no_clusters(db: Connection) -> None:
    filled(db, "docs", random_vectors(0))
    assert rows(db, f"{CALL}('docs')") == []
    filled(db, "papers", random_vectors(0))
    put(db, "papers", [1], ["owed"], "synthetic-384")
    assert rows(db, f"{CALL}('papers')") == []


@pytest.mark.parametrize(
    ("arguments", "state"), [("'nope'", "PM001"), ("'docs', 0", "PM014"), ("'docs', NULL", "PM014")]
)
def test_what_makes_no_sense_is_refused(db: Connection, arguments: str, state: str) -> None:
    filled(db, "docs", random_vectors(3))
    with pytest.raises(psycopg.Error) as caught:
        rows(db, f"{CALL}({arguments})")
    assert caught.value.sqlstate == state


def test_rows_that_are_gone_or_hidden_are_in_no_cluster(db: Connection, role: Role) -> None:
    filled(db, "docs", random_vectors(40), more=f", grant_to => '{{{role.name}}}'")
    db.execute("DELETE FROM docs WHERE id > 30")
    assert sum(row[1] for row in rows(db, f"{CALL}('docs', 3)")) == 30
    db.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    db.execute("CREATE POLICY thirds ON docs USING (id % 3 = 0)")
    db.execute(f"GRANT SELECT ON docs TO {role.name}")
    found = rows(role.connection, f"{CALL}('docs', 3)")
    assert sum(row[1] for row in found) == 10
    assert all(row[2]["id"] % 3 == 0 for row in found)


def test_a_row_with_chunks_counts_once_by_their_mean(db: Connection) -> None:
    vectors, _ = clustered(20, 2, 0.3)
    filled(db, "docs", vectors[:0], more=""", chunking => '{"method": "paragraphs", "size": 16}'""")
    put(db, "docs", list(range(1, 11)), ["text"] * 10, "synthetic-384")
    for place, vector in enumerate(vectors):
        db.execute(
            'INSERT INTO pgmeaning_data."docs__synthetic-384" (id, chunk, model, embedding) '
            "VALUES (%s, %s, 'synthetic-384', %s)",
            (place // 2 + 1, place % 2, as_text(vector)),
        )
    assert sum(row[1] for row in rows(db, f"{CALL}('docs', 3)")) == 10


def test_half_precision_is_clustered_too(db: Connection) -> None:
    filled(db, "docs", clustered(40, 2, 0.3)[0], more=", vector_type => 'halfvec'")
    assert sum(row[1] for row in rows(db, f"{CALL}('docs', 2)")) == 40
