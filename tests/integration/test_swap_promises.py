"""What a change of the model must not do to those who use the table meanwhile; each was seen in a tool for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
import pytest

import pgmeaning
from pgmeaning.models import loaded
from pgmeaning.models.base import load_embedder
from pgmeaning.models.vectors import prefix
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Model
from tests.conftest import running, wait_until
from tests.engine import Answer, Engine, Request, serving
from tests.integration.embedders import Gate, Watched
from tests.integration.test_swap import ROWS, activate, docs, one, refused, start, swap, vectors
from tests.needs import needs_package
from tests.types import Connect, Connection, Drain

needs_package("httpx", "http")
__all__ = ["docs"]

NEW = 'pgmeaning_data."docs@2__synthetic-4096"'


def is_right(db: Connection, model: str, table: str) -> None:
    """Every row with content has the vector of its text as it is stored now, and nothing else has one."""
    texts = dict(db.execute("SELECT id, body FROM docs WHERE body IS NOT NULL").fetchall())
    found = vectors(db, table)
    assert set(found) == set(texts)
    made = load_embedder(model).embed_documents([texts[key] for key in found])
    assert np.allclose(np.stack(list(found.values())), made, atol=1e-6)


def both_are_right(db: Connection) -> None:
    for model, table in db.execute("SELECT model, vectors::text FROM pgmeaning.target").fetchall():
        is_right(db, model, table)


@contextmanager
def alongside(action: Callable[[], object]) -> Iterator[threading.Event]:
    """Do something again and again in a thread of its own while the body runs; its error is the test's."""
    stopping, errors = threading.Event(), list[BaseException]()

    def again() -> None:
        try:
            while not stopping.is_set():
                action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield stopping
    finally:
        stopping.set()
        thread.join(60)
    assert errors == []


@contextmanager
def held(dsn: str, text: str) -> Iterator[Gate]:
    """A running sidecar whose model has the text in hand, and waits until the test opens the gate, or is over."""
    gate = Gate(text)
    with running(Sidecar(dsn, Settings(maintenance=0.1, batch_rows=8), load=Watched(gate).load)):
        try:
            yield gate
        finally:
            gate.open()


# ---------------------------------------------------------------- An endpoint that fails midway


class Guarded(Engine):
    """An endpoint that stops to take the key after so many requests for rows, until told otherwise."""

    def __init__(self, served: int) -> None:
        super().__init__(load_embedder("synthetic-384").embed_documents)
        self.served: float = served

    def answer(self, request: Request) -> Answer:
        if self.served <= 0:
            return Answer(401)
        self.served -= any(text.startswith("body") for text in request.body["input"])  # not a probe
        return super().answer(request)


@pytest.fixture
def endpoint() -> Iterator[Guarded]:
    with serving(Guarded(1)) as engine:
        yield engine  # type: ignore[misc]


@pytest.fixture
def served(docs: None, dsn: str, db: Connection, endpoint: Guarded) -> None:
    """A swap to a model behind an endpoint; its first eight rows are embedded, and then the key is not taken."""
    options = {"url": endpoint.url, "retries": 1, "batch_rows": 8, "concurrency": 1}
    with pgmeaning.connect(dsn) as client:
        client.add_model(Model("served", "embedder", "http", location="m", dimensions=384, options=options))
    assert start(db, "model => 'served'") == "docs@2"


def test_a_key_that_is_refused_midway_marks_no_row(served: None, db: Connection, drain: Drain) -> None:
    assert drain(attempts=1, batch_rows=8) == 1
    assert one(db, "SELECT count(*) FROM pgmeaning.failures") == 0
    assert one(db, "SELECT max(attempts) FROM pgmeaning.queue") == 0
    assert 0 < one(db, 'SELECT count(*) FROM pgmeaning_data."docs@2__served"') < ROWS
    refused(db, "SELECT pgmeaning.swap_activate('docs', overrule => 'I insist')", "PM023")


def test_a_swap_whose_key_is_refused_says_so_and_what_to_do(served: None, db: Connection, dsn: str) -> None:
    with running(Sidecar(dsn, Settings(maintenance=0.05, batch_rows=8))):
        wait_until(lambda: "denied access (401)" in str(swap(db)["problem"]))
        assert swap(db)["state"] == "waiting"
        assert swap(db)["next"] == "mend what problem says: a sidecar goes on by itself"
    assert swap(db)["next"] == "pgmeaning sidecar"


def test_a_swap_goes_on_by_itself_once_the_key_is_right(
    served: None, endpoint: Guarded, db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded, "DOWN_SECONDS", 0.05)
    with running(Sidecar(dsn, Settings(maintenance=0.05, batch_rows=8))):
        wait_until(lambda: "denied access" in str(swap(db)["problem"]))
        endpoint.served = float("inf")
        wait_until(lambda: swap(db)["state"] == "ready")
        activate(db)
    assert one(db, "SELECT count(*) FROM docs_embedding WHERE model = 'served'") == ROWS


