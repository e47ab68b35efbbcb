"""pgmeaning status: how fast, how long still, at what cost; and --check, for those without Prometheus."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from pgmeaning.cli.main import app
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.sidecar.rates import Rates
from tests.conftest import running, wait_until
from tests.types import Connection, Drain

ATTACHED = "CREATE TABLE docs (id int PRIMARY KEY, title text); SELECT pgmeaning.attach('docs', '{title}')"
ALIVE = """INSERT INTO pgmeaning.sidecar (id, host, pid, version, rates, problems)
           SELECT gen_random_uuid(), 'host', 1, '1', jsonb_build_object(min(c.id)::text, %s::float8), %s::jsonb
           FROM pgmeaning.collection AS c"""


@pytest.fixture(autouse=True)
def as_ever() -> Iterator[None]:
    """Commands that run in this process change how it logs."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def docs(db: Connection) -> Connection:
    db.execute(ATTACHED)
    return db


def alive(db: Connection, rate: float = 0, problems: str = "{}") -> None:
    """A sidecar that gives a sign of life."""
    db.execute(ALIVE, (rate, problems))


def check(dsn: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["status", "--check", "--dsn", dsn, *arguments])


def test_where_nothing_is_wrong_the_check_passes(docs: Connection, drain: Drain, dsn: str) -> None:
    docs.execute("INSERT INTO docs VALUES (1, 'one')")
    assert drain() == 0
    alive(docs)
    found = check(dsn, "--max-lag", "0")
    assert (found.exit_code, found.output) == (0, "ok\n")


def test_rows_that_wait_for_too_long_are_a_lag(docs: Connection, dsn: str) -> None:
    alive(docs)
    docs.execute("UPDATE pgmeaning.target SET scan_finished_at = now(), scanning = false")
    docs.execute("INSERT INTO docs VALUES (1, 'one')")
    docs.execute("UPDATE pgmeaning.inbox SET written_at = now() - interval '2 minutes'")
    assert check(dsn, "--max-lag", "600").exit_code == 0
    found = check(dsn, "--max-lag", "60")
    assert (found.exit_code, "docs: 1 rows are owed, the oldest for 0:02:0" in found.output) == (3, True)


def test_a_backfill_that_has_gone_on_for_too_long_is_a_lag(docs: Connection, dsn: str) -> None:
    alive(docs)
    docs.execute(
        "INSERT INTO docs VALUES (1, 'one'); UPDATE pgmeaning.target SET scan_started_at = now() - interval '1 hour'"
    )
    docs.execute("DELETE FROM pgmeaning.inbox")
    assert check(dsn).exit_code == 3


def test_failed_rows_are_told(docs: Connection, drain: Drain, dsn: str) -> None:
    docs.execute("INSERT INTO docs VALUES (1, 'one')")
    assert drain() == 0
    alive(docs)
    docs.execute(
        "INSERT INTO pgmeaning.queue (collection_id, model, key, failed_at, last_error) "
        "SELECT collection_id, model, '{\"id\": 1}', now(), 'no' FROM pgmeaning.target"
    )
    found = check(dsn)
    assert (found.exit_code, "docs: 1 rows failed" in found.output) == (4, True)


def test_a_broken_collection_is_told_with_its_problem(docs: Connection, dsn: str) -> None:
    alive(docs)
    docs.execute("ALTER TABLE docs DROP COLUMN title; UPDATE pgmeaning.collection SET problem = 'column title is gone'")
    found = check(dsn)
    assert (found.exit_code, found.output) == (5, "docs: column title is gone\n")


def test_without_a_living_sidecar_the_check_fails_whatever_else_is_wrong(docs: Connection, dsn: str) -> None:
    docs.execute("UPDATE pgmeaning.collection SET problem = 'broken'")
    alive(docs)
    docs.execute("UPDATE pgmeaning.sidecar SET heartbeat_at = now() - interval '1 minute'")
    found = check(dsn, "--json")
    assert found.exit_code == 6
    assert [each["kind"] for each in json.loads(found.output)] == ["no sidecar", "broken"]


def test_a_sidecar_that_cannot_run_the_model_does_not_count(docs: Connection, dsn: str) -> None:
    docs.execute("INSERT INTO docs VALUES (1, 'one')")
    alive(docs, problems='{"synthetic-384": "no memory"}')
    found = check(dsn)
    assert (found.exit_code, found.output) == (6, "docs: no sidecar is alive that can run model synthetic-384\n")


def test_the_time_left_follows_from_what_is_owed_and_the_rate_of_all_sidecars(docs: Connection) -> None:
    docs.execute("INSERT INTO docs SELECT i, 'text' FROM generate_series(1, 300) AS i")
    alive(docs, rate=1)
    alive(docs, rate=4)
    row = docs.execute("SELECT owed, rows_per_second, extract(epoch FROM time_left) FROM pgmeaning.status").fetchone()
    assert row == (300, 5, 60)


def test_a_sidecar_reports_how_fast_it_is(docs: Connection, dsn: str) -> None:
    with running(Sidecar(dsn, Settings(maintenance=0.1))):
        docs.execute("INSERT INTO docs SELECT i, 'text' FROM generate_series(1, 300) AS i")
        wait_until(lambda: docs.execute("SELECT FROM pgmeaning.status WHERE rows_per_second > 0").rowcount == 1)


def test_what_a_model_with_a_price_has_cost_and_will_cost_is_shown(docs: Connection, drain: Drain, dsn: str) -> None:
    docs.execute("INSERT INTO docs VALUES (1, 'one')")
    assert drain() == 0
    docs.execute("ALTER TABLE pgmeaning.model DISABLE TRIGGER USER")
    docs.execute("""UPDATE pgmeaning.model SET options = options || '{"price": 5}' WHERE name = 'synthetic-384'""")
    docs.execute("UPDATE pgmeaning.usage SET tokens = 2000000, documents = 1000")
    docs.execute("INSERT INTO docs SELECT i, 'text' FROM generate_series(2, 101) AS i")
    assert docs.execute("SELECT cost, cost_left FROM pgmeaning.status").fetchone() == (10, 1)
    shown = CliRunner().invoke(app, ["status", "--dsn", dsn], env={"COLUMNS": "200"}).output
    assert "cost_left" in shown
    assert "10.0" in shown


def test_a_rate_is_that_of_late_and_ends() -> None:
    rates = Rates()
    start = rates._since
    rates.add(1, 200)
    assert rates.now(start + 2) == {"1": 100.0}
    assert 40 < rates.now(start + 12)["1"] < 80
    assert rates.now(start + 1000) == {}


def test_the_log_says_how_far_collections_are(docs: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgmeaning.sidecar.maintenance.PROGRESS_SECONDS", 0)
    docs.execute("CREATE TABLE notes (id int PRIMARY KEY, title text); SELECT pgmeaning.attach('notes', '{title}')")
    docs.execute(
        "INSERT INTO notes VALUES (1, 'one'); UPDATE pgmeaning.collection SET state = 'paused' WHERE name = 'docs'"
    )
    docs.execute("INSERT INTO docs VALUES (1, 'owed, and for another sidecar')")
    alive(docs, rate=2)
    with capture_logs() as logs, running(Sidecar(dsn, Settings(maintenance=0.1))):
        wait_until(lambda: any(line["event"] == "progress" and line["collection"] == "docs" for line in logs))
    [said, *_] = [line for line in logs if line["event"] == "progress"]
    assert (said["owed"], said["rows_per_second"]) == (1, 2)
