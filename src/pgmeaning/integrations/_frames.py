"""What the frames of pandas and polars have in common: hits and vectors as columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgmeaning import Client, Hit
from pgmeaning.client.arguments import Filter

# Of a hit, beside its key and its row.
MEASURES = ("distance", "score", "chunk", "chunk_text", "model")
PAGE = 1000


def columns_of(hits: Sequence[Hit]) -> dict[str, list[Any]]:
    """The keys and rows of hits, then MEASURES; where the table has a column of such a name, ours ends in "_"."""
    rows = [{**hit.key, **hit.row} for hit in hits]
    names = list(rows[0]) if rows else []
    found = {name: [row[name] for row in rows] for name in names}
    for measure in MEASURES:
        found[f"{measure}_" if measure in names else measure] = [getattr(hit, measure) for hit in hits]
    return found


def vectors_of(client: Client, collection: str, filter: Filter) -> tuple[dict[str, list[Any]], NDArray[np.float32]]:
    """The keys, column by column, and the vectors, float32 [n, d], of the rows that have one; each row's first chunk.

    In the order of the keys.
    """
    keys = client.find_keys(collection, filter)
    found: list[tuple[dict[str, Any], Any]] = []
    for start in range(0, len(keys), PAGE):
        page = keys[start : start + PAGE]
        stored = client.stored_vectors(collection, page)
        found += [(key, vector) for key, vector in zip(page, stored, strict=True) if vector is not None]
    found.sort(key=lambda each: [str(type(value)) + str(value).rjust(40) for value in each[0].values()])
    names = list(keys[0]) if keys else []
    vectors = np.array([vector for _, vector in found], np.float32)
    return {name: [key[name] for key, _ in found] for name in names}, vectors


def embedded(
    client: Client, texts: Sequence[Any], *, collection: str | None, model: str | None, as_query: bool, local: bool,
    timeout: float,
) -> list[NDArray[np.float32] | None]:  # fmt: skip
    """The vectors of texts, each different text embedded once; None for what is missing or blank."""
    given = [text if isinstance(text, str) and text.strip() else None for text in texts]
    wanted = list(dict.fromkeys(text for text in given if text is not None))
    made: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(wanted), PAGE):
        page = wanted[start : start + PAGE]
        vectors = client.embed_many(
            page, collection=collection, model=model, as_query=as_query, local=local, timeout=timeout
        )  # fmt: skip
        made.update(zip(page, (np.asarray(vector) for vector in vectors), strict=True))
    return [None if text is None else made[text] for text in given]
