"""Frames of pandas: hits and stored vectors as a DataFrame, and a column of texts embedded.

Needs the extra [pandas]. Whatever is written here runs as a doctest, on the recipes of the page "Frames".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

try:
    import pandas
except ImportError as error:
    raise ImportError(f"{error}: pip install 'pgmeaning[pandas]'") from error

from pgmeaning import Client, Hit
from pgmeaning.client.arguments import Filter
from pgmeaning.integrations._frames import columns_of, embedded, vectors_of

__all__ = ["embed", "hits_frame", "search", "vectors_frame"]


def hits_frame(hits: Sequence[Hit]) -> pandas.DataFrame:
    """A row a hit: its key and its row, then distance, score, chunk, chunk_text and model.

    Where the table has a column of such a name, ours ends in "_".

    >>> hits_frame(client.nearest("recipes", client.embed_many(["tea"], local=True)[0], 2))[["id", "title", "minutes"]]
       id title  minutes
    0   3   tea        5
    1   1  rice       30
    """
    return pandas.DataFrame(columns_of(hits))


def search(client: Client, collection: str, query: str, k: int = 10, **options: Any) -> pandas.DataFrame:
    """What `Client.search` finds, as a frame; `options` are its other arguments.

    >>> search(client, "recipes", "tea", k=1, filter="minutes < $1", filter_params=[60])[["title", "score"]].round(2)
      title  score
    0   tea    1.0
    """
    return hits_frame(client.search(collection, query, k, **options))


def vectors_frame(client: Client, collection: str, filter: Filter = None) -> pandas.DataFrame:
    """The stored vectors: the columns of the key, and `embedding`, a NumPy array float32 [d] in each row.

    Rows without a vector are left out; of a row in chunks it is the first.

    >>> frame = vectors_frame(client, "recipes", filter="minutes <= 30")
    >>> frame["id"].tolist(), frame["embedding"][0].shape
    ([1, 3], (384,))
    """
    keys, vectors = vectors_of(client, collection, filter)
    return pandas.DataFrame({**keys, "embedding": list(vectors)})


def embed(
    client: Client, texts: pandas.Series[Any], *, collection: str | None = None, model: str | None = None,
    as_query: bool = False, local: bool = False, timeout: float = 60,
) -> pandas.Series[Any]:  # fmt: skip
    """The vectors of a column of texts, float32 [d] each, with its index; None where a text is missing or blank.

    They are of the collection's model and length, or of `model`; a sidecar makes them, or, with `local`, this process.

    >>> texts = pandas.Series(["rice", None, "rice"], index=["a", "b", "c"])
    >>> found = embed(client, texts, collection="recipes", local=True)
    >>> found["a"].shape, found["b"] is None, bool((found["a"] == found["c"]).all())
    ((384,), True, True)
    """
    made = embedded(
        client, texts.tolist(), collection=collection, model=model, as_query=as_query, local=local, timeout=timeout
    )  # fmt: skip
    return pandas.Series(made, index=texts.index, name=texts.name, dtype=object)
