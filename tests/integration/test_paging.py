"""Pages of an answer: ties are in the order of the key, and a cursor goes on where the last page ended."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgmeaning.client.connecting import connect as client_of
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.integration.docs import cache
from tests.integration.embedders import Clustered
from tests.integration.test_index import build
from tests.types import Connection, Drain

TIES = 1000


def ids(db: Connection, call: str, *arguments: object) -> list[int]:
    statement = f"SELECT key FROM pgmeaning.{call} WITH ORDINALITY ORDER BY ordinality"
    return [key["id"] for (key,) in db.execute(statement, arguments).fetchall()]


def fill(db: Connection, dsn: str, model: str = "synthetic-4096", attach: str = "") -> None:
    """A thousand rows of one text, in no order of their keys, among a thousand that are farther from it."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, part int)")
    db.execute(
        "INSERT INTO docs SELECT i, CASE WHEN i % 2 = 0 THEN 'cat' ELSE 'topic' || i % 7 || ' word ' || i END, i % 10 "
        "FROM (SELECT i * 7919 % 2003 AS i FROM generate_series(1, 2002) AS i) AS n",
    )
    db.execute(f"SELECT pgmeaning.attach('docs', '{{body}}', model => '{model}'{attach})".encode())
    full = 4096 if model == "synthetic-4096" else 384
    assert Sidecar(dsn, Settings(), load=lambda _: Clustered(full)).run(drain=True) == 0


TIED = list(range(2, 2003, 2))


# Ties


@pytest.mark.parametrize("index", [None, "signature", "prefix", "direct"])
def test_a_larger_k_extends_a_smaller_one_over_a_thousand_ties(db: Connection, dsn: str, index: str | None) -> None:
    fill(db, dsn, "synthetic-384" if index == "direct" else "synthetic-4096")
    if index:
        build(dsn, index)
    others = [i for i in TIED if i != 500]
    for k in (1, 10, 20, 100, 200, 333, 700):
        assert ids(db, "similar('docs', '500', %s)", k) == others[:k]


@pytest.mark.parametrize("index", [None, "signature"])
def test_a_filter_leaves_ties_in_the_order_of_the_key(db: Connection, dsn: str, index: str | None) -> None:
    fill(db, dsn)
    if index:
        build(dsn, index)
    for condition, others in (
        ("part <> 2", [i for i in TIED if i % 10 != 2]),
        ("part = 4", [i for i in TIED if i % 10 == 4]),
    ):
        for k in (1, 10, 50, 90):
            assert (
                ids(db, "similar('docs', '500', %s, filter => %s)", k, condition) == [i for i in others if i != 500][:k]
            )


