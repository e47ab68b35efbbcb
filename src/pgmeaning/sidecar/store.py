"""Source rows in, vectors out; both whole batches at a time, in PostgreSQL's binary formats."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import accumulate
from typing import Any

import numpy as np
from psycopg.rows import dict_row

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, retrying
from pgmeaning.documents.template import document, several
from pgmeaning.models.base import Vectors
from pgmeaning.sidecar.queue import Queue
from pgmeaning.types import Chunk, Chunking, Claim, Document, Row, Target

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
COPY_TRAILER = struct.pack("!h", -1)
NULL = struct.pack("!i", -1)
BYTEA = 17  # its type's oid
# As pgvector keeps them, big-endian.
NUMBERS = {"vector": ">f4", "halfvec": ">f2"}
CHUNK_ZERO = struct.pack("!ii", 4, 0)


class Vanished(Exception):
    """A chunk whose vector a row was to keep is no longer there, as when somebody emptied the table meanwhile."""

    def __init__(self, row: Row) -> None:
        super().__init__(row.claim.key)
        self.row = row


def targets(connection: Connection, collection: str | None = None) -> list[Target]:
    """Every (collection, model) of the registry, or those of one collection."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return [
            _target(row) for row in cursor.execute(sql.query("rows/targets"), {"collection": collection}).fetchall()
        ]


def _target(row: dict[str, Any]) -> Target:
    template = row["template_parts"]
    row = {key: value for key, value in row.items() if key != "scan_finished_at"}
    row["columns"] = tuple(row["columns"])
    row["chunking"] = None if row["chunking"] is None else Chunking(**row["chunking"])
    row["template_parts"] = None if template is None else tuple((literal, column) for literal, column in template)
    return Target(**row)


def read_rows(
    connection: Connection, target: Target, claims: Sequence[Claim], characters: int, media_bytes: int = 1 << 26
) -> list[Row]:
    """The claimed rows as they are now, in the claims' order; a row that is gone has no document.

    `characters` bounds each column, so that a text of a megabyte costs no more than the model can take; `media_bytes`
    bounds an image or video likewise, and one that is longer is read to just beyond.
    """
    statement = sql.composed("rows/read_rows", target.parts)
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
    """What makes a value of the columns of images and of videos, which come last: bytes, or what jsonb holds."""
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
    """The images and the videos of a row, as it names them."""
    values = contents[len(contents) - len(readers) :]
    found = [() if value is None else several(read(value)) for value, read in zip(values, readers, strict=True)]
    images = found.pop(0) if target.image is not None else ()
    return images, found.pop(0) if target.video is not None else ()


def sizes(connection: Connection, target: Target, claims: Sequence[Claim]) -> list[int]:
    """The bytes of text that each of the claimed rows has."""
    statement = sql.composed("rows/row_sizes", target.parts)
    found = dict(connection.execute(statement, {"keys": [claim.key for claim in claims]}).fetchall())
    return [found.get(place, 0) for place in range(1, len(claims) + 1)]


def known_chunks(
    connection: Connection, target: Target, rows: Sequence[Row]
) -> dict[int, dict[bytes, list[int]]]:  # fmt: skip
    """Of the rows of several chunks, by their place: the numbers of the stored chunks, by the hash of their text."""
    places = [place for place, row in enumerate(rows) if row.chunks]
    if not places:
        return {}
    statement = sql.composed("rows/known_chunks", target.parts)
    found: dict[int, dict[bytes, list[int]]] = {}
    keys = [rows[place].claim.key for place in places]
    for place, number, content in connection.execute(statement, {"keys": keys}).fetchall():
        found.setdefault(places[place - 1], {}).setdefault(content, []).append(number)
    return found


def write(connection: Connection, queue: Queue, target: Target, rows: Sequence[Row], vectors: Vectors) -> int:
    """Write the vectors of the rows whose claim still stands and end those claims, in one transaction: how many.

    `vectors` is float32 [n, dimensions]: those of the rows' `documents`, in their order.
    """
    try:
        return retrying(lambda: _write(connection, queue, target, rows, vectors))
    except Vanished as gone:
        queue.release([gone.row.claim])  # to be read anew
        place = next(place for place, row in enumerate(rows) if row is gone.row)
        start, end = _starts(rows)[place : place + 2]
        rest = [*rows[:place], *rows[place + 1 :]]
        return write(connection, queue, target, rest, np.delete(vectors, slice(start, end), axis=0)) if rest else 0


