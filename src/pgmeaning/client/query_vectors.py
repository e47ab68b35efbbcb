"""Vectors of queries that SQL's embed() does not take, an image or a video, made in this process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgmeaning.errors import InputError
from pgmeaning.media import fetch_media
from pgmeaning.models.base import LoadedEmbedder, as_document, load_embedder
from pgmeaning.models.registry import fingerprint, located
from pgmeaning.models.vectors import prefix
from pgmeaning.settings import Settings
from pgmeaning.threads import Shared
from pgmeaning.types import Document, Model


def query_document(text: str | None, image: Any = None, video: Any = None) -> Document:
    """The query as a document; raises InputError if it is empty."""
    document = as_document({"text": text, "image": image, "video": video})
    if document.text is None and not document.images and not document.videos:
        raise InputError("the query has no text, image or video", hint="give at least one of them")
    return document


def embed_here(
    model: Model, document: Document, *, as_query: bool, dimensions: int | None = None
) -> NDArray[np.float32]:
    """The vector of a query, float32 [d]. The model is loaded on first use and kept for the process.

    The caller may name any file, but URLs only of the hosts in PGMEANING_MEDIA_HOSTS.
    """
    check_modalities(model, document)
    fetched = fetch_media(document, replace(Settings().media, any_folder=True))
    with _shared(model).use() as embedder:
        vectors = (embedder.embed_queries if as_query else embedder.embed_documents)([fetched])
    whole = dimensions is None or dimensions == vectors.shape[1]
    vector: NDArray[np.float32] = (vectors if whole else prefix(vectors, dimensions or 0))[0]
    return vector


def embed_texts_here(model: Model, queries: Sequence[str]) -> NDArray[np.float32]:
    """The vectors of queries, float32 [n, d], in the model's own length. The model is kept for the process."""
    with _shared(model).use() as embedder:
        return embedder.embed_queries([Document(text) for text in queries])


def embed_documents_here(model: Model, texts: Sequence[str]) -> NDArray[np.float32]:
    """The vectors of texts as documents, float32 [n, d], in the model's own length."""
    with _shared(model).use() as embedder:
        return embedder.embed_documents([Document(text) for text in texts])


def embedder_here(model: Model) -> AbstractContextManager[LoadedEmbedder]:
    """The model, loaded on first use; nobody else in this process uses it in the body."""
    return _shared(model).use()


def check_modalities(model: Model, document: Document) -> None:
    """Raise InputError if the model does not take the document's images or videos."""
    for kind, values in (("image", document.images), ("video", document.videos)):
        if values and kind not in model.modalities:
            raise InputError(
                f"model {model.name!r} takes no {kind}",
                hint=f"it takes {' and '.join(model.modalities)}; pgmeaning model list shows the others",
            )


# ---------------------------------------------------------------- models, kept once loaded

_kept: dict[str, Shared[LoadedEmbedder]] = {}
_guard = threading.Lock()


def _shared(model: Model) -> Shared[LoadedEmbedder]:
    key = f"{model.name} {model.backend} {fingerprint(model)} {model.options}"
    with _guard:
        return _kept.setdefault(key, Shared(lambda: load_embedder(located(model, Settings().location))))
