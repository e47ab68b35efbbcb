"""Vectors that leave a database and enter another one: Parquet files that say which model made them, and from what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from pgvector import Vector

from pgmeaning import json_values
from pgmeaning.client.arguments import jsonb
from pgmeaning.client.statements import Statements
from pgmeaning.errors import CollectionError, InputError, ModelUnavailable, PgmeaningError
from pgmeaning.version import __version__

if TYPE_CHECKING:
    import pyarrow

PAGE = 512
# What a file and a collection must have in common, besides the fingerprint and the dimensions.
SAME = ("key_columns", "columns", "template", "image", "video", "chunking")
WHOLE_NUMBERS = ("smallint", "integer", "bigint")
METADATA = b"pgmeaning"
COLUMNS = ("key", "chunk", "content_hash", "embedding")


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of the rows of a file, by number."""

    taken: int  # have its vectors now
    fresh: int  # had theirs already, and keep them
    other: int  # are gone, or have another content by now: they stay owed, or keep what they have


class Transfers:
    """The part of a Client that moves vectors between databases."""

    _statements: Statements

    def export_vectors(self, collection: str, file: str | Path) -> int:
        """Write the vectors of the rows that the caller may read to a Parquet file; returns how many vectors.

        Columns: `key` (JSON), `key.<column>` for each key column, `chunk`, `content_hash` (what the row was when it was
        embedded), `chunk_text` where documents are cut, and `embedding`, float32 or float16 [dimensions]. The file's
        metadata under "pgmeaning" (JSON) has model, fingerprint, dimensions, template and version. Needs the extra
        [parquet]. Written page by page, to a file beside it that takes its name at the end.

        Raises CollectionError if the vectors are replaced meanwhile.
        """
        arrow = _arrow()
        from pyarrow import parquet

        definition = self._statements.value("vectors_definition", {"collection": collection})
        schema = _schema(arrow, definition)
        path, written = Path(file), 0
        partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
        try:
            with parquet.ParquetWriter(partial, schema, write_page_checksum=True, compression="zstd") as writer:
                for rows in self._pages(collection):
                    if rows:
                        writer.write_table(_table(arrow, schema, definition, rows), row_group_size=len(rows))
                        written += len(rows)
            partial.replace(path)
        finally:
            with suppress(FileNotFoundError):
                partial.unlink()
        return written

    def _pages(self, collection: str) -> Iterator[list[tuple[Any, ...]]]:
        """(key, chunk, content hash, text, vector) of each stored vector."""
        after: str | None = None
        made_of: str | None = None
        while True:
            behind = None if after is None else jsonb(json_values.loads(after))
            rows = self._statements.binary("export_page", {"collection": collection, "after": behind, "page": PAGE})
            if rows and made_of not in (None, rows[0][0]):
                raise CollectionError(f"the vectors of {collection!r} were replaced meanwhile", hint="call it again")
            yield [row[1:] for row in rows if row[2] is not None]
            if len({row[1] for row in rows}) < PAGE:
                return
            made_of, after = rows[0][0], rows[-1][1]

    def import_vectors(self, collection: str, file: str | Path) -> Imported:
        """Take up the vectors of a file for the rows that are now what they were when these were made.

        No model runs. A row whose vector is already that of its content keeps it; one whose content is another stays
        owed. What is changed meanwhile is owed as ever. Safe to repeat, and to interrupt. While sidecars work on the
        same rows, pause() the collection. It takes the right to manage the collection and to read its source.

        Raises InputError for a file that is damaged, is none of ours, or is of another model or definition.
        """
        _arrow()
        from pyarrow import ArrowException, parquet

        definition = self._statements.value("vectors_definition", {"collection": collection})
        totals = np.zeros(3, np.int64)
        try:
            with parquet.ParquetFile(file, page_checksum_verification=True) as opened:
                _check_definition(opened.schema_arrow, definition, file)
                for rows in _rows(opened, definition, file):
                    totals += self._import(collection, definition["fingerprint"], rows)
        except (ArrowException, OSError) as error:
            raise InputError(f"{file} cannot be read: {error}", hint="export it again") from error
        return Imported(*(int(total) for total in totals))

    def _import(self, collection: str, fingerprint: str, rows: Sequence[dict[str, Any]]) -> tuple[int, int, int]:
        arguments = {
            "collection": collection, "fingerprint": fingerprint, "keys": [row["key"] for row in rows],
            "chunks": [row["chunk"] for row in rows], "hashes": [row["content_hash"] for row in rows],
            "texts": [row.get("chunk_text") for row in rows], "vectors": [Vector(row["embedding"]) for row in rows],
        }  # fmt: skip
        for attempt in range(5):
            try:
                taken, fresh, other = self._statements.execute("import_page", arguments).fetchone() or (0, 0, 0)
                return taken, fresh, other
            except PgmeaningError as error:  # a lock that another holds, a deadlock with a sidecar
                if error.sqlstate not in ("55P03", "40P01") or attempt == 4:
                    raise
        raise AssertionError


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise ModelUnavailable("pyarrow is not installed", hint="pip install 'pgmeaning[parquet]'") from None
    return pyarrow


# ---------------------------------------------------------------- writing


def _schema(arrow: Any, definition: dict[str, Any]) -> pyarrow.Schema:
    half = definition["vector_type"] == "halfvec"
    fields = [arrow.field("key", arrow.string(), nullable=False)]
    for name, type in zip(definition["key_columns"], definition["key_types"], strict=True):
        fields.append(arrow.field(f"key.{name}", arrow.int64() if type in WHOLE_NUMBERS else arrow.string()))
    fields += [
        arrow.field("chunk", arrow.int32(), nullable=False),
        arrow.field("content_hash", arrow.binary(32)),
        *([arrow.field("chunk_text", arrow.string())] if definition["chunking"] else []),
        arrow.field("embedding", arrow.list_(arrow.float16() if half else arrow.float32(), definition["dimensions"])),
    ]
    known = {**definition, "pgmeaning": __version__}
    return arrow.schema(fields, metadata={METADATA: json.dumps(known).encode()})


