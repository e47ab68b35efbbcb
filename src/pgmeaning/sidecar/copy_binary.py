"""Encodes vectors for PostgreSQL's COPY BINARY, a whole batch at a time."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Row, Target

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
COPY_TRAILER = struct.pack("!h", -1)
NULL = struct.pack("!i", -1)
# As pgvector's binary format has them, big-endian.
NUMBERS = {"vector": ">f4", "halfvec": ">f2"}
CHUNK_ZERO = struct.pack("!ii", 4, 0)


def copy_payload(target: Target, rows: Sequence[Row], vectors: Vectors) -> bytes:
    """A whole COPY BINARY stream: key columns, chunk, chunk_text, model, embedding, content_hash; words, if wanted.

    Those of several chunks are left to the database, which has their texts.
    """
    numbers = np.dtype(NUMBERS[target.vector_type])
    big_endian = np.ascontiguousarray(vectors, dtype=numbers).view(np.uint8).reshape(-1).data
    width = vectors.shape[1] * numbers.itemsize
    model = target.model.encode()
    fields = struct.pack("!h", target.key_width + 5 + target.has_words)
    # pgvector's binary form: the number of dimensions, a reserved zero, the elements.
    between = struct.pack("!i", len(model)) + model + struct.pack("!ihh", width + 4, vectors.shape[1], 0)
    stream: list[bytes | memoryview] = [COPY_HEADER]
    place = 0
    for row in rows:
        keys = b"".join(_field(value) for value in row.key_bytes)
        words = _field(None if row.chunks else row.words) if target.has_words else b""
        for chunk, content_hash in _chunk_fields(row):
            vector = big_endian[place * width : (place + 1) * width]
            stream += (fields, keys, chunk, between, vector, _field(content_hash) + words)
            place += 1
    stream.append(COPY_TRAILER)
    return b"".join(stream)


def _chunk_fields(row: Row) -> Iterator[tuple[bytes, bytes | None]]:
    """(number and text, hash) of each chunk to write; a row with a single chunk does not repeat its text."""
    if not row.chunks:
        yield CHUNK_ZERO + NULL, row.content_hash
    for number, chunk in row.new_chunks:
        yield struct.pack("!ii", 4, number) + _field(chunk.text.encode()), row.chunk_hash(number)


def _field(value: bytes | None) -> bytes:
    return NULL if value is None else struct.pack("!i", len(value)) + value
