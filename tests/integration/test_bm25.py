"""Words are ranked by BM25: by posting lists beside the vectors, and by looking at the rows that are not in them yet."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.dumps import dump, restore
from tests.types import Connection, Drain

VECTORS = 'pgmeaning_data."docs__synthetic-384"'
FOUND = f"""SELECT (h.key->>'id')::int, h.score FROM pgmeaning.collection AS c, pgmeaning.target AS t,
    LATERAL (SELECT pgmeaning._by_words(c, t, %(query)s, (SELECT embedding FROM {VECTORS} LIMIT 1),
                                        pgmeaning._search_options(c, %(k)s, %(filter)s, NULL, 'public', NULL, NULL, true, NULL)) AS hits) AS f,
    unnest(f.hits) AS h"""


def attach(db: Connection, more: str = "") -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, tenant text)")
    db.execute(f"SELECT pgmeaning.attach('docs', '{{body}}', model => 'synthetic-384', language => 'simple'{more})")


def write(db: Connection, texts: Sequence[str], first: int = 0) -> None:
    """Rows with their vectors, without a sidecar."""
    with db.cursor() as cursor:
        cursor.executemany("INSERT INTO docs VALUES (%s, %s)", list(enumerate(texts, first)))
    db.execute(
        f"INSERT INTO {VECTORS} (id, model, embedding, words) SELECT d.id, 'synthetic-384', array_fill(1.0, '{{384}}')::vector, to_tsvector('simple', d.body) FROM docs AS d WHERE d.id >= %s ORDER BY d.id",
        (first,),
    )


def index(db: Connection, enough: int = 1) -> int:
    """What a sidecar does, until there is nothing to do; returns the number of steps."""
    steps = 0
    while db.execute("SELECT pgmeaning._index_words(id, %s) FROM pgmeaning.collection", (enough,)).fetchone() != (0,):
        steps += 1
    return steps


def found(db: Connection, query: str, k: int = 100, condition: str | None = None) -> list[tuple[int, float]]:
    rows = db.execute(FOUND, {"query": query, "k": k, "filter": condition}).fetchall()
    return [(key, score) for key, score in rows]


def bm25(
    texts: dict[int, str], query: str, counted: Sequence[str] | None = None, listed: int | None = None
) -> dict[int, float]:
    """Scores by the textbook; of the rows `counted` the statistics, and the average of the first `listed` ones."""
    bodies = [text.split() for text in (list(texts.values()) if counted is None else counted)]
    average = max(1, sum(map(len, bodies[:listed])) / max(1, len(bodies[:listed])))
    frequencies = Counter(word for body in bodies for word in set(body))
    scores = {}
    for key, text in texts.items():
        body = text.split()
        counts = Counter(body)
        score = sum(
            math.log(1 + (len(bodies) - frequencies[word] + 0.5) / (frequencies[word] + 0.5))
            * counts[word] * 2.2 / (counts[word] + 1.2 * (0.25 + 0.75 * len(body) / average))
            for word in set(query.split()) if counts[word]
        )  # fmt: skip
        if score:
            scores[key] = score
    return scores


def same(answer: list[tuple[int, float]], expected: dict[int, float], k: int = 100, within: float = 1e-5) -> None:
    """The k best, as far as scores tell them apart."""
    best = sorted(expected.items(), key=lambda item: -item[1])[:k]
    assert [score for _, score in answer] == pytest.approx([score for _, score in best], rel=within)
    assert dict(answer) == {key: pytest.approx(expected[key], rel=within) for key, _ in answer}


# What was listed at other times was compared with another average: by up to a tenth, of which b = .75 counts.
ROUGHLY = 0.075


def zipfian(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(f"w{int(1000 ** draw.random()) - 1}" for _ in range(draw.randint(1, 30))) for _ in range(count)]


QUERIES = ("w0", "w900", "w0 w1 w2", "w3 w30 w300", "w5 nothing w700", " ".join(f"w{i}" for i in range(0, 60, 3)))


# The statistics are of all rows, and the average length of those in the lists; before there are lists, of 200 rows.


def test_scores_are_those_of_the_textbook_with_lists_and_without(db: Connection) -> None:
    attach(db)
    words = st.lists(st.lists(st.sampled_from(list("abcdefgh")), max_size=12).map(" ".join), min_size=1, max_size=30)
    query = st.lists(st.sampled_from(list("abcdefgx")), min_size=1, max_size=5).map(" ".join)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(words, words, query, st.integers(1, 40))
    def check(listed: list[str], fresh: list[str], query: str, k: int) -> None:
        db.execute(f"TRUNCATE docs, {VECTORS}")
        write(db, listed)
        same(found(db, query, k), bm25(dict(enumerate(listed)), query), k)
        index(db)
        same(found(db, query, k), bm25(dict(enumerate(listed)), query), k)
        write(db, fresh, first=len(listed))
        every = dict(enumerate([*listed, *fresh]))
        same(found(db, query, k), bm25(every, query, listed=len(listed)), k)

    check()


@pytest.fixture
def filled(db: Connection) -> dict[int, str]:
    """3,000 rows in lists, and 50 that are in none yet."""
    attach(db)
    texts = zipfian(3050)
    write(db, texts[:3000])
    index(db)
    write(db, texts[3000:], first=3000)
    return dict(enumerate(texts))


def test_the_best_are_found_among_many_without_looking_at_each(db: Connection, filled: dict[int, str]) -> None:
    for query in QUERIES:
        for k in (1, 10, 300):
            same(found(db, query, k), bm25(filled, query, listed=3000), k)


def test_of_many_equal_rows_those_come_first_that_were_written_first(db: Connection) -> None:
    attach(db)
    write(db, ["word", "other words here"] * 2000 + ["word word"])
    index(db)
    answer = [key for key, _ in found(db, "word", 20)]
    assert answer == [4000, *range(0, 38, 2)]


def test_a_filter_holds_and_starves_nobody(db: Connection, filled: dict[int, str]) -> None:
    db.execute("ANALYZE docs")
    passing = {
        "id % 2 = 0": [key for key in filled if key % 2 == 0],
        "id < 20": [key for key in filled if key < 20],
        "id >= 2990": [key for key in filled if key >= 2990],
        "body NOT LIKE '%w0%'": [key for key, text in filled.items() if "w0" not in text],
    }
    for condition, keys in passing.items():
        for query in QUERIES[:4]:
            scores = bm25(filled, query, listed=3000)
            same(found(db, query, 50, condition), {key: scores[key] for key in keys if key in scores}, 50)


def test_rows_that_are_gone_are_not_found_and_count_until_their_block_is_made_anew(
    db: Connection, filled: dict[int, str]
) -> None:
    gone = list(range(0, 3000, 2))
    for table in ("docs", VECTORS):
        db.execute(f"DELETE FROM {table} WHERE id < 3000 AND id % 2 = 0")
    left = {key: text for key, text in filled.items() if key not in gone}
    same(found(db, "w0 w5", 80), {k: s for k, s in bm25(filled, "w0 w5", listed=3000).items() if k in left}, 80)
    db.execute("SELECT pg_stat_force_next_flush()")
    index(db)
    assert db.execute("SELECT rows, waiting FROM pgmeaning.word_report").fetchone() == (1550, 0)
    same(found(db, "w0 w5", 80), bm25(left, "w0 w5"), 80)


def test_an_emptied_table_has_no_words_and_numbers_may_begin_again(db: Connection, filled: dict[int, str]) -> None:
    db.execute("DELETE FROM docs")
    db.execute(f"TRUNCATE {VECTORS} RESTART IDENTITY")
    assert found(db, "w0") == []
    write(db, ["new w0", "other"])
    same(found(db, "w0"), bm25({0: "new w0", 1: "other"}, "w0"))
    index(db)
    same(found(db, "w0"), bm25({0: "new w0", 1: "other"}, "w0"))


def test_a_row_that_is_committed_late_is_not_passed_over(db: Connection, connect: object, dsn: str) -> None:
    attach(db)
    with psycopg.connect(dsn) as late:
        late.execute("INSERT INTO docs VALUES (1, 'late word')")
        late.execute(
            f"INSERT INTO {VECTORS} (id, model, embedding, words) VALUES (1, 'synthetic-384', array_fill(1.0, '{{384}}')::vector, 'late word')"
        )
        write(db, ["early word"], first=2)
        index(db)
        assert db.execute("SELECT rows FROM pgmeaning.word_report").fetchone() == (0,)  # it waits for the other
        assert [key for key, _ in found(db, "word")] == [2]
        late.commit()
    index(db)
    assert sorted(key for key, _ in found(db, "word")) == [1, 2]
    assert db.execute("SELECT rows FROM pgmeaning.word_report").fetchone() == (2,)


def test_lists_whose_average_is_another_by_now_are_made_anew(db: Connection) -> None:
    attach(db)
    short, long = ["a b"] * 50, ["a " + " ".join(f"c{i}" for i in range(40))] * 50
    write(db, short)
    index(db)
    write(db, long, first=50)
    index(db)
    same(found(db, "a b"), bm25(dict(enumerate([*short, *long])), "a b"))


def test_small_additions_are_joined(db: Connection) -> None:
    attach(db)
    texts = zipfian(24)
    for number, text in enumerate(texts):
        write(db, [text], first=number)
        index(db)
    (parts,) = db.execute("SELECT count(*) FROM pgmeaning_data.postings_1 WHERE word = ''").fetchone() or (0,)
    assert parts <= 9
    same(found(db, "w0 w1 w2"), bm25(dict(enumerate(texts)), "w0 w1 w2"), within=ROUGHLY)


def test_blocks_have_16000_places(db: Connection) -> None:
    attach(db)
    write(db, ["first block"])
    db.execute("SELECT setval('pgmeaning_data.words_id_1', 15998)")
    write(db, ["last place", "next place", "next block"], first=1)
    index(db)
    blocks = db.execute("SELECT DISTINCT block FROM pgmeaning_data.postings_1 ORDER BY 1").fetchall()
    assert blocks == [(0,), (1,)]
    same(
        found(db, "block place"),
        bm25({0: "first block", 1: "last place", 2: "next place", 3: "next block"}, "block place"),
    )


def test_words_of_any_characters_are_counted_right(db: Connection) -> None:
    attach(db)
    odd = ["it's", "back\\slash", "naïve", "日本", "a.b.c", "x" * 500]
    write(db, [" ".join([word] * (number + 1)) for number, word in enumerate(odd)])
    for _ in range(2):
        for number, word in enumerate(odd):
            assert number in [key for key, _ in found(db, word)], word
        index(db)


def test_of_a_long_query_the_64_rarest_words_count(db: Connection) -> None:
    attach(db)
    texts = ["common rare1", "common rare2", "common"]
    write(db, [*texts, " ".join(f"p{i}" for i in range(63))])
    for _ in range(2):
        answer = found(db, "common rare1 " + " ".join(f"p{i}" for i in range(63)))
        assert [key for key, _ in answer][:2] == [3, 0]
        assert len(answer) == 2
        index(db)


def test_who_does_not_see_all_rows_is_told_nothing_of_the_others(db: Connection, filled: dict[int, str]) -> None:
    db.execute("DROP ROLE IF EXISTS bm25_tenant; CREATE ROLE bm25_tenant")
    try:
        db.execute(f"GRANT SELECT ON docs, {VECTORS} TO bm25_tenant")
        db.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
        db.execute("CREATE POLICY few ON docs TO bm25_tenant USING (id % 40 = 0)")
        db.execute("GRANT SELECT ON pgmeaning_data.postings_1 TO bm25_tenant")  # by mistake: there is a policy, too
        db.execute("SET ROLE bm25_tenant")
        assert db.execute("SELECT count(*) FROM pgmeaning_data.postings_1").fetchone() == (0,)
        mine = {key: text for key, text in filled.items() if key % 40 == 0}
        for query in QUERIES[:4]:
            same(found(db, query, 30), bm25(mine, query), 30)  # as if there were no other rows
        db.execute("RESET ROLE; ALTER TABLE docs DISABLE ROW LEVEL SECURITY")
        db.execute("SELECT pgmeaning._index_words(id) FROM pgmeaning.collection")
        db.execute("SET ROLE bm25_tenant")
        same(found(db, "w0 w5", 30), bm25(filled, "w0 w5", listed=3000), 30)
        db.execute(f"RESET ROLE; REVOKE SELECT ON {VECTORS} FROM bm25_tenant")
        db.execute("SET ROLE bm25_tenant")
        assert db.execute("SELECT count(*) FROM pgmeaning_data.postings_1").fetchone() == (0,)
    finally:
        db.execute("RESET ROLE; DROP OWNED BY bm25_tenant; DROP ROLE bm25_tenant")


def test_lists_that_were_dropped_are_missed_by_nobody_and_made_again(
    db: Connection, filled: dict[int, str], drain: Drain
) -> None:
    db.execute("DROP TABLE pgmeaning_data.postings_1")
    assert db.execute("SELECT problem FROM pgmeaning.word_report").fetchone() == ("its posting lists were dropped",)
    same(found(db, "w0 w5", 50), bm25(filled, "w0 w5", listed=200), 50)
    db.execute("UPDATE pgmeaning.target SET scanning = false")
    assert drain() == 0
    assert db.execute("SELECT rows, problem FROM pgmeaning.word_report").fetchone() == (3050, None)
    same(found(db, "w0 w5", 50), bm25(filled, "w0 w5"), 50)


def test_a_collection_of_an_earlier_version_is_numbered_and_listed(db: Connection, drain: Drain) -> None:
    attach(db)
    texts = zipfian(2500)
    write(db, texts)
    db.execute(
        f"DROP TRIGGER words_emptied ON {VECTORS}; DROP TABLE pgmeaning_data.postings_1; DELETE FROM pgmeaning.word_index"
    )
    db.execute(f"ALTER TABLE {VECTORS} DROP COLUMN words_id; CREATE INDEX ON {VECTORS} USING gin (words)")
    same(found(db, "w0 w5", 50), bm25(dict(enumerate(texts)), "w0 w5", listed=200), 50)
    assert drain() == 0
    assert db.execute("SELECT rows, waiting FROM pgmeaning.word_report").fetchone() == (2500, 0)
    assert db.execute(
        "SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%gin%' AND schemaname = 'pgmeaning_data'"
    ).fetchone() == (0,)
    same(found(db, "w0 w5", 50), bm25(dict(enumerate(texts)), "w0 w5"), 50)


def test_half_of_a_numbering_is_enough_to_search(db: Connection) -> None:
    attach(db)
    texts = zipfian(300)
    write(db, texts)
    index(db)
    db.execute(f"UPDATE {VECTORS} SET words_id = NULL WHERE id % 3 = 0")
    assert {key for key, _ in found(db, "w0", 300)} == {key for key, text in enumerate(texts) if "w0" in text.split()}


def test_a_sequence_that_was_restarted_loses_no_row(db: Connection, filled: dict[int, str]) -> None:
    index(db)
    db.execute("ALTER SEQUENCE pgmeaning_data.words_id_1 RESTART")
    write(db, ["zeta", "zeta alpha"], first=100_000)
    index(db)
    assert {key for key, _ in found(db, "zeta")} == {100_000, 100_001}


def test_lists_that_were_emptied_hide_no_row_and_are_made_again(db: Connection, filled: dict[int, str]) -> None:
    index(db)
    matching = {key for key, text in filled.items() if {"w3", "w7"} & set(text.split())}
    db.execute("TRUNCATE pgmeaning_data.postings_1")
    assert {key for key, _ in found(db, "w3 w7", 3050)} == matching
    index(db)
    assert db.execute("SELECT rows FROM pgmeaning.word_report").fetchone() == (len(filled),)


def test_numbers_that_were_dropped_are_given_again(db: Connection, drain: Drain) -> None:
    attach(db)
    db.execute("INSERT INTO docs VALUES (1, 'alpha'), (2, 'beta')")
    assert drain() == 0
    db.execute("DROP SEQUENCE pgmeaning_data.words_id_1 CASCADE")
    db.execute("INSERT INTO docs VALUES (3, 'alpha gamma')")
    assert drain() == 0
    assert db.execute(f"SELECT count(words_id) FROM {VECTORS}").fetchone() == (3,)
    assert {key for key, _ in found(db, "alpha")} == {1, 3}


def test_a_stranger_learns_nothing_of_the_words(db: Connection, filled: dict[int, str]) -> None:
    index(db)
    db.execute("CREATE ROLE words_stranger")
    try:
        db.execute("GRANT USAGE ON SCHEMA pgmeaning_data TO words_stranger")
        db.execute("SET ROLE words_stranger")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.execute("EXPLAIN SELECT FROM pgmeaning_data.postings_1 WHERE word = 'w1'")
        db.execute("RESET ROLE")
        db.execute(f"GRANT SELECT ON {VECTORS} TO words_stranger")
        index(db)
        granted = "SELECT has_table_privilege('words_stranger', 'pgmeaning_data.postings_1', 'SELECT')"
        assert db.execute(granted).fetchone() == (True,)
        db.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
        index(db)
        assert db.execute(granted).fetchone() == (False,)
    finally:
        db.execute("RESET ROLE; DROP OWNED BY words_stranger; DROP ROLE words_stranger")


def test_a_query_of_ten_thousand_words_is_answered(db: Connection, filled: dict[int, str]) -> None:
    index(db)
    assert found(db, " ".join(f"v{n}" for n in range(10_000)) + " w000000003") == []
    assert found(db, " ".join(f"v{n}" for n in range(10_000)) + " w3 ") == []  # of so many the longest words count


def test_detaching_takes_the_lists_along_and_kept_vectors_are_listed_again(db: Connection) -> None:
    attach(db)
    texts = zipfian(100)
    write(db, texts)
    index(db)
    db.execute("SELECT pgmeaning.detach('docs', keep_vectors => true)")
    left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'postings%' AND relkind = 'r'"
    assert db.execute(left).fetchone() == (0,)
    db.execute("SELECT pgmeaning.attach('docs', '{body}', model => 'synthetic-384', language => 'simple')")
    same(found(db, "w0 w1"), bm25(dict(enumerate(texts)), "w0 w1"))
    index(db)
    same(found(db, "w0 w1"), bm25(dict(enumerate(texts)), "w0 w1"))
    db.execute("SELECT pgmeaning.detach('docs')")
    assert db.execute(left).fetchone() == (0,)


def test_a_step_that_is_cut_short_leaves_the_lists_as_they_were(db: Connection, dsn: str) -> None:
    attach(db)
    texts = zipfian(400)
    write(db, texts[:200])
    index(db)
    write(db, texts[200:], first=200)
    with psycopg.connect(dsn) as broken:
        broken.execute("SELECT pgmeaning._index_words(1, 1)")
        assert db.execute("SELECT pgmeaning._index_words(1, 1)").fetchone() == (0,)  # one at a time
        broken.rollback()
    same(found(db, "w0 w1"), bm25(dict(enumerate(texts)), "w0 w1", listed=200))
    index(db)
    same(found(db, "w0 w1"), bm25(dict(enumerate(texts)), "w0 w1"), within=ROUGHLY)


def test_a_restored_dump_has_the_lists_and_goes_on_with_the_numbers(
    db: Connection, dsn: str, empty_dsn: str, filled: dict[int, str]
) -> None:
    restore(db, dump(db, dsn), empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as copy:
        assert copy.execute("SELECT rows FROM pgmeaning.word_report").fetchone() == (3000,)
        same(found(copy, "w0 w5"), bm25(filled, "w0 w5", listed=3000))
        write(copy, ["w0 w5 new"], first=4000)
        same(found(copy, "w0 w5"), bm25({**filled, 4000: "w0 w5 new"}, "w0 w5", listed=3000))
        index(copy)
        assert copy.execute("SELECT rows FROM pgmeaning.word_report").fetchone() == (3051,)
