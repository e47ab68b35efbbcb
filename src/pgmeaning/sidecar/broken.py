"""Errors in reading a source that concern the whole collection, and what to do about them."""

from __future__ import annotations

import psycopg
import structlog

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, is_passing
from pgmeaning.database.targets import Registry
from pgmeaning.sidecar.in_flight import InFlight
from pgmeaning.sidecar.source import Source
from pgmeaning.types import Target

log = structlog.get_logger()

# The source no longer has the columns, or grants the privileges, that attach() found.
BROKEN = (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege)


class Hidden(psycopg.errors.InsufficientPrivilege):
    """Rows of the source cannot all be seen."""


# What a statement on a source that changed a moment ago says: see _source_guard() in sql/functions/10_common.sql.
CHANGED = "the table is not as it was"


def check_visible(connection: Connection, source: Source, target: Target) -> None:
    """Raise Hidden if rows that were not found may only be hidden: asked after the look that did not find them.

    Maintenance asks, too, but a policy may come between its looks, and the rows would lose their vectors.
    """
    arguments = {
        "collection_id": target.collection_id, "source": target.parts["source"], "reader": source.role,
    }  # fmt: skip
    row = connection.execute(sql.query("scan/access_problem"), arguments).fetchone()
    if row is not None and row[0] is not None:
        raise Hidden(row[0])


class SourceErrors:
    """Tells an error of one row from an error of the whole collection, and then suspends the collection."""

    def __init__(
        self, connection: Connection, source: Source, registry: Registry, in_flight: InFlight
    ) -> None:  # fmt: skip
        self._connection = connection
        self._source = source
        self._registry = registry
        self._in_flight = in_flight

    def is_of_collection(self, target: Target, error: psycopg.Error) -> bool:
        """Whether the collection is suspended now; False: one row caused the error. Raises a connection's error."""
        if isinstance(error, psycopg.errors.UndefinedTable) and CHANGED in str(error):
            self._in_flight.postpone(target)  # until maintenance has looked at it
        elif isinstance(error, BROKEN):
            self._mark_broken(target, error)
        elif isinstance(error, psycopg.errors.LockNotAvailable):
            self._in_flight.postpone(target)
        elif self._connection.closed or self._source.is_closed or is_passing(error):
            raise error
        else:
            return False
        return True

    def _mark_broken(self, target: Target, error: psycopg.Error) -> None:
        """Suspend the collection until maintenance finds it mended."""
        problem = error.diag.message_primary or str(error)
        log.warning("collection is broken", collection=target.collection, problem=problem)
        arguments = {"collection_id": target.collection_id, "problem": problem}
        self._connection.execute(sql.query("maintenance/set_problem"), arguments)
        self._registry.refresh(self._connection, now=True)