def _write(connection: Connection, queue: Queue, target: Target, rows: Sequence[Row], vectors: Vectors) -> int:
    starts = _starts(rows)
    with connection.transaction():
        places = queue.finish([row.claim for row in rows])
        standing = [rows[place] for place in places]
        changed = [row.claim.key for row in standing if not row.unchanged and not _keeps(row)]
        if changed:
            connection.execute(sql.composed("rows/remove_vectors", target.parts), {"keys": changed})
        for row in standing:
            if _keeps(row):
                _keep_chunks(connection, target, row)
        new = [row for row in standing if vector_count(row)]
        if new:
            if len(standing) < len(rows):
                vectors = vectors[[index for place in places for index in range(starts[place], starts[place + 1])]]
            payload = copy_payload(target, new, vectors)
            with connection.cursor().copy(sql.composed("rows/copy_vectors", target.parts, parameters=False)) as copy:
                copy.write(payload)
    return len(standing)


def _starts(rows: Sequence[Row]) -> list[int]:
    """Where each row's vectors begin, and where the last one's end."""
    return [0, *accumulate(map(vector_count, rows))]


def _keeps(row: Row) -> bool:
    return not row.unchanged and any(chunk.kept is not None for chunk in row.chunks)


def _keep_chunks(connection: Connection, target: Target, row: Row) -> None:
    kept = [(chunk.kept, number) for number, chunk in enumerate(row.chunks) if chunk.kept is not None]
    arguments = {
        "key": row.claim.key, "old": [old for old, _ in kept], "new": [number for _, number in kept],
        "hashes": [_chunk_hash(row, number) for _, number in kept],
    }  # fmt: skip
    if connection.execute(sql.composed("rows/keep_chunks", target.parts), arguments).fetchone() != (len(kept),):
        raise Vanished(row)


def needs_vector(row: Row) -> bool:
    """Whether the row has content, and not the content of the vectors there are."""
    return row.document is not None and not row.unchanged


def documents(row: Row) -> list[Document]:
    """What must be embedded of a row: its document; or of several chunks those that are new."""
    if row.document is None or row.unchanged:
        return []
    if not row.chunks:
        return [row.document]
    return [row.document if number == 0 else Document(chunk.text) for number, chunk in _new_chunks(row)]


def vector_count(row: Row) -> int:
    """How many vectors must be made for a row."""
    return len(_new_chunks(row)) if row.chunks else int(needs_vector(row))


def _new_chunks(row: Row) -> list[tuple[int, Chunk]]:
    return [(number, chunk) for number, chunk in enumerate(row.chunks) if chunk.kept is None]


def _chunk_hash(row: Row, number: int) -> bytes | None:
    """The first chunk stands for the row: what a reconcile compares."""
    return row.chunks[number].content_hash if number else row.content_hash


def copy_payload(target: Target, rows: Sequence[Row], vectors: Vectors) -> bytes:
    """A whole COPY BINARY stream: key columns, chunk, chunk_text, model, embedding, content_hash."""
    numbers = np.dtype(NUMBERS[target.vector_type])
    big_endian = np.ascontiguousarray(vectors, dtype=numbers).view(np.uint8).reshape(-1).data
    width = vectors.shape[1] * numbers.itemsize
    model = target.model.encode()
    fields = struct.pack("!h", target.key_width + 5)
    # pgvector's binary form: the number of dimensions, a reserved zero, the elements.
    between = struct.pack("!i", len(model)) + model + struct.pack("!ihh", width + 4, vectors.shape[1], 0)
    stream: list[bytes | memoryview] = [COPY_HEADER]
    place = 0
    for row in rows:
        keys = b"".join(_field(value) for value in row.key_bytes)
        for chunk, content_hash in _chunk_fields(row):
            vector = big_endian[place * width : (place + 1) * width]
            stream += (fields, keys, chunk, between, vector, _field(content_hash))
            place += 1
    stream.append(COPY_TRAILER)
    return b"".join(stream)


def _chunk_fields(row: Row) -> Iterator[tuple[bytes, bytes | None]]:
    """(number and text, hash) of each chunk that is written; a row that is one chunk does not repeat its text."""
    if not row.chunks:
        yield CHUNK_ZERO + NULL, row.content_hash
    for number, chunk in _new_chunks(row):
        yield struct.pack("!ii", 4, number) + _field(chunk.text.encode()), _chunk_hash(row, number)


def _field(value: bytes | None) -> bytes:
    return NULL if value is None else struct.pack("!i", len(value)) + value


def trim_cache(connection: Connection, rows: int, seconds: float) -> None:
    """Hold the cache of query vectors to its bound and its age."""
    connection.execute(sql.query("requests/trim_cache"), {"rows": rows, "age": timedelta(seconds=seconds)})
