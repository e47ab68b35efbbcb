"""pgmeaning uninstall: the database is as it was before."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from pgmeaning.cli.main import app
from pgmeaning.database import migrate
from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.database.uninstall import installed, uninstall
from pgmeaning.embedded_server.install import find_install
from pgmeaning.errors import DatabaseError
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.installation import BY_A_SUPERUSER, Installations
from tests.types import Connection

OURS = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'pgmeaning%%' AND rolname <> 'pgmeaning_tests_owner' ORDER BY 1"


@pytest.fixture
def db(empty_dsn: str) -> Iterator[Connection]:
    """A database with a table, a partitioned one and one with row security, none of them ours."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE docs (id int PRIMARY KEY, title text); INSERT INTO docs VALUES (1, 'one');"
            "CREATE TABLE parts (id int PRIMARY KEY, title text) PARTITION BY RANGE (id);"
            "CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (100);"
            "CREATE TABLE secret (id int PRIMARY KEY, title text); ALTER TABLE secret ENABLE ROW LEVEL SECURITY"
        )
        yield connection


def dump(dsn: str) -> str:
    """The schema, as pg_dump writes it."""
    program = find_install().program("pg_dump")
    done = subprocess.run(
        [program, "--schema-only", "--no-comments", dsn],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("--", "\\")))


def install(dsn: str, *, roles: bool = False) -> None:
    migrate.upgrade(dsn, roles=roles)
    with psycopg.connect(dsn, autocommit=True) as connection:
        ensure_loopback(connection)
        connection.execute("SELECT pgmeaning.set_default_model('synthetic-384')")
        for table in ("docs", "parts", "secret"):
            connection.execute("SELECT pgmeaning.attach(%s::regclass, '{title}')", (table,))


@pytest.mark.parametrize("roles", [False, True], ids=["one role", "roles"])
def test_the_schema_is_what_it_was_before_the_migration(db: Connection, empty_dsn: str, roles: bool) -> None:
    before, login = dump(empty_dsn), f"pgmeaning_loopback_{conninfo_oid(db)}"
    install(empty_dsn, roles=roles)
    if not roles:
        assert Sidecar(empty_dsn, Settings()).run(drain=True) == 0
    assert login in str(db.execute(OURS).fetchall())
    uninstall(db, vector=True)
    assert dump(empty_dsn) == before
    assert login not in str(db.execute(OURS).fetchall())
    assert db.execute("SELECT * FROM docs").fetchall() == [(1, "one")]
    assert installed(db) == []


def conninfo_oid(db: Connection) -> int:
    row = db.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


def test_roles_that_no_other_database_needs_go_too(db: Connection, empty_dsn: str) -> None:
    with db.transaction(force_rollback=True):  # the roles are the server's: other tests may need them
        db.execute(
            "CREATE ROLE pgmeaning_spare; CREATE SCHEMA pgmeaning; GRANT USAGE ON SCHEMA public TO pgmeaning_spare"
        )
        kept = uninstall(db)
        left = [name for (name,) in db.execute(OURS).fetchall()]
        for role in ("pgmeaning_admin", "pgmeaning_sidecar", "pgmeaning_reader", "pgmeaning_user"):
            assert (role in left) == any(f"role {role} is kept" in line for line in kept)


def test_where_another_database_has_roles_they_all_stay_and_no_right_here(
    db: Connection, empty_dsn: str, installations: Installations
) -> None:
    installations.of(BY_A_SUPERUSER)
    before = dump(empty_dsn)
    install(empty_dsn, roles=True)
    db.execute("GRANT CONNECT ON DATABASE postgres TO pgmeaning_reader")
    roles = db.execute(OURS).fetchall()
    kept = uninstall(db, vector=True)
    assert [line.split()[1] for line in kept] == [
        "pgmeaning_reader", "pgmeaning_user", "pgmeaning_sidecar", "pgmeaning_admin",
    ]  # fmt: skip
    assert {name for (name,) in roles} - {name for (name,) in db.execute(OURS).fetchall()} == {
        f"pgmeaning_loopback_{conninfo_oid(db)}"
    }
    assert dump(empty_dsn) == before
    acl = "SELECT datacl::text LIKE '%%pgmeaning_reader=c%%' FROM pg_database WHERE datname = 'postgres'"
    assert db.execute(acl).fetchone() == (True,)
    db.execute("REVOKE CONNECT ON DATABASE postgres FROM pgmeaning_reader")


def test_what_is_left_of_half_an_installation_goes_too(db: Connection, empty_dsn: str) -> None:
    before = dump(empty_dsn)
    install(empty_dsn)
    db.execute("DROP SCHEMA pgmeaning CASCADE")
    assert "pgmeaning_data" in installed(db)
    uninstall(db, vector=True)
    assert dump(empty_dsn) == before
    assert uninstall(db) == []  # and nothing is no error


def test_a_view_of_ones_own_is_not_dropped_unless_it_is_said(db: Connection, empty_dsn: str) -> None:
    install(empty_dsn)
    db.execute("CREATE VIEW mine AS SELECT id FROM docs_embedding")
    with pytest.raises(DatabaseError, match="mine"):
        uninstall(db)
    assert "pgmeaning" in installed(db)
    uninstall(db, cascade=True)
    assert db.execute("SELECT to_regclass('mine')").fetchone() == (None,)


def test_vector_stays_where_a_column_needs_it(db: Connection, empty_dsn: str) -> None:
    install(empty_dsn)
    db.execute("CREATE TABLE own (v vector)")
    assert any("the extension vector is kept" in line for line in uninstall(db, vector=True))


def test_the_command_asks_and_needs_yes_where_nobody_can_answer(db: Connection, empty_dsn: str) -> None:
    install(empty_dsn)
    refused = CliRunner().invoke(app, ["uninstall", "--dsn", empty_dsn])
    assert refused.exit_code == 2
    assert "pgmeaning" in installed(db)
    done = CliRunner().invoke(app, ["uninstall", "--dsn", empty_dsn, "--yes"])
    name = conninfo_to_dict(empty_dsn)["dbname"]
    assert (done.exit_code, f"pgmeaning is gone from database {name}" in done.output) == (0, True)
    assert installed(db) == []


def test_a_role_without_rights_is_told_who_may(db: Connection, empty_dsn: str) -> None:
    install(empty_dsn)
    db.execute("CREATE ROLE pgmeaning_tests_stranger; SET ROLE pgmeaning_tests_stranger")
    try:
        with pytest.raises(DatabaseError, match="may not remove pgmeaning"):
            uninstall(db)
    finally:
        db.execute("RESET ROLE; DROP ROLE pgmeaning_tests_stranger")
