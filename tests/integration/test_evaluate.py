"""Evaluations on a real database, with a model whose vectors say only whether two texts are the same.

Collection `bodies` embeds what the queries say, so it finds each of them; `titles` embeds other texts of the same rows.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import pgmeaning
from pgmeaning import errors
from pgmeaning.client.client import Client
from pgmeaning.evaluation import Evaluation
from pgmeaning.sidecar.process import Sidecar
from tests.integration.roles import Role
from tests.needs import needs_package
from tests.types import Connection, Drain

ROWS = 40
QUERIES = [
    {
        "query": f"body {key}",
        "relevant": [key],
        "language": "de" if key % 2 else "en",
        "tags": ["few"] if key == 1 else [],
    }
    for key in range(1, 21)
]


@pytest.fixture(autouse=True)
def _libraries() -> None:
    needs_package("ir_measures", "evaluate")


@pytest.fixture
def client(db: Connection, dsn: str, drain: Drain) -> Any:
    """A client, and two collections of one table, all embedded."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
    db.execute("INSERT INTO docs SELECT i, 'title ' || i, 'body ' || i FROM generate_series(1, %s) AS i", (ROWS,))
    db.execute("SELECT pgmeaning.attach('docs', '{title}', collection => 'titles', language => 'simple')")
    db.execute("SELECT pgmeaning.attach('docs', '{body}', collection => 'bodies', language => 'simple')")
    assert drain() == 0
    with pgmeaning.connect(dsn) as connected:
        yield connected


def evaluate(client: Client, collection: str = "bodies", queries: Any = QUERIES, **options: Any) -> Evaluation:
    """With vectors made in this process, so that no sidecar need run."""
    return client.evaluate(collection, queries, **{"local": True, **options})


def means(found: Evaluation, place: int = 0) -> dict[str, float]:
    return {name: value.mean for name, value in found.measured[place].measures.items()}


# Measures


def test_a_search_that_finds_every_row_at_once_has_full_marks(client: Client) -> None:
    found = evaluate(client)
    assert means(found) == {"nDCG@10": 1, "recall@10": 1, "MRR": 1}
    assert (found.queries, found.judged, found.warnings) == (20, 20, ())
    assert 0 < found.measured[0].p50 <= found.measured[0].p95


def test_recall_is_measured_at_the_depths_that_are_asked_for(client: Client) -> None:
    found = evaluate(client, "titles", recall=[5, ROWS])
    assert list(means(found)) == ["nDCG@10", "recall@5", f"recall@{ROWS}", "MRR"]
    assert means(found)[f"recall@{ROWS}"] == 1


def test_each_language_and_tag_is_measured_apart_if_it_has_several_queries(client: Client) -> None:
    [measured] = evaluate(client).measured
    assert {tag: values["MRR"].n for tag, values in measured.tags.items()} == {"de": 10, "en": 10}


def test_words_alone_are_a_way_of_their_own(client: Client) -> None:
    found = evaluate(client, ways=["words", "vectors"])
    assert [one.way.kind for one in found.measured] == ["words", "vectors"]
    assert means(found)["MRR"] == 1
    assert evaluate(client, queries=[{"query": "xyzzy", "relevant": [1]}], ways=["words"]).measured[0].measures[
        "MRR"
    ].mean == 0  # fmt: skip


# Comparisons


def test_a_generation_is_compared_with_the_first_query_by_query(client: Client) -> None:
    found = evaluate(client, "titles", generations=["bodies"])
    change = next(one for one in found.differences if (one.measure, one.tag) == ("MRR", None))
    assert (change.way.collection, change.base.collection, change.change.n) == ("bodies", "titles", 20)
    assert change.value == 1
    assert change.change.mean == pytest.approx(change.value - change.base_value)
    assert change.change.is_certain
    assert {one.tag for one in found.differences} == {None, "de", "en"}


def test_other_ways_are_compared_with_the_first_in_the_same_collection(client: Client) -> None:
    found = evaluate(client, "titles", ways=["vectors", "words"], generations=["bodies"])
    pairs = {(one.way.label, one.base.label) for one in found.differences}
    assert pairs == {
        ("titles: words", "titles: vectors"), ("bodies: vectors", "titles: vectors"),
        ("bodies: words", "titles: words"),
    }  # fmt: skip


