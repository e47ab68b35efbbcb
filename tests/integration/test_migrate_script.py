"""`pgmeaning migrate --sql`: a script that does what migrate does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
from typer.testing import CliRunner

from pgmeaning.cli.main import app
from pgmeaning.database import migrate
from pgmeaning.database.script import script
from tests.docs.pages import _psql

OBJECTS = """
SELECT n.nspname, p.oid::regprocedure::text, md5(p.prosrc), p.proacl::text FROM pg_proc AS p
JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname LIKE 'pgmeaning%' AND n.nspname <> 'pgmeaning_dblink'
UNION ALL
SELECT n.nspname, c.relname, c.relkind::text, c.relacl::text FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname LIKE 'pgmeaning%' AND n.nspname <> 'pgmeaning_dblink' ORDER BY 1, 2
"""


def test_the_printed_sql_makes_what_migrate_makes(empty_dsn: str, dsn: str, tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["migrate", "--sql", "--dsn", empty_dsn])
    assert printed.exit_code == 0
    assert migrate.check(empty_dsn).revision is None  # nothing was run
    file = tmp_path / "migrate.sql"
    file.write_text(printed.stdout)
    subprocess.run([_psql(), "-X", "-q", "-f", str(file), empty_dsn], check=True, capture_output=True)
    state = migrate.check(empty_dsn)
    assert (state.due, state.missing) == (False, ())
    assert script(empty_dsn) == "-- up to date\n"
    with psycopg.connect(dsn) as usual, psycopg.connect(empty_dsn) as made:
        assert made.execute(OBJECTS).fetchall() == usual.execute(OBJECTS).fetchall()
    migrate.upgrade(empty_dsn)  # only the loopback is left to be made


def test_the_sql_of_an_older_version_is_its_functions(dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE pgmeaning.installation SET functions_hash = 'older'")
        connection.execute("DROP FUNCTION pgmeaning.retry")
    text = script(dsn)
    assert "CREATE TABLE pgmeaning.model" not in text
    (tmp_path / "migrate.sql").write_text(text)
    subprocess.run([_psql(), "-X", "-q", "-f", str(tmp_path / "migrate.sql"), dsn], check=True, capture_output=True)
    assert not migrate.check(dsn).due


def test_printing_goes_with_no_other_option(dsn: str) -> None:
    assert CliRunner().invoke(app, ["migrate", "--sql", "--check", "--dsn", dsn]).exit_code == 2
