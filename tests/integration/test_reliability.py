"""Nothing is lost when a table, a model, a lock or the process changes underneath, and no live process idles."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
import pytest

from pgmeaning import load_embedder
from pgmeaning.database import connection
from pgmeaning.models.vectors import Vectors
from pgmeaning.settings import Settings
from pgmeaning.sidecar.bounded_queue import BoundedQueue
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.sidecar.queue import Queue
from pgmeaning.types import Document
from tests.conftest import running, wait_until
from tests.integration.embedders import Gate, Watched, slowly
from tests.integration.test_sidecar_crash import process, reached
from tests.probes import are_probes
from tests.types import Connect, Connection, Drain

QUICK = Settings(maintenance=0.1, poll=0.1, attempts=1, backoff=0.01)


class Panic(BaseException):
    """As PyO3's PanicException: no Exception."""


def make(db: Connection, rows: int = 6) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")
    fill(db, rows)


def fill(db: Connection, rows: int = 6) -> None:
    db.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, %s) AS i", (rows,))


def embedded(db: Connection) -> list[int]:
    return [key for (key,) in db.execute("SELECT id FROM docs_embedding ORDER BY id").fetchall()]


def settled(db: Connection) -> bool:
    """Whether nothing is owed, scanned or written."""
    busy = (
        "SELECT FROM pgmeaning._unfolded UNION ALL SELECT FROM pgmeaning.queue "
        "UNION ALL SELECT FROM pgmeaning.target WHERE scanning"
    )
    return db.execute(busy).fetchone() is None


def test_rows_put_back_while_their_vectors_are_removed_get_them_again(db: Connection, dsn: str, drain: Drain) -> None:
    make(db)
    assert drain() == 0
    # So slow that the rows are back, and another sidecar has looked at them, before the removal commits.
    db.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN OLD; END $$"
    )
    db.execute(
        'CREATE TRIGGER slow BEFORE DELETE ON pgmeaning_data."docs__synthetic-384" FOR EACH ROW EXECUTE FUNCTION slow()'
    )
    removing = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    with running(Sidecar(dsn, QUICK)), running(Sidecar(dsn, QUICK)):
        db.execute("TRUNCATE docs")
        wait_until(lambda: db.execute(removing).fetchone() is not None)
        fill(db)
        wait_until(lambda: db.execute(removing).fetchone() is None and settled(db))
        assert embedded(db) == [1, 2, 3, 4, 5, 6]


def test_a_key_renamed_and_back_within_a_transaction_hides_no_write_between(db: Connection, drain: Drain) -> None:
    make(db)
    assert drain() == 0
    with db.transaction():
        db.execute("ALTER TABLE docs RENAME id TO number")
        db.execute("INSERT INTO docs VALUES (7, 'new')")
        db.execute("UPDATE docs SET body = 'changed' WHERE number = 1")
        db.execute("DELETE FROM docs WHERE number = 2")
        db.execute("ALTER TABLE docs RENAME number TO id")
    assert drain() == 0
    assert embedded(db) == [1, 3, 4, 5, 6, 7]
    changed = load_embedder("synthetic-384").embed_documents(["changed"])[0]
    distance = "SELECT embedding <=> %s::vector FROM docs_embedding WHERE id = 1"
    assert db.execute(distance, (str(changed.tolist()),)).fetchone() == (pytest.approx(0, abs=1e-6),)


