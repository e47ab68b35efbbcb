"""An installation with roles: the sidecar reads no source, the reader has nothing of ours, users only ask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgmeaning.database import migrate
from pgmeaning.errors import DatabaseError
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import _embedded, running, wait_until
from tests.installation import BY_A_SUPERUSER, BY_THE_OWNER, OWNER, PASSWORD, Installation, Installations, prepare
from tests.types import Connection


@dataclass(frozen=True, slots=True)
class Roles:
    """DSNs: of the server's superuser, the sidecar, the reader, and of who owns tables and may attach them."""

    superuser: str
    sidecar: str
    reader: str
    owner: str


@pytest.fixture(params=[BY_A_SUPERUSER, BY_THE_OWNER])
def installation(request: pytest.FixtureRequest, installations: Installations) -> Installation:
    """With roles."""
    return installations.of(request.param)


@pytest.fixture
def roles(dsn: str, server_dsn: str, installation: Installation) -> Roles:
    superuser = make_conninfo(server_dsn, dbname=conninfo_to_dict(dsn)["dbname"])
    names = ("pgmeaning_sidecar", "pgmeaning_reader", OWNER)
    return Roles(superuser, *(installation.dsn(superuser, name) for name in names))


@pytest.fixture
def db(roles: Roles) -> Iterator[Connection]:
    """The superuser."""
    with psycopg.connect(roles.superuser, autocommit=True) as connection:
        yield connection


@pytest.fixture
def owner(roles: Roles) -> Iterator[Connection]:
    """Who owns the tables."""
    with psycopg.connect(roles.owner, autocommit=True) as connection:
        connection.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text, secret text)")
        connection.execute("INSERT INTO docs SELECT i, 'title ' || i, 'body ' || i FROM generate_series(1, 30) AS i")
        yield connection


def sidecar(roles: Roles, **settings: Any) -> Sidecar:
    return Sidecar(roles.sidecar, Settings(reader_dsn=roles.reader, maintenance=0.1, allow_superuser=False, **settings))


def refused(connection: Connection, statement: str) -> None:
    with pytest.raises(psycopg.Error) as error:
        connection.execute(statement.encode())
    assert error.value.sqlstate in ("42501", "PM011"), statement


def state(connection: Connection) -> tuple[object, ...]:
    return connection.execute("SELECT state, vectors, problem FROM pgmeaning.status").fetchone() or ()


def test_rows_are_embedded_changed_and_removed_under_the_least_rights(roles: Roles, owner: Connection) -> None:
    owner.execute("SELECT pgmeaning.attach('docs', '{title,body}')")
    with running(sidecar(roles)):
        wait_until(lambda: state(owner) == ("ready", 30, None))
        owner.execute("DELETE FROM docs WHERE id <= 10")
        owner.execute("UPDATE docs SET body = 'another' WHERE id = 11")
        owner.execute("INSERT INTO docs VALUES (31, 'new', 'row')")
        owner.execute("CALL pgmeaning.wait_for('docs')")
        assert state(owner) == ("ready", 21, None)
        assert owner.execute("SELECT FROM pgmeaning.search('docs', 'a question', k => 30)").rowcount == 21


