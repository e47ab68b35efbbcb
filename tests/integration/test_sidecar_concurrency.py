"""Rows that change, go or are locked while a sidecar has them in hand; and two sidecars at once."""

from __future__ import annotations

import pytest

from pgmeaning.models.base import load_embedder
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.embedders import Gate, Watched
from tests.types import Connect, Connection

QUICK = Settings(maintenance=0.1, poll=0.1)


def make(db: Connection, table: str = "docs", rows: int = 3) -> None:
    db.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, body text)".encode())
    db.execute("SELECT pgmeaning.attach(%s::regclass, ARRAY['body'])", (table,))
    add(db, table, 1, rows)


def add(db: Connection, table: str, first: int, last: int) -> None:
    insert = f"INSERT INTO {table} SELECT i, 'text ' || i FROM generate_series(%s::int, %s::int) AS i"
    db.execute(insert.encode(), (first, last))


def embedded(db: Connection, table: str = "docs") -> list[int]:
    return [key for (key,) in db.execute(f"SELECT id FROM {table}_embedding ORDER BY id".encode()).fetchall()]


def owed(db: Connection) -> int:
    row = db.execute(
        "SELECT (SELECT count(*) FROM pgmeaning.queue) + (SELECT count(*) FROM pgmeaning._unfolded)"
    ).fetchone()
    assert row is not None
    return int(row[0])


def settled(db: Connection) -> None:
    wait_until(lambda: owed(db) == 0)


def vector_is_of(db: Connection, key: int, text: str) -> bool:
    """Whether the row's vector is the model's for that text."""
    vector = load_embedder("synthetic-384").embed_documents([text])[0].tolist()
    row = db.execute("SELECT embedding <=> %s::vector FROM docs_embedding WHERE id = %s", (str(vector), key)).fetchone()
    return row is not None and row[0] < 1e-6


def test_a_row_changed_while_it_is_embedded_gets_the_vector_of_its_last_text(db: Connection, dsn: str) -> None:
    make(db)
    gate = Gate("text 2")
    with running(Sidecar(dsn, QUICK, load=Watched(gate).load)):
        gate.reached()
        db.execute("UPDATE docs SET body = 'another' WHERE id = 2")
        wait_until(lambda: db.execute("SELECT 1 FROM pgmeaning._unfolded").fetchone() is None)
        gate.open()
        settled(db)
        assert vector_is_of(db, 2, "another")


def test_the_result_of_an_outdated_text_is_never_written(db: Connection, dsn: str) -> None:
    make(db)
    gate = Gate("text 2")
    watched = Watched(gate)
    with running(Sidecar(dsn, QUICK, load=watched.load)):
        gate.reached()
        db.execute("UPDATE docs SET body = NULL WHERE id = 2")
        wait_until(lambda: db.execute("SELECT 1 FROM pgmeaning._unfolded").fetchone() is None)
        gate.open()
        settled(db)
    assert embedded(db) == [1, 3]
    assert watched.embedded["text 2"] == 1


@pytest.mark.parametrize("statement", ["DELETE FROM docs WHERE id = 2", "UPDATE docs SET id = 4 WHERE id = 2"])
def test_a_row_that_goes_while_it_is_embedded_ends_without_a_vector(db: Connection, dsn: str, statement: str) -> None:
    make(db)
    gate = Gate("text 2")
    with running(Sidecar(dsn, QUICK, load=Watched(gate).load)):
        gate.reached()
        db.execute(statement.encode())
        gate.open()
        settled(db)
    assert embedded(db) == ([1, 3] if "DELETE" in statement else [1, 3, 4])


def test_truncate_while_rows_are_embedded_leaves_no_vector(db: Connection, dsn: str) -> None:
    make(db)
    gate = Gate("text 2")
    with running(Sidecar(dsn, QUICK, load=Watched(gate).load)):
        gate.reached()
        db.execute("TRUNCATE docs")
        gate.open()
        wait_until(lambda: db.execute("SELECT 1 FROM pgmeaning.status WHERE state <> 'ready'").fetchone() is None)
        settled(db)
    assert embedded(db) == []


