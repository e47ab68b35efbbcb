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
from psycopg.abc import AdaptContext, Buffer, Loader
from psycopg.types import TypeInfo
from psycopg.types import datetime as times

from pgmeaning.database import sql_files as sql
from pgmeaning.errors import (
    ArgumentError,
    ArgumentRefused,
    CollectionError,
    ConnectionFailed,
    DatabaseError,
    ModelError,
    ModelNotFound,
    PermissionDenied,
    PgmeaningError,
    TimedOut,
)

# SQLSTATEs that have an exception of their own; all others raise DatabaseError.
COLLECTION_STATES = ("PM001", "PM002", "PM003", "PM004", "PM010", "PM016", "PM022", "PM023")
KINDS: dict[str, type[PgmeaningError]] = {
    **dict.fromkeys(COLLECTION_STATES, CollectionError),
    "PM005": ModelNotFound, "PM006": ModelError, "PM007": TimedOut, "PM008": ModelError, "PM011": PermissionDenied,
    "PM014": ArgumentRefused, "42501": PermissionDenied, "57014": TimedOut,
    **dict.fromkeys(("57P01", "57P02", "57P03", "57P05", "25P03", "25P04"), ConnectionFailed),
}  # fmt: skip
REGISTER = {
    "vector": register_vector_info,
    "bit": register_bit_info,
    "halfvec": register_halfvec_info,
    "sparsevec": register_sparsevec_info,
}


Types = dict[str, TypeInfo]


def vector_types(source: psycopg.Connection[Any] | psycopg.Cursor[Any]) -> Types:
    """pgvector's types in this database, in whatever schema."""
    rows = source.execute(sql.query("client/vector_types")).fetchall()
    return {name: TypeInfo(name, *oids) for name, *oids in rows}


def check_vector(found: Types) -> None:
    """Raise DatabaseError if there is no pgvector."""
    if "vector" not in found:
        raise DatabaseError(
            "the database lacks the extension vector, which pgmeaning needs",
            hint="if it was dropped, so were the vectors: restore a backup, or run "
            "DROP SCHEMA IF EXISTS pgmeaning, pgmeaning_data CASCADE, then run: pgmeaning migrate",
        )


def register_types(context: Any, found: Types) -> None:
    """Let a connection or a cursor load and dump these types of pgvector's."""
    for name, register in REGISTER.items():
        if name in found:
            register(context, found[name])


def register_vectors(connection: psycopg.Connection[Any]) -> None:
    """Like pgvector's own register_vector, which finds the type only on the search_path. Raises DatabaseError."""
    found = vector_types(connection)
    check_vector(found)
    register_types(connection, found)


def register_times(context: AdaptContext) -> None:
    """Load times as Python's; those that Python lacks (infinity, BC, 24:00) as text, so no row fails a whole result."""
    for name, loader in LOADERS.items():
        context.adapters.register_loader(name, loader)


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
        raise translated(error) from error
    except UnicodeEncodeError as error:  # a lone surrogate, from broken UTF-8; PostgreSQL cannot store it
        raise ArgumentError(f"not valid Unicode: {error}", hint="remove the lone surrogates") from error


def translated(error: BaseException) -> PgmeaningError:
    """A driver's error, of psycopg's or asyncpg's, as ours: with SQLSTATE, detail and hint."""
    sqlstate = getattr(error, "sqlstate", None)
    told = getattr(error, "diag", None)
    message = getattr(told, "message_primary", None) or str(error.args[0] if error.args else "").strip()
    return _kind(error, sqlstate)(
        message or type(error).__name__, sqlstate=sqlstate,
        detail=told.message_detail if told else getattr(error, "detail", None),
        hint=told.message_hint if told else getattr(error, "hint", None),
    )  # fmt: skip


def _kind(error: BaseException, sqlstate: str | None) -> type[PgmeaningError]:
    if sqlstate is None:
        return ConnectionFailed if isinstance(error, psycopg.OperationalError) else DatabaseError
    return KINDS.get(sqlstate, ConnectionFailed if sqlstate.startswith("08") else DatabaseError)