def test_a_swap_is_not_called_ready_while_rows_that_were_looked_at_have_no_vector(
    docs: None, db: Connection, dsn: str
) -> None:
    with held(dsn, "body 40") as gate:
        start(db)
        gate.reached()
        wait_until(lambda: one(db, "SELECT scan_finished_at FROM pgmeaning.target WHERE model = 'synthetic-4096'"))
        assert swap(db)["state"] == "filling"
        gate.open()
        wait_until(lambda: swap(db)["state"] == "ready")


def test_an_inputs_own_error_marks_its_row_alone(served: None, endpoint: Guarded, db: Connection, drain: Drain) -> None:
    endpoint.served = float("inf")
    endpoint.refused.add("body 7")
    assert drain(attempts=1, batch_rows=8) == 1
    assert db.execute("SELECT collection, key FROM pgmeaning.failures").fetchall() == [("docs@2", {"id": 7})]
    assert one(db, 'SELECT count(*) FROM pgmeaning_data."docs@2__served"') == ROWS - 1
    assert swap(db)["failed"] == 1
    assert "pgmeaning failures" in swap(db)["next"]
    refused(db, "SELECT pgmeaning.swap_activate('docs')", "PM023")


def test_the_mark_goes_when_the_text_changes(served: None, endpoint: Guarded, db: Connection, drain: Drain) -> None:
    endpoint.served = float("inf")
    endpoint.refused.add("body 7")
    drain(attempts=1)
    db.execute("UPDATE docs SET body = 'another' WHERE id = 7")
    assert drain(attempts=1) == 0
    assert one(db, "SELECT count(*) FROM pgmeaning.failures") == 0
    activate(db)


# ---------------------------------------------------------------- Locks


def test_no_users_row_is_locked_while_a_batch_is_in_the_model(
    docs: None, db: Connection, dsn: str, connect: Connect
) -> None:
    user = connect(autocommit=False)
    with held(dsn, "body 20") as gate:
        start(db)
        gate.reached()
        rows = user.execute("SELECT id FROM docs ORDER BY id FOR UPDATE NOWAIT").fetchall()
        assert len(rows) == ROWS
        user.rollback()
        locks = "SELECT count(*) FROM pg_locks WHERE relation = 'docs'::regclass AND pid <> pg_backend_pid()"
        assert one(db, locks) == 0


def test_a_swap_fills_while_a_user_has_every_row_locked(
    docs: None, db: Connection, connect: Connect, drain: Drain
) -> None:
    user = connect(autocommit=False)
    user.execute("SELECT FROM docs FOR UPDATE")
    start(db)
    assert drain() == 0
    assert one(db, f"SELECT count(*) FROM {NEW}") == ROWS


def test_transactions_in_reversed_order_meet_no_deadlock_while_a_swap_fills(
    docs: None, db: Connection, dsn: str, connect: Connect
) -> None:
    user = connect()
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = one(db, deadlocks)

    def backwards() -> None:
        with user.transaction():
            for key in range(ROWS, 0, -1):
                user.execute("UPDATE docs SET body = body || '.' WHERE id = %s", (key,))

    with running(Sidecar(dsn, Settings(maintenance=0.1, batch_rows=4, claim_rows=4))), alongside(backwards):
        start(db)
        wait_until(lambda: swap(db)["filled"] == 1)
    user.execute("SELECT pg_stat_force_next_flush()")
    user.execute("SELECT 1")
    assert one(db, deadlocks) == before


def test_a_write_commits_while_activation_waits_for_a_slow_model(
    docs: None, db: Connection, dsn: str, connect: Connect
) -> None:
    start(db)
    writer, activator = connect(), connect()
    writer.execute("SET lock_timeout = '5s'")
    with held(dsn, "late") as gate:
        wait_until(lambda: swap(db)["state"] == "ready")
        db.execute("INSERT INTO docs VALUES (99, 't', 'late')")
        gate.reached()
        activating = threading.Thread(
            target=activator.execute, args=["SELECT pgmeaning.swap_activate('docs', patience => '1 minute')"]
        )
        activating.start()
        waits = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%swap_activate%%' AND wait_event = 'PgSleep'"
        wait_until(lambda: one(db, waits) > 0)
        writer.execute("INSERT INTO docs VALUES (100, 't', 'meanwhile')")
        writer.execute("UPDATE docs SET body = 'changed' WHERE id = 99")
        assert activating.is_alive()
        gate.open()
        activating.join(60)
    assert swap(db)["state"] == "activated"


# ---------------------------------------------------------------- Triggers of the user's own