def test_vectors_that_come_after_the_scan_of_a_truncate_are_not_written(db: Connection, dsn: str) -> None:
    make(db)
    gate = Gate("text 2")
    with running(Sidecar(dsn, QUICK, load=Watched(gate).load)):
        gate.reached()
        ended = "SELECT max(scan_finished_at) FROM pgmeaning.target WHERE NOT scanning"
        wait_until(lambda: db.execute(ended).fetchone() != (None,))
        before = db.execute(ended).fetchone()
        db.execute("TRUNCATE docs")
        wait_until(lambda: db.execute(ended).fetchone() not in (before, (None,)))
        gate.open()
        settled(db)
    assert embedded(db) == []


@pytest.mark.parametrize("statement", ["SELECT pgmeaning.detach('docs')", "DROP TABLE docs CASCADE"])
def test_a_collection_that_goes_while_it_is_embedded_holds_up_no_other(
    db: Connection, dsn: str, statement: str
) -> None:
    make(db)
    gate = Gate("text 2")
    with running(Sidecar(dsn, QUICK, load=Watched(gate).load)):
        gate.reached()
        db.execute(statement.encode())
        make(db, "others")
        gate.open()
        wait_until(lambda: embedded(db, "others") == [1, 2, 3])
        left = "SELECT FROM pgmeaning.status WHERE collection = 'docs' AND state <> 'orphaned'"
        wait_until(lambda: db.execute(left).fetchone() is None)
        settled(db)


def test_a_paused_collection_is_left_alone_until_it_is_resumed(db: Connection, dsn: str) -> None:
    make(db)
    db.execute("SELECT pgmeaning.pause('docs')")
    make(db, "others")
    watched = Watched()
    with running(Sidecar(dsn, QUICK, load=watched.load)):
        wait_until(lambda: embedded(db, "others") == [1, 2, 3])
        assert embedded(db) == []
        db.execute("SELECT pgmeaning.resume('docs')")
        wait_until(lambda: embedded(db) == [1, 2, 3])
    assert sum(watched.embedded.values()) == 6


def test_two_sidecars_embed_no_row_twice(db: Connection, dsn: str) -> None:
    make(db, rows=5000)
    watched = [Watched(), Watched()]
    with running(Sidecar(dsn, QUICK, load=watched[0].load)), running(Sidecar(dsn, QUICK, load=watched[1].load)):
        wait_until(lambda: len(embedded(db)) == 5000)
        settled(db)
    assert (watched[0].embedded + watched[1].embedded).total() == 5000


def test_claims_handed_back_are_taken_by_another_sidecar_at_once(db: Connection, dsn: str) -> None:
    make(db)
    gate = Gate("text 2")
    first = Sidecar(dsn, Settings(lease=600, grace=0.1), load=Watched(gate).load)
    with running(first):
        gate.reached()
    with running(Sidecar(dsn, QUICK)):
        wait_until(lambda: embedded(db) == [1, 2, 3])
    gate.open()


def test_a_late_result_of_a_claim_that_another_sidecar_took_over_never_wins(db: Connection, dsn: str) -> None:
    """It was read before a change that no trigger saw; the generation is still the same."""
    make(db)
    gate = Gate("text 2")
    with running(Sidecar(dsn, QUICK, load=Watched(gate).load)) as first:
        gate.reached()
        db.execute("SET session_replication_role = replica; UPDATE docs SET body = 'unseen' WHERE id = 2")
        db.execute("UPDATE pgmeaning.queue SET claimed_by = gen_random_uuid(), visible_at = now() + interval '1 hour'")
        gate.open()
        wait_until(lambda: not first.in_flight)
        assert embedded(db) == []
        db.execute("UPDATE pgmeaning.queue SET visible_at = now()")
        wait_until(lambda: embedded(db) == [1, 2, 3])
        assert vector_is_of(db, 2, "unseen")


