"""Generations of one collection are evaluated while a swap fills the new one, and the record says what a gate asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import pgmeaning
from pgmeaning import errors
from pgmeaning.client.client import Client
from tests.needs import needs_package
from tests.types import Connection, Drain

ROWS = 40
QUERIES = [{"query": f"body {key}", "relevant": [key], "language": "de" if key % 2 else "en"} for key in range(1, 31)]


@pytest.fixture
def client(db: Connection, dsn: str, drain: Drain) -> Iterator[Client]:
    """A client, and a collection that embeds other texts than the queries ask for."""
    needs_package("ir_measures", "evaluate")
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
    db.execute("INSERT INTO docs SELECT i, 'title ' || i, 'body ' || i FROM generate_series(1, %s) AS i", (ROWS,))
    db.execute("SELECT pgmeaning.attach('docs', '{title}')")
    assert drain() == 0
    with pgmeaning.connect(dsn) as connected:
        yield connected


def quality(db: Connection) -> dict[str, Any]:
    """The gate of that name, of the generation that fills."""
    row = db.execute("SELECT gates FROM pgmeaning.swaps").fetchone()
    assert row is not None
    return next(gate for gate in row[0] if gate["gate"] == "quality")


def test_the_generation_that_a_swap_fills_is_compared_by_default(client: Client, db: Connection, drain: Drain) -> None:
    db.execute("SELECT pgmeaning.swap_start('docs', columns => '{body}', model => 'synthetic-4096')")
    assert drain() == 0
    found = client.evaluate("docs", QUERIES, local=True)
    assert [(one.way.collection, one.model) for one in found.measured] == [
        ("docs", "synthetic-384"), ("docs@2", "synthetic-4096"),
    ]  # fmt: skip
    assert found.warnings == ()
    rows = client.evaluations("docs")
    assert {(row["collection"], row["generation_name"], row["is_current"]) for row in rows} == {
        ("docs", "docs@2", True)
    }
    assert quality(db)["passes"]


def test_half_a_generation_is_evaluated_on_the_rows_that_it_has(client: Client, db: Connection, drain: Drain) -> None:
    db.execute("SELECT pgmeaning.swap_start('docs', columns => '{body}', model => 'synthetic-4096', until => 0.5)")
    drain()
    filled = db.execute('SELECT count(*) FROM pgmeaning_data."docs@2__synthetic-4096"').fetchone()
    assert filled == (ROWS // 2,)
    found = client.evaluate("docs", QUERIES, local=True, recall=[ROWS])
    assert found.judged == 20
    assert {one.measures[f"recall@{ROWS}"].mean for one in found.measured} == {1}


def test_a_generation_that_is_worse_for_certain_does_not_pass(client: Client, db: Connection, drain: Drain) -> None:
    db.execute("SELECT pgmeaning.swap_start('docs', columns => '{body}')")
    assert drain() == 0
    queries = [{**query, "query": str(query["query"]).replace("body", "title")} for query in QUERIES]
    client.evaluate("docs", queries, local=True)
    assert not quality(db)["passes"]
    assert quality(db)["finding"].startswith("worse: MRR of vectors")


def test_how_alike_lists_are_is_no_judgement_of_their_quality(client: Client, db: Connection, drain: Drain) -> None:
    db.execute("SELECT pgmeaning.swap_start('docs', columns => '{body}', require_evaluation => true)")
    assert drain() == 0
    found = client.evaluate("docs", [{"query": query["query"]} for query in QUERIES], local=True)
    assert found.recorded == 2
    assert quality(db)["passes"] is False
    assert quality(db)["finding"].startswith("it must be evaluated")


def test_an_evaluation_outlives_the_activation_of_its_generation(client: Client, db: Connection, drain: Drain) -> None:
    db.execute("SELECT pgmeaning.swap_start('docs', columns => '{body}')")
    assert drain() == 0
    client.evaluate("docs", QUERIES, local=True)
    db.execute("SELECT pgmeaning.swap_activate('docs')")
    assert {row["is_current"] for row in client.evaluations("docs")} == {True}
    db.execute("SELECT pgmeaning.swap_finish('docs')")
    assert {row["is_current"] for row in client.evaluations("docs")} == {False}


def test_a_generation_that_begins_to_serve_meanwhile_ends_the_evaluation(
    client: Client, db: Connection, drain: Drain
) -> None:
    db.execute("SELECT pgmeaning.swap_start('docs', columns => '{body}')")
    assert drain() == 0

    def activate(what: str, done: int, of: int) -> None:
        if (what, done) == ("searching", 5):
            db.execute("SELECT pgmeaning.swap_activate('docs')")

    with pytest.raises(errors.PgmeaningError):
        client.evaluate("docs", QUERIES, local=True, progress=activate)
    assert client.evaluations() == []