UPPER = """
CREATE FUNCTION upper_body() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.body := upper(NEW.title); RETURN NEW; END $$;
CREATE TRIGGER zzz BEFORE INSERT OR UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION upper_body();
"""


@pytest.mark.parametrize("when", ["filling", "activated"])
def test_a_text_that_another_trigger_changes_is_embedded_as_it_was_stored(
    docs: None, db: Connection, drain: Drain, when: str
) -> None:
    start(db)
    drain()
    if when == "activated":
        activate(db)
    db.execute(UPPER)
    db.execute("UPDATE docs SET title = 'only the title' WHERE id = 3")
    db.execute("INSERT INTO docs VALUES (99, 'made', 'never stored')")
    assert drain() == 0
    assert one(db, "SELECT body FROM docs WHERE id = 3") == "ONLY THE TITLE"
    both_are_right(db)


STAMP = """
ALTER TABLE docs ADD updated_at timestamptz DEFAULT '2020-01-01';
CREATE TABLE fired (what text);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO fired VALUES (TG_OP); NEW.updated_at := now(); RETURN NEW; END $$;
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO fired VALUES (TG_OP); RETURN NULL; END $$;
CREATE TRIGGER told AFTER INSERT OR UPDATE OR DELETE ON docs EXECUTE FUNCTION told();
"""


def test_a_swap_fires_no_trigger_of_the_users_and_writes_to_no_row(docs: None, db: Connection, drain: Drain) -> None:
    db.execute(STAMP)
    drain()
    versions = "SELECT md5(string_agg(concat_ws(' ', ctid, xmin, xmax, docs), '' ORDER BY id)) FROM docs"
    before = one(db, versions)
    start(db)
    drain()
    activate(db)
    db.execute("SELECT pgmeaning.swap_rollback('docs')")
    activate(db)
    db.execute("SELECT pgmeaning.swap_finish('docs')")
    assert one(db, "SELECT count(*) FROM fired") == 0
    assert one(db, versions) == before


# ---------------------------------------------------------------- Long texts


@pytest.fixture
def long(docs: None, dsn: str, db: Connection, drain: Drain) -> None:
    """Five texts are longer than the model 'short' reads, and than what is read of a row for it."""
    with pgmeaning.connect(dsn) as client:
        client.add_model(Model("short", "embedder", "synthetic", dimensions=384, max_tokens=64))
    db.execute("UPDATE docs SET body = id || repeat(' long text', 2000) WHERE id <= 5")
    drain()


def test_texts_longer_than_the_model_reads_are_counted(long: None, db: Connection, drain: Drain) -> None:
    start(db, "model => 'short'")
    assert drain() == 0
    assert swap(db)["cut"] == 5


def test_texts_of_which_only_the_beginning_is_read_are_counted_whatever_their_tokens(
    docs: None, db: Connection, drain: Drain
) -> None:
    db.execute("UPDATE docs SET body = id || repeat(' long text', 30000) WHERE id <= 3")
    drain()
    start(db)
    drain()
    assert swap(db)["cut"] == 3


def test_with_chunking_no_text_is_cut(long: None, db: Connection, drain: Drain) -> None:
    start(db, 'model => \'short\', chunking => \'{"method": "tokens", "size": 16, "overlap": 0}\'')
    assert drain() == 0
    assert swap(db)["cut"] == 0


def explained_cut(db: Connection, what: str) -> tuple[str | None, str]:
    query = f"SELECT value, note FROM pgmeaning.explain_swap('docs', {what}) WHERE item = 'cut'"
    row = db.execute(query.encode()).fetchone()
    assert row is not None
    return row[0], row[1]


def test_an_explanation_does_not_call_texts_whole_that_a_shorter_model_would_cut(long: None, db: Connection) -> None:
    value, note = explained_cut(db, "model => 'short'")
    assert value is None
    assert "until => 0.01" in note


def test_an_explanation_says_that_chunking_has_all_of_a_text_read(long: None, db: Connection) -> None:
    chunking = """'{"method": "tokens", "size": 16, "overlap": 0}'"""
    assert explained_cut(db, f"model => 'short', chunking => {chunking}")[0] == "0"


def test_an_explanation_counts_what_a_model_that_reads_as_much_would_cut(
    long: None, db: Connection, drain: Drain
) -> None:
    start(db, "model => 'short'")
    drain()
    activate(db)
    db.execute("SELECT pgmeaning.swap_finish('docs')")
    assert explained_cut(db, "model => 'short', template => '{title} {body}'")[0] == "5"


# ---------------------------------------------------------------- Constant writes and searches


