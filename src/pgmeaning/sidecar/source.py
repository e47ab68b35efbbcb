"""Reads source tables, over a connection of its own: that of the reader, a role that has no right to anything of ours.

Whoever owns a source can make code run in whoever reads it, as by an index on an expression. So the role that reads
has no other rights, and the role that writes vectors reads no source.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, connect, current_role
from pgmeaning.types import Target

BYTEA = 17  # its type's oid


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row as it was read. `key`: its key columns in PostgreSQL's binary format; `content_hash`: None if it is blank.

    `words`: its words, a tsvector in the same format, None where they are not wanted;
    `texts`: its columns of text; `media`: its columns of images and videos, bytes or what their jsonb holds.
    """

    key: tuple[bytes | None, ...]
    content_hash: bytes | None
    words: bytes | None
    texts: tuple[str | None, ...]
    media: tuple[Any, ...]


class Source:
    """Source tables as one thread reads them. `role`: the reader, as the server knows it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.role = current_role(connection)

    @property
    def is_closed(self) -> bool:
        """Whether the connection is lost."""
        return bool(self._connection.closed)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def page(
        self, target: Target, cursor: str | None, rows: int, *, hashed: bool = True
    ) -> tuple[list[str], list[bytes | None]]:
        """The keys of the next rows in the order of the key, and the hashes of what is to be embedded.

        `hashed`: without it all hashes are None.
        """
        parts = {
            **target.parts,
            "after_cursor": "true" if cursor is None else target.parts["source_after_cursor"],
            "page_hash": target.parts["content_hash"] if hashed else "NULL::bytea",
        }
        with self._connection.cursor(binary=True) as found:
            found.execute(sql.composed("scan/read_page", parts), {"cursor": cursor, "limit": rows})
            page = found.fetchall()
        return [key for key, _ in page], [content for _, content in page]

    def sizes(self, target: Target, keys: Sequence[str]) -> list[int]:
        """The bytes of text that each of the rows has; 0 for one that is gone."""
        statement = sql.composed("rows/row_sizes", target.parts)
        found = dict(self._connection.execute(statement, {"keys": list(keys)}).fetchall())
        return [found.get(place, 0) for place in range(1, len(keys) + 1)]

    def rows(self, target: Target, keys: Sequence[str], characters: int, media_bytes: int) -> dict[int, SourceRow]:
        """The rows of these keys by their place, from 1; those that are gone are left out."""
        with self._connection.cursor(binary=True) as cursor:
            bounds = {"characters": characters, **_media_bounds(media_bytes)}
            cursor.execute(sql.composed("rows/read_rows", target.parts), {"keys": list(keys), **bounds})
            readers = _media_readers(target, cursor)
            rows = [[_value(cursor, i, j) for j in range(cursor.pgresult.nfields)] for i in range(cursor.rowcount)]  # type: ignore[union-attr]
        return {int.from_bytes(fields[0] or b""): _source_row(target, fields[1:], readers) for fields in rows}


def reading(dsn: str, name: str, **pinned: str) -> Source:
    """A connection that reads sources. It reads no views or foreign tables, whatever has a source's name by then."""
    connection = connect(dsn, name, **pinned)
    connection.execute(sql.query("only_tables"))
    return Source(connection)


def _value(cursor: Any, row: int, column: int) -> bytes | None:
    value: bytes | None = cursor.pgresult.get_value(row, column)
    return value


def _source_row(target: Target, fields: Sequence[bytes | None], readers: Sequence[Callable[[bytes], Any]]) -> SourceRow:
    key, contents = tuple(fields[2 : 2 + target.key_width]), fields[2 + target.key_width :]
    texts = tuple(
        None if content is None else content.decode(errors="replace") for content in contents[: len(target.columns)]
    )
    values = contents[len(contents) - len(readers) :]
    media = tuple(None if value is None else read(value) for value, read in zip(values, readers, strict=True))
    return SourceRow(key, fields[0], fields[1], texts, media)


def _media_bounds(media_bytes: int) -> dict[str, int]:
    """The bytes of bytea, and the characters of a data URI that holds as many."""
    return {
        "media_bytes": min(media_bytes + 1, 0x7FFFFFFF),
        "media_characters": min(media_bytes // 3 * 4 + 1024, 0x7FFFFFFF),
    }


def _media_readers(target: Target, cursor: Any) -> list[Callable[[bytes], Any]]:
    """Functions that decode the columns of images and of videos, which come last: to bytes, or to jsonb's value."""
    columns = (target.image is not None) + (target.video is not None)
    types = [cursor.pgresult.ftype(cursor.pgresult.nfields - columns + place) for place in range(columns)]
    return [_as_bytes if oid == BYTEA else _from_jsonb for oid in types]


def _as_bytes(value: bytes) -> Any:
    return value


def _from_jsonb(value: bytes) -> Any:
    return json.loads(value[1:])  # jsonb's binary format begins with a version byte
