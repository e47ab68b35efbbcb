"""Runs the statements of sql/queries for the client, where its link leads; errors become pgmeaning's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql as compose
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from pgmeaning import json_values
from pgmeaning.client.links import Link
from pgmeaning.client.rows import hit_of, loading
from pgmeaning.database import sql_files as sql
from pgmeaning.database import targets
from pgmeaning.database.values import translated_errors
from pgmeaning.errors import CollectionError
from pgmeaning.types import Hit, Target


class Statements:
    """By their names, see pgmeaning.database.sql_files.query."""

    def __init__(self, link: Link) -> None:
        self.link = link

    @contextmanager
    def using(self) -> Iterator[psycopg.Connection[Any]]:
        """An open connection, for several statements or for those of other modules."""
        with translated_errors(), self.link.use() as connection:
            yield connection

    def execute(self, name: str, arguments: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        """Run a statement. Its rows have been fetched, so the cursor may be read when the connection is another's."""
        with self.using() as connection:
            return connection.execute(sql.query(name), arguments)

    def composed(self, statement: compose.Composed, arguments: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows of a statement that names a table."""
        with self.using() as connection:
            return connection.execute(statement, arguments).fetchall()

    def binary(self, name: str, arguments: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Its rows in PostgreSQL's binary format, which vectors are read from much faster."""
        with self.using() as connection, connection.cursor(binary=True) as cursor:
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
        with self.using() as connection, connection.cursor(row_factory=dict_row) as cursor:
            if name == "failures":  # this view has keys
                set_json_loads(json_values.loads, cursor)
            return cursor.execute(sql.query(name), arguments).fetchall()

    def hits(self, name: str, arguments: Mapping[str, Any]) -> list[tuple[int, Hit]]:
        """What a search found, with the rows; with each hit the number of its query, from 1."""
        statement = sql.composed("client/hits", {"found": sql.query(name)}, parameters=False)
        with self.using() as connection:
            cursor = connection.execute(statement, arguments)
            load = loading(cursor)
            return [(query, hit_of(load, *columns)) for query, *columns in cursor.fetchall()]

    def target(self, collection: str) -> Target:
        """The collection; raises CollectionError if there is none of that name."""
        with self.using() as connection:
            found = targets.targets(connection, collection)
        if not found:
            raise CollectionError(f"there is no collection {collection!r}", hint="create it with attach()")
        return found[0]
