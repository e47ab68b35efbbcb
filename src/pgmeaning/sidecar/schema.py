"""Notices that the database's schema is not, or is no longer, this package's."""

from __future__ import annotations

import psycopg

from pgmeaning.database import migrate
from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection
from pgmeaning.errors import DatabaseError
from pgmeaning.version import __version__

# There is no installation, or one of a version that knew less of itself.
GONE = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedColumn)


class Schema:
    """The schema that this package makes, to be compared with the database's."""

    def __init__(self) -> None:
        self._hash = migrate.contents_hash()

    def changed(self, connection: Connection) -> str | None:
        """Why a sidecar must stop, in one line, or None. Cheap: asked in each round of maintenance."""
        try:
            found = connection.execute(sql.query("maintenance/installed_version")).fetchone()
        except GONE:
            found = None
        if found is None:
            return "the database's pgmeaning schema is gone (to install it again: pgmeaning migrate)"
        version, contents = found
        return None if contents == self._hash else _other(str(version))

    def problem(self, connection: Connection, state: migrate.State | None = None) -> str | None:
        """The same, having also looked whether everything is there that the last migration made.

        `state`: what was just seen, which takes a while to see.
        """
        changed = self.changed(connection)
        if changed is not None:
            return changed
        try:
            state = state or migrate.known_state(connection)
        except DatabaseError as error:
            return str(error)
        if not state.due:
            return None
        missing = ", ".join(state.missing[:3]) or f"revision {state.head}"
        return f"the database's pgmeaning schema lacks {missing} (run: pgmeaning migrate)"


def _other(version: str) -> str:
    if version == __version__:
        return f"the database's pgmeaning schema was made by another build of {version} (run: pgmeaning migrate)"
    return (
        f"the database's pgmeaning schema is of version {version}, this sidecar of {__version__} "
        f"(install the same version, or run: pgmeaning migrate)"
    )