def _table(
    arrow: Any, schema: pyarrow.Schema, definition: dict[str, Any], rows: Sequence[tuple[Any, ...]]
) -> pyarrow.Table:
    keys, chunks, hashes, texts, vectors = zip(*rows, strict=True)
    loaded = [json_values.loads(key) for key in keys]
    half = definition["vector_type"] == "halfvec"
    numbers = np.stack([v.to_numpy() if isinstance(v, Vector) else v for v in vectors])
    flat = np.ascontiguousarray(numbers, np.float16 if half else np.float32).reshape(-1)
    columns: dict[str, Sequence[Any]] = {"key": keys, "chunk": chunks, "content_hash": hashes, "chunk_text": texts}
    for name, type in zip(definition["key_columns"], definition["key_types"], strict=True):
        values = [key[name] for key in loaded]
        columns[f"key.{name}"] = values if type in WHOLE_NUMBERS else [_text(value) for value in values]
    arrays = [
        arrow.FixedSizeListArray.from_arrays(arrow.array(flat), definition["dimensions"]) if field.name == "embedding"
        else arrow.array(columns[field.name], field.type)
        for field in schema
    ]  # fmt: skip
    return arrow.Table.from_arrays(arrays, schema=schema)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json_values.dumps(value)


# ---------------------------------------------------------------- reading


def _check_definition(schema: pyarrow.Schema, wanted: dict[str, Any], file: str | Path) -> None:
    """Raise InputError unless the file's vectors are what this collection would have made of the same rows."""
    missing = set(COLUMNS) - set(schema.names)
    try:
        found = json.loads((schema.metadata or {})[METADATA])
    except (KeyError, ValueError):
        raise InputError(f"{file} was not written by export_vectors", hint="export the vectors again") from None
    if missing or not isinstance(found, dict):
        raise InputError(f"{file} is damaged: it lacks {', '.join(sorted(missing)) or 'its metadata'}")
    if (found.get("fingerprint"), found.get("dimensions")) != (wanted["fingerprint"], wanted["dimensions"]):
        raise InputError(
            f"the vectors in {file} cannot be compared with those of {wanted['collection']!r}",
            detail=f"they are of {_named(found)}, the collection's of {_named(wanted)}",
            hint="import them into a collection with their model and dimensions",
        )
    differing = [name for name in SAME if found.get(name) != wanted[name]]
    if differing:
        raise InputError(
            f"the vectors in {file} were made from something else than {wanted['collection']!r}",
            detail="; ".join(f"{name}: {found.get(name)!r}, here {wanted[name]!r}" for name in differing),
            hint="attach the table as it was attached where they come from",
        )
    if found.get("vector_type") == "halfvec" != wanted["vector_type"]:
        raise InputError(
            f"the vectors in {file} are of half precision, those of {wanted['collection']!r} are not",
            hint="export them from a collection of full precision",
        )


def _named(definition: dict[str, Any]) -> str:
    fingerprint = str(definition.get("fingerprint"))[:12]
    return f"model {definition.get('model')!r} ({fingerprint}) with {definition.get('dimensions')} dimensions"


def _rows(opened: Any, definition: dict[str, Any], file: str | Path) -> Iterator[list[dict[str, Any]]]:
    """The file's vectors, some rows with all of their chunks at a time, checked."""
    names = [name for name in (*COLUMNS, "chunk_text") if name in opened.schema_arrow.names]
    waiting: list[dict[str, Any]] = []
    for batch in opened.iter_batches(batch_size=PAGE, columns=names):
        waiting += _checked(batch, definition, file)
        last = waiting[-1]["key"] if waiting else None
        whole = [row for row in waiting if row["key"] != last]  # the last row may go on in the next batch
        waiting = waiting[len(whole) :]
        if whole:
            _check_chunks(whole, file)
            yield whole
    if waiting:
        _check_chunks(waiting, file)
        yield waiting


def _checked(batch: Any, definition: dict[str, Any], file: str | Path) -> list[dict[str, Any]]:
    vectors = batch.column("embedding")
    flat = np.asarray(vectors.flatten().to_numpy(zero_copy_only=False), np.float32)
    if vectors.null_count or flat.size != len(batch) * definition["dimensions"]:
        raise InputError(f"{file} is damaged: a vector has not {definition['dimensions']} numbers")
    numbers = flat.reshape(len(batch), -1)
    lengths = np.einsum("ij,ij->i", numbers, numbers)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise InputError(f"{file} is damaged: a vector is all zeros, or has a number that is not finite")
    columns = {name: batch.column(name).to_pylist() for name in batch.schema.names if name != "embedding"}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [{**row, "embedding": vector} for row, vector in zip(rows, numbers, strict=True)]


def _check_chunks(rows: Sequence[dict[str, Any]], file: str | Path) -> None:
    """Each row has its chunks from 0 on, and each chunk but the first the hash of its own text."""
    for key, some in groupby(rows, key=lambda row: row["key"]):
        for number, row in enumerate(some):
            text = row.get("chunk_text")
            own = None if text is None else hashlib.sha256(text.encode()).digest()
            if row["chunk"] != number or (number > 0 and row["content_hash"] != own):
                raise InputError(f"{file} is damaged: the chunks of row {key} are not whole", hint="export it again")
