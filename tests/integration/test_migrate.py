"""Migrations: from nothing, again, by two at once, as a role with few rights, and back."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql as compose
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgmeaning.database import migrate
from pgmeaning.database import sql_files as sql
from pgmeaning.errors import DatabaseError, SchemaOutdated
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.types import Connection, Drain, Rows

SNAPSHOT = Path(__file__).with_name("schema.snapshot")

# A released migration is never edited: databases that ran it would differ from those that run it now.
FROZEN = {
    "0001_initial.up.sql": "8ccce5e74afb11fa8153fc704c47ce152aa74abb8d8ba944ce18778ac881d0d0",
    "0001_initial.down.sql": "24eb884c0d72ef0013089ddf984387d35b4428c1372a509386f774a4a9a7429f",
}


Command = Callable[[str], migrate.State]
COMMANDS = [migrate.check, migrate.upgrade]


@pytest.fixture
def owned_dsn(empty_dsn: str) -> Iterator[str]:
    """An empty database with pgvector, as its owner: no superuser, and without the right to make a role."""
    role = f"{conninfo_to_dict(empty_dsn)['dbname']}_owner"
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(
            compose.SQL("CREATE ROLE {} LOGIN PASSWORD 'owner' NOCREATEROLE").format(compose.Identifier(role))
        )
        connection.execute(
            compose.SQL("ALTER DATABASE {} OWNER TO {}").format(
                compose.Identifier(str(conninfo_to_dict(empty_dsn)["dbname"])), compose.Identifier(role)
            )
        )
    yield make_conninfo(empty_dsn, user=role, password="owner")
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(compose.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(compose.Identifier(role)))
        connection.execute(compose.SQL("DROP OWNED BY {}").format(compose.Identifier(role)))
        connection.execute(compose.SQL("DROP ROLE {}").format(compose.Identifier(role)))


def test_an_empty_database_is_due_and_then_it_is_not(empty_dsn: str) -> None:
    before = migrate.check(empty_dsn)
    assert before.due
    assert before.revision is None
    assert migrate.upgrade(empty_dsn) == before
    after = migrate.check(empty_dsn)
    assert not after.due
    assert after.revision == after.head


def test_a_check_changes_nothing(empty_dsn: str) -> None:
    migrate.check(empty_dsn)
    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute("SELECT to_regnamespace('pgmeaning')").fetchone() == (None,)


def test_the_second_run_changes_nothing(db: Connection, dsn: str) -> None:
    def rows() -> Rows:
        return db.execute(
            "SELECT oid, xmin FROM pg_proc WHERE pronamespace = 'pgmeaning'::regnamespace ORDER BY oid"
        ).fetchall()

    before = rows()
    assert not migrate.upgrade(dsn).due
    assert rows() == before


def test_two_at_the_same_time_both_succeed(empty_dsn: str) -> None:
    found: list[migrate.State] = []
    threads = [threading.Thread(target=lambda: found.append(migrate.upgrade(empty_dsn))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(state.due for state in found) == [False, True]


def test_two_at_the_same_time_succeed_where_repeatable_read_is_the_default(empty_dsn: str) -> None:
    strict = make_conninfo(empty_dsn, options=r"-c default_transaction_isolation=repeatable\ read")
    found: list[migrate.State] = []
    threads = [threading.Thread(target=lambda: found.append(migrate.upgrade(strict))) for _ in range(2)]
    with psycopg.connect(empty_dsn) as first, psycopg.connect(empty_dsn, autocommit=True) as observer:
        first.execute("CREATE EXTENSION vector")  # which both of them will make, too
        for thread in threads:
            thread.start()
        waiting = "SELECT count(*) = 2 FROM pg_locks WHERE NOT granted"
        wait_until(lambda: observer.execute(waiting).fetchone() == (True,))
    for thread in threads:
        thread.join(60)
    assert sorted(state.due for state in found) == [False, True]


def test_a_migration_waits_for_another_of_the_same_database(dsn: str, db: Connection) -> None:
    db.execute("UPDATE pgmeaning.installation SET functions_hash = 'of another version'")
    found: list[migrate.State] = []
    threads = [threading.Thread(target=lambda: found.append(migrate.upgrade(dsn))) for _ in range(2)]
    with psycopg.connect(dsn) as first:
        first.execute(sql.query("migration_lock"))
        for thread in threads:
            thread.start()
        waiting = (
            "SELECT count(*) = 2 FROM pg_locks WHERE relation = 'pgmeaning.alembic_version'::regclass AND NOT granted"
        )
        wait_until(lambda: db.execute(waiting).fetchone() == (True,))
    for thread in threads:
        thread.join(60)
    assert sorted(state.due for state in found) == [False, True]


def test_changed_functions_are_due_and_are_put_right(db: Connection, dsn: str) -> None:
    db.execute("UPDATE pgmeaning.installation SET functions_hash = 'of another version'")
    (before,) = db.execute("SELECT pg_get_functiondef('pgmeaning.embed'::regproc)").fetchall()
    db.execute(f"{before[0].partition('AS $function$')[0]} AS 'BEGIN RETURN NULL; END'".encode())
    state = migrate.check(dsn)
    assert state.due
    assert state.revision == state.head
    migrate.upgrade(dsn)
    assert not migrate.check(dsn).due
    assert db.execute("SELECT pg_get_functiondef('pgmeaning.embed'::regproc)").fetchall() == [before]


LOSSES = {
    "a function": "DROP FUNCTION pgmeaning.retry",
    "a function's body": "CREATE OR REPLACE FUNCTION pgmeaning.retry(collection text) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
    "a view": "DROP VIEW pgmeaning.failures",
    "an index": "DROP INDEX pgmeaning.queue_claimable",
    "a key": "ALTER TABLE pgmeaning.queue DROP CONSTRAINT queue_pkey",
    "a check": "ALTER TABLE pgmeaning.model DROP CONSTRAINT model_kind_check",
    "pgvector": "DROP EXTENSION vector CASCADE",
    "the schema public": "DROP SCHEMA public CASCADE; CREATE SCHEMA public",
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_what_was_dropped_is_noticed_and_made_again(db: Connection, dsn: str, loss: str) -> None:
    before = list(_schema(db))
    db.execute(loss.encode())
    assert migrate.check(dsn).missing
    assert migrate.upgrade(dsn).due
    assert not migrate.check(dsn).due
    assert list(_schema(db)) == before


def test_a_check_says_what_is_missing(db: Connection, dsn: str) -> None:
    db.execute("DROP FUNCTION pgmeaning.retry")
    assert migrate.check(dsn).missing == ("routine retry(text)",)


def test_vectors_that_went_with_pgvector_are_made_again(db: Connection, dsn: str, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'one'), (2, 'two')")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}', vector_type => 'halfvec', language => 'english')")
    assert drain() == 0
    db.execute("DROP EXTENSION vector CASCADE")
    migrate.upgrade(dsn)
    assert db.execute("SELECT owed, state FROM pgmeaning.status").fetchall() == [(2, "checking")]
    assert drain() == 0
    assert db.execute("SELECT id, pg_typeof(embedding)::text FROM docs_embedding ORDER BY id").fetchall() == [
        (1, "halfvec"),
        (2, "halfvec"),
    ]
    assert len(db.execute("SELECT FROM pgmeaning.similar('docs', '1')").fetchall()) == 1


def test_a_lost_column_of_ours_is_named_and_not_invented(db: Connection, dsn: str) -> None:
    db.execute("ALTER TABLE pgmeaning.queue DROP COLUMN attempts CASCADE")
    with pytest.raises(DatabaseError, match=r"dropped or altered: queue.attempts") as raised:
        migrate.upgrade(dsn)
    assert "restore" in str(raised.value.hint)


def test_a_database_that_does_not_know_its_encoding_is_refused(server_dsn: str) -> None:
    name = f"pgmeaning_test_{os.getpid()}_ascii"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        ascii = "ENCODING 'SQL_ASCII' LOCALE_PROVIDER 'libc' LC_COLLATE 'C' LC_CTYPE 'C'"
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 {ascii}".encode())
    try:
        with pytest.raises(DatabaseError, match="SQL_ASCII") as raised:
            migrate.upgrade(make_conninfo(server_dsn, dbname=name))
        assert "UTF8" in str(raised.value.hint)
    finally:
        with psycopg.connect(server_dsn, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name}".encode())


def _as_before(connection: Connection, number: str) -> None:
    """Bring the schema back to what an unreleased version of this number left."""
    connection.execute("ALTER TABLE pgmeaning.installation DROP COLUMN migrations_hash")
    connection.execute("UPDATE pgmeaning.alembic_version SET version_num = %s", (number,))


@pytest.mark.parametrize("number", ["0001", "0002"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_schema_of_an_unreleased_version_is_refused_with_what_to_do(
    db: Connection, dsn: str, number: str, command: Command
) -> None:
    _as_before(db, number)
    with pytest.raises(
        SchemaOutdated, match=f"schema, {number}, was made by a version that was never released"
    ) as caught:
        command(dsn)
    assert "DROP SCHEMA pgmeaning, pgmeaning_data CASCADE" in str(caught.value.hint)
    db.execute("DROP SCHEMA pgmeaning, pgmeaning_data CASCADE")
    command(dsn)


def test_a_sidecar_refuses_a_schema_of_an_unreleased_version(db: Connection, dsn: str) -> None:
    _as_before(db, "0001")
    with pytest.raises(SchemaOutdated, match="never released"):
        Sidecar(dsn).run(drain=True)


def test_a_sidecar_older_than_the_database_says_that_it_is_to_be_upgraded(db: Connection, dsn: str) -> None:
    db.execute("UPDATE pgmeaning.alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaOutdated, match="9999, is newer") as raised:
        Sidecar(dsn).run(drain=True)
    assert raised.value.hint == "upgrade the package pgmeaning"


def test_a_schema_made_by_other_migrations_of_the_same_number_is_refused(db: Connection, dsn: str) -> None:
    db.execute("UPDATE pgmeaning.installation SET migrations_hash = 'of a draft'")
    with pytest.raises(SchemaOutdated, match="never released"):
        migrate.upgrade(dsn)


def test_an_unreleased_schema_is_removed_where_all_its_collections_are_ones_own(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    assert not migrate.remove_unreleased(dsn, ["docs"]), "this one is as released"
    _as_before(db, "0002")
    assert not migrate.remove_unreleased(dsn, ["others"]), "somebody's collection is not thrown away"
    assert migrate.remove_unreleased(dsn, ["docs"])
    db.execute("INSERT INTO docs VALUES (1, 'the table stays, and takes writes')")
    assert migrate.upgrade(dsn).revision is None


def test_a_schema_of_a_newer_release_is_not_taken_for_an_unreleased_one(db: Connection, dsn: str) -> None:
    db.execute("UPDATE pgmeaning.alembic_version SET version_num = '0999'")
    with pytest.raises(SchemaOutdated, match="newer than this package"):
        migrate.check(dsn)


def test_an_upgrade_leaves_no_function_of_other_arguments_behind(db: Connection, dsn: str) -> None:
    count = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'pgmeaning'::regnamespace AND proname IN ('search', 'similar')"
    before = db.execute(count).fetchone()
    db.execute(
        "CREATE FUNCTION pgmeaning.search(collection text, query text, k int DEFAULT 10, filter text DEFAULT NULL, mode text DEFAULT NULL, "
        "candidates int DEFAULT NULL, timeout interval DEFAULT '10 seconds') RETURNS int LANGUAGE sql AS 'SELECT 1'"
    )
    db.execute("UPDATE pgmeaning.installation SET functions_hash = 'of another version'")
    migrate.upgrade(dsn)
    assert db.execute(count).fetchone() == before


def test_an_upgrade_keeps_collections_working(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    db.execute("UPDATE pgmeaning.installation SET functions_hash = 'of another version'")
    migrate.upgrade(dsn)
    db.execute("INSERT INTO docs VALUES (1, 'one')")
    assert db.execute("SELECT key FROM pgmeaning.inbox").fetchall() == [({"id": 1},)]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_that_is_newer_than_the_package_is_refused_with_a_hint(
    db: Connection, dsn: str, command: Command
) -> None:
    db.execute("UPDATE pgmeaning.alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaOutdated, match="9999, is newer") as raised:
        command(dsn)
    assert raised.value.hint


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("loss", "left"),
    [
        ("DROP SCHEMA pgmeaning CASCADE", "pgmeaning_data"),
        ("DROP SCHEMA pgmeaning_data CASCADE; DELETE FROM pgmeaning.alembic_version", "pgmeaning"),
        ("DELETE FROM pgmeaning.alembic_version", "pgmeaning, pgmeaning_data"),  # as pg_dump --schema-only does
    ],
)
def test_what_an_earlier_installation_left_is_named_with_what_to_do(
    db: Connection, dsn: str, command: Command, loss: str, left: str
) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    db.execute(loss)
    with pytest.raises(DatabaseError, match=f"earlier installation, without a version: {left} ") as raised:
        command(dsn)
    advice = "DROP SCHEMA IF EXISTS pgmeaning, pgmeaning_data CASCADE"
    assert advice in str(raised.value.hint)
    db.execute(advice)
    assert migrate.upgrade(dsn).due


def test_a_schema_that_was_made_beforehand_is_taken(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA pgmeaning")
    assert migrate.upgrade(empty_dsn).due


def test_a_failure_halfway_leaves_nothing(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA audit")
        connection.execute(
            "CREATE FUNCTION audit.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no views here'; END $$"
        )
        connection.execute(
            "CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE VIEW') EXECUTE FUNCTION audit.refuse()"
        )
    with pytest.raises(DatabaseError, match="no views here"):
        migrate.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute("SELECT to_regnamespace('pgmeaning')").fetchone() == (None,)


def test_a_wrong_dsn_is_an_error_with_a_hint(server_dsn: str) -> None:
    with pytest.raises(DatabaseError, match="cannot connect") as raised:
        migrate.check(make_conninfo(server_dsn, dbname="no such database"))
    assert raised.value.hint


def test_the_owner_of_a_database_migrates_attaches_embeds_and_searches_without_dblink(owned_dsn: str) -> None:
    assert migrate.upgrade(owned_dsn).loopback_problem
    assert not migrate.check(owned_dsn).due
    with psycopg.connect(owned_dsn, autocommit=True) as owner:
        assert owner.execute("SELECT count(*) FROM pg_extension WHERE extname = 'dblink'").fetchone() == (0,)
        owner.execute("SELECT pgmeaning.set_default_model('synthetic-384')")
        owner.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        owner.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 20) AS i")
        owner.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
        assert Sidecar(owned_dsn, Settings()).run(drain=True) == 0
        found = owner.execute("SELECT key FROM pgmeaning.similar('docs', '3', k => 5)").fetchall()
        assert len(found) == 5
        with pytest.raises(psycopg.Error) as raised:
            owner.execute("SELECT pgmeaning.embed('not cached')")
        assert raised.value.sqlstate == "PM009"
        owner.execute("SELECT pgmeaning.detach('docs')")
    migrate.downgrade(owned_dsn)


def test_who_does_not_own_the_installation_is_told_who_does(empty_dsn: str, owned_dsn: str) -> None:
    migrate.upgrade(empty_dsn)
    with pytest.raises(
        DatabaseError, match=f"belongs to role {conninfo_to_dict(empty_dsn)['user']}, .*_owner"
    ) as raised:
        migrate.upgrade(owned_dsn)
    assert raised.value.hint
    assert not migrate.check(owned_dsn).due  # looking needs no right


def test_what_a_superuser_migrates_stays_its_owners(empty_dsn: str, owned_dsn: str) -> None:
    migrate.upgrade(owned_dsn)
    owner = str(conninfo_to_dict(owned_dsn)["user"])
    migrate.upgrade(empty_dsn, owner=owner)
    with psycopg.connect(empty_dsn, autocommit=True) as superuser:
        superuser.execute("ALTER SERVER pgmeaning_loopback OWNER TO CURRENT_USER")
        superuser.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        superuser.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
        _make_due(superuser)
        migrate.upgrade(empty_dsn, owner=owner)
        strangers = superuser.execute(
            "SELECT object FROM (SELECT oid::regprocedure::text, proowner, pronamespace FROM pg_proc UNION ALL "
            "SELECT oid::regclass::text, relowner, relnamespace FROM pg_class UNION ALL "
            "SELECT oid::regtype::text, typowner, typnamespace FROM pg_type UNION ALL "
            "SELECT srvname, srvowner, 'pgmeaning'::regnamespace FROM pg_foreign_server) AS o (object, owner, namespace) "
            "WHERE namespace IN ('pgmeaning'::regnamespace, 'pgmeaning_data'::regnamespace) "
            "AND owner <> (SELECT nspowner FROM pg_namespace WHERE nspname = 'pgmeaning')"
        ).fetchall()
        assert strangers == []
        _make_due(superuser)
    migrate.upgrade(owned_dsn)
    assert not migrate.check(owned_dsn).due


def test_a_search_by_the_owner_is_answered_after_a_superuser_migrated(empty_dsn: str, owned_dsn: str) -> None:
    migrate.upgrade(owned_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as superuser:
        _make_due(superuser)
    with pytest.raises(DatabaseError, match="schema pgmeaning belongs to role"):
        migrate.upgrade(empty_dsn)
    migrate.upgrade(empty_dsn, owner=str(conninfo_to_dict(owned_dsn)["user"]))
    with running(Sidecar(owned_dsn, Settings())), psycopg.connect(owned_dsn, autocommit=True) as owner:
        assert owner.execute("SELECT pgmeaning.embed('rice', model => 'synthetic-384') IS NULL").fetchone() == (False,)


def _make_due(db: Connection) -> None:
    """As if the package had changed functions, views and types: they are dropped and made anew."""
    db.execute("UPDATE pgmeaning.installation SET functions_hash = 'of another version'")
    db.execute("DROP FUNCTION pgmeaning.retry, pgmeaning._ask_loopback, pgmeaning._test_loopback")
    db.execute("DROP VIEW pgmeaning.failures")


def test_vector_may_be_in_a_schema_of_its_own(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "my extensions"')
        connection.execute('CREATE EXTENSION vector SCHEMA "my extensions"')
    migrate.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("SELECT pgmeaning.set_default_model('synthetic-384')")
        connection.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        connection.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
        connection.execute("INSERT INTO docs VALUES (1, 'one'), (2, 'two')")
        assert Sidecar(empty_dsn, Settings()).run(drain=True) == 0
        assert len(connection.execute("SELECT key FROM pgmeaning.similar('docs', '1')").fetchall()) == 1


def test_a_downgrade_leaves_the_users_tables_and_their_writes_working(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE docs_low PARTITION OF docs FOR VALUES FROM (0) TO (10)")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    migrate.downgrade(dsn)
    db.execute("INSERT INTO docs VALUES (1, 'one')")
    db.execute("INSERT INTO docs_low VALUES (2, 'two')")
    db.execute("UPDATE docs SET body = 'three'")
    db.execute("DELETE FROM docs WHERE id = 1")
    db.execute("TRUNCATE docs")
    left = db.execute(
        "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgmeaning%' UNION ALL "
        "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pgmeaning%' UNION ALL "
        "SELECT count(*) FROM pg_foreign_server"
    ).fetchall()
    assert left == [(0,), (0,), (0,)]
    migrate.upgrade(dsn)
    assert not migrate.check(dsn).due


def test_a_downgrade_drops_the_role_of_the_databases_own_loopback(empty_dsn: str) -> None:
    migrate.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        own = (
            "SELECT count(*) FROM pg_roles JOIN pg_database AS d ON rolname = 'pgmeaning_loopback_' || d.oid "
            "WHERE datname = current_database()"
        )
        assert connection.execute(own).fetchone() == (1,)
        connection.execute(
            "DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO pgmeaning_loopback_%s', datname, oid) "
            "FROM pg_database WHERE datname = current_database(); END $$"
        )
        migrate.downgrade(empty_dsn)
        assert connection.execute(own).fetchone() == (0,)


def test_a_downgrade_leaves_the_loopback_role_that_another_database_has(db: Connection, dsn: str) -> None:
    (login,) = db.execute("SELECT login FROM pgmeaning.loopback").fetchone() or ("",)
    migrate.downgrade(dsn)  # its role is the one of the template
    assert db.execute("SELECT rolname FROM pg_roles WHERE rolname = %s", (login,)).fetchone() == (login,)


def test_migrations_are_frozen() -> None:
    folder = sql.folder("sql") / "migrations"
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.sql"))}
    assert found == FROZEN


def test_the_schema_is_the_one_in_the_snapshot(db: Connection) -> None:
    """Any change of the schema shows in review; PGMEANING_UPDATE_SNAPSHOT=1 writes the new one."""
    found = "\n".join(_schema(db)) + "\n"
    if os.environ.get("PGMEANING_UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(found)
    assert found == SNAPSHOT.read_text()


def _schema(db: Connection) -> Iterator[str]:
    for kind, query in {
        "table": "SELECT c.relname FROM pg_class AS c WHERE c.relkind = 'r' AND c.relnamespace = 'pgmeaning'::regnamespace",
        "column": "SELECT format('%s.%s %s%s%s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), "
        "CASE WHEN a.attnotnull THEN ' NOT NULL' END, ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid)) "
        "FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
        "LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum "
        "WHERE c.relkind IN ('r', 'v', 'c') AND c.relnamespace = 'pgmeaning'::regnamespace",
        # Not the NOT NULLs, which are constraints of their own only since PostgreSQL 18.
        "constraint": "SELECT format('%s: %s', c.conrelid::regclass, pg_get_constraintdef(c.oid)) FROM pg_constraint AS c "
        "WHERE c.connamespace = 'pgmeaning'::regnamespace AND c.contype <> 'n'",
        "index": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'pgmeaning'",
        "routine": "SELECT format('%s(%s) -> %s%s', p.proname, pg_get_function_arguments(p.oid), "
        "coalesce(pg_get_function_result(p.oid), 'procedure'), CASE WHEN p.prosecdef THEN ' SECURITY DEFINER' END) "
        "FROM pg_proc AS p WHERE p.pronamespace = 'pgmeaning'::regnamespace",
    }.items():
        yield from sorted(f"{kind} {row[0]}" for row in db.execute(query.encode()).fetchall())


def test_every_function_pins_its_search_path(db: Connection) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    loose = db.execute(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE prokind = 'f' "
        "AND pronamespace IN ('pgmeaning'::regnamespace, 'pgmeaning_data'::regnamespace) "
        "AND NOT coalesce(array_to_string(proconfig, ',') LIKE '%search_path=pg_catalog%pg_temp%', false)"
    ).fetchall()
    assert loose == []


def test_every_security_definer_function_says_why(db: Connection) -> None:
    text = "\n".join(text for _, text in sql.functions())
    for (name,) in db.execute(
        "SELECT DISTINCT proname FROM pg_proc WHERE prosecdef AND pronamespace = 'pgmeaning'::regnamespace"
    ).fetchall():
        head = re.search(rf"((?:--[^\n]*\n)+)CREATE OR REPLACE FUNCTION pgmeaning\.{name}\(", text)
        assert head, f"{name} has no comment"
        assert "SECURITY DEFINER" in head[1], f"{name} does not say why it runs as its owner"


def test_others_may_not_write_our_tables_or_make_triggers_of_our_functions(db: Connection) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    rights = db.execute(
        "SELECT grantee::regrole::text, privilege_type, relname FROM pg_class, aclexplode(relacl) "
        "WHERE relnamespace IN ('pgmeaning'::regnamespace, 'pgmeaning_data'::regnamespace) AND grantee = 0 AND privilege_type <> 'SELECT'"
    ).fetchall()
    assert rights == []
    callable_by_all = db.execute(
        "SELECT has_function_privilege('pg_monitor', p.oid, 'EXECUTE') FROM pg_proc AS p "
        "WHERE p.pronamespace IN ('pgmeaning'::regnamespace, 'pgmeaning_data'::regnamespace) AND p.prorettype = 'trigger'::regtype AND p.prosecdef"
    ).fetchall()
    assert callable_by_all == [(False,)]