def test_the_reader_may_read_the_embedded_columns_and_nothing_else(
    roles: Roles, owner: Connection, db: Connection
) -> None:
    owner.execute("SELECT pgmeaning.attach('docs', '{title,body}')")
    with psycopg.connect(roles.reader, autocommit=True) as reader:
        assert reader.execute("SELECT id, title, body FROM docs").rowcount == 30
        for statement in (
            "SELECT secret FROM docs",
            "DELETE FROM docs",
            "SELECT * FROM pgmeaning.collection",
            'SELECT * FROM pgmeaning_data."docs__synthetic-384"',
            "SELECT pgmeaning.embed('x')",
            "CREATE TABLE pgmeaning.mine ()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement.encode())


def test_the_sidecar_reads_no_source_and_changes_no_definition(roles: Roles, owner: Connection) -> None:
    owner.execute("SELECT pgmeaning.attach('docs', '{title,body}')")
    with psycopg.connect(roles.sidecar, autocommit=True) as connection:
        for statement in (
            "SELECT id FROM docs",
            "UPDATE pgmeaning.collection SET columns = '{secret}'",
            "UPDATE pgmeaning.model SET location = 'elsewhere'",
            "CREATE FUNCTION pgmeaning.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "SELECT pgmeaning.detach('docs')",
            "SELECT pgmeaning._make_loopback('x')",
            "CREATE TRIGGER t AFTER INSERT ON pgmeaning.inbox FOR EACH ROW EXECUTE FUNCTION pgmeaning.on_change_1()",
        ):
            refused(connection, statement)


def test_a_user_searches_what_it_may_read_and_changes_nothing(roles: Roles, owner: Connection, db: Connection) -> None:
    name = f"{owner.info.dbname}_user"
    owner.execute("SELECT pgmeaning.attach('docs', '{title,body}')")
    db.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'".encode())
    try:
        dsn = make_conninfo(roles.superuser, user=name, password=PASSWORD)
        with running(sidecar(roles)), psycopg.connect(dsn, autocommit=True) as user:
            owner.execute("CALL pgmeaning.wait_for('docs')")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):  # no member of pgmeaning_user yet
                user.execute("SELECT * FROM pgmeaning.status")
            db.execute(f"GRANT pgmeaning_user TO {name}".encode())
            db.execute(f'GRANT SELECT ON docs, pgmeaning_data."docs__synthetic-384" TO {name}'.encode())
            assert user.execute("SELECT * FROM pgmeaning.search('docs', 'title 7')").rowcount == 10
            wait_until(lambda: user.execute("SELECT state FROM pgmeaning.status").fetchall() == [("ready",)])
            for statement in (
                "SELECT pgmeaning.detach('docs')",
                "SELECT pgmeaning._look_after(1)",
                "SELECT * FROM pgmeaning.inbox",
                "SELECT * FROM pgmeaning.query_cache",
            ):
                refused(user, statement)
    finally:
        db.execute(f"DROP OWNED BY {name} CASCADE".encode())
        db.execute(f"DROP ROLE {name}".encode())


def test_what_attach_made_belongs_to_the_installation_and_not_to_who_attached(
    roles: Roles, owner: Connection, db: Connection
) -> None:
    owner.execute("SELECT pgmeaning.attach('docs', '{title}', language => 'english')")
    owners = db.execute(
        "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace IN ('pgmeaning'::regnamespace, "
        "'pgmeaning_data'::regnamespace) UNION ALL SELECT DISTINCT relowner::regrole::text FROM pg_class "
        "WHERE relnamespace = 'pgmeaning'::regnamespace AND relkind <> 'i' "
        "UNION ALL SELECT relowner::regrole::text FROM pg_class WHERE oid = 'docs_embedding'::regclass"
    ).fetchall()
    assert owners == [("pgmeaning_admin",)] * 3
    assert db.execute(
        "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'pgmeaning_data.\"docs__synthetic-384\"'::regclass"
    ).fetchone() == ("pgmeaning_sidecar",)


def test_code_of_a_tables_owner_runs_as_the_reader_at_most(roles: Roles, owner: Connection, db: Connection) -> None:
    """An index's expression is evaluated by whoever plans a query: only separate roles help."""
    owner.execute("SELECT pgmeaning.attach('docs', '{title}')")
    db.execute(f"CREATE SCHEMA traps AUTHORIZATION {owner.info.user}".encode())
    owner.execute("GRANT USAGE ON SCHEMA traps TO PUBLIC")
    owner.execute("CREATE SEQUENCE traps.readers; CREATE SEQUENCE traps.others")
    owner.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA traps TO PUBLIC")
    owner.execute(
        "CREATE FUNCTION traps.look(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN "
        "IF current_user = 'pgmeaning_reader' THEN PERFORM nextval('traps.readers'); "
        f"ELSIF current_user <> '{conninfo_to_dict(roles.owner)['user']}' THEN PERFORM nextval('traps.others'); "
        "END IF; RETURN true; END $$"
    )
    owner.execute("CREATE INDEX ON docs (title) WHERE traps.look(1)")
    with running(sidecar(roles)):
        wait_until(lambda: state(db) == ("ready", 30, None))
        owner.execute("UPDATE docs SET title = title || '!'")
        owner.execute("CALL pgmeaning.wait_for('docs')")
        db.execute("SELECT * FROM pgmeaning.status")
    assert db.execute("SELECT is_called FROM traps.readers").fetchone() == (True,)
    assert db.execute("SELECT is_called FROM traps.others").fetchone() == (False,)