def test_chunked_rows_are_extended_by_a_larger_k_too(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'cat ' || repeat('dog ', 60) FROM generate_series(1, 120) AS i")
    db.execute(
        "SELECT pgmeaning.attach('docs', '{body}', chunking => '{\"method\": \"tokens\", \"size\": 16}')",
    )
    assert drain() == 0
    for k in (1, 9, 10, 11, 100):
        assert ids(db, "similar('docs', '5', %s)", k) == [i for i in range(1, 121) if i != 5][:k]


# A cursor


def pages(db: Connection, call: str, size: int, most: int = 10_000) -> list[Any]:
    """All ids, read page by page; `call` has a place for the cursor."""
    seen: list[Any] = []
    cursor: tuple[Any, Any] = (None, None)
    while len(seen) < most:
        found = db.execute(
            f"SELECT key, distance FROM pgmeaning.{call.format(size)} WITH ORDINALITY ORDER BY ordinality".encode(),
            (cursor[0], Jsonb(cursor[1]) if cursor[1] else None),
        ).fetchall()
        seen += [key["id"] for key, _ in found]
        if len(found) < size:
            return seen
        cursor = (found[-1][1], found[-1][0])
    return seen


@pytest.mark.parametrize("index", [None, "signature", "prefix", "direct"])
def test_pages_by_a_cursor_show_each_tied_row_once(db: Connection, dsn: str, index: str | None) -> None:
    fill(db, dsn, "synthetic-384" if index == "direct" else "synthetic-4096")
    if index:
        build(dsn, index)
    others = [i for i in TIED if i != 500]
    assert pages(db, "similar('docs', '500', {}, after => (%s, %s))", 90, 450) == others[:450]


def test_pages_end_when_every_row_was_shown_once(db: Connection, dsn: str) -> None:
    fill(db, dsn)
    cache(db, "q", "synthetic-4096", like="cat")
    shown = pages(db, "search('docs', 'q', {}, mode => 'exact', after => (%s, %s))", 700)
    assert len(shown) == len(set(shown)) == 2002
    assert shown[:1001] == TIED


def chunked(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute(
        "INSERT INTO docs SELECT i, 'cat ' || repeat('dog ', 40) || 'bird ' || i % 5 FROM generate_series(1, 40) AS i"
    )
    db.execute("SELECT pgmeaning.attach('docs', '{body}', chunking => '{\"method\": \"tokens\", \"size\": 16}')")
    assert drain() == 0
    cache(db, "q")


def test_a_row_of_several_chunks_is_on_one_page_only(db: Connection, drain: Drain) -> None:
    chunked(db, drain)
    shown = pages(db, "search('docs', 'q', {}, after => (%s, %s))", 7)
    assert shown == ids(db, "search('docs', 'q', 40)")
    assert sorted(shown) == list(range(1, 41))


def test_the_typed_form_pages_too(db: Connection, dsn: str) -> None:
    fill(db, dsn, "synthetic-384")
    cache(db, "q", like="cat")
    first = db.execute("SELECT (hit).id, distance FROM pgmeaning.search(NULL::docs, 'q', k => 3)").fetchall()
    following = db.execute(
        "SELECT (hit).id FROM pgmeaning.search(NULL::docs, 'q', k => 3, after => (%s, %s))",
        (first[-1][1], Jsonb(first[-1][0])),
    ).fetchall()
    assert [row[0] for row in first] == [2, 4, 6]
    assert following == [(8,), (10,), (12,)]


def test_a_cursor_whose_row_was_deleted_still_says_where(db: Connection, dsn: str) -> None:
    fill(db, dsn, "synthetic-384")
    cache(db, "q", like="cat")
    [(distance,)] = db.execute("SELECT distance FROM pgmeaning.search('docs', 'q', 1)").fetchall()
    db.execute("DELETE FROM docs WHERE id = 20")
    assert ids(db, "search('docs', 'q', 3, after => (%s, '20'))", distance) == [22, 24, 26]


def test_keys_of_another_collation_page_in_the_order_of_their_column(db: Connection, drain: Drain) -> None:
    db.execute('CREATE TABLE docs (id text COLLATE "C" PRIMARY KEY, body text)')
    db.execute("INSERT INTO docs SELECT unnest('{a,B,c,D,e,F,ä,Z}'::text[]), 'cat'")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    assert drain() == 0
    cache(db, "q")
    assert pages(db, "search('docs', 'q', {}, after => (%s, %s))", 3) == list("BDFZaceä")


def test_ranks_count_from_the_first_page(db: Connection, dsn: str) -> None:
    fill(db, dsn, "synthetic-384")
    cache(db, "q", like="cat")
    [(distance,)] = db.execute("SELECT distance FROM pgmeaning.search('docs', 'q', 1)").fetchall()
    found = db.execute(
        "SELECT vector_rank FROM pgmeaning.search('docs', 'q', 3, after => (%s, '20'))", (distance,)
    ).fetchall()
    assert found == [(11,), (12,), (13,)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("'docs', 'q', after => (0.5, NULL)", "after is"),
        ("'docs', 'q', after => (NULL, '5')", "after is"),
        ("'docs', 'q', after => (0.5, '\"x\"')", "not a key"),
        ("'docs', 'q', mode => 'hybrid', after => (0.5, '5')", "no pages"),
        ("'docs', 'q', rerank => 5, after => (0.5, '5')", "no pages"),
        ("'docs', 'q', grouped => false, after => (0.5, '5')", "no pages"),
    ],
)
def test_a_search_that_a_cursor_does_not_fit_is_refused(
    db: Connection, drain: Drain, arguments: str, words: str
) -> None:
    chunked(db, drain)
    with pytest.raises(psycopg.Error, match=words) as caught:
        db.execute(f"SELECT * FROM pgmeaning.search({arguments})".encode())
    assert caught.value.sqlstate == "PM014"


def test_the_client_pages_by_its_last_hit_or_by_distance_and_key(db: Connection, dsn: str) -> None:
    fill(db, dsn, "synthetic-384")
    cache(db, "q", like="cat")
    with client_of(dsn) as client:
        first = client.search("docs", "q", 3)
        assert [hit.key["id"] for hit in client.search("docs", "q", 3, after=first[-1])] == [8, 10, 12]
        cursor = (first[-1].distance, 4)
        assert [hit.key["id"] for hit in client.search("docs", "q", 2, after=cursor)] == [6, 8]
        similar = client.similar("docs", 2, 3)
        assert [hit.key["id"] for hit in client.similar("docs", 2, 3, after=similar[-1])] == [10, 12, 14]
        vector = client.embed("q", collection="docs")
        assert [hit.key["id"] for hit in client.nearest("docs", vector, 2, after=first[0])] == [4, 6]
