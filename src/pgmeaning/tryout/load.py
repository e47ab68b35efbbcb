"""A file becomes a table, in one transaction: interrupted or run again, it is never half there or there twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql as compose

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection
from pgmeaning.database.values import translated_errors
from pgmeaning.errors import InputError
from pgmeaning.tryout.files import Rows, names
from pgmeaning.tryout.guess import Column, key_candidates, seen, stored

MARK = "pgmeaning try: "


@dataclass(frozen=True, slots=True)
class Loaded:
    """A table that holds a file's rows. `changed`: rows that are new or differ from the last time."""

    table: str  # quoted as in SQL
    key: str
    columns: tuple[Column, ...]
    rows: int
    changed: int
    removed: int


def load(connection: Connection, rows: Rows, table: str) -> Loaded:
    """Put the rows into the table of that name, which this or an earlier call makes.

    The key is a column that tells all rows apart, or else a new column with the row's number.
    Raises InputError for a file without rows, or where a table of that name is somebody's own.
    """
    columns, count = seen(rows.columns, rows)
    if count == 0:
        raise InputError(f"{rows.path.name} has columns, but no rows")
    quoted = compose.Identifier(table).as_string(connection)
    with translated_errors(), connection.transaction():
        _check_own(connection, quoted, rows.path)
        _stage(connection, rows, columns)
        key = _key(connection, columns, count)
        changed, removed = _merge(connection, quoted, key, columns, rows.path)
    return Loaded(quoted, key or names([*rows.columns, "row"])[-1], tuple(columns), count, changed, removed)


def _check_own(connection: Connection, table: str, path: Path) -> None:
    known = connection.execute(sql.query("tryout/known"), {"table": table}).fetchone()
    if known is not None and not (known[0] or "").startswith(MARK):
        raise InputError(f"there is a table {table} already, and not from here", hint="--table NAME: another one")
    if known is not None and known[0] != _mark(path):
        raise InputError(f"table {table} is of another file: {known[0][len(MARK) :]}", hint="--table NAME: another one")


def _mark(path: Path) -> str:
    return f"{MARK}{path.resolve()}"


def _stage(connection: Connection, rows: Rows, columns: Sequence[Column]) -> None:
    parts = {"columns": _list(f"{_quoted(c.name)} {c.type}" for c in columns), "place": _added(columns)}
    connection.execute(sql.composed("tryout/stage", parts, parameters=False))
    copy = sql.composed("tryout/copy", {"names": _list(_quoted(c.name) for c in columns)}, parameters=False)
    with connection.cursor().copy(copy) as stream:
        for row in rows:
            stream.write_row([stored(column, value) for column, value in zip(columns, row, strict=True)])


def _key(connection: Connection, columns: Sequence[Column], count: int) -> str:
    for name in key_candidates(columns, count):
        found = connection.execute(sql.composed("tryout/is_key", {"key": _quoted(name)}, parameters=False)).fetchone()
        if found == (True,):
            return name
    return ""


def _merge(
    connection: Connection, table: str, key: str, columns: Sequence[Column], path: Path
) -> tuple[int, int]:  # fmt: skip
    added = _added(columns)
    own = [*([] if key else [added]), *(_quoted(column.name) for column in columns)]
    types = [f"{_quoted(column.name)} {column.type}" for column in columns]
    quoted_key = _quoted(key) if key else added
    parts = {
        "table": table, "key": quoted_key, "staged_key": quoted_key, "place": added,
        "columns": _list(types if key else [f"{added} bigint", *types]), "names": _list(own),
        "values": _list(f"s.{name}" for name in own), "current": _list(f"t.{name}" for name in own),
        "excluded": _list(f"excluded.{name}" for name in own),
        "mark": compose.Literal(_mark(path)).as_string(connection),
    }  # fmt: skip
    for name in ("make", "mark"):
        connection.execute(sql.composed(f"tryout/{name}", parts, parameters=False))
    removed = connection.execute(sql.composed("tryout/remove", parts, parameters=False)).rowcount
    return connection.execute(sql.composed("tryout/merge", parts, parameters=False)).rowcount, removed


def _added(columns: Sequence[Column]) -> str:
    """The name of the column for a row's number, quoted: one that the file has not."""
    return _quoted(names([*(column.name for column in columns), "row"])[-1])


def _quoted(name: str) -> str:
    return compose.Identifier(name).as_string()


def _list(items: Iterable[str]) -> str:
    return ", ".join(items)
