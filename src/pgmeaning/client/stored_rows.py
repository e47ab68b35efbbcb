"""Rows of a collection's table, written, read and deleted by key or by filter; and vectors that this process makes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import psycopg
from pgvector import Vector
from psycopg.sql import SQL, Composable, Composed, Identifier

from pgmeaning import json_values
from pgmeaning.client.arguments import Filter, filtered, jsonb, texts, whole, whole_or_none
from pgmeaning.client.asking import Asking
from pgmeaning.client.conditions import Operand
from pgmeaning.client.query_vectors import embed_documents_here, embed_texts_here, embedder_here
from pgmeaning.client.rows import loading
from pgmeaning.client.statements import Statements
from pgmeaning.client.vectors import Embedding
from pgmeaning.database import sql_files as sql
from pgmeaning.database import targets
from pgmeaning.database.probes import stored_probes
from pgmeaning.documents.template import filled
from pgmeaning.errors import ArgumentError, ModelNotFound, TimedOut
from pgmeaning.models.probes import check
from pgmeaning.models.registry import fingerprint, located
from pgmeaning.models.vectors import prefix
from pgmeaning.settings import Settings
from pgmeaning.types import Model, Target

PAGE = 500
# So much of a column is read: far more than a model can.
CHARACTERS = 131_072

Key = dict[str, Any]
OnConflict = Literal["update", "skip", "fail"]


class StoredRows:
    """The part of a Client that writes and reads rows of the tables that collections embed."""

    _statements: Statements
    _asking: Asking

    def upsert_rows(
        self, collection: str, rows: Iterable[Mapping[str, Any]], *, on_conflict: OnConflict = "update"
    ) -> list[Key]:
        """Write rows to a collection's table, in one transaction; returns the keys of those that were written.

        A row is a mapping of columns to values. One whose key is there already replaces those columns; with "skip" it
        is left out, with "fail" nothing is written and a DatabaseError is raised (SQLSTATE 23505). A key that is left
        out gets the column's default. Of rows with the same key, the last one counts.

        Raises ArgumentError for a column that does not exist.
        """
        if on_conflict not in ("update", "skip", "fail"):
            raise ArgumentError(f"on_conflict is {on_conflict!r}", hint="give update, skip or fail")
        source = self._source(collection)
        given = [_checked_row(row, source) for row in rows]
        wanted = given if on_conflict == "fail" else _last(given, source["key_columns"])
        written: list[Key] = []
        with self._statements.using() as connection, connection.transaction():
            for page in _alike(wanted):
                parts = _upsert(source, tuple(page[0]), on_conflict)
                statement = _composed(connection, "client/upsert_rows", source, parts)
                found = connection.execute(statement, {"rows": jsonb(page)}).fetchall()
                written += [json_values.loads(key) for (key,) in found]
        return written

    def get_rows(
        self, collection: str, keys: Sequence[object], *, columns: Sequence[str] | None = None
    ) -> list[dict[str, Any] | None]:
        """The rows of keys, in their order; None where there is none. `columns`: some of them; None: all."""
        return [None if found is None else found[0] for found in self._rows(collection, keys, columns)]

    def embedded_texts(self, collection: str, keys: Sequence[object]) -> list[str | None]:
        """What is embedded of the rows of keys, in their order; None where there is no row, or no right to read it."""
        return [None if found is None else found[1] for found in self._rows(collection, keys, [])]

    def find_keys(
        self, collection: str, filter: Filter = None, *, filter_params: Sequence[object] | None = None,
        limit: int | None = None,
    ) -> list[Key]:  # fmt: skip
        """The keys of the rows that a filter, as in `search`, lets through, in no order; None: of all."""
        arguments = {**filtered(filter, filter_params), "limit": whole_or_none("limit", limit)}
        found = self._statements.execute("matching_keys", {"collection": collection, **arguments}).fetchall()
        return [json_values.loads(key) for (key,) in found]

    def count_rows(
        self, collection: str, filter: Filter = None, *, filter_params: Sequence[object] | None = None
    ) -> int:
        """How many rows a filter, as in `search`, lets through; None: all, whether they have a vector or not."""
        arguments = {"collection": collection, **filtered(filter, filter_params)}
        return int(self._statements.value("count_rows", arguments))

    def distinct_values(
        self, collection: str, operand: Operand, filter: Filter = None, *,
        filter_params: Sequence[object] | None = None,
    ) -> list[tuple[Any, int]]:  # fmt: skip
        """The different values of a column, or of metadata such as ("metadata", "year"), and in how many rows each is.

        Values are as in JSON, in the order of their JSON; what is missing is none. 1 and 1.0 are two.
        """
        column, *keys = [operand] if isinstance(operand, str) else operand
        arguments = {"collection": collection, "column": column, "keys": keys, **filtered(filter, filter_params)}
        rows = self._statements.execute("column_values", arguments).fetchall()
        return [(json.loads(value), count) for value, count in rows]

    def delete_rows(self, collection: str, keys: Sequence[object]) -> int:
        """Delete the rows of keys; returns how many there were."""
        return self._changed("client/delete_rows", collection, keys, {})

    def merge_rows(self, collection: str, keys: Sequence[object], column: str, entries: Mapping[str, Any]) -> int:
        """Add entries to a jsonb column of rows, or replace them; returns how many rows there were."""
        return self._changed("client/merge_rows", collection, keys, {"entries": jsonb(entries)}, column=column)

    def wait_for_rows(self, collection: str, keys: Sequence[object], timeout: float = 30) -> None:
        """Wait until none of these rows is owed a vector; raises TimedOut, and DatabaseError if one failed."""
        ends = time.monotonic() + timeout
        for key in keys:
            left = timedelta(seconds=max(0.0, ends - time.monotonic()))
            self._statements.execute("wait_for", {"collection": collection, "key": jsonb(key), "timeout": left})

    def embed_many(
        self, inputs: Sequence[str], *, collection: str | None = None, model: str | None = None, as_query: bool = True,
        local: bool = False, timeout: float = 60,
    ) -> list[Embedding]:  # fmt: skip
        """The vectors of several texts, as `embed` makes them, with as few calls of the model as can be.

        With `local`, this process loads the model. Raises TimedOut if no sidecar answers.
        """
        given = texts("inputs", inputs)
        if not given:
            return []
        dimensions = self._dimensions(collection)
        if local:
            return self._embed_locally(given, collection, model, as_query, dimensions)
        arguments = {
            "inputs": given, "collection": collection, "model": model, "as_query": as_query,
            "timeout": timedelta(seconds=timeout),
        }  # fmt: skip
        rows = self._asking.once_asked(
            given, timeout, lambda: self._statements.execute("embed_many", arguments).fetchall(),
            collection=collection, model=model, as_query=as_query,
        )  # fmt: skip
        return [Embedding(_shortened(vector.to_numpy(), dimensions), *made_by) for vector, *made_by in rows]

    def stored_vectors(
        self, collection: str, keys: Sequence[object], chunks: Sequence[int] | None = None
    ) -> list[Embedding | None]:
        """The stored vectors of rows, in the order of keys; None where there is none. `chunks`: None means the first.

        It takes the rights that a search takes.
        """
        numbers = [0] * len(keys) if chunks is None else [whole("chunks", chunk) for chunk in chunks]
        arguments = {"collection": collection, "keys": _written(keys), "chunks": numbers}
        found: list[Embedding | None] = [None] * len(keys)
        for place, vector, *made_by in self._statements.execute("stored_vectors", arguments).fetchall():
            found[place - 1] = Embedding(vector.to_numpy(), *made_by)
        return found

    def embed_rows(self, collection: str, keys: Sequence[object]) -> int:
        """Make the vectors that rows are owed in this process, without a sidecar; returns how many were made.

        The model is loaded on first use, and compared with its probes if it has any. Rows are embedded as a sidecar
        would, with no transaction open if the connection is idle; what changes meanwhile is embedded again. A sidecar
        that runs later finds nothing left to do. It takes the right to manage the collection.

        Raises ArgumentError for a collection with chunks, images or videos, ModelUnavailable, TimedOut for rows that
        change all the time.
        """
        target = self._statements.target(collection)
        if target.chunking is not None or target.has_media:
            what = "cut into chunks" if target.chunking is not None else "made of images or videos"
            raise ArgumentError(
                f"collection {collection!r} is {what}: this process cannot embed it",
                hint="let a sidecar do it: pgmeaning sidecar",
            )
        pages = [keys[start : start + PAGE] for start in range(0, len(keys), PAGE)]
        return sum(self._embed_page(target, _written(page)) for page in pages)

    def _embed_page(self, target: Target, keys: list[str]) -> int:
        made = 0
        arguments = {"collection": target.collection, "keys": keys, "characters": CHARACTERS}
        for _ in range(5):
            owed = self._statements.execute("owed_texts", arguments).fetchall()
            if not owed:
                return made
            made += self._import_vectors(target, owed)
        raise TimedOut(f"rows of {target.collection!r} changed again and again", hint="call it again")

    def _import_vectors(self, target: Target, owed: Sequence[tuple[str, bytes, list[str | None]]]) -> int:
        model = self._model_here(target.model)
        documents = [filled(target.template_parts, target.columns, each) or "" for _, _, each in owed]
        vectors = _shortened(embed_documents_here(model, documents), target.dimensions)
        arguments = {
            "collection": target.collection, "fingerprint": fingerprint(model), "keys": [key for key, _, _ in owed],
            "chunks": [0] * len(owed), "hashes": [content_hash for _, content_hash, _ in owed],
            "texts": [None] * len(owed), "vectors": [Vector(vector) for vector in vectors],
        }  # fmt: skip
        taken, *_ = self._statements.execute("import_page", arguments).fetchone() or (0,)
        return int(taken)

    def _embed_locally(
        self, given: Sequence[str], collection: str | None, model: str | None, as_query: bool, dimensions: int | None
    ) -> list[Embedding]:
        name = self._statements.value("client/query_model", {"collection": collection, "model": model})
        used = self._model_here(name)
        made = (embed_texts_here if as_query else embed_documents_here)(used, given)
        return [Embedding(vector, name, fingerprint(used)) for vector in _shortened(made, dimensions)]

    def _model_here(self, name: str) -> Model:
        """The model, which this process may run: it gives what its probes say. Raises ModelDrifted."""
        with self._statements.using() as connection:
            found = targets.model(connection, name)
        if found is None:
            raise ModelNotFound(f"this database has no model {name!r}", hint="see: pgmeaning model list")
        proved = (name, fingerprint(found))
        if proved not in self._proved:
            settings = Settings()
            with self._statements.using() as connection:
                probes = stored_probes(connection, name)
            with embedder_here(found) as embedder:
                check(probes, located(found, settings.location), embedder, settings.probe_tolerance)
            self._proved.add(proved)
        return found

    @property
    def _proved(self) -> set[tuple[str, str]]:
        """The models that were compared with their probes over this connection."""
        kept: set[tuple[str, str]] = self.__dict__.setdefault("_proved_models", set())
        return kept

    def _dimensions(self, collection: str | None) -> int | None:
        if collection is None:
            return None
        row = self._statements.execute("client/query_model", {"collection": collection, "model": None}).fetchone()
        return row[1] if row else None

    def _rows(
        self, collection: str, keys: Sequence[object], columns: Sequence[str] | None
    ) -> list[tuple[dict[str, Any], str | None] | None]:
        if not keys:
            return []
        possible = self._statements.value("possible_keys", {"collection": collection, "keys": _written(keys)})
        arguments = {"collection": collection, "keys": possible, "columns": columns}
        rows: list[tuple[dict[str, Any], str | None] | None] = [None] * len(keys)
        with self._statements.using() as connection:
            cursor = connection.execute(sql.query("rows"), arguments)
            load = loading(cursor)
            for place, names, types, contents, text in cursor.fetchall():
                values = zip(names, types, contents, strict=True)
                rows[place - 1] = ({name: load(type, content) for name, type, content in values}, text)
        return rows

    def _changed(
        self, name: str, collection: str, keys: Sequence[object], arguments: Mapping[str, Any], *,
        column: str | None = None,
    ) -> int:  # fmt: skip
        if not keys:
            return 0
        source = self._source(collection)
        if column is not None and column not in source["columns"]:
            raise _no_column(column, source)
        parts = {} if column is None else {"column": Identifier(column)}
        possible = self._statements.value("possible_keys", {"collection": collection, "keys": _written(keys)})
        with self._statements.using() as connection:
            statement = _composed(connection, name, source, parts)
            return connection.execute(statement, {"keys": possible, **arguments}).rowcount

    def _source(self, collection: str) -> dict[str, Any]:
        return self._statements.dicts("row_source", {"collection": collection})[0]


# ---------------------------------------------------------------- statements


def _upsert(source: Mapping[str, Any], columns: Sequence[str], on_conflict: OnConflict) -> dict[str, Composable]:
    key = source["key_columns"]
    others = [column for column in columns if column not in key]
    conflict: SQL | Composed = SQL("")
    if on_conflict == "skip" or (on_conflict == "update" and not others):
        conflict = SQL("ON CONFLICT DO NOTHING")
    elif on_conflict == "update":
        sets = SQL(", ").join(SQL("{0} = excluded.{0}").format(Identifier(column)) for column in others)
        conflict = SQL("ON CONFLICT ({}) DO UPDATE SET {}").format(_names(key), sets)
    values = SQL(", ").join(SQL("r.{}").format(Identifier(column)) for column in columns)
    return {"columns": _names(columns), "values": values, "conflict": conflict}


def _names(columns: Sequence[str]) -> Composed:
    return SQL(", ").join(Identifier(column) for column in columns)


def _composed(
    connection: psycopg.Connection[Any], name: str, source: Mapping[str, Any], parts: Mapping[str, Composable]
) -> Composed:
    """A statement about the collection's table, with its identifiers quoted."""
    ready = {part: source[part] for part in ("source", "key_record", "is_record", "key_json")}
    return sql.composed(name, {**ready, **{part: each.as_string(connection) for part, each in parts.items()}})