def test_a_collection_is_mended_by_a_sidecar_that_may_make_no_trigger(roles: Roles, owner: Connection) -> None:
    owner.execute("SELECT pgmeaning.attach('docs', '{title}')")
    with running(sidecar(roles)):
        wait_until(lambda: state(owner) == ("ready", 30, None))
        owner.execute("DROP TRIGGER pgmeaning_1_insert ON docs")
        owner.execute("INSERT INTO docs VALUES (31, 'unseen')")
        wait_until(lambda: state(owner) == ("ready", 31, None))
        owner.execute("ALTER TABLE docs RENAME TO papers")
        owner.execute("INSERT INTO papers VALUES (32, 'seen')")
        wait_until(lambda: state(owner) == ("ready", 32, None))
        owner.execute("ALTER TABLE papers ALTER id TYPE bigint")
        owner.execute("INSERT INTO papers VALUES (10000000000, 'large')")
        wait_until(lambda: state(owner) == ("ready", 33, None))


def test_an_index_is_built_by_a_sidecar_that_owns_no_more_than_the_vectors(roles: Roles, owner: Connection) -> None:
    owner.execute("SELECT pgmeaning.attach('docs', '{title}')")
    with running(sidecar(roles, index_rows=10)):
        wait_until(lambda: owner.execute("SELECT FROM pgmeaning.index_report WHERE recall IS NOT NULL").rowcount == 1)


def test_a_right_that_is_taken_away_is_told_with_the_statement_that_gives_it_back(
    roles: Roles, owner: Connection
) -> None:
    owner.execute("SELECT pgmeaning.attach('docs', '{title}')")
    with running(sidecar(roles)):
        wait_until(lambda: state(owner) == ("ready", 30, None))
        owner.execute("REVOKE SELECT (title) ON docs FROM pgmeaning_reader")
        owner.execute("INSERT INTO docs VALUES (31, 'later')")
        wait_until(lambda: "GRANT SELECT ON public.docs TO pgmeaning_reader" in str(state(owner)[2]))
        assert state(owner)[:2] == ("broken", 30), "no vector is lost"
        owner.execute("GRANT SELECT (title) ON docs TO pgmeaning_reader")
        wait_until(lambda: state(owner) == ("ready", 31, None))


@pytest.mark.parametrize("bypasses", [True, False])
def test_row_security_hides_nothing_from_the_reader(
    roles: Roles, owner: Connection, db: Connection, bypasses: bool
) -> None:
    if not bypasses:
        db.execute("ALTER ROLE pgmeaning_reader NOBYPASSRLS")
    try:
        owner.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON docs USING (id < 5)")
        owner.execute("SELECT pgmeaning.attach('docs', '{title}')")
        with running(sidecar(roles)):
            wait_until(lambda: state(db) == ("ready", 30, None))
        policies = owner.execute(
            "SELECT polroles::regrole[]::text FROM pg_policy WHERE polname = 'pgmeaning'"
        ).fetchall()
        assert policies == ([] if bypasses else [("{pgmeaning_reader}",)])
    finally:
        db.execute("ALTER ROLE pgmeaning_reader BYPASSRLS")


