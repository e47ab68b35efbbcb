"""Reads the database's registry: where rows come from, where vectors go, and which model makes them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from psycopg.rows import dict_row

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection
from pgmeaning.types import Chunking, Model, Target

# The registry is looked at again after this long, or as soon as something points to a change.
REGISTRY_AGE = 0.25


def targets(connection: Connection, collection: str | None = None, ids: Sequence[int] | None = None) -> list[Target]:
    """Every (collection, model) of the registry, or those of the collection of that name, or of those numbers."""
    arguments = {"collection": collection, "collections": None if ids is None else list(ids)}
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(sql.query("rows/targets"), arguments).fetchall()
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
    """The targets as last read. Looking whether they changed costs one number; only those that did are read again.

    For one thread.
    """

    def __init__(self) -> None:
        self.targets: list[Target] = []
        self._marks: dict[tuple[int, str], int] = {}
        self._digest = ""
        self._looked_at = 0.0

    def refresh(self, connection: Connection, *, now: bool = False) -> None:
        """Look at the registry again if that is due, or if `now` is true."""
        if now or time.monotonic() - self._looked_at > REGISTRY_AGE:
            self._refresh(connection)
            self._looked_at = time.monotonic()

    def end_scan(self, ended: Target) -> None:
        """Know at once that a target is no longer scanned; and read it again, lest another scan has begun."""
        self.targets = [replace(t, scanning=False) if t is ended else t for t in self.targets]
        self._marks.pop((ended.collection_id, ended.model), None)
        self._digest = ""

    def _refresh(self, connection: Connection) -> None:
        digest = _digest(connection)
        if digest == self._digest:
            return
        # First the marks: what changes from now on makes them differ again.
        marks = {(row[0], row[1]): row[2] for row in connection.execute(sql.query("rows/registry_marks")).fetchall()}
        changed = {
            collection for (collection, model), mark in marks.items() if self._marks.get((collection, model)) != mark
        }
        known = [t for t in self.targets if (t.collection_id, t.model) in marks and t.collection_id not in changed]
        fresh = targets(connection, ids=sorted(changed)) if changed else []
        self.targets = sorted(known + fresh, key=lambda t: (t.collection_id, t.model))
        self._marks, self._digest = marks, digest


def _digest(connection: Connection) -> str:
    row = connection.execute(sql.query("rows/registry_digest"), prepare=True).fetchone()
    return str(row[0]) if row else ""
