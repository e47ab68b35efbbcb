"""How pgmeaning is installed in a test's database: with one role, or with roles, by a superuser or the owner.

PGMEANING_TEST_INSTALLATION has all tests run under one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgmeaning.database import migrate
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar

ONE_ROLE, BY_A_SUPERUSER, BY_THE_OWNER = "one role", "roles, by a superuser", "roles, by the database's owner"
# For tests that run under each: pytest.mark.parametrize("installation", INSTALLATIONS, indirect=True)
INSTALLATIONS = [ONE_ROLE, BY_A_SUPERUSER, BY_THE_OWNER]
PASSWORD = "of-these-tests"
OWNER = "pgmeaning_tests_owner"


@dataclass(frozen=True, slots=True)
class Installation:
    """`template`: a migrated database. `owner`: who owns the tables that tests make; None: the superuser."""

    template: str
    owner: str | None = None
    with_roles: bool = False

    def dsn(self, superuser: str, role: str | None) -> str:
        """The same database, as another role."""
        return superuser if role is None else make_conninfo(superuser, user=role, password=PASSWORD)

    def sidecar(self, dsn: str, models: list[str] | None = None, **settings: Any) -> Sidecar:
        """A sidecar with the least rights that this installation gives one."""
        if not self.with_roles:
            return Sidecar(dsn, Settings(**settings), models)
        reader = self.dsn(dsn, "pgmeaning_reader")
        chosen = Settings(reader_dsn=reader, allow_superuser=False, **settings)
        return Sidecar(self.dsn(dsn, "pgmeaning_sidecar"), chosen, models)


def prepare(server_dsn: str) -> None:
    """Make the roles, which are the server's, and one that owns databases and tables."""
    migrate.make_roles(server_dsn)
    with psycopg.connect(server_dsn, autocommit=True) as server:
        if server.execute("SELECT FROM pg_roles WHERE rolname = %s", (OWNER,)).rowcount == 0:
            server.execute(
                sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}").format(sql.Identifier(OWNER), PASSWORD)
            )
        server.execute(
            sql.SQL("GRANT pgmeaning_admin, pgmeaning_sidecar TO {} WITH ADMIN OPTION").format(sql.Identifier(OWNER))
        )
        # Which a database's owner may be given; tests write rows that no trigger sees by it.
        server.execute(sql.SQL("GRANT SET ON PARAMETER session_replication_role TO {}").format(sql.Identifier(OWNER)))
        for role in ("pgmeaning_sidecar", "pgmeaning_reader"):
            server.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), PASSWORD))


def install(server_dsn: str, template: str, kind: str) -> Installation:
    """Make a database, and install pgmeaning in it with roles. Members of OWNER's may make tables, and attach them."""
    by_owner = kind == BY_THE_OWNER
    superuser = make_conninfo(server_dsn, dbname=template)
    prepare(server_dsn)
    with psycopg.connect(server_dsn, autocommit=True) as server:
        server.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {}").format(
                sql.Identifier(template), sql.Identifier(OWNER)
            )
        )
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute("CREATE EXTENSION dblink")
        connection.execute(
            sql.SQL("GRANT USAGE ON FOREIGN DATA WRAPPER dblink_fdw TO {}").format(sql.Identifier(OWNER))
        )
    done = migrate.upgrade(
        make_conninfo(superuser, user=OWNER, password=PASSWORD) if by_owner else superuser, roles=True
    )
    assert done.for_others == (), done.for_others
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(OWNER)))
        connection.execute("SELECT pgmeaning.set_default_model('synthetic-384')")
    return Installation(template, OWNER, with_roles=True)


class Installations:
    """Installations of one server, made when they are asked for. `template`: a database with one role."""

    def __init__(self, server_dsn: str, template: str) -> None:
        self._server_dsn = server_dsn
        self._template = template
        self._made = {ONE_ROLE: Installation(template)}

    def of(self, kind: str) -> Installation:
        """One of INSTALLATIONS."""
        if kind not in self._made:
            self._made[kind] = install(self._server_dsn, f"{self._template}_{len(self._made)}", kind)
        return self._made[kind]

    def templates_with_roles(self) -> list[str]:
        """The databases that were made here."""
        return [made.template for made in self._made.values() if made.with_roles]