def test_a_way_beside_itself_differs_in_nothing(client: Client, db: Connection, drain: Drain) -> None:
    db.execute("SELECT pgmeaning.attach('docs', '{body}', collection => 'same')")
    assert drain() == 0
    found = evaluate(client, generations=["same"])
    assert {(one.change.mean, one.change.low, one.change.high) for one in found.differences} == {(0, 0, 0)}
    [likeness] = found.likenesses
    assert likeness.overlap.mean == 1
    assert likeness.rank_biased_overlap.mean == pytest.approx(1)
    assert found.changed == ()


def test_the_queries_that_changed_most_are_shown_with_both_lists(client: Client) -> None:
    found = evaluate(client, "titles", generations=["bodies"], changed=3)
    assert len(found.changed) == 3
    gains = [one.change or 0 for one in found.changed]
    assert gains == sorted(gains, reverse=True)
    first = found.changed[0]
    assert (first.after[0].text, first.after[0].grade) == (first.query, 1)
    assert len(first.before) == len(first.after) == 10
    assert first.before[0].text is not None
    assert first.before[0].text.startswith("title")


def test_without_judgements_it_says_how_alike_the_lists_are(client: Client) -> None:
    found = evaluate(client, "titles", [{"query": one["query"]} for one in QUERIES], generations=["bodies"])
    assert found.warnings == (
        "no query is judged: only how alike the lists are is measured",
    )  # fmt: skip
    assert found.judged == 0
    assert found.differences == ()
    assert means(found) == {}
    [likeness] = found.likenesses
    assert 0 <= likeness.overlap.mean < 1
    assert likeness.overlap.n == 20
    assert [one.change for one in found.changed] == [None] * 10
    alike = [one.rank_biased_overlap for one in found.changed]
    assert alike == sorted(alike)


def test_half_judged_queries_are_counted(client: Client) -> None:
    found = evaluate(client, queries=[*QUERIES, {"query": "body 30"}])
    assert (found.queries, found.judged) == (21, 20)
    assert found.warnings == ("1 queries have no judged row, and are left out of the measures",)


# Keys


@pytest.mark.parametrize("key", [7, "7", {"id": 7}, {"id": "7"}])
def test_a_key_may_be_written_as_searches_take_it(client: Client, key: Any) -> None:
    assert means(evaluate(client, queries=[{"query": "body 7", "relevant": [key]}]))["MRR"] == 1


