"""Rows as searches return them: each column as text with its type, so that one statement does for every table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import Format

from pgmeaning import json_values
from pgmeaning.documents.template import several
from pgmeaning.errors import InputError
from pgmeaning.media import fetch_media
from pgmeaning.settings import Settings
from pgmeaning.types import Document, Hit, Target

Load = Callable[[int, Any], Any]


def loading(cursor: psycopg.Cursor[Any]) -> Load:
    """A function that makes a Python value of a type's oid and a text, as if the column itself had been selected."""
    transformer, encoding = Transformer(cursor), cursor.connection.info.encoding

    def load(type: int, content: Any) -> Any:
        if content is None:
            return None
        # A connection in SQL_ASCII leaves texts as bytes.
        written = content if isinstance(content, bytes) else content.encode(encoding)
        return transformer.get_loader(type, Format.TEXT).load(written)

    return load


def hit_of(
    load: Load, names: Sequence[str], types: Sequence[int], contents: Sequence[Any],
    text: str | None, key: str, chunk: int, chunk_text: str | None, distance: float, score: float, model: str,
    vector_rank: int | None, text_rank: int | None,
) -> Hit:  # fmt: skip
    """A hit with its row, of what client/hits.sql returns."""
    row = {name: load(type, content) for name, type, content in zip(names, types, contents, strict=True)}
    return Hit(
        json_values.loads(key), row, distance, score, chunk, chunk_text, model, vector_rank, text_rank, text=text
    )


def without(hit: Hit, columns: Sequence[str]) -> Hit:
    """The hit without these columns of its row."""
    return replace(hit, row={name: value for name, value in hit.row.items() if name not in columns})


def document_of(target: Target, hit: Hit, modalities: Sequence[str]) -> Document:
    """The part of what was embedded that the reranker takes; the text alone if an image is gone."""
    text = Document(text=hit.text or "")
    if hit.chunk > 0:  # images belong to the first chunk
        return text
    images = several(hit.row.get(target.image)) if target.image and "image" in modalities else ()
    videos = several(hit.row.get(target.video)) if target.video and "video" in modalities else ()
    try:
        return fetch_media(Document(text.text or None, images, videos), Settings().media) if images or videos else text
    except InputError:
        return text