def test_a_collection_that_was_attached_later_is_embedded_too(roles: Roles, owner: Connection, db: Connection) -> None:
    with running(sidecar(roles)):
        db.execute("SELECT pgmeaning.attach('docs', '{title}')")  # by a superuser, this time
        wait_until(lambda: state(db) == ("ready", 30, None))


def test_somebody_elses_table_is_attached_once_its_owner_grants_what_is_said(
    roles: Roles, owner: Connection, db: Connection
) -> None:
    name = f"{owner.info.dbname}_other"
    db.execute(f"CREATE ROLE {name}; CREATE SCHEMA theirs AUTHORIZATION {name}".encode())
    try:
        db.execute("CREATE TABLE theirs.notes (id int PRIMARY KEY, body text)")
        db.execute(f"ALTER TABLE theirs.notes OWNER TO {name}".encode())
        db.execute(f"GRANT ALL ON SCHEMA theirs TO {conninfo_to_dict(roles.owner)['user']}".encode())
        db.execute(f"GRANT SELECT, TRIGGER ON theirs.notes TO {conninfo_to_dict(roles.owner)['user']}".encode())
        with pytest.raises(psycopg.Error) as refused:
            owner.execute("SELECT pgmeaning.attach('theirs.notes', '{body}')")
        assert refused.value.sqlstate == "PM011"
        hint = str(refused.value.diag.message_hint).removeprefix("As its owner: ")
        db.execute(f"SET ROLE {name}; {hint}; RESET ROLE".encode())
        owner.execute("SELECT pgmeaning.attach('theirs.notes', '{body}')")
    finally:
        db.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}".encode())


def test_detach_takes_back_what_attach_granted_once_no_collection_needs_it(
    roles: Roles, owner: Connection, db: Connection
) -> None:
    granted = "SELECT relacl::text, (SELECT count(attacl) FROM pg_attribute WHERE attrelid = c.oid), "
    granted += "(SELECT count(*) FROM pg_policy WHERE polrelid = c.oid) FROM pg_class AS c WHERE relname = 'docs'"
    db.execute("ALTER ROLE pgmeaning_reader NOBYPASSRLS")
    try:
        owner.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
        owner.execute("SELECT pgmeaning.attach('docs', '{title}')")
        owner.execute("SELECT pgmeaning.attach('docs', '{body}', collection => 'bodies')")
        owner.execute("SELECT pgmeaning.detach('bodies')")
        with running(sidecar(roles)):
            wait_until(lambda: state(db) == ("ready", 30, None))
        owner.execute("SELECT pgmeaning.detach('docs')")
        ((acl, columns, policies),) = owner.execute(granted.encode()).fetchall()
        assert ("pgmeaning" in str(acl).replace(OWNER, ""), columns, policies) == (False, 0, 0)
    finally:
        db.execute("ALTER ROLE pgmeaning_reader BYPASSRLS")


# Making them


@pytest.fixture
def plain_dsn(empty_dsn: str) -> str:
    """A database where pgmeaning is installed with one role."""
    migrate.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("SELECT pgmeaning.set_default_model('synthetic-384')")
    return empty_dsn


def test_an_installation_gets_its_roles_later_and_what_it_has_goes_over_to_them(
    plain_dsn: str, server_dsn: str
) -> None:
    prepare(server_dsn)
    with psycopg.connect(plain_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'one')")
        connection.execute("SELECT pgmeaning.attach('docs', '{body}')")
        assert migrate.upgrade(plain_dsn, roles=True).for_others == ()
        made = [make_conninfo(plain_dsn, user=f"pgmeaning_{name}", password=PASSWORD) for name in ("sidecar", "reader")]
        with running(sidecar(Roles(plain_dsn, made[0], made[1], plain_dsn))):
            wait_until(lambda: state(connection) == ("ready", 1, None))
        assert migrate.check(plain_dsn).due is False


@pytest.fixture(scope="module")
def bare_server() -> Iterator[str]:
    """A server on which nobody has made the roles yet."""
    with _embedded() as dsn:
        yield dsn