def test_activation_succeeds_under_constant_writes_and_every_row_is_right(
    docs: None, db: Connection, dsn: str, connect: Connect
) -> None:
    writer, keys = connect(), iter(range(10**6))

    def write() -> None:
        key = next(keys)
        writer.execute("UPDATE docs SET body = %s WHERE id = %s", (f"write {key}", key % ROWS + 1))
        writer.execute(
            "INSERT INTO docs VALUES (%s, 't', %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            (1000 + key % 97, f"new {key}"),
        )
        writer.execute("DELETE FROM docs WHERE id = %s", (1000 + (key * 7) % 97,))

    with running(Sidecar(dsn, Settings(maintenance=0.1))):
        with alongside(write):
            start(db)
            wait_until(lambda: swap(db)["state"] == "ready")
            db.execute("SELECT pgmeaning.swap_activate('docs', patience => '1 minute')")
            db.execute("SELECT pgmeaning.swap_rollback('docs', patience => '1 minute')")
            db.execute("SELECT pgmeaning.swap_activate('docs', patience => '1 minute')")
        db.execute("CALL pgmeaning.wait_for('docs')")
        db.execute("CALL pgmeaning.wait_for('docs@1')")
    assert swap(db)["state"] == "activated"
    both_are_right(db)


ASKED = "a question"
SEARCHES = (
    "SELECT (key ->> 'id')::int, distance, model FROM pgmeaning.search('docs', 'a question')",
    "SELECT (key ->> 'id')::int, distance, model FROM pgmeaning.search('docs', 'a question', mode => 'exact')",
    "SELECT (key ->> 'id')::int, distance, model FROM pgmeaning.nearest('docs', "
    "(SELECT pgmeaning.embed('a question', collection => 'docs')))",
    "SELECT id, embedding <=> (SELECT pgmeaning.embed('a question', collection => 'docs')) AS distance, model "
    "FROM docs JOIN docs_embedding USING (id) "
    "ORDER BY embedding <=> (SELECT pgmeaning.embed('a question', collection => 'docs')) LIMIT 10",
)


class Asker(threading.Thread):
    """Searches in every way until told to stop, each time in a transaction of its own, and keeps what was wrong."""

    def __init__(self, connection: Connection, level: psycopg.IsolationLevel, stopping: threading.Event) -> None:
        super().__init__()
        connection.isolation_level = level
        self.connection = connection
        self.stopping = stopping
        self.answers: dict[str, set[str]] = {}
        self.wrong: list[object] = []

    def run(self) -> None:
        while not self.stopping.is_set():
            for query in SEARCHES:
                self.ask(query)

    def ask(self, query: str) -> None:
        try:
            with self.connection.transaction():
                found = self.connection.execute(query.encode()).fetchall()
        except psycopg.errors.SerializationFailure:
            # In REPEATABLE READ alone: a view that was replaced after the snapshot was taken.
            if (
                self.connection.isolation_level == psycopg.IsolationLevel.READ_COMMITTED
                or "docs_embedding" not in query
            ):
                self.wrong.append(query)
            return
        except BaseException as error:
            self.wrong.append(error)
            return
        self.answers.setdefault(query, set()).update(model for _, _, model in found)
        if not is_of_one_generation(found):
            self.wrong.append((query, found))


def is_of_one_generation(found: list[Any]) -> bool:
    """Whether there are ten rows, all name one model, and their distances are that model's."""
    if len(found) != 10 or len({model for _, _, model in found}) != 1:
        return False
    embedder = load_embedder(found[0][2])
    made = prefix(embedder.embed_documents([f"body {key}" for key, _, _ in found]), 384)
    asked = prefix(embedder.embed_queries([ASKED]), 384)[0]
    distances = np.array([distance for _, distance, _ in found])
    return bool(np.allclose(distances, 1 - made @ asked, atol=1e-4) and (np.diff(distances) >= 0).all())


@pytest.mark.parametrize("level", ["READ_COMMITTED", "REPEATABLE_READ"])
def test_every_answer_is_of_one_generation_while_it_is_swapped_to_and_fro(
    docs: None, sidecar: Sidecar, db: Connection, connect: Connect, level: str
) -> None:
    start(db, "model => 'synthetic-4096', dimensions => 384")
    db.execute("CALL pgmeaning.wait_for('docs@2')")
    stopping = threading.Event()
    askers = [Asker(connect(), psycopg.IsolationLevel[level], stopping) for _ in range(2)]
    for asker in askers:
        asker.start()

    def both_seen() -> bool:
        models = {"synthetic-384", "synthetic-4096"}
        return any(a.wrong for a in askers) or all(a.answers.get(query) == models for a in askers for query in SEARCHES)

    flips = 0
    try:
        while not (both_seen() and flips >= 6) and flips < 200:
            activate(db)
            db.execute("SELECT pgmeaning.swap_rollback('docs')")
            flips += 1
    finally:
        stopping.set()
        for asker in askers:
            asker.join(60)
    assert [asker.wrong for asker in askers] == [[], []]
    assert both_seen()
