"""pgmeaning doctor: each fault is found and named, a healthy database has none, and --fix does what it says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
import structlog
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from pgmeaning.cli.main import app
from pgmeaning.client import checkup
from pgmeaning.client.checkup import Finding, examine, mend
from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.version import __version__
from tests.conftest import _create, _drop
from tests.installation import BY_A_SUPERUSER, Installation

HEALTHY = "pgmeaning_test_healthy"
ALIVE = """INSERT INTO pgmeaning.sidecar (id, host, pid, version)
           VALUES ('11111111-1111-1111-1111-111111111111', 'host', 7, %s)"""


@pytest.fixture(scope="module")
def healthy(server_dsn: str, template: str) -> Iterator[str]:
    """A database with an embedded table, whose sidecar seems to be alive: to be cloned."""
    _create(server_dsn, HEALTHY, template)
    dsn = make_conninfo(server_dsn, dbname=HEALTHY)
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text)")
        db.execute("INSERT INTO docs SELECT i, 'text' FROM generate_series(1, 20) AS i")
        db.execute("SELECT pgmeaning.attach('docs', '{title}')")
        assert Sidecar(dsn, Settings()).run(drain=True) == 0
        db.execute(ALIVE, (__version__,))
    yield HEALTHY
    _drop(server_dsn, HEALTHY)


@pytest.fixture
def dsn(server_dsn: str, healthy: str) -> Iterator[str]:
    """A clone of it, alive as of now."""
    name = f"{HEALTHY}_{time.monotonic_ns()}"
    _create(server_dsn, name, healthy)
    made = make_conninfo(server_dsn, dbname=name)
    with psycopg.connect(made, autocommit=True) as db:
        ensure_loopback(db)
        db.execute("UPDATE pgmeaning.sidecar SET heartbeat_at = now() + interval '1 hour'")
    yield made
    _drop(server_dsn, name)


def found(dsn: str, **options: float) -> list[Finding]:
    with checkup.directly(dsn) as connection:
        return examine(connection, dsn, **options)


def kinds(dsn: str) -> list[tuple[str, str]]:
    return [(each.kind, each.thing) for each in found(dsn)]


def mended(dsn: str) -> list[Finding]:
    with checkup.directly(dsn) as connection:
        return mend(connection, dsn, examine(connection, dsn))


def test_a_healthy_database_has_no_finding(dsn: str) -> None:
    assert found(dsn) == []


FAULTS = {
    "view": ("DROP VIEW docs_embedding", ("view", "public.docs_embedding")),
    "trigger": ("ALTER TABLE docs DISABLE TRIGGER USER", ("trigger", None)),
    "column": ("ALTER TABLE docs RENAME title TO heading", ("collection", "docs")),
    "dropped": ("DROP TABLE docs", ("collection", "docs")),
    "drift": ("ALTER TABLE docs ALTER title TYPE varchar", ("drift", "docs")),
    "paused": ("SELECT pgmeaning.pause('docs')", ("paused", "docs")),
    "failures": (
        "INSERT INTO pgmeaning.queue (collection_id, model, key, failed_at, last_error) "
        "SELECT collection_id, model, '{}', now(), 'no' FROM pgmeaning.target",
        ("failures", "docs"),
    ),
    "index": (
        "INSERT INTO pgmeaning.vector_index (collection_id, model, problem) "
        "SELECT collection_id, model, 'no space left' FROM pgmeaning.target",
        ("index", "docs"),
    ),
    "probes": ("DELETE FROM pgmeaning.model_probe", ("probes", "synthetic-384")),
    "no sidecar": ("DELETE FROM pgmeaning.sidecar", ("sidecar", "none")),
    "model that cannot run": (
        """UPDATE pgmeaning.sidecar SET problems = '{"synthetic-384": "no memory"}'""", ("sidecar", "host 7")
    ),
    "version": ("UPDATE pgmeaning.sidecar SET version = '1.0'", ("sidecar", "host 7")),
    "model": ("UPDATE pgmeaning.sidecar SET named = '{other}'", ("model", "synthetic-384")),
    "deprecated model": (
        "ALTER TABLE pgmeaning.model DISABLE TRIGGER USER; "
        "UPDATE pgmeaning.model SET status = 'deprecated' WHERE name = 'synthetic-384'",
        ("warning", "docs"),
    ),
    "function": ("DROP FUNCTION pgmeaning.similarity", ("schema", None)),
    "lag": (
        "INSERT INTO pgmeaning.queue (collection_id, model, key, owed_since) "
        "SELECT collection_id, model, '{}', now() - interval '1 hour' FROM pgmeaning.target",
        ("lag", "docs"),
    ),
    "loopback": ("DROP SERVER pgmeaning_loopback CASCADE", ("loopback", "pgmeaning_loopback")),
    "bloat": (
        "ALTER TABLE pgmeaning.inbox SET (autovacuum_enabled = off); "
        "INSERT INTO pgmeaning.inbox (collection_id) SELECT 1 FROM generate_series(1, 20001); "
        "DELETE FROM pgmeaning.inbox",
        ("bloat", "pgmeaning.inbox"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_its_kind_and_names_the_thing(dsn: str, fault: str) -> None:
    statements, (kind, thing) = FAULTS[fault]
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(statements.encode())
        db.execute("SELECT pg_stat_force_next_flush()")
    seen = found(dsn)
    [*those] = [each for each in seen if each.kind == kind and thing in (None, each.thing)]
    assert those, seen
    assert all(each.problem and each.remedy for each in seen)
    assert not [each for each in seen if each.kind == "doctor"]


@pytest.mark.parametrize("setting", ["statement_timeout", "idle_session_timeout"])
def test_settings_that_cut_sessions_are_found(dsn: str, setting: str, server_dsn: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(f"ALTER DATABASE {name} SET {setting} = '5s'".encode())
    assert kinds(dsn) == [("setting", setting)]


def test_a_transaction_that_stays_open_is_found(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "LONGEST_TRANSACTION", timedelta(0))
    with psycopg.connect(dsn) as open_one:
        open_one.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        open_one.execute("SELECT 1")
        assert [each.kind for each in found(dsn)] == ["transaction"]


def test_a_clock_that_is_wrong_is_found(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 120)
    [clock] = found(dsn)
    assert (clock.kind, "120 s ahead" in clock.problem) == ("clock", True)


def test_a_database_without_pgmeaning_says_so_and_nothing_else(empty_dsn: str) -> None:
    [only] = found(empty_dsn)
    assert (only.kind, only.remedy) == ("schema", "pgmeaning migrate")


@pytest.mark.parametrize("fault", ["view", "trigger", "drift", "function", "loopback", "bloat"])
def test_what_is_safe_is_mended_and_said(dsn: str, fault: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(FAULTS[fault][0].encode())
        db.execute("SELECT pg_stat_force_next_flush()")
    said = [each.fixed or "" for each in mended(dsn)]
    assert said
    assert all(each.startswith("mended") for each in said), said
    assert [each for each in found(dsn) if each.kind != "lag"] == []


def test_what_is_not_safe_is_left_alone(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("SELECT pgmeaning.pause('docs')")
    assert [each.fixed for each in mended(dsn)] == [None]


def test_the_command_prints_what_to_do_and_its_exit_status_says_whether_all_is_well(dsn: str) -> None:
    structlog.reset_defaults()
    run = CliRunner().invoke
    assert run(app, ["doctor", "--dsn", dsn]).output == "all is well\n"
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("DROP VIEW docs_embedding")
    told = run(app, ["doctor", "--dsn", dsn])
    assert (told.exit_code, "view: public.docs_embedding: the view is gone" in told.output) == (1, True)
    parsed = json.loads(run(app, ["doctor", "--dsn", dsn, "--json"]).output)
    assert [each["kind"] for each in parsed] == ["view"]
    assert run(app, ["doctor", "--dsn", dsn, "--fix"]).exit_code == 0
    assert run(app, ["doctor", "--dsn", dsn]).exit_code == 0
    structlog.reset_defaults()


def test_a_role_without_rights_is_told_who_can_look(dsn: str) -> None:
    name = f"pgmeaning_test_nobody_{time.monotonic_ns()}"
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'of-these-tests'".encode())
    try:
        seen_by_it = found(make_conninfo(dsn, user=name, password="of-these-tests"))
        assert any(each.kind == "doctor" and "owner" in each.remedy for each in seen_by_it)
    finally:
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute(f"DROP ROLE {name}".encode())


def test_a_sidecar_that_runs_as_a_superuser_beside_the_tables_of_others_is_found(dsn: str) -> None:
    name = f"pgmeaning_test_owner_{time.monotonic_ns()}"
    with psycopg.connect(dsn, autocommit=True, application_name="pgmeaning maintenance 1") as db:
        db.execute(f"CREATE ROLE {name}; ALTER TABLE docs OWNER TO {name}".encode())
        try:
            assert ("rights", "postgres") in kinds(dsn)
        finally:
            db.execute(f"ALTER TABLE docs OWNER TO postgres; DROP OWNED BY {name}; DROP ROLE {name}".encode())


@pytest.mark.parametrize("installation", [BY_A_SUPERUSER], indirect=True)
def test_rights_that_the_reader_lacks_are_found_with_the_statement_that_grants_them(
    installation: Installation, server_dsn: str
) -> None:
    name = f"{HEALTHY}_roles_{time.monotonic_ns()}"
    _create(server_dsn, name, installation.template)
    made = make_conninfo(server_dsn, dbname=name)
    try:
        with psycopg.connect(made, autocommit=True) as db:
            db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text); SELECT pgmeaning.attach('docs', '{title}')")
            assert "rights" not in [kind for kind, _ in kinds(made)]
            db.execute("REVOKE SELECT (id, title) ON docs FROM pgmeaning_reader")
        [lacking] = [each for each in found(made) if each.kind == "rights"]
        assert lacking.remedy == "GRANT SELECT (id, title) ON public.docs TO pgmeaning_reader"
    finally:
        _drop(server_dsn, name)