def test_a_partition_detached_and_attached_again_between_two_looks_keeps_its_vectors(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE first PARTITION OF docs FOR VALUES FROM (1) TO (4)")
    db.execute("CREATE TABLE second PARTITION OF docs FOR VALUES FROM (4) TO (7)")
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")
    fill(db)
    with running(Sidecar(dsn, Settings(maintenance=5, poll=0.1))):
        wait_until(lambda: embedded(db) == [1, 2, 3, 4, 5, 6])
        with db.transaction():
            db.execute("UPDATE docs SET body = 'changed' WHERE id > 3")
            db.execute("ALTER TABLE docs DETACH PARTITION second")
        wait_until(lambda: embedded(db) == [1, 2, 3])
        db.execute("ALTER TABLE docs ATTACH PARTITION second FOR VALUES FROM (4) TO (7)")
        wait_until(lambda: embedded(db) == [1, 2, 3, 4, 5, 6])


def test_vectors_whose_row_is_gone_unseen_are_removed_though_their_key_has_failed(db: Connection, drain: Drain) -> None:
    make(db)
    assert drain() == 0
    db.execute(
        "INSERT INTO pgmeaning.queue (collection_id, model, key, failed_at, last_error) "
        "SELECT collection_id, model, '{\"id\": 1}', now(), 'failed' FROM pgmeaning.target"
    )
    db.execute("SET session_replication_role = replica; DELETE FROM docs WHERE id = 1; RESET session_replication_role")
    db.execute("SELECT pgmeaning.refresh('docs')")
    assert drain() == 0
    assert embedded(db) == [2, 3, 4, 5, 6]


def test_a_panic_of_the_model_fails_its_row_alone(db: Connection, dsn: str) -> None:
    def panic(texts: list[str], vectors: Vectors) -> Vectors:
        if "text 3" in texts:
            raise Panic("the tokenizer panicked")
        return vectors

    make(db)
    assert Sidecar(dsn, QUICK, load=Watched(panic).load).run(drain=True) == 1
    assert embedded(db) == [1, 2, 4, 5, 6]
    assert db.execute("SELECT error FROM pgmeaning.failures").fetchall() == [("Panic: the tokenizer panicked",)]


def test_a_panic_while_tokens_are_counted_holds_up_no_row(db: Connection, dsn: str) -> None:
    class Panicking(Watched):
        def count_tokens(self, documents: object) -> list[int]:
            raise Panic("the tokenizer panicked")

    make(db)
    assert Sidecar(dsn, QUICK, load=Panicking().load).run(drain=True) == 0
    assert embedded(db) == [1, 2, 3, 4, 5, 6]


def test_a_query_that_makes_the_model_panic_is_refused_and_the_next_is_answered(db: Connection, dsn: str) -> None:
    class Panicking(Watched):
        def embed_queries(self, queries: object) -> Vectors:
            if "poison" in str(queries):
                raise Panic("the tokenizer panicked")
            return super().embed_queries(queries)  # type: ignore[arg-type]

    make(db)
    with running(Sidecar(dsn, QUICK, load=Panicking().load)):
        with pytest.raises(psycopg.Error, match="the tokenizer panicked"):
            db.execute("SELECT pgmeaning.embed('poison', collection => 'docs')")
        assert db.execute("SELECT pgmeaning.embed('rice', collection => 'docs') IS NOT NULL").fetchone() == (True,)


def test_a_thread_that_dies_ends_the_process(db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise Panic("out of memory")

    make(db)
    monkeypatch.setattr("pgmeaning.sidecar.embed.EmbedStep.run", die)
    assert Sidecar(dsn, QUICK).run() == 1


def test_a_look_up_of_a_model_that_is_refused_is_tried_again_in_a_moment(
    db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(db)
    refused = threading.Event()

    def refusing(dsn: str, name: str, **pinned: str) -> Connection:
        if name.startswith("models ") and not refused.is_set():
            refused.set()
            raise psycopg.OperationalError("FATAL: sorry, too many clients already")
        return connection.connect(dsn, name, **pinned)

    monkeypatch.setattr("pgmeaning.sidecar.process.connect", refusing)
    assert Sidecar(dsn, QUICK).run(drain=True) == 0
    assert refused.is_set()
    assert embedded(db) == [1, 2, 3, 4, 5, 6]


def test_waiting_for_locked_vectors_is_no_attempt(db: Connection, dsn: str, connect: Connect, drain: Drain) -> None:
    make(db, 1)
    assert drain() == 0
    other = connect()
    other.execute('BEGIN; LOCK pgmeaning_data."docs__synthetic-384" IN SHARE MODE')
    db.execute("UPDATE docs SET body = 'changed'")
    watched = Watched()
    handed_back = "SELECT FROM pgmeaning.queue WHERE claimed_by IS NULL AND attempts = 0 AND failed_at IS NULL"
    with running(Sidecar(dsn, QUICK, load=watched.load)):
        wait_until(lambda: watched.embedded["changed"] > 0)
        wait_until(lambda: db.execute(handed_back).fetchone() is not None)
        other.execute("COMMIT")
        wait_until(lambda: settled(db))
    assert db.execute("SELECT FROM pgmeaning.failures").fetchone() is None


def test_a_process_that_was_stopped_when_it_was_told_to_end_ends_once_it_goes_on(db: Connection, dsn: str) -> None:
    command = [sys.executable, "-m", "pgmeaning", "sidecar", "--dsn", dsn]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"PGMEANING_POLL": "60"})
    try:
        wait_until(lambda: db.execute("SELECT FROM pgmeaning.sidecar").fetchone() is not None)
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
            process.send_signal(number)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


HANGING = Settings(maintenance=0.1, poll=0.1, grace=0.1, model_timeout=0.5, batch_rows=4)


@contextmanager
def hanging() -> Iterator[Watched]:
    """A model that does not return from a batch with the text 'text 3', until the body ends."""
    over = threading.Event()

    def hang(texts: list[str], vectors: Vectors) -> Vectors:
        if "text 3" in texts:
            over.wait()
        return vectors

    try:
        yield Watched(hang)
    finally:
        over.set()


def test_a_process_whose_model_hangs_ends_and_hands_back_its_claims(db: Connection, dsn: str) -> None:
    make(db)
    with hanging() as model:
        assert Sidecar(dsn, HANGING, load=model.load).run() == 1
    claimed = "SELECT count(*) FROM pgmeaning.queue WHERE claimed_by IS NOT NULL OR visible_at > now()"
    assert db.execute(claimed).fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM pgmeaning.sidecar").fetchone() == (0,)


def test_a_row_that_makes_the_model_hang_is_named_once_it_stood_alone_and_the_others_are_embedded(
    db: Connection, dsn: str
) -> None:
    make(db, 12)
    with hanging() as model:
        assert Sidecar(dsn, HANGING, load=model.load).run(drain=True) == 1  # in a batch of four
        assert Sidecar(dsn, HANGING, load=model.load).run(drain=True) == 1  # alone
        assert Sidecar(dsn, HANGING, load=model.load).run(drain=True) == 1  # what is left
    assert embedded(db) == [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    key, error = db.execute("SELECT key, error FROM pgmeaning.failures WHERE NOT will_retry").fetchall()[0]
    assert key == {"id": 3}
    assert re.fullmatch(r"the model did not return within 0.5 s, set by PGMEANING_MODEL_TIMEOUT", error)


def test_a_tokenizer_that_hangs_ends_the_process(db: Connection, dsn: str) -> None:
    over = threading.Event()

    class Hanging(Watched):
        def count_tokens(self, documents: object) -> list[int]:
            over.wait()
            return []

    make(db)
    try:
        assert Sidecar(dsn, HANGING, load=Hanging().load).run() == 1
    finally:
        over.set()


def test_a_query_that_hangs_ends_the_process_and_no_other_sidecar_takes_it(db: Connection, dsn: str) -> None:
    over, asked = threading.Event(), []

    class Hanging(Watched):
        def embed_queries(self, queries: Sequence[Document]) -> Vectors:
            if are_probes(queries):
                return super().embed_queries(queries)
            asked.append(queries)
            over.wait()
            raise AssertionError

    make(db)
    ask = threading.Thread(target=_ask, args=(dsn,))
    try:
        first = threading.Thread(target=Sidecar(dsn, HANGING, load=Hanging().load).run)
        first.start()
        wait_until(lambda: db.execute("SELECT FROM pgmeaning.sidecar").fetchone() is not None)
        ask.start()
        first.join(30)
        assert not first.is_alive()
        with running(Sidecar(dsn, HANGING, load=Hanging().load)):
            ask.join(30)
            assert not ask.is_alive()
        assert len(asked) == 1
    finally:
        over.set()


def _ask(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection, pytest.raises(psycopg.Error, match="did not return"):
        connection.execute("SELECT pgmeaning.embed('rice', collection => 'docs', timeout => '20 seconds')")


def test_a_row_that_killed_its_sidecars_gets_its_turn_alone_during_a_backfill(db: Connection, dsn: str) -> None:
    make(db, 1)
    db.execute("UPDATE docs SET body = 'suspect'")
    db.execute("TRUNCATE pgmeaning.inbox, pgmeaning.bulk_inbox")
    db.execute("UPDATE pgmeaning.target SET scanning = false")
    db.execute(
        "INSERT INTO pgmeaning.queue (collection_id, model, key, attempts, died) "
        "SELECT collection_id, model, '{\"id\": 1}', 2, 2 FROM pgmeaning.target"
    )
    db.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(2, 30000) AS i")
    model = Watched(slowly(0.01))
    with running(Sidecar(dsn, Settings(maintenance=0.1, batch_rows=8), load=model.load)):
        wait_until(lambda: model.embedded["suspect"])
        owed = db.execute("SELECT count(*) FROM docs LEFT JOIN docs_embedding USING (id) WHERE model IS NULL")
        assert owed.fetchone() != (0,)
    assert ["suspect"] in model.batches


def test_what_a_stopped_sidecar_holds_is_taken_over_by_another(db: Connection, dsn: str, connect: Connect) -> None:
    make(db, 1)
    with process(dsn, "query", lease=1.1, maintenance=0.1) as stopped:
        wait_until(lambda: db.execute("SELECT FROM docs_embedding").fetchone() is not None)
        ask = threading.Thread(
            target=connect().execute, args=("SELECT pgmeaning.embed('rice', timeout => '1 minute')",)
        )
        ask.start()
        reached(stopped)
        stopped.send_signal(signal.SIGSTOP)
        with running(Sidecar(dsn, Settings(lease=1.1, maintenance=0.1))):
            ask.join(30)
            assert not ask.is_alive()


def test_a_sidecar_that_was_stopped_for_long_goes_on_working(db: Connection, dsn: str) -> None:
    make(db, 1)
    with process(dsn, "stay", lease=1.1, maintenance=0.1) as stopped:
        wait_until(lambda: db.execute("SELECT FROM docs_embedding").fetchone() is not None)
        stopped.send_signal(signal.SIGSTOP)
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgmeaning %%' AND datname = %s"
        before = db.execute(sessions, (db.info.dbname,)).fetchone()
        with running(Sidecar(dsn, Settings(lease=1.1, maintenance=0.1))) as other:
            own = f"{sessions} AND application_name NOT LIKE %s"
            wait_until(lambda: db.execute(own, (db.info.dbname, f"%{other.id}")).fetchone() == (0,))
        assert before != (0,)
        stopped.send_signal(signal.SIGCONT)
        db.execute("INSERT INTO docs VALUES (2, 'new')")
        wait_until(lambda: embedded(db) == [1, 2])


def test_a_model_that_keeps_pythons_lock_ends_its_process(db: Connection, dsn: str) -> None:
    make(db, 1)
    with process(dsn, "frozen", lease=1.1) as frozen:
        assert frozen.wait(60) == 1


def test_a_fresh_row_overtakes_a_bulk_insert_even_between_two_batches_of_a_claim(db: Connection, dsn: str) -> None:
    make(db, 2000)
    gate = Gate("text 1")
    model = Watched(slowly(0.02, gate))
    fresh = "SELECT FROM pgmeaning.queue WHERE key = '{\"id\": 0}' AND claimed_by IS NOT NULL"
    with running(Sidecar(dsn, Settings(maintenance=0.1, batch_rows=8, claim_rows=64), load=model.load)):
        gate.reached()
        before = len(model.batches)
        db.execute("INSERT INTO docs VALUES (0, 'fresh')")
        wait_until(lambda: db.execute(fresh).fetchone() is not None)  # though the pipeline is full, and stands still
        gate.open()
        wait_until(lambda: model.embedded["fresh"])
    assert ["fresh"] in model.batches[before : before + 7], "within the claim that was being embedded"


def test_a_fresh_row_overtakes_a_bulk_insert_whose_changes_are_still_in_the_inbox(db: Connection, dsn: str) -> None:
    make(db, 0)
    model = Watched(slowly(0.005))
    with running(Sidecar(dsn, Settings(maintenance=0.1, batch_rows=8), load=model.load)):
        wait_until(lambda: settled(db))
        fill(db, 100_000)
        wait_until(lambda: sum(model.embedded.values()) > 1000)
        db.execute("INSERT INTO docs VALUES (0, 'fresh')")
        wait_until(lambda: embedded(db)[:1] == [0])
        assert db.execute("SELECT owed > 50000 FROM pgmeaning.status").fetchone() == (True,)


@pytest.mark.parametrize("change", ["UPDATE docs SET body = 'changed'", "DELETE FROM docs", "TRUNCATE docs"])
def test_changes_of_many_rows_are_all_seen(db: Connection, drain: Drain, change: str) -> None:
    make(db, 500)
    assert drain() == 0
    db.execute(change.encode())
    owed = db.execute("SELECT owed > 0 FROM pgmeaning.status").fetchone()
    assert drain() == 0
    assert owed == (True,)
    rows = "SELECT count(*), count(v.id) FROM docs AS d LEFT JOIN docs_embedding AS v USING (id)"
    kept = db.execute("SELECT count(*) FROM docs").fetchone()
    assert kept is not None
    assert db.execute(rows).fetchone() == (kept[0], kept[0])
    assert len(embedded(db)) == kept[0]


def test_wait_for_waits_for_the_rows_of_a_bulk_insert(db: Connection, dsn: str) -> None:
    make(db, 500)
    with pytest.raises(psycopg.Error, match="still owes vectors"):
        db.execute("CALL pgmeaning.wait_for('docs', '{\"id\": 7}', '1 millisecond')")
    with running(Sidecar(dsn, QUICK)):
        db.execute("CALL pgmeaning.wait_for('docs')")
    assert len(embedded(db)) == 500


def test_sidecars_that_sleep_are_woken_by_a_write_each_time(db: Connection, dsn: str) -> None:
    make(db, 1)
    asleep = "SELECT WHERE pg_sequence_last_value('pgmeaning.asleep') > pgmeaning._state_value(0, gen_random_uuid())"
    patient = Settings(maintenance=0.1, poll=60)
    with running(Sidecar(dsn, patient)), running(Sidecar(dsn, patient)):
        for key in range(2, 6):
            wait_until(lambda: settled(db) and db.execute(asleep).fetchone() is not None)
            db.execute("INSERT INTO docs VALUES (%s, 'new')", (key,))
            wait_until(lambda wanted=key: embedded(db)[-1:] == [wanted])  # type: ignore[misc]


def test_a_full_pipeline_is_waited_for_and_not_asked_again_and_again(
    db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(db, 2000)
    gate = Gate("text 1")
    claims, waits = counted(monkeypatch, Queue, "claim"), counted(monkeypatch, BoundedQueue, "wait_for_room")
    with running(Sidecar(dsn, Settings(maintenance=0.1, claim_rows=64), load=Watched(gate).load)):
        gate.reached()
        wait_until(lambda: waits)  # full, and the queue holds plenty
        del claims[:], waits[:]
        wait_until(lambda: len(waits) >= 20 or len(claims) > 100)
        assert len(claims) <= len(waits) + 1
        gate.open()
        wait_until(lambda: len(embedded(db)) == 2000)


def counted(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[str]:
    """One entry for each call from now on."""
    calls: list[str] = []
    original = getattr(owner, name)

    def counting(*arguments: object, **keywords: object) -> object:
        calls.append(name)
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, counting)
    return calls
