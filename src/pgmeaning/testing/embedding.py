"""Embeds what a connection's own transaction has written: with the sidecar's steps, over that one connection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
from psycopg.rows import tuple_row

from pgmeaning.database import sql_files as sql
from pgmeaning.database import targets as registry
from pgmeaning.database.connection import Connection
from pgmeaning.database.values import translated_errors
from pgmeaning.documents.chunking import Cutters, Limits, with_known
from pgmeaning.errors import ArgumentError, CollectionError, InputError, ModelNotFound
from pgmeaning.media import fetch_media
from pgmeaning.models.base import LoadedEmbedder, load_embedder
from pgmeaning.models.registry import fingerprint
from pgmeaning.settings import Settings
from pgmeaning.sidecar.queue import Queue
from pgmeaning.sidecar.read import characters_for, known_chunks, read_rows
from pgmeaning.sidecar.scan import Page, scan_page
from pgmeaning.sidecar.source import Source
from pgmeaning.sidecar.write import write
from pgmeaning.types import Claim, Document, Model, Row, Target

ROWS_AT_ONCE = 1000
LEASE = 3600.0  # longer than any test
# What keys are written with, and names looked up by.
PINNED = {
    "timezone": "UTC", "datestyle": "ISO,YMD", "intervalstyle": "postgres", "lc_monetary": "C", "bytea_output": "hex",
    "extra_float_digits": "1", "search_path": "pg_catalog",
}  # fmt: skip


def embed_now(connection: Any, collection: str | None = None, *, queries: Sequence[str] = ()) -> int:
    """Embed what the connection sees, in its own transaction; returns how many rows got or lost vectors.

    `connection`: psycopg's, SQLAlchemy's (a connection or a session) or Django's. `collection`: that one only.
    `queries`: texts that will be searched for; their vectors are put into the query cache, so that search() and embed()
    find them without a sidecar. A rollback takes all of it back. The models run in this process, once loaded.

    The role must own what pgmeaning installed, as that of a test usually does. Raises InputError for a row or text that
    cannot be embedded, CollectionError for an unknown collection, DatabaseError.
    """
    if isinstance(queries, str):
        raise ArgumentError("queries is one string", hint=f"give a list: queries=[{queries!r}]")
    driver = _driver(connection)
    with translated_errors(), _pinned(driver), driver.transaction():
        found = registry.targets(driver, collection)
        if not found and collection is not None:
            raise CollectionError(f"there is no collection {collection!r}", hint="create it with attach()")
        done = _Pass(driver).embed([target for target in found if target.workable])
        _keep_queries(driver, sorted({target.model for target in found}), queries)
    return done


class _Pass:
    """One pass over a connection's collections: what changed, then a scan that finds what triggers did not see."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._id: UUID = uuid4()
        self._settings = Settings()
        self._queue = Queue(connection, self._id, self._settings)
        self._source = Source(connection)
        self._cutters = Cutters(Limits(self._settings.document_characters, self._settings.document_chunks))
        self._done = 0

    def embed(self, found: Sequence[Target]) -> int:
        """Embed what these owe; returns how many rows that were."""
        for target in found:  # a note in the inbox, which starts the scan once it is folded
            self._connection.execute(sql.query("refresh"), {"collection": target.collection})
        while self._queue.fold().taken:
            pass
        for target in found:
            while (page := self._page(target)) is not None and not page.ended:
                self._embed(target, page.claims)
            while claims := self._queue.claim(target.model, [target.collection_id], ROWS_AT_ONCE):
                self._embed(target, claims)
        return self._done

    def _page(self, target: Target) -> Page | None:
        return scan_page(
            self._connection, self._source, target, rows=ROWS_AT_ONCE, claims=ROWS_AT_ONCE, sidecar=self._id,
            lease=LEASE,
        )  # fmt: skip

    def _embed(self, target: Target, claims: Sequence[Claim]) -> None:
        if not claims:
            return
        embedder = _embedder(self._connection, target.model, target.dimensions)
        rows = [self._with_media(target, row) for row in self._read(target, claims, embedder)]
        documents = [document for row in rows for document in row.documents]
        vectors = embedder.embed_documents(documents) if documents else np.empty((0, target.dimensions), np.float32)
        write(self._connection, self._queue, target, rows, vectors)
        self._done += sum(not row.unchanged for row in rows)

    def _read(self, target: Target, claims: Sequence[Claim], embedder: LoadedEmbedder) -> Sequence[Row]:
        most = self._settings.document_characters + 1 if target.chunking else characters_for(embedder)
        rows = read_rows(self._connection, self._source, target, claims, most, self._settings.media_max_bytes)
        if target.chunking is None:
            return rows
        cut, errors = self._cutters.cutter(target.model, target.chunking, embedder).cut(rows)
        for row, error in errors:
            raise InputError(f"row {row.claim.key} of {target.collection!r} cannot be cut: {error}")
        return with_known(cut, known_chunks(self._connection, target, cut), first_too=not target.has_media)

    def _with_media(self, target: Target, row: Row) -> Row:
        if not target.has_media or row.document is None or not row.needs_vector:
            return row
        return replace(row, document=fetch_media(row.document, self._settings.media))


