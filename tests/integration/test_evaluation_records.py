"""What was measured is kept with what it was measured of, so that a gate can tell whether it still holds."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.integration.docs import Docs
from tests.types import Connection

DOCS = Docs(
    "id int PRIMARY KEY, title text, body text",
    "SELECT i, 'title ' || i, 'body ' || i FROM generate_series(1, 5) AS i",
    "'{body}'",
    embedded=True,
)


def record(db: Connection, arguments: str) -> None:
    db.execute(f"SELECT pgmeaning.record_evaluation({arguments})")


def evaluations(db: Connection, columns: str) -> list[tuple[Any, ...]]:
    return db.execute(f"SELECT {columns} FROM pgmeaning.evaluations ORDER BY id").fetchall()


def test_a_measure_of_one_collection_is_kept(docs: Connection) -> None:
    record(docs, '\'docs\', NULL, 40, \'nDCG@10\', 0.5, definition => \'{"way": "hybrid", "tag": "de"}\'')
    columns = "collection, generation_name, other_generation_name, way, tag, queries, measure, value, difference"
    assert evaluations(docs, columns) == [("docs", "docs", None, "hybrid", "de", 40, "nDCG@10", 0.5, None)]


def test_a_comparison_is_kept_with_the_interval_of_its_difference(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', '{title}', collection => 'docs2')")
    record(docs, "'docs2', 'docs', 40, 'nDCG@10', 0.75, 0.5, 0.125, 0.375")
    columns = "generation_name, other_generation_name, value, other_value, difference, difference_low, difference_high"
    assert evaluations(docs, columns) == [("docs2", "docs", 0.75, 0.5, 0.25, 0.125, 0.375)]


def test_the_mark_says_which_vectors_were_measured_whatever_the_definition_says(docs: Connection) -> None:
    record(docs, "'docs', NULL, 40, 'nDCG@10', 0.5, definition => '{\"generation\": {\"collection_id\": 99}}'")
    [(mark,)] = evaluations(docs, "definition -> 'generation'")
    assert mark["model"] == "synthetic-384"
    assert mark["dimensions"] == 384
    assert mark["vectors"] == 5
    assert mark["fingerprint"]
    assert evaluations(docs, "is_current") == [(True,)]


@pytest.mark.parametrize(
    "change", ["SELECT pgmeaning.detach('docs')", "UPDATE pgmeaning.collection SET template = '{title}'"]
)
def test_an_evaluation_of_what_has_changed_since_is_not_current(docs: Connection, change: str) -> None:
    record(docs, "'docs', NULL, 40, 'nDCG@10', 0.5")
    docs.execute(change.encode())
    assert evaluations(docs, "generation_name, is_current") == [("docs", False)]


def test_a_comparison_is_current_only_while_both_generations_are(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.attach('docs', '{title}', collection => 'docs2')")
    record(docs, "'docs2', 'docs', 40, 'nDCG@10', 0.75, 0.5")
    docs.execute("SELECT pgmeaning.rename_collection('docs2', 'docs3')")
    assert evaluations(docs, "is_current") == [(True,)]
    docs.execute("SELECT pgmeaning.detach('docs')")
    assert evaluations(docs, "is_current") == [(False,)]


def test_rows_that_come_later_do_not_make_it_another_generation(docs: Connection) -> None:
    record(docs, "'docs', NULL, 40, 'nDCG@10', 0.5")
    docs.execute('DELETE FROM pgmeaning_data."docs__synthetic-384" WHERE id = 1')
    assert evaluations(docs, "is_current") == [(True,)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("'docs', NULL, 0, 'nDCG@10', 0.5", "it is of no query."),
        ("'docs', NULL, 1, '', 0.5", "the measure has no name."),
        ("'docs', NULL, 1, 'nDCG@10', NULL", "the value is NULL."),
        ("'docs', NULL, 1, 'nDCG@10', 'NaN'", "a number is not finite."),
        ("'docs', NULL, 1, 'nDCG@10', 0.5, 0.5", "other_value is of no generation."),
        ("'docs', 'docs', 1, 'nDCG@10', 0.5, 0.5, 0.2, 0.1", "difference_low is above difference_high."),
        ("'docs', NULL, 1, 'nDCG@10', 0.5, definition => '[]'", "the definition is no JSON object."),
    ],
)
def test_a_record_that_says_nothing_is_refused(docs: Connection, arguments: str, says: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        record(docs, arguments)
    assert (caught.value.sqlstate, caught.value.diag.message_detail) == ("PM014", says)
    assert caught.value.diag.message_hint


def test_an_unknown_collection_is_refused_on_either_side(docs: Connection) -> None:
    for arguments in ("'nope', NULL, 1, 'm', 1", "'docs', 'nope', 1, 'm', 1"):
        with pytest.raises(psycopg.Error) as caught:
            record(docs, arguments)
        assert caught.value.sqlstate == "PM001"
