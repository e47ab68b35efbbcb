"""An old pgvector is told by migrate, status and the sidecar, in one line with what to do."""

from __future__ import annotations

import pytest
import structlog
from typer.testing import CliRunner

from pgmeaning.cli.main import app
from pgmeaning.database.vector_version import advice, vector_advice
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.types import Connection


@pytest.fixture
def old(db: Connection) -> None:
    """The extension is said to be of an earlier version than the server's files."""
    db.execute("UPDATE pg_extension SET extversion = '0.8.1' WHERE extname = 'vector'")


@pytest.mark.parametrize(
    ("version", "on_server", "said"),
    [
        ("0.8.3", "0.8.3", None),
        ("0.8.10", "0.8.10", None),
        ("0.9", None, None),
        ("1.0.0", "1.0.0", None),
        ("0.8.2", "0.8.2", "pgvector 0.8.2 has faults that 0.8.3 mends: VACUUM"),
        ("0.8.1", "0.8.1", "CVE-2026-3172: leave PGMEANING_INDEX_WORKERS unset"),
        ("0.7.4", None, "CVE-2026-3172"),
        ("0.8.1", "0.8.6", "the extension vector is still 0.8.1 in this database: run ALTER EXTENSION vector UPDATE"),
    ],
)
def test_what_to_do_depends_on_the_version(version: str, on_server: str | None, said: str | None) -> None:
    found = advice(version, on_server)
    assert found is None if said is None else said in (found or "")
    assert "\n" not in (found or "")


def test_only_the_parallel_builds_of_those_before_are_warned_of() -> None:
    assert "CVE" not in (advice("0.8.2", "0.8.2") or "")


def test_a_sound_one_is_not_mentioned(db: Connection) -> None:
    if (db.execute("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'").fetchone() or ("",))[
        0
    ] < "0.8.3":
        pytest.skip("the server's own pgvector is old")
    assert vector_advice(db) is None


@pytest.mark.parametrize("command", [["migrate"], ["migrate", "--check"], ["status"], ["status", "--json"]])
def test_the_commands_say_it_on_stderr(old: None, dsn: str, command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--dsn", dsn])
    assert done.exit_code == 0
    assert "0.8.1" in done.stderr
    assert "0.8.1" not in done.stdout


def test_the_sidecar_says_it_when_it_starts(old: None, dsn: str) -> None:
    with structlog.testing.capture_logs() as logs:
        assert Sidecar(dsn, Settings()).run(drain=True) == 0
    assert [log["advice"] for log in logs if log["event"] == "pgvector is old"] != []
