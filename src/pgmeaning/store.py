"""Source rows in, vectors out; both whole batches at a time, in PostgreSQL's binary formats."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
from psycopg.rows import dict_row

from pgmeaning import sql
from pgmeaning.connection import Connection, retrying
from pgmeaning.documents import document, several
from pgmeaning.models.base import Vectors
from pgmeaning.queue import Queue
from pgmeaning.types import Claim, Row, Target

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
COPY_TRAILER = struct.pack("!h", -1)
NULL = struct.pack("!i", -1)
BYTEA = 17  # its type's oid
# As pgvector keeps them, big-endian.
NUMBERS = {"vector": ">f4", "halfvec": ">f2"}
CHUNK_ZERO = struct.pack("!ii", 4, 0)


def targets(connection: Connection, collection: str | None = None) -> list[Target]:
    """Every (collection, model) of the registry, or those of one collection."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return [_target(row) for row in cursor.execute(sql.query("targets"), {"collection": collection}).fetchall()]


def _target(row: dict[str, Any]) -> Target:
    template = row["template_parts"]
    row = {key: value for key, value in row.items() if key != "scan_finished_at"}
    row["columns"] = tuple(row["columns"])
    row["template_parts"] = None if template is None else tuple((literal, column) for literal, column in template)
    return Target(**row)


def read_rows(
    connection: Connection, target: Target, claims: Sequence[Claim], characters: int, media_bytes: int = 1 << 26
) -> list[Row]:
    """The claimed rows as they are now, in the claims' order; a row that is gone has no document.

    `characters` bounds each column, so that a text of a megabyte costs no more than the model can take; `media_bytes`
    bounds a picture or video likewise, and one that is longer is read to just beyond.
    """
    statement = sql.composed("read_rows", target.parts)
    with connection.cursor(binary=True) as cursor:
        bounds = {"characters": characters, **_media_bounds(media_bytes)}
        cursor.execute(statement, {"keys": [claim.key for claim in claims], **bounds})
        fields = [[_value(cursor, i, j) for j in range(cursor.pgresult.nfields)] for i in range(cursor.rowcount)]  # type: ignore[union-attr]
        media = _media_readers(target, cursor)
    found = {int.from_bytes(row[0] or b""): row for row in fields}
    return [_row(target, claim, found.get(place), media) for place, claim in enumerate(claims, start=1)]


def _value(cursor: Any, row: int, column: int) -> bytes | None:
    value: bytes | None = cursor.pgresult.get_value(row, column)
    return value


def _media_bounds(media_bytes: int) -> dict[str, int]:
    """The bytes of bytea, and the characters of a data URI that holds as many."""
    return {
        "media_bytes": min(media_bytes + 1, 0x7FFFFFFF),
        "media_characters": min(media_bytes // 3 * 4 + 1024, 0x7FFFFFFF),
    }


def _media_readers(target: Target, cursor: Any) -> list[Callable[[bytes], Any]]:
    """What makes a value of the columns of pictures and of videos, which come last: bytes, or what jsonb holds."""
    columns = (target.image is not None) + (target.video is not None)
    types = [cursor.pgresult.ftype(cursor.pgresult.nfields - columns + place) for place in range(columns)]
    return [_as_bytes if oid == BYTEA else _from_jsonb for oid in types]


def _as_bytes(value: bytes) -> Any:
    return value


def _from_jsonb(value: bytes) -> Any:
    return json.loads(value[1:])  # after the version of the format


def _row(
    target: Target, claim: Claim, fields: Sequence[bytes | None] | None, media: Sequence[Callable[[bytes], Any]]
) -> Row:
    if fields is None:
        return Row(claim)
    content_hash, known_hash = fields[1], fields[2]
    key_bytes, contents = tuple(fields[3 : 3 + target.key_width]), fields[3 + target.key_width :]
    texts = [
        None if content is None else content.decode(errors="replace") for content in contents[: len(target.columns)]
    ]
    unchanged = content_hash is not None and content_hash == known_hash
    return Row(claim, document(target, texts, *_media(target, contents, media)), key_bytes, content_hash, unchanged)


def _media(
    target: Target, contents: Sequence[bytes | None], readers: Sequence[Callable[[bytes], Any]]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The pictures and the videos of a row, as it names them."""
    values = contents[len(contents) - len(readers) :]
    found = [() if value is None else several(read(value)) for value, read in zip(values, readers, strict=True)]
    images = found.pop(0) if target.image is not None else ()
    return images, found.pop(0) if target.video is not None else ()


def write(connection: Connection, queue: Queue, target: Target, rows: Sequence[Row], vectors: Vectors) -> int:
    """Write the vectors of the rows whose claim still stands and end those claims, in one transaction: how many.

    `vectors` is float32 [n, dimensions], n the rows that have a document and are not unchanged, in their order.
    """
    return retrying(lambda: _write(connection, queue, target, rows, vectors))


def _write(connection: Connection, queue: Queue, target: Target, rows: Sequence[Row], vectors: Vectors) -> int:
    places = {id(row): place for place, row in enumerate(row for row in rows if needs_vector(row))}
    with connection.transaction():
        standing = [rows[place] for place in queue.finish([row.claim for row in rows])]
        changed = [row.claim.key for row in standing if not row.unchanged]
        if changed:
            connection.execute(sql.composed("remove_vectors", target.parts), {"keys": changed})
        new = [row for row in standing if needs_vector(row)]
        if new:
            payload = copy_payload(target, new, vectors[[places[id(row)] for row in new]])
            with connection.cursor().copy(sql.composed("copy_vectors", target.parts, parameters=False)) as copy:
                copy.write(payload)
    return len(standing)


def needs_vector(row: Row) -> bool:
    """Whether a vector must be made for the row: it has content, and not the content of the vector there is."""
    return row.document is not None and not row.unchanged


def copy_payload(target: Target, rows: Sequence[Row], vectors: Vectors) -> bytes:
    """A whole COPY BINARY stream: key columns, chunk, chunk_text, model, embedding, content_hash."""
    numbers = np.dtype(NUMBERS[target.precision])
    big_endian = memoryview(np.ascontiguousarray(vectors, dtype=numbers).tobytes())
    width = vectors.shape[1] * numbers.itemsize
    model = target.model.encode()
    fields = struct.pack("!h", target.key_width + 5)
    # pgvector's binary form: the number of dimensions, a reserved zero, the elements.
    between = (
        CHUNK_ZERO + NULL + struct.pack("!i", len(model)) + model + struct.pack("!ihh", width + 4, vectors.shape[1], 0)
    )
    stream: list[bytes | memoryview] = [COPY_HEADER]
    for place, row in enumerate(rows):
        keys = b"".join(_field(value) for value in row.key_bytes)
        vector = big_endian[place * width : (place + 1) * width]
        stream += (fields, keys, between, vector, _field(row.content_hash))
    stream.append(COPY_TRAILER)
    return b"".join(stream)


def _field(value: bytes | None) -> bytes:
    return NULL if value is None else struct.pack("!i", len(value)) + value


def trim_cache(connection: Connection, rows: int, seconds: float) -> None:
    """Hold the cache of query vectors to its bound and its age."""
    connection.execute(sql.query("trim_cache"), {"rows": rows, "age": timedelta(seconds=seconds)})