def _keep_queries(connection: Connection, models: Sequence[str], queries: Sequence[str]) -> None:
    """Put the vectors of queries into the cache, for every model that may be asked."""
    texts = list(dict.fromkeys(queries))
    for model in models if texts else ():
        vectors = _embedder(connection, model, None).embed_queries([Document(text) for text in texts])
        for text, vector in zip(texts, vectors.tolist(), strict=True):
            arguments = {"model": model, "as_query": True, "input": text, "embedding": str(vector)}
            connection.execute(sql.query("answer_request"), arguments)


def _embedder(connection: Connection, name: str, dimensions: int | None) -> LoadedEmbedder:
    model = registry.model(connection, name)
    if model is None:
        raise ModelNotFound(f"this database has no model {name!r}", hint="see: pgmeaning model list")
    key = repr((fingerprint(model), sorted(model.options.items(), key=str)))
    return _loaded(_Named(model, key), dimensions or model.dimensions)


class _Named:
    """A model that can be a key: its options cannot."""

    def __init__(self, model: Model, key: str) -> None:
        self.model = model
        self.key = key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Named) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@cache
def _loaded(named: _Named, dimensions: int) -> LoadedEmbedder:
    """Loaded once a process: a model costs more than all of a test."""
    return load_embedder(named.model, dimensions)


@contextmanager
def _pinned(connection: Connection) -> Iterator[None]:
    """Rows as tuples and the settings that keys depend on, as a sidecar has them; the caller's own afterwards."""
    rows, autocommit = connection.row_factory, connection.autocommit
    connection.row_factory = tuple_row
    try:
        own = dict(connection.execute(sql.query("testing/pinned"), {"names": list(PINNED)}).fetchall())
        _set(connection, PINNED, local=not autocommit)
        yield
        _set(connection, own, local=not autocommit)
    finally:
        connection.row_factory = rows


def _set(connection: Connection, values: dict[str, str], *, local: bool) -> None:
    """Outside a transaction a local setting would be gone at once."""
    statement = sql.query("testing/pin")
    statement = statement if local else statement.replace(", true)", ", false)")
    connection.execute(statement, {"names": list(values), "values": list(values.values())})


def _driver(connection: Any) -> Connection:
    """psycopg's connection below the one that a framework gives; what a session has yet to write is written."""
    if isinstance(connection, psycopg.Connection):
        return connection
    if hasattr(connection, "flush") and hasattr(connection, "connection"):  # SQLAlchemy's session
        connection.flush()
        connection = connection.connection()
    if hasattr(connection, "ensure_connection"):  # Django's
        connection.ensure_connection()
    below = getattr(connection, "connection", None)
    below = getattr(below, "driver_connection", below)
    if isinstance(below, psycopg.Connection):
        return below
    raise ArgumentError(
        f"a {type(connection).__name__} is no connection that embed_now can use",
        hint="give psycopg's connection, or SQLAlchemy's or Django's with psycopg 3 as its driver",
    )
