"""Reads the database's registry: where rows come from, where vectors go, and which model makes them."""

from __future__ import annotations

import time
from typing import Any

from psycopg.rows import dict_row

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection
from pgmeaning.types import Chunking, Model, Target

# The registry is read again after this long, or as soon as something points to a change.
REGISTRY_AGE = 0.25


def targets(connection: Connection, collection: str | None = None) -> list[Target]:
    """Every (collection, model) of the registry, or those of one collection."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(sql.query("rows/targets"), {"collection": collection}).fetchall()
    return [_target(row) for row in rows]


def _target(row: dict[str, Any]) -> Target:
    template = row["template_parts"]
    row = {key: value for key, value in row.items() if key != "scan_finished_at"}
    row["columns"] = tuple(row["columns"])
    row["chunking"] = None if row["chunking"] is None else Chunking(**row["chunking"])
    row["template_parts"] = None if template is None else tuple((literal, column) for literal, column in template)
    return Target(**row)


def model(connection: Connection, name: str) -> Model | None:
    """The model of that name in the registry, or None."""
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(sql.query("client/model"), {"name": name}).fetchone()
    return None if row is None else Model(**{**row, "modalities": tuple(row["modalities"])})


class Registry:
    """The targets as last read; they are read again when they are old. For one thread."""

    def __init__(self) -> None:
        self.targets: list[Target] = []
        self._read_at = 0.0

    def refresh(self, connection: Connection, *, now: bool = False) -> None:
        """Read the registry again if that is due, or if `now` is true."""
        if now or time.monotonic() - self._read_at > REGISTRY_AGE:
            self.targets = targets(connection)
            self._read_at = time.monotonic()
