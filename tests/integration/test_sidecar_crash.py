"""kill -9 at each step of the pipeline costs a lease, never a row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.embedders import Gate, Watched
from tests.types import Connection, Drain

STEPS = ["claimed", "read", "embedding", "uncommitted", "written"]


@contextmanager
def process(dsn: str, step: str, **settings: object) -> Iterator[subprocess.Popen[str]]:
    """A sidecar process that ends up at this step; killed at the end if it still runs."""
    environment = {**os.environ, **{f"PGMEANING_{name.upper()}": str(value) for name, value in settings.items()}}
    command = [sys.executable, "-m", "tests.integration.breaking", dsn, step]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def reached(started: subprocess.Popen[str]) -> None:
    """Wait until it has come to its step."""
    assert started.stderr is not None
    assert any(line == "reached\n" for line in started.stderr)


def make_docs(db: Connection, rows: int) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")
    db.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, %s) AS i", (rows,))


def count(db: Connection, query: str) -> int:
    row = db.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("step", STEPS)
def test_a_sidecar_killed_at_this_step_loses_no_row(db: Connection, dsn: str, drain: Drain, step: str) -> None:
    make_docs(db, 20)
    with process(dsn, step, lease=1.1) as started:
        reached(started)
    assert drain() == 0
    assert count(db, "SELECT count(*) FROM docs JOIN docs_embedding USING (id)") == 20
    assert count(db, "SELECT count(*) FROM pgmeaning.queue") == 0


def test_a_row_that_kills_its_process_each_time_ends_as_failed_and_the_others_succeed(db: Connection, dsn: str) -> None:
    make_docs(db, 20)
    db.execute("UPDATE docs SET body = 'poison' WHERE id = 7")
    statuses: list[int] = []
    while not statuses or statuses[-1] == -signal.SIGKILL:
        with process(dsn, "poison", lease=1.1, attempts=4, batch_rows=4, maintenance=0.2) as started:
            statuses.append(started.wait(60))
    assert statuses == [-signal.SIGKILL] * 4 + [1]
    assert db.execute("SELECT key, error FROM pgmeaning.failures WHERE NOT will_retry").fetchall() == [
        ({"id": 7}, "its sidecar died 4 times while it embedded this row")
    ]
    assert count(db, "SELECT count(*) FROM docs_embedding") == 19


def test_a_row_that_killed_its_sidecars_waits_until_the_rows_of_other_models_are_done(db: Connection, dsn: str) -> None:
    make_docs(db, 1)
    db.execute("UPDATE docs SET body = 'poison'")
    for _ in range(2):
        with process(dsn, "poison", lease=1.1) as started:
            assert started.wait(60) == -signal.SIGKILL
    db.execute("CREATE TABLE others (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('others', ARRAY['body'], model => 'synthetic-4096', dimensions => 64)")
    db.execute("INSERT INTO others SELECT i, 'text ' || i FROM generate_series(1, 20) AS i")
    wait_until(lambda: count(db, "SELECT count(*) FROM pgmeaning.queue WHERE visible_at <= now()") == 1)
    gate = Gate("poison")
    with running(Sidecar(dsn, Settings(maintenance=0.1), load=lambda model: Watched(gate).load(model))):
        gate.reached()
        assert count(db, "SELECT count(*) FROM others_embedding") == 20
        assert count(db, "SELECT count(*) FROM pgmeaning.queue WHERE claimed_by IS NOT NULL") == 1
        gate.open()


def test_a_single_attempt_does_not_turn_every_row_into_a_suspect(db: Connection, drain: Drain) -> None:
    make_docs(db, 20)
    assert drain(attempts=1) == 0
    assert count(db, "SELECT count(*) FROM docs_embedding") == 20


def test_sigterm_ends_a_process_within_seconds_and_hands_back_its_claims(db: Connection, dsn: str) -> None:
    make_docs(db, 20)
    with process(dsn, "embedding", lease=600, grace=0.5) as started:
        reached(started)
        assert count(db, "SELECT sum(claimed) FROM pgmeaning.sidecars") == 20
        started.send_signal(signal.SIGTERM)
        assert started.wait(10) == 0
    assert count(db, "SELECT count(*) FROM pgmeaning.queue WHERE visible_at <= now() AND attempts = 0") == 20
    assert count(db, "SELECT count(*) FROM pgmeaning.sidecars") == 0


def test_sigterm_ends_an_idle_process_at_once(db: Connection, dsn: str) -> None:
    with process(dsn, "stay", poll=60) as started:
        wait_until(lambda: count(db, "SELECT count(*) FROM pgmeaning.sidecars") == 1)
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 0, "long before it would have looked again"
