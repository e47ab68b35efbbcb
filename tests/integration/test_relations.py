"""matches(), duplicates() and classify(): how rows are related, from stored vectors, compared with brute force."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import psycopg
import pytest

from pgmeaning import load_embedder
from tests.integration.docs import cache
from tests.integration.relations import clustered, distances, filled, nearest, put, random_vectors, unit
from tests.integration.roles import Role
from tests.types import Connection, Rows

VECTORS = 'pgmeaning_data."docs__synthetic-384"'


def rows(db: Connection, statement: str, *arguments: Any) -> Rows:
    return db.execute(statement.encode(), arguments).fetchall()


def matched(db: Connection, arguments: str) -> dict[int, list[int]]:
    """The ids that each id matches, in the order in which they came."""
    found: dict[int, list[int]] = defaultdict(list)
    for key, other in rows(db, f"SELECT key, other_key FROM pgmeaning.matches({arguments})"):
        found[key["id"]].append(other["id"])
    return dict(found)


def refused(db: Connection, call: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        rows(db, f"SELECT * FROM pgmeaning.{call}")
    return caught.value


# matches()


def test_each_row_matches_its_nearest_in_another_collection(db: Connection) -> None:
    a, b = random_vectors(30, 1), random_vectors(50, 2)
    filled(db, "docs", a)
    filled(db, "papers", b)
    expected = dict(enumerate(nearest(a, b, 3), start=1))
    assert matched(db, "'docs', 'papers', 3") == expected
    first = rows(db, "SELECT distance, score FROM pgmeaning.matches('docs', 'papers') LIMIT 1")[0]
    assert first[0] == pytest.approx(distances(a, b)[0].min(), abs=1e-6)
    assert first[1] == pytest.approx(1 - first[0])


def test_rows_come_in_the_order_of_their_keys(db: Connection) -> None:
    filled(db, "docs", random_vectors(600, 1))
    found = matched(db, "'docs', 'docs'")
    assert list(found) == list(range(1, 601))


def test_a_row_does_not_match_itself_in_its_own_collection(db: Connection) -> None:
    a = random_vectors(40)
    filled(db, "docs", a)
    assert matched(db, "'docs', 'docs', 2") == dict(enumerate(nearest(a, a, 2, itself=True), start=1))


@pytest.mark.parametrize("mode", ["signature", "index"])
def test_candidates_find_what_an_exact_comparison_finds(db: Connection, mode: str) -> None:
    a, _ = clustered(600, 40)
    filled(db, "docs", a)
    db.execute(f"CREATE INDEX ON {VECTORS} USING hnsw (embedding public.vector_cosine_ops)".encode())
    found = matched(db, f"'docs', 'docs', 5, mode => '{mode}'")
    expected = dict(enumerate(nearest(a, a, 5, itself=True), start=1))
    hits = sum(len(set(found[key]) & set(expected[key])) for key in expected)
    assert hits / (5 * 600) > 0.97
    assert all(len(ids) == 5 for ids in found.values())


def test_an_index_is_used_row_by_row(db: Connection) -> None:
    a, _ = clustered(600, 40)
    filled(db, "docs", a)
    db.execute(f"CREATE INDEX by_meaning ON {VECTORS} USING hnsw (embedding public.vector_cosine_ops)".encode())
    scans = "SELECT idx_scan FROM pg_stat_get_xact_numscans('pgmeaning_data.by_meaning'::regclass) AS s (idx_scan)"
    db.execute("BEGIN")
    assert len(matched(db, "'docs', 'docs', mode => 'index', rows => 100")) == 100
    assert rows(db, scans)[0][0] >= 100
    db.execute("ROLLBACK")


def test_a_threshold_leaves_out_what_is_farther(db: Connection) -> None:
    a, _ = clustered(80, 8)
    filled(db, "docs", a)
    away = distances(a, a)
    np.fill_diagonal(away, np.inf)
    limit = float(np.median(away.min(axis=1)))
    expected = {key: ids for key, ids in enumerate(nearest(a, a, 1, itself=True), 1) if away[key - 1].min() <= limit}
    assert 0 < len(expected) < 80
    for mode in ("exact", "signature"):
        assert matched(db, f"'docs', 'docs', 1, {limit!r}, mode => '{mode}'") == expected


@pytest.mark.parametrize("mode", ["exact", "signature"])
def test_without_k_all_within_the_threshold_match(db: Connection, mode: str) -> None:
    a = np.concatenate([clustered(150, 1, 0.2)[0], clustered(60, 6, 0.4, seed=5)[0]])
    filled(db, "docs", a)
    away = distances(a, a)
    np.fill_diagonal(away, np.inf)
    expected = {key: set(np.flatnonzero(row <= 0.2) + 1) for key, row in enumerate(away, 1) if (row <= 0.2).any()}
    assert max(map(len, expected.values())) > 100
    found = matched(db, f"'docs', 'docs', NULL, 0.2, mode => '{mode}'")
    assert {key: set(ids) for key, ids in found.items()} == expected


def test_pages_of_matches_are_the_whole(db: Connection) -> None:
    filled(db, "docs", clustered(50, 10, 0.3)[0])
    whole = rows(db, "SELECT * FROM pgmeaning.matches('docs', 'docs', 2, 0.15)")
    after, pages = None, []
    while page := rows(db, "SELECT * FROM pgmeaning.matches('docs', 'docs', 2, 0.15, after => %s::jsonb, rows => 7)",
                       after):  # fmt: skip
        pages += page
        after = f'{{"id": {page[-1][0]["id"]}}}'
    assert pages == whole
    assert len({row[0]["id"] for row in whole}) > 20


def test_rows_that_are_gone_match_nothing_and_nobody(db: Connection) -> None:
    a = random_vectors(60)
    filled(db, "docs", a)
    db.execute("DELETE FROM docs WHERE id % 2 = 0")
    odd = list(range(1, 61, 2))
    left = nearest(a[::2], a[::2], 3, itself=True)
    expected = {odd[place]: [odd[other - 1] for other in ids] for place, ids in enumerate(left)}
    for mode in ("exact", "signature"):
        assert matched(db, f"'docs', 'docs', 3, mode => '{mode}'") == expected


def test_rows_without_vectors_match_nothing(db: Connection) -> None:
    filled(db, "docs", random_vectors(5))
    put(db, "docs", [6, 7], ["new", "too"], "synthetic-384")
    assert list(matched(db, "'docs', 'docs'")) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("mode", ["exact", "signature"])
def test_rows_that_row_security_hides_match_nothing_and_nobody(db: Connection, role: Role, mode: str) -> None:
    a = random_vectors(300)
    filled(db, "docs", a, more=f", grant_to => '{{{role.name}}}'")
    db.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    db.execute("CREATE POLICY thirds ON docs USING (id % 3 = 0)")
    db.execute(f"GRANT SELECT ON docs TO {role.name}")
    thirds = list(range(3, 301, 3))
    left = nearest(a[2::3], a[2::3], 2, itself=True)
    expected = {thirds[place]: [thirds[other - 1] for other in ids] for place, ids in enumerate(left)}
    found = matched(role.connection, f"'docs', 'docs', 2, mode => '{mode}'")
    assert {key: set(ids) for key, ids in found.items()} == {key: set(ids) for key, ids in expected.items()}


def test_a_row_with_chunks_counts_by_its_nearest_two(db: Connection) -> None:
    a, b = random_vectors(12, 1), random_vectors(20, 2)
    cut = """, chunking => '{"method": "paragraphs", "size": 16}'"""
    filled(db, "docs", a[:0], more=cut)
    filled(db, "papers", b[:0], more=cut)
    for name, vectors in (("docs", a), ("papers", b)):  # two, and four, to a row
        each = 2 if name == "docs" else 4
        put(db, name, list(range(1, len(vectors) // each + 1)), ["text"] * (len(vectors) // each), "synthetic-384")
        for place, vector in enumerate(vectors):
            db.execute(
                f'INSERT INTO pgmeaning_data."{name}__synthetic-384" (id, chunk, chunk_text, model, embedding) '
                "VALUES (%s, %s, 'chunk', 'synthetic-384', %s)".encode(),
                (place // each + 1, place % each, str(vector.tolist())),
            )
    away = distances(a, b).reshape(6, 2, 5, 4).min(axis=(1, 3))
    expected = {key: [int(i) + 1 for i in np.argsort(row)[:2]] for key, row in enumerate(away, 1)}
    for mode in ("exact", "signature"):
        assert matched(db, f"'docs', 'papers', 2, mode => '{mode}'") == expected


def test_half_precision_matches_full_precision(db: Connection) -> None:
    a, b = clustered(20, 4, seed=1)[0], clustered(30, 4, seed=1)[0]
    filled(db, "docs", a)
    filled(db, "papers", b, more=", vector_type => 'halfvec'")
    found = matched(db, "'docs', 'papers'")
    away = distances(a, b)
    assert all(away[key - 1, ids[0] - 1] <= away[key - 1].min() + 1e-3 for key, ids in found.items())


def test_vectors_of_another_model_are_refused_by_fingerprint(db: Connection) -> None:
    filled(db, "docs", random_vectors(3))
    filled(db, "papers", random_vectors(3), model="all-MiniLM-L6-v2")
    error = refused(db, "matches('docs', 'papers')")
    assert error.sqlstate == "PM030"
    assert "all-MiniLM-L6-v2" in str(error.diag.message_detail)
    assert error.diag.message_hint
    # As a name may say anything, and it does not matter.
    db.execute(
        'INSERT INTO pgmeaning.model SELECT (jsonb_populate_record(m, \'{"name": "other", "status": "supported"}\')).* '
        "FROM pgmeaning.model AS m WHERE m.name = 'synthetic-384'"
    )
    filled(db, "notes", random_vectors(3), model="other")
    assert len(matched(db, "'docs', 'notes'")) == 3


def test_vectors_of_another_length_are_refused(db: Connection) -> None:
    filled(db, "docs", random_vectors(3, dimensions=4096), model="synthetic-4096")
    filled(db, "papers", random_vectors(3, dimensions=512), model="synthetic-4096", more=", dimensions => 512")
    error = refused(db, "matches('docs', 'papers')")
    assert (error.sqlstate, "512" in str(error.diag.message_detail)) == ("PM030", True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("'docs', 'nope'", "no collection"), ("'docs', NULL", "no collection"), ("'docs', 'docs', 0", "k is 0"),
        ("'docs', 'docs', NULL", "neither k nor a threshold"), ("'docs', 'docs', 1, -0.1", "threshold is -0.1"),
        ("'docs', 'docs', 1, 2.1", "threshold is 2.1"), ("'docs', 'docs', 1, 'NaN'", "threshold is NaN"),
        ("'docs', 'docs', rows => 0", "rows is 0"), ("'docs', 'docs', mode => 'nope'", "no search mode"),
        ("'docs', 'docs', after => '{\"x\": 1}'", "not a key"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(db: Connection, arguments: str, words: str) -> None:
    filled(db, "docs", random_vectors(3))
    error = refused(db, f"matches({arguments})")
    assert str(error.sqlstate).startswith("PM")
    assert words in str(error)
    assert error.diag.message_hint


def test_a_huge_k_finds_all(db: Connection) -> None:
    filled(db, "docs", random_vectors(20))
    for mode in ("exact", "signature"):
        found = matched(db, f"'docs', 'docs', 9223372036854775807, mode => '{mode}'")
        assert {len(set(ids)) for ids in found.values()} == {19}


def test_empty_collections_match_nothing(db: Connection) -> None:
    filled(db, "docs", random_vectors(3))
    filled(db, "papers", random_vectors(0))
    assert matched(db, "'docs', 'papers'") == matched(db, "'papers', 'docs'") == matched(db, "'papers', 'papers'") == {}


def test_a_paused_collection_still_matches_and_a_broken_one_is_refused(db: Connection) -> None:
    filled(db, "docs", random_vectors(3))
    db.execute("SELECT pgmeaning.pause('docs')")
    assert len(matched(db, "'docs', 'docs'")) == 3
    db.execute("ALTER TABLE docs RENAME COLUMN id TO number")
    assert refused(db, "matches('docs', 'docs')").sqlstate == "PM010"
    assert refused(db, "classify('docs', '{a}')").sqlstate == "PM010"


def test_keys_are_written_alike_whatever_the_settings(db: Connection) -> None:
    db.execute("CREATE TABLE log (at timestamptz PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('log', '{body}')")
    db.execute("INSERT INTO log SELECT '2026-01-01 00:00+00'::timestamptz + i * interval '1 h', 'x' "
               "FROM generate_series(0, 2) AS i")  # fmt: skip
    for place, vector in enumerate(random_vectors(3)):
        db.execute(
            'INSERT INTO pgmeaning_data."log__synthetic-384" (at, chunk, model, embedding) '
            "VALUES ('2026-01-01 00:00+00'::timestamptz + %s * interval '1 h', 0, 'synthetic-384', %s)",
            (place, str(vector.tolist())),
        )
    db.execute("SET TimeZone = 'Asia/Tokyo'")
    keys = [key["at"] for (key,) in rows(db, "SELECT key FROM pgmeaning.matches('log', 'log')")]
    assert keys == [f"2026-01-01T0{hour}:00:00+00:00" for hour in range(3)]


# duplicates()


def doubled() -> tuple[Any, set[tuple[int, int]]]:
    """Vectors some of which come two or three times, slightly changed; and which pairs that makes."""
    base = random_vectors(30)
    near = unit(base[:10] + 0.05 * random_vectors(10, 7))
    nearer = unit(base[:3] + 0.05 * random_vectors(3, 8))
    vectors = np.concatenate([base, near, nearer])
    away = distances(vectors, vectors)
    pairs = {(a + 1, b + 1) for a, b in zip(*np.nonzero(away <= 0.05), strict=True) if a < b}
    return vectors, pairs


@pytest.mark.parametrize("mode", ["exact", "signature"])
def test_duplicates_are_the_pairs_within_the_threshold_once_each(db: Connection, mode: str) -> None:
    vectors, pairs = doubled()
    filled(db, "docs", vectors)
    found = rows(db, f"SELECT key, other_key, distance FROM pgmeaning.duplicates('docs', 0.05, mode => '{mode}')")
    assert len(found) == len(pairs) >= 16
    assert {(key["id"], other["id"]) for key, other, _ in found} == pairs
    assert [row[2] for row in found] == sorted(row[2] for row in found)


def test_duplicates_make_groups(db: Connection) -> None:
    vectors, pairs = doubled()
    filled(db, "docs", vectors)
    found: dict[int, set[int]] = defaultdict(set)
    for number, key, other, distance in rows(
        db, "SELECT group_number, key, other_key, distance FROM pgmeaning.duplicates('docs', 0.05, true)"
    ):
        found[number].add(key["id"])
        assert tuple(sorted((key["id"], other["id"]))) in pairs
        assert distance <= 0.05
    expected = [{i + 1, i + 31, *([i + 41] if i < 3 else [])} for i in range(10)]
    assert [found[number] for number in sorted(found)] == expected


def test_a_chain_of_near_rows_is_one_group(db: Connection) -> None:
    angles = np.deg2rad(10) * np.arange(12)  # each 10 degrees from the next: a distance of 0.015
    a, b = np.linalg.qr(random_vectors(2).T)[0].T
    filled(db, "docs", unit(np.outer(np.cos(angles), a) + np.outer(np.sin(angles), b)))
    assert rows(db, "SELECT count(*), count(DISTINCT group_number) FROM pgmeaning.duplicates('docs', .02, true)") == [
        (12, 1)
    ]


def test_hundreds_of_equal_rows_are_one_group(db: Connection) -> None:
    filled(db, "docs", np.repeat(random_vectors(2), 150, axis=0))
    assert rows(
        db,
        "SELECT group_number, count(*) FROM pgmeaning.duplicates('docs', 0, true, mode => 'signature') "
        "GROUP BY 1 ORDER BY 1",
    ) == [(1, 150), (2, 150)]


def test_no_duplicates_no_groups(db: Connection) -> None:
    filled(db, "docs", random_vectors(10))
    for grouped in ("true", "false", "NULL"):
        assert rows(db, f"SELECT * FROM pgmeaning.duplicates('docs', 0.05, {grouped})") == []


def test_duplicates_without_a_threshold_are_refused(db: Connection) -> None:
    filled(db, "docs", random_vectors(3))
    assert refused(db, "duplicates('docs', NULL)").sqlstate == "PM014"


# classify()


def test_each_row_gets_the_nearest_label(db: Connection) -> None:
    labels = ["one", "two", "three"]
    queries = load_embedder("synthetic-384").embed_queries(labels)
    a = unit(queries[np.arange(300) % 3] + random_vectors(300))
    filled(db, "docs", a)
    for label in labels:
        cache(db, label)
    found = rows(db, "SELECT key, label, score FROM pgmeaning.classify('docs', '{one,two,three}')")
    away = distances(a, queries)
    assert [key["id"] for key, _, _ in found] == list(range(1, 301))
    assert [label for _, label, _ in found] == [labels[place] for place in away.argmin(axis=1)]
    assert [score for _, _, score in found] == pytest.approx(list(1 - away.min(axis=1)), abs=1e-5)


def test_classes_come_in_pages(db: Connection) -> None:
    filled(db, "docs", random_vectors(10))
    cache(db, "one")
    cache(db, "two")
    whole = rows(db, "SELECT * FROM pgmeaning.classify('docs', '{one,two}')")
    first = rows(db, "SELECT * FROM pgmeaning.classify('docs', '{one,two}', rows => 4)")
    rest = rows(db, "SELECT * FROM pgmeaning.classify('docs', '{one,two}', after => '4')")
    assert first + rest == whole
    assert len(first) == 4


@pytest.mark.parametrize("labels", ["'{}'", "NULL", "'{a,NULL}'", "'{a,\" \"}'"])
def test_labels_that_say_nothing_are_refused(db: Connection, labels: str) -> None:
    filled(db, "docs", random_vectors(3))
    assert refused(db, f"classify('docs', {labels})").sqlstate == "PM014"