def test_a_heartbeat_keeps_the_claims_of_a_batch_longer_than_the_lease(db: Connection, dsn: str) -> None:
    make(db)
    gate = Gate("text 2")
    watched = Watched(gate)
    claim = "SELECT visible_at FROM pgmeaning.queue WHERE key = '{\"id\": 2}'"
    with running(Sidecar(dsn, Settings(lease=1.1), load=watched.load)), running(Sidecar(dsn, QUICK, load=watched.load)):
        gate.reached()
        before = db.execute(claim.encode()).fetchone()
        wait_until(
            lambda: db.execute("SELECT now() > %s::timestamptz + interval '0.5 s'", before).fetchone() == (True,)
        )
        gate.open()
        wait_until(lambda: embedded(db) == [1, 2, 3])
        settled(db)
    assert watched.embedded.total() == 3


# A transaction of a user's that stays open

OPEN = {
    "a locked row": "SELECT FROM docs WHERE id = 2 FOR UPDATE",
    "an uncommitted change": "UPDATE docs SET body = 'another' WHERE id = 2",
    "an uncommitted delete": "DELETE FROM docs WHERE id = 2",
    "an uncommitted row": "INSERT INTO docs VALUES (99, 'text 99')",
}


@pytest.mark.parametrize("statement", OPEN.values(), ids=OPEN.keys())
def test_an_open_transaction_on_one_row_holds_up_no_other_row(
    db: Connection, dsn: str, connect: Connect, statement: str
) -> None:
    make(db, rows=5)
    user = connect(autocommit=False)
    user.execute(statement.encode())
    with running(Sidecar(dsn, QUICK)):
        wait_until(lambda: embedded(db) == [1, 2, 3, 4, 5])
        add(db, "docs", 6, 8)
        wait_until(lambda: embedded(db) == [1, 2, 3, 4, 5, 6, 7, 8])
        user.commit()
        settled(db)


STALLING = {
    "the whole table": "LOCK TABLE docs IN ACCESS EXCLUSIVE MODE",
    "a truncate": "TRUNCATE docs",
    "the vectors": "LOCK TABLE {vectors} IN ACCESS EXCLUSIVE MODE",
    "a detach": "SELECT pgmeaning.detach('docs')",
    "a retry": "SELECT pgmeaning.retry('docs')",
    "an attach": "CREATE TABLE new (id int PRIMARY KEY, body text); SELECT pgmeaning.attach('new', ARRAY['body'])",
}


@pytest.mark.parametrize("statement", STALLING.values(), ids=STALLING.keys())
def test_an_open_transaction_that_locks_a_collection_holds_up_no_other_collection(
    db: Connection, dsn: str, connect: Connect, statement: str
) -> None:
    make(db, rows=5)
    make(db, "others")
    db.execute("SELECT pgmeaning.pause('others')")
    with running(Sidecar(dsn, QUICK)):
        wait_until(lambda: embedded(db) == [1, 2, 3, 4, 5])
    db.execute("UPDATE docs SET body = body || '!'")
    db.execute(
        "INSERT INTO pgmeaning.queue (collection_id, model, key, failed_at) "
        "SELECT id, model, '{\"id\": 1}', now() FROM pgmeaning.collection WHERE name = 'docs' "
        "ON CONFLICT (collection_id, model, key) DO UPDATE SET failed_at = now()"
    )
    db.execute("SELECT pgmeaning.resume('others')")
    vectors = db.execute(
        "SELECT t.vectors::text FROM pgmeaning.target AS t JOIN pgmeaning.collection AS c ON c.id = t.collection_id "
        "WHERE c.name = 'docs'"
    ).fetchone()
    assert vectors is not None
    user = connect(autocommit=False)
    user.execute(statement.format(vectors=vectors[0]).encode())
    with running(Sidecar(dsn, QUICK)):
        wait_until(lambda: embedded(db, "others") == [1, 2, 3], timeout=10)
        add(db, "others", 4, 6)
        wait_until(lambda: embedded(db, "others") == [1, 2, 3, 4, 5, 6], timeout=10)
        user.rollback()
        settled(db)
    assert embedded(db) == [1, 2, 3, 4, 5]