def test_keys_of_several_columns_are_objects(client: Client, db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE pages (doc numeric, at timestamptz, body text, PRIMARY KEY (doc, at))")
    db.execute("INSERT INTO pages VALUES (1.10, '2020-01-01 00:00+00', 'rice'), (2, '2020-01-01 00:00+00', 'bread')")
    db.execute("SELECT pgmeaning.attach('pages', '{body}')")
    assert drain() == 0
    key = {"doc": "1.1", "at": "2020-01-01 01:00+01"}
    assert means(evaluate(client, "pages", [{"query": "rice", "relevant": [key]}]))["MRR"] == 1


def test_rows_that_are_not_there_are_counted_and_left_out(client: Client) -> None:
    queries = [{"query": "body 1", "relevant": [1, 999]}, {"query": "body 2", "relevant": [998]}]
    found = evaluate(client, queries=queries)
    assert found.warnings == (
        "2 judged rows are not in the table, and are left out",
        "1 queries have no judged row, and are left out of the measures",
    )
    assert means(found)["recall@10"] == 1


def test_judgements_of_another_table_are_refused(client: Client) -> None:
    with pytest.raises(errors.ArgumentError, match="none of the judged rows is in the table"):
        evaluate(client, queries=[{"query": "x", "relevant": [998, 999]}])


@pytest.mark.parametrize("key", ["MED-10", {"nope": 1}])
def test_what_is_no_key_of_the_collection_is_refused(client: Client, key: Any) -> None:
    with pytest.raises(errors.DatabaseError, match="is not a key of collection 'bodies'"):
        evaluate(client, queries=[{"query": "x", "relevant": [1, key]}])


# What does not fit


def test_collections_of_two_tables_are_not_compared(client: Client, db: Connection) -> None:
    db.execute("CREATE TABLE others (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('others', '{body}')")
    with pytest.raises(errors.CollectionError, match=r"'others' is of public.others, 'bodies' of public.docs"):
        evaluate(client, generations=["others"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"generations": ["bodies"]}, "named twice"),
        ({"ways": ["magic"]}, "no way 'magic'"),
        ({"ways": []}, "no way"),
        ({"ways": "vectors"}, "ways is one string"),
        ({"recall": [0]}, "recall and rerank"),
        ({"recall": []}, "recall and rerank"),
        ({"weights": [1]}, "weights is"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(client: Client, options: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.ArgumentError, match=says):
        evaluate(client, **options)


def test_an_unknown_generation_is_refused(client: Client) -> None:
    with pytest.raises(errors.CollectionError, match=r"no collection 'bodies@2'"):
        evaluate(client, generations=["bodies@2"])


# While things change


def test_a_half_filled_generation_is_compared_on_the_rows_that_both_have(
    client: Client, db: Connection, drain: Drain
) -> None:
    """Rows that it has not got to yet would count against it."""
    db.execute("SELECT pgmeaning.pause('bodies')")
    db.execute('DELETE FROM pgmeaning_data."bodies__synthetic-384" WHERE id > 10')
    db.execute("UPDATE docs SET body = body || ' ' WHERE id > 10")
    found = evaluate(client, "titles", generations=["bodies"], recall=[ROWS])
    assert found.judged == 10
    assert {one.measures[f"recall@{ROWS}"].mean for one in found.measured} == {1}
    assert all(len(shown) == 10 for one in found.changed for shown in (one.before, one.after))
    assert [warning for warning in found.warnings if "owes" not in warning] == [
        "only rows that each collection has a vector of are looked at",
        "10 judged rows not each collection has a vector of, and are left out",
        "10 queries have no judged row, and are left out of the measures",
    ]


def test_rows_without_a_vector_are_told_of_a_collection_alone(client: Client, db: Connection) -> None:
    db.execute('DELETE FROM pgmeaning_data."bodies__synthetic-384" WHERE id = 3')
    found = evaluate(client)
    assert found.warnings == ("1 judged rows have no vector, and cannot be found",)
    assert means(found)["recall@10"] == pytest.approx(19 / 20)


def test_a_collection_that_changes_meanwhile_is_noticed(client: Client, db: Connection) -> None:
    def change(what: str, done: int, of: int) -> None:
        if (what, done) == ("searching", 0):
            db.execute("SELECT pgmeaning.rename_collection('bodies', 'old')")
            db.execute("SELECT pgmeaning.rename_collection('titles', 'bodies')")

    with pytest.raises(errors.CollectionError, match="'bodies' became another one while it was evaluated"):
        evaluate(client, progress=change)


def test_a_filter_holds_for_every_search(client: Client) -> None:
    found = evaluate(client, filter="id <> 7", queries=QUERIES)
    assert means(found)["recall@10"] == pytest.approx(19 / 20)
    found = evaluate(client, "titles", filter="id > 30 -- but", generations=["bodies"])
    assert all(int(row.key.split(":")[1].strip(" }")) > 30 for one in found.changed for row in one.after)


# Vectors and models


def test_a_sidecar_makes_each_querys_vector_once(client: Client, db: Connection, sidecar: Sidecar) -> None:
    found = evaluate(client, "titles", [*QUERIES, {"query": "body 1"}], generations=["bodies"], local=False)
    assert means(found, 1)["MRR"] == 1
    assert db.execute("SELECT count(*) FROM pgmeaning.query_cache").fetchone() == (20,)


def test_without_a_sidecar_it_says_so(client: Client) -> None:
    with pytest.raises(errors.TimedOut):
        evaluate(client, local=False, timeout=0.1)


def test_a_full_vector_serves_a_collection_of_fewer_dimensions(client: Client, db: Connection, drain: Drain) -> None:
    db.execute(
        "SELECT pgmeaning.attach('docs', '{body}', collection => 'short', model => 'synthetic-4096', dimensions => 64)"
    )
    assert drain() == 0
    assert means(evaluate(client, generations=["short"]), 1)["MRR"] == 1


# Records


def recorded(client: Client, columns: str) -> list[tuple[Any, ...]]:
    return client.connection.execute(f"SELECT {columns} FROM pgmeaning.evaluations ORDER BY id".encode()).fetchall()


def test_a_comparison_of_generations_is_recorded_with_each_measure_and_tag(client: Client) -> None:
    found = evaluate(client, "titles", generations=["bodies"])
    rows = recorded(client, "generation_name, other_generation_name, way, measure, tag, queries, is_current")
    assert found.recorded == len(rows) == 3 * 3 + 2
    assert ("bodies", "titles", "vectors", "nDCG@10", None, 20, True) in rows
    assert ("bodies", "titles", "vectors", "nDCG@10", "de", 10, True) in rows
    assert ("bodies", "titles", "vectors", "overlap@10", None, 20, True) in rows
    change = next(one for one in found.differences if (one.measure, one.tag) == ("nDCG@10", None))
    numbers = recorded(client, "value, other_value, difference_low, difference_high, measure, tag")
    assert (change.value, change.base_value, change.change.low, change.change.high, "nDCG@10", None) in numbers


def test_one_collection_alone_is_recorded_on_request(client: Client) -> None:
    assert evaluate(client).recorded == 0
    assert evaluate(client, record=True).recorded == 9
    assert evaluate(client, "titles", generations=["bodies"], record=False).recorded == 0
    assert {row["generation_name"] for row in client.evaluations("bodies")} == {"bodies"}


def test_who_may_not_record_still_learns_the_result(client: Client, db: Connection, dsn: str, role: Role) -> None:
    db.execute(f"GRANT SELECT ON docs, titles_embedding, bodies_embedding TO {role.name}")
    db.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA pgmeaning_data TO {role.name}")
    info = role.connection.info
    with pgmeaning.connect(make_conninfo(info.dsn, password=info.password)) as limited:
        found = evaluate(limited, "titles", generations=["bodies"])
        assert found.warnings == (f"not recorded: role {role.name} may not manage collection 'bodies'",)
        with pytest.raises(errors.DatabaseError, match="may not manage"):
            evaluate(limited, "titles", generations=["bodies"], record=True)


def test_who_may_not_read_the_rows_is_refused(client: Client, role: Role) -> None:
    info = role.connection.info
    with (
        pgmeaning.connect(make_conninfo(info.dsn, password=info.password)) as limited,
        pytest.raises((errors.DatabaseError, psycopg.Error)) as caught,
    ):
        evaluate(limited)
    assert getattr(caught.value, "sqlstate", None) == "PM011"


# Tuning


def test_tuning_chooses_on_one_half_and_reports_on_the_other(client: Client) -> None:
    [tuned] = evaluate(client, "titles", ways=["hybrid"], tune=True).tuned
    assert (tuned.chosen_on, tuned.change.n) == (10, 10)
    assert len(tuned.tried) == 8 + 6
    assert tuned.default_value.mean <= tuned.value.mean + 1


def test_what_makes_no_difference_stays_at_its_default(client: Client) -> None:
    [tuned] = evaluate(client, tune=True).tuned
    assert tuned.way == tuned.default
    assert tuned.statement == "SELECT * FROM pgmeaning.search('bodies', 'your query')"
    assert tuned.change.mean == 0


def test_the_statement_and_the_call_of_what_was_chosen_run(client: Client, sidecar: Sidecar) -> None:
    queries = [{"query": one["query"], "relevant": one["relevant"]} for one in QUERIES]
    client.connection.execute("UPDATE docs SET title = 'title body ' || id")
    client.wait_for("titles")
    [tuned] = evaluate(client, "titles", queries, ways=["hybrid"], tune=True).tuned
    assert tuned.way.weights != (1, 1)
    assert tuned.change.mean > 0
    client.connection.execute(tuned.statement.encode())
    assert eval(tuned.call, {"client": client})  # noqa: S307  # our own text


def test_too_few_queries_are_not_tuned_by(client: Client) -> None:
    with pytest.raises(errors.ArgumentError, match="9 judged queries are too few"):
        evaluate(client, queries=QUERIES[:9], tune=True)
