"""PostgreSQL's values and errors in Python: vectors, in whatever schema pgvector is; times; SQLSTATEs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from pgvector.psycopg.bit import register_bit_info
from pgvector.psycopg.halfvec import register_halfvec_info
from pgvector.psycopg.sparsevec import register_sparsevec_info
from pgvector.psycopg.vector import register_vector_info
from psycopg.abc import Buffer, Loader
from psycopg.types import TypeInfo
from psycopg.types import datetime as times

from pgmeaning.database import sql_files as sql
from pgmeaning.errors import ArgumentError, CollectionError, DatabaseError, ModelNotFound, PgmeaningError, TimedOut

# SQLSTATEs of class PM that have an exception of their own; all others raise DatabaseError.
COLLECTION_STATES = ("PM001", "PM002", "PM003", "PM004", "PM010", "PM016", "PM022", "PM023")
REGISTER = {
    "vector": register_vector_info,
    "bit": register_bit_info,
    "halfvec": register_halfvec_info,
    "sparsevec": register_sparsevec_info,
}


def register_vectors(connection: psycopg.Connection[Any]) -> None:
    """Like pgvector's own register_vector, which finds the type only on the search_path."""
    found = {
        name: TypeInfo(name, *oids) for name, *oids in connection.execute(sql.query("client/vector_types")).fetchall()
    }
    if "vector" not in found:
        raise DatabaseError(
            "the database lacks the extension vector, which pgmeaning needs",
            hint="if it was dropped, so were the vectors: restore a backup, or run "
            "DROP SCHEMA IF EXISTS pgmeaning, pgmeaning_data CASCADE, then run: pgmeaning migrate",
        )
    for name, register in REGISTER.items():
        if name in found:
            register(connection, found[name])


def register_times(connection: psycopg.Connection[Any]) -> None:
    """Load times as Python's; those that Python lacks (infinity, BC, 24:00) as text, so no row fails a whole result."""
    for name, loader in LOADERS.items():
        connection.adapters.register_loader(name, loader)


def _or_text(known: type[Loader]) -> type[Loader]:
    class OrText(known):  # type: ignore[misc, valid-type]
        def load(self, data: Buffer) -> Any:
            try:
                return super().load(data)
            # The latter two: a DateStyle or IntervalStyle that psycopg cannot read.
            except (psycopg.DataError, psycopg.InterfaceError, NotImplementedError):
                return bytes(data).decode()

    return OrText


LOADERS: dict[str, type[Loader]] = {
    "date": _or_text(times.DateLoader),
    "timestamp": _or_text(times.TimestampLoader),
    "timestamptz": _or_text(times.TimestamptzLoader),
    "time": _or_text(times.TimeLoader),
    "timetz": _or_text(times.TimetzLoader),
    "interval": _or_text(times.IntervalLoader),
}


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise psycopg's errors as ours, with SQLSTATE, detail and hint."""
    try:
        yield
    except psycopg.Error as error:
        message = error.diag.message_primary or str(error).strip() or type(error).__name__
        raise _kind(error.sqlstate)(
            message, sqlstate=error.sqlstate, detail=error.diag.message_detail, hint=error.diag.message_hint
        ) from error
    except UnicodeEncodeError as error:  # a lone surrogate, from broken UTF-8; PostgreSQL cannot store it
        raise ArgumentError(f"not valid Unicode: {error}", hint="remove the lone surrogates") from error


def _kind(sqlstate: str | None) -> type[PgmeaningError]:
    if sqlstate in COLLECTION_STATES:
        return CollectionError
    return {"PM005": ModelNotFound, "PM007": TimedOut}.get(sqlstate or "", DatabaseError)
