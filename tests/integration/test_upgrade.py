"""A sidecar and a schema of different versions: the sidecar notices, says so in one line, and works no more."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import structlog

from pgmeaning.database import migrate
from pgmeaning.errors import SchemaOutdated
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import wait_until
from tests.types import Connection

NEWER = "UPDATE pgmeaning.installation SET functions_hash = 'of the newer', version = '99.1'"


@pytest.fixture
def ended(db: Connection, dsn: str) -> Iterator[Future[int]]:
    """The exit status of a sidecar that has embedded a row, and goes on."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'one')")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    sidecar = Sidecar(dsn, Settings(maintenance=0.1, poll=0.1))
    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(sidecar.run)
        wait_until(lambda: db.execute("SELECT FROM docs_embedding").rowcount == 1)
        yield status
        sidecar.stop()


def test_a_running_sidecar_stops_once_the_schema_is_a_newer_one(db: Connection, ended: Future[int]) -> None:
    with structlog.testing.capture_logs() as lines:
        db.execute(NEWER)
        assert ended.result(30) == 1
    errors = [line for line in lines if line["log_level"] in ("error", "critical")]
    assert len(errors) == 1
    assert "is of version 99.1" in errors[0]["problem"]


def test_a_running_sidecar_stops_once_the_schema_is_gone(db: Connection, ended: Future[int]) -> None:
    with structlog.testing.capture_logs() as lines:
        db.execute("DROP SCHEMA pgmeaning, pgmeaning_data CASCADE")
        assert ended.result(30) == 1
    errors = [line for line in lines if line["log_level"] in ("error", "critical")]
    assert len(errors) == 1
    assert "schema is gone" in errors[0]["problem"]


def test_a_running_sidecar_stops_once_pgvector_is_gone(db: Connection, ended: Future[int]) -> None:
    db.execute("DROP EXTENSION vector CASCADE; INSERT INTO docs VALUES (2, 'two')")
    assert ended.result(90) == 1


def test_a_sidecar_does_not_start_where_functions_are_of_another_version(db: Connection, dsn: str) -> None:
    db.execute(NEWER)
    with pytest.raises(SchemaOutdated, match=r"is of version 99.1, this sidecar of"):
        Sidecar(dsn).run()


def test_an_upgrade_under_a_running_sidecar_loses_nothing(db: Connection, dsn: str, ended: Future[int]) -> None:
    db.execute(NEWER)  # as migrate of a newer package does
    db.execute("INSERT INTO docs VALUES (2, 'between')")
    assert ended.result(30) == 1
    migrate.upgrade(dsn)
    assert Sidecar(dsn).run(drain=True) == 0
    assert db.execute("SELECT id FROM docs_embedding ORDER BY id").fetchall() == [(1,), (2,)]
