"""Takes pgmeaning out of a database: nothing of it is left, also where half of it was gone already."""

from __future__ import annotations

from typing import Any

import psycopg

from pgmeaning.database import sql_files as sql
from pgmeaning.database.migrate import as_database_error, refuse_standby
from pgmeaning.errors import DatabaseError


def installed(connection: psycopg.Connection[Any]) -> list[str]:
    """The names of what there is to remove."""
    return [name for (name,) in connection.execute(sql.query("migrate/installed_things")).fetchall()]


def uninstall(connection: psycopg.Connection[Any], *, cascade: bool = False, vector: bool = False) -> list[str]:
    """Remove pgmeaning, its roles and, with `vector`, pgvector, in one transaction; returns why what is left is kept.

    Raises DatabaseError where views or triggers of others depend on it, unless `cascade` drops those, too; and where
    this role may not.
    """
    refuse_standby(connection)
    was_there = bool(installed(connection))
    kept: list[str] = []
    connection.add_notice_handler(lambda notice: kept.append(notice.message_primary or ""))
    try:
        with connection.transaction():
            connection.execute(sql.query("no_timeouts"))
            connection.execute(sql.query("stay_on_node"))
            _refuse_dependents(connection, cascade=cascade)
            connection.execute(sql.query("migrate/uninstall"))
            del kept[:]  # what CASCADE drops is told, too
            connection.execute(sql.query("migrate/uninstall_roles"))
            if vector:
                connection.execute(sql.query("migrate/uninstall_vector"))
    except psycopg.Error as error:
        raise as_database_error(error) from error
    return [line for line in kept if "is kept" in line] if was_there else []  # roles of other databases' then


def _refuse_dependents(connection: psycopg.Connection[Any], *, cascade: bool) -> None:
    others = [name for (name,) in connection.execute(sql.query("migrate/dependents")).fetchall()]
    if others and not cascade:
        raise DatabaseError(
            "something of yours depends on pgmeaning", detail=", ".join(others[:10]),
            hint="drop it first, or have it dropped along: pgmeaning uninstall --cascade",
        )  # fmt: skip
