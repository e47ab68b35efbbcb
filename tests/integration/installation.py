"""An installation with roles: each logs in with no more rights than it needs."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgmeaning.database import migrate

PASSWORD = "of-these-tests"


@dataclass(frozen=True, slots=True)
class Roles:
    """DSNs: of the server's superuser, the sidecar, the reader, and `owner`, who owns tables and may attach them."""

    superuser: str
    sidecar: str
    reader: str
    owner: str


def install(dsn: str, owner: str) -> Roles:
    """Migrate an empty database with roles; `owner` is a new role that owns the schema public."""
    assert migrate.upgrade(dsn, roles=True).for_others == ()
    names = {"sidecar": "pgmeaning_sidecar", "reader": "pgmeaning_reader", "owner": owner}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(owner)))
        connection.execute(sql.SQL("GRANT pgmeaning_admin TO {}").format(sql.Identifier(owner)))
        connection.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(owner)))
        for name in names.values():
            connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(name), PASSWORD))
        connection.execute("SELECT pgmeaning.set_default_model('synthetic-384')")
    return Roles(dsn, **{role: make_conninfo(dsn, user=name, password=PASSWORD) for role, name in names.items()})
