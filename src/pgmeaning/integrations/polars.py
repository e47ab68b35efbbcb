"""Frames of polars: hits and stored vectors as a DataFrame, and a column of texts embedded.

Needs the extra [polars]. Whatever is written here runs as a doctest, on the recipes of the page "Frames".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

try:
    import polars
except ImportError as error:
    raise ImportError(f"{error}: pip install 'pgmeaning[polars]'") from error

from pgmeaning import Client, Hit
from pgmeaning.client.arguments import Filter
from pgmeaning.integrations._frames import columns_of, embedded, vectors_of

__all__ = ["embed", "hits_frame", "search", "vectors_frame"]


def hits_frame(hits: Sequence[Hit]) -> polars.DataFrame:
    """A row a hit: its key and its row, then distance, score, chunk, chunk_text and model.

    Where the table has a column of such a name, ours ends in "_".

    >>> found = client.nearest("recipes", client.embed_many(["tea"], local=True)[0], 2)
    >>> hits_frame(found).select("id", "title", "minutes").rows()
    [(3, 'tea', 5), (1, 'rice', 30)]
    """
    return polars.DataFrame(columns_of(hits), infer_schema_length=None)


def search(client: Client, collection: str, query: str, k: int = 10, **options: Any) -> polars.DataFrame:
    """What `Client.search` finds, as a frame; `options` are its other arguments.

    >>> search(client, "recipes", "tea", k=1, filter="minutes < $1", filter_params=[60])["title"].to_list()
    ['tea']
    """
    return hits_frame(client.search(collection, query, k, **options))


def vectors_frame(client: Client, collection: str, filter: Filter = None) -> polars.DataFrame:
    """The stored vectors: the columns of the key, and `embedding`, an Array of Float32.

    Rows without a vector are left out; of a row in chunks it is the first.

    >>> vectors_frame(client, "recipes", filter="minutes <= 30").schema
    Schema({'id': Int64, 'embedding': Array(Float32, shape=(384,))})
    """
    keys, vectors = vectors_of(client, collection, filter)
    if not len(vectors):
        return polars.DataFrame({**keys, "embedding": polars.Series([], dtype=polars.List(polars.Float32))})
    return polars.DataFrame({**keys, "embedding": polars.Series("embedding", vectors)})


def embed(
    client: Client, texts: polars.Series, *, collection: str | None = None, model: str | None = None,
    as_query: bool = False, local: bool = False, timeout: float = 60,
) -> polars.Series:  # fmt: skip
    """The vectors of a column of texts, an Array of Float32; null where a text is missing or blank.

    They are of the collection's model and length, or of `model`; a sidecar makes them, or, with `local`, this process.

    >>> found = embed(client, polars.Series("text", ["rice", None]), collection="recipes", local=True)
    >>> found.dtype, found.null_count(), found.name
    (Array(Float32, shape=(384,)), 1, 'text')
    """
    made = embedded(
        client, texts.to_list(), collection=collection, model=model, as_query=as_query, local=local, timeout=timeout
    )  # fmt: skip
    lengths = [len(vector) for vector in made if vector is not None]
    dtype = polars.Array(polars.Float32, lengths[0]) if lengths else polars.List(polars.Float32)
    return polars.Series(texts.name, [None if vector is None else vector.tolist() for vector in made], dtype=dtype)
