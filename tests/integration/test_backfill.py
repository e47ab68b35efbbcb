"""What is there at attach(), what a scan finds later, and what is not worth embedding."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from pgmeaning.models.base import load_embedder
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.installation import BY_THE_OWNER, ONE_ROLE
from tests.integration.embedders import Watched
from tests.types import Connection, Drain

pytestmark = pytest.mark.parametrize("installation", [ONE_ROLE, BY_THE_OWNER], indirect=True)

UNSEEN = "SET session_replication_role = replica; {}; SET session_replication_role = origin"


@pytest.fixture(autouse=True)
def _docs(db: Connection) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")


def attach(db: Connection, **more: object) -> None:
    arguments = "".join(f", {name} => %s" for name in more)
    db.execute(f"SELECT pgmeaning.attach('docs', ARRAY['title', 'body']{arguments})".encode(), tuple(more.values()))


def embedded(db: Connection) -> list[int]:
    return [key for (key,) in db.execute("SELECT id FROM docs_embedding ORDER BY id").fetchall()]


def drained(dsn: str, watched: Watched, **settings: Any) -> int:
    return Sidecar(dsn, Settings(**settings), load=watched.load).run(drain=True)


def unseen(db: Connection, statement: str) -> None:
    """Run what no trigger sees."""
    db.execute(UNSEEN.format(statement).encode())


def test_an_empty_table_is_drained_at_once(db: Connection, drain: Drain) -> None:
    attach(db)
    assert drain() == 0
    assert db.execute("SELECT state, owed, vectors FROM pgmeaning.status").fetchall() == [("ready", 0, 0)]


def test_rows_that_are_all_null_get_no_vector_and_end_the_drain(db: Connection, drain: Drain) -> None:
    db.execute("INSERT INTO docs (id) SELECT generate_series(1, 600)")
    db.execute("INSERT INTO docs VALUES (601, 'title', NULL)")
    attach(db)
    db.execute("INSERT INTO docs (id) VALUES (602)")
    assert drain() == 0
    assert embedded(db) == [601]


def test_a_row_whose_columns_become_null_loses_its_vector(db: Connection, drain: Drain) -> None:
    attach(db)
    db.execute("INSERT INTO docs VALUES (1, 'a', 'b'), (2, 'c', NULL)")
    assert drain() == 0
    db.execute("UPDATE docs SET title = NULL WHERE id = 2")
    assert drain() == 0
    assert embedded(db) == [1]


def test_a_template_fills_doubled_braces_in_as_single_ones(db: Connection, dsn: str) -> None:
    db.execute("INSERT INTO docs VALUES (1, '{body}', '100 %')")
    db.execute("SELECT pgmeaning.attach('docs', template => '{{{title}}}: {body}{{}}')")
    watched = Watched()
    assert drained(dsn, watched) == 0
    assert list(watched.embedded) == ["{{body}}: 100 %{}"]


def test_equal_inputs_are_embedded_once_a_batch_and_stored_for_each_row(db: Connection, dsn: str) -> None:
    db.execute("INSERT INTO docs SELECT i, 'title ' || i %% 5, 'body' FROM generate_series(1, 3000) AS i", ())
    attach(db)
    watched = Watched()
    assert drained(dsn, watched) == 0
    assert len(embedded(db)) == 3000
    assert all(len(set(batch)) == len(batch) for batch in watched.batches)
    assert watched.embedded.total() < 300
    row = db.execute("SELECT count(DISTINCT embedding), count(DISTINCT content_hash) FROM docs_embedding").fetchone()
    assert row == (5, 5)


def test_texts_of_a_megabyte_cost_no_more_than_what_a_model_can_take(db: Connection, dsn: str) -> None:
    db.execute("INSERT INTO docs SELECT i, i::text, repeat('long ', 200000) FROM generate_series(1, 60) AS i")
    attach(db)
    watched = Watched()
    tracemalloc.start()
    try:
        assert drained(dsn, watched) == 0
        assert tracemalloc.get_traced_memory()[1] < 120e6
    finally:
        tracemalloc.stop()
    assert len(embedded(db)) == 60
    assert max(map(len, watched.embedded)) < 200_000


def test_a_change_behind_what_the_model_can_take_is_no_stale_vector(db: Connection, dsn: str) -> None:
    db.execute("INSERT INTO docs VALUES (1, 'a', repeat('long ', 200000))")
    attach(db)
    assert drained(dsn, Watched()) == 0
    db.execute("UPDATE docs SET body = body || 'end'")
    db.execute("SELECT pgmeaning.refresh('docs')")
    assert drained(dsn, Watched()) == 0
    again = Watched()
    db.execute("SELECT pgmeaning.refresh('docs')")
    assert drained(dsn, again) == 0
    assert not again.embedded


def test_a_row_changed_forth_and_back_is_not_embedded_again(db: Connection, dsn: str) -> None:
    attach(db)
    db.execute("INSERT INTO docs VALUES (1, 'a', 'b')")
    assert drained(dsn, Watched()) == 0
    db.execute("UPDATE docs SET body = 'c'")
    db.execute("UPDATE docs SET body = 'b'")
    again = Watched()
    assert drained(dsn, again) == 0
    assert not again.embedded
    assert embedded(db) == [1]


def test_a_row_deleted_and_inserted_again_is_embedded_only_if_it_differs(db: Connection, dsn: str) -> None:
    attach(db)
    db.execute("INSERT INTO docs VALUES (1, 'a', 'b'), (2, 'a', 'b')")
    assert drained(dsn, Watched()) == 0
    db.execute("DELETE FROM docs")
    db.execute("INSERT INTO docs VALUES (1, 'a', 'b'), (2, 'a', 'other')")
    again = Watched()
    assert drained(dsn, again) == 0
    assert list(again.embedded) == ["a\n\nother"]
    assert embedded(db) == [1, 2]


# What triggers cannot see


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE docs SET body = 'unseen' WHERE id = 2",
        "INSERT INTO docs VALUES (4, 'un', 'seen')",
        "DELETE FROM docs WHERE id = 2",
    ],
)
def test_refresh_finds_what_no_trigger_saw(db: Connection, dsn: str, statement: str) -> None:
    attach(db)
    db.execute("INSERT INTO docs SELECT i, 'title', 'body ' || i FROM generate_series(1, 3) AS i")
    assert drained(dsn, Watched()) == 0
    unseen(db, statement)
    watched = Watched()
    assert drained(dsn, watched) == 0
    assert not watched.embedded
    db.execute("SELECT pgmeaning.refresh('docs')")
    assert drained(dsn, watched) == 0
    assert watched.embedded.total() == (0 if "DELETE" in statement else 1)
    assert embedded(db) == [key for (key,) in db.execute("SELECT id FROM docs ORDER BY id").fetchall()]


def test_vectors_without_a_row_are_removed_however_many(
    db: Connection, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgmeaning.sidecar.scan.ORPHANS", 10)
    attach(db)
    db.execute("INSERT INTO docs SELECT i, 'title', 'body' FROM generate_series(1, 35) AS i")
    assert drain() == 0
    unseen(db, "DELETE FROM docs WHERE id > 5")
    db.execute("SELECT pgmeaning.refresh('docs')")
    assert drain() == 0
    assert embedded(db) == [1, 2, 3, 4, 5]


def test_the_periodic_reconcile_finds_them_without_being_asked(
    db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgmeaning.sidecar.maintenance.HOUSEKEEPING_SECONDS", 0)
    attach(db)
    with running(Sidecar(dsn, Settings(reconcile=0.2, maintenance=0.1, poll=0.1))):
        wait_until(lambda: db.execute("SELECT 1 FROM pgmeaning.status WHERE state = 'ready'").fetchone())
        unseen(db, "INSERT INTO docs VALUES (1, 'un', 'seen')")
        wait_until(lambda: embedded(db) == [1])


def test_a_refresh_of_what_is_in_order_embeds_nothing(db: Connection, dsn: str) -> None:
    db.execute("INSERT INTO docs SELECT i, 'title', 'body ' || i FROM generate_series(1, 2000) AS i")
    attach(db)
    assert drained(dsn, Watched()) == 0
    db.execute("SELECT pgmeaning.refresh('docs')")
    again = Watched()
    assert drained(dsn, again) == 0
    assert not again.embedded


# How vectors are stored


def test_fewer_dimensions_store_the_beginning_of_a_vector_at_unit_length(db: Connection, drain: Drain) -> None:
    db.execute("UPDATE pgmeaning.model SET min_dimensions = 64 WHERE name = 'synthetic-384'")
    db.execute("INSERT INTO docs VALUES (1, 'a', NULL)")
    attach(db, dimensions=64)
    assert drain() == 0
    row = db.execute("SELECT embedding::real[], vector_norm(embedding) FROM docs_embedding").fetchone()
    assert row is not None
    whole = load_embedder("synthetic-384").embed_documents(["a"])[0, :64]
    assert np.allclose(row[0], whole / np.linalg.norm(whole), atol=1e-6)
    assert row[1] == pytest.approx(1)


KEYS = {
    "text": ("text", ["o'neil", 'q"uote', "über\\", "a,b{}", "\n\t", " ", "%s", ""]),
    "uuid": ("uuid", ["00000000-0000-0000-0000-000000000000"]),
    "date": ("date", ["2024-02-29", "infinity", "0044-03-15 BC"]),
    "timestamptz": ("timestamptz", ["2024-03-31 02:30:00.123456+02", "-infinity"]),
    "interval": ("interval", ["1 mon -3 days 00:00:00.1"]),
    "bytea": ("bytea", ["\\x00ff", "\\x"]),
    "numeric": ("numeric", ["0.10", "-1e40", "NaN"]),
    "double": ("float8", ["0.1", "1e308", "Infinity", "-0"]),
    "boolean": ("bool", ["true", "false"]),
    "inet": ("inet", ["10.0.0.1/8", "::1"]),
    "range": ("int4range", ["[1,5)", "empty"]),
    "array": ("text[]", ['{a,NULL,"b,c"}', "{}"]),
    "character": ("char(5)", ["a", "b "]),
}


@pytest.mark.parametrize(("kind", "keys"), KEYS.values(), ids=KEYS.keys())
def test_a_vector_is_written_under_its_very_key(db: Connection, drain: Drain, kind: str, keys: list[str]) -> None:
    db.execute(f'CREATE TABLE odd ("the ""key %" {kind} PRIMARY KEY, body text)'.encode())
    for key in keys:
        db.execute(f"INSERT INTO odd VALUES (%s::{kind}, 'text')".encode(), (key,))
    db.execute("SELECT pgmeaning.attach('odd', ARRAY['body'])")
    assert drain() == 0
    joined = 'SELECT count(*) FROM odd AS o JOIN odd_embedding AS e ON o."the ""key %" = e."the ""key %"'
    assert db.execute(joined.encode()).fetchone() == (len(keys),)
    db.execute("DELETE FROM odd")
    assert drain() == 0
    assert db.execute("SELECT count(*) FROM odd_embedding").fetchone() == (0,)
