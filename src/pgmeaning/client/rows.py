"""Rows as searches return them: each column as text with its type, so that one statement does for every table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import Format

from pgmeaning import json_values
from pgmeaning.types import Hit


def hits(connection: psycopg.Connection[Any], found: Sequence[Sequence[Any]]) -> list[Hit]:
    """What a search found, the rows' columns as Python types, as if they had been selected themselves."""
    transformer, encoding = Transformer.from_context(connection), connection.info.encoding

    def load(type: int, content: Any) -> Any:
        if content is None:
            return None
        # A connection in SQL_ASCII leaves texts as bytes.
        written = content if isinstance(content, bytes) else content.encode(encoding)
        return transformer.get_loader(type, Format.TEXT).load(written)

    return [_hit(load, *columns) for columns in found]


def _hit(
    load: Callable[[int, Any], Any], names: Sequence[str], types: Sequence[int], contents: Sequence[Any],
    text: str | None, key: str, chunk: int, chunk_text: str | None, distance: float, score: float, model: str,
    vector_rank: int | None = None, text_rank: int | None = None,
) -> Hit:  # fmt: skip
    row = {name: load(type, content) for name, type, content in zip(names, types, contents, strict=True)}
    return Hit(
        json_values.loads(key), row, distance, score, chunk, chunk_text, model, vector_rank, text_rank, text=text
    )