def owned(server: str, name: str, may: str) -> str:
    """A database of the role's own, with pgvector; its DSN as that role."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN {may} PASSWORD '{PASSWORD}'".encode())
        connection.execute(f"CREATE DATABASE {name} OWNER {name}".encode())
    with psycopg.connect(make_conninfo(server, dbname=name), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
    return make_conninfo(server, dbname=name, user=name, password=PASSWORD)


def test_who_may_make_no_roles_is_told_what_to_have_run_and_who_may_is_not(bare_server: str) -> None:
    dsn = owned(bare_server, "plain", "NOCREATEROLE")
    done = migrate.upgrade(dsn, roles=True)
    assert done.for_others[0] == "CREATE ROLE pgmeaning_admin NOLOGIN"
    assert migrate.check(dsn).due is False, "it works without them"
    other = owned(bare_server, "maker", "CREATEROLE")
    assert migrate.upgrade(other, roles=True).for_others == ()
    with psycopg.connect(make_conninfo(bare_server, dbname="plain"), autocommit=True) as connection:
        for statement in done.for_others:
            if not statement.startswith("CREATE ROLE"):  # they are there by now
                connection.execute(statement.encode())
        assert migrate.upgrade(dsn, roles=True).for_others == ()
        owner = "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'pgmeaning'"
        assert connection.execute(owner.encode()).fetchone() == ("pgmeaning_admin",)


def test_the_owner_of_a_database_is_told_what_the_loopback_needs_and_gets_it_by_that(bare_server: str) -> None:
    dsn = owned(bare_server, "looping", "NOCREATEROLE")
    problem = migrate.upgrade(dsn).loopback_problem or ""
    statements = problem.partition("in this database: ")[2].partition("; then run")[0]
    assert "dblink_fdw TO looping" in statements
    assert "ALTER ROLE looping CREATEROLE" in statements
    with psycopg.connect(make_conninfo(bare_server, dbname="looping"), autocommit=True) as superuser:
        superuser.execute(statements.encode())
    assert migrate.upgrade(dsn).loopback_problem is None


def test_a_role_of_our_name_that_may_more_than_ours_is_not_used(bare_server: str) -> None:
    with psycopg.connect(bare_server, autocommit=True) as connection:
        migrate.make_roles(bare_server)
        connection.execute("ALTER ROLE pgmeaning_admin LOGIN")
        try:
            with pytest.raises(DatabaseError, match="role pgmeaning_admin has rights"):
                migrate.make_roles(bare_server)
        finally:
            connection.execute("ALTER ROLE pgmeaning_admin NOLOGIN")


def test_a_schema_that_somebody_made_in_advance_is_not_filled(empty_dsn: str) -> None:
    name = f"{conninfo_to_dict(empty_dsn)['dbname']}_squatter"
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name}; CREATE SCHEMA pgmeaning AUTHORIZATION {name}".encode())
        try:
            connection.execute(f"SET ROLE {name}".encode())
            connection.execute("CREATE TABLE pgmeaning.alembic_version (version_num text)")
            connection.execute("RESET ROLE")
            with pytest.raises(DatabaseError, match=f"schema pgmeaning belongs to role {name}"):
                migrate.upgrade(empty_dsn)
            with pytest.raises(DatabaseError, match=f"schema pgmeaning belongs to role {name}"):
                migrate.upgrade(empty_dsn, roles=True)
            assert connection.execute("SELECT count(*) FROM pg_proc WHERE pronamespace = 'pgmeaning'::regnamespace"
                                      ).fetchone() == (0,)  # fmt: skip
        finally:
            connection.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}".encode())


@pytest.mark.parametrize("reader", [False, True])
def test_a_sidecar_refuses_to_be_a_superuser_unless_told(roles: Roles, reader: bool) -> None:
    settings = Settings(allow_superuser=False, reader_dsn=roles.superuser if reader else "")
    with pytest.raises(DatabaseError, match="would run as superuser") as refused:
        Sidecar(roles.sidecar if reader else roles.superuser, settings).run(drain=True)
    assert ("PGMEANING_READER_DSN" in str(refused.value)) is reader