# ---------------------------------------------------------------- rows and keys


def _checked_row(row: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise ArgumentError(f"a row is {row!r}", hint="give mappings of columns to values")
    unknown = [name for name in row if name not in source["columns"]]
    if unknown:
        raise _no_column(unknown[0], source)
    if not row:
        raise ArgumentError("a row has no columns", hint="give at least one")
    return dict(row)


def _no_column(name: str, source: Mapping[str, Any]) -> ArgumentError:
    return ArgumentError(
        f"table {source['source']} has no column {name!r}", hint=f"it has: {', '.join(source['columns'])}"
    )


def _last(rows: Sequence[dict[str, Any]], key: Sequence[str]) -> list[dict[str, Any]]:
    """The rows, of those with the same key the last one; one without a whole key gets its own."""
    kept: dict[object, dict[str, Any]] = {}
    for place, row in enumerate(rows):
        whole_key = all(row.get(column) is not None for column in key)
        kept[json_values.dumps([row[column] for column in key]) if whole_key else place] = row
    return list(kept.values())


def _alike(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows in pages, in their order, each of rows with the same columns."""
    pages: list[list[dict[str, Any]]] = []
    for row in rows:
        if not pages or len(pages[-1]) == PAGE or tuple(pages[-1][0]) != tuple(row):
            pages.append([])
        pages[-1].append(row)
    return pages


def _written(keys: Sequence[object]) -> list[str]:
    if isinstance(keys, str | Mapping) or not isinstance(keys, Iterable):
        raise ArgumentError(f"keys is {keys!r}", hint="give a list of keys")
    return [json_values.dumps(key) for key in keys]


def _shortened(vectors: Any, dimensions: int | None) -> Any:
    """float32 [n, d] or [d], in the collection's length."""
    made = np.asarray(vectors, np.float32)
    if dimensions is None or made.shape[-1] == dimensions:
        return made
    return prefix(made, dimensions) if made.ndim == 2 else prefix(made[None], dimensions)[0]
