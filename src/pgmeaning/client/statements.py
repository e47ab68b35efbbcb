"""Runs the statements of sql/queries for the client, over its connection; errors become pgmeaning's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from pgmeaning import json_values
from pgmeaning.client.rows import hit_of, loading
from pgmeaning.database import sql_files as sql
from pgmeaning.database import targets
from pgmeaning.database.values import translated_errors
from pgmeaning.errors import CollectionError
from pgmeaning.types import Hit, Target


class Statements:
    """By their names, see pgmeaning.database.sql_files.query."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def execute(self, name: str, arguments: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        """Run a statement."""
        with translated_errors():
            return self.connection.execute(sql.query(name), arguments)

    def binary(self, name: str, arguments: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Its rows in PostgreSQL's binary format, which vectors are read from much faster."""
        with translated_errors(), self.connection.cursor(binary=True) as cursor:
            return cursor.execute(sql.query(name), arguments).fetchall()

    def value(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """The first column of its first row, or None."""
        row = self.execute(name, arguments).fetchone()
        return row[0] if row else None

    def report(self, name: str, collection: str | None) -> list[dict[str, Any]]:
        """Rows of a view; raises CollectionError if there is no such collection."""
        rows = self.dicts(name, {"collection": collection})
        if not rows and collection is not None:
            self.execute("client/known_collection", {"collection": collection})
        return rows

    def dicts(self, name: str, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Its rows, by column."""
        with translated_errors(), self.connection.cursor(row_factory=dict_row) as cursor:
            if name == "failures":  # this view has keys
                set_json_loads(json_values.loads, cursor)
            return cursor.execute(sql.query(name), arguments).fetchall()

    def hits(self, name: str, arguments: Mapping[str, Any]) -> list[tuple[int, Hit]]:
        """What a search found, with the rows; with each hit the number of its query, from 1."""
        statement = sql.composed("client/hits", {"found": sql.query(name)}, parameters=False)
        with translated_errors():
            found = self.connection.execute(statement, arguments).fetchall()
        load = loading(self.connection)
        return [(query, hit_of(load, *columns)) for query, *columns in found]

    def target(self, collection: str) -> Target:
        """The collection; raises CollectionError if there is none of that name."""
        with translated_errors():
            found = targets.targets(self.connection, collection)
        if not found:
            raise CollectionError(f"there is no collection {collection!r}", hint="create it with attach()")
        return found[0]
