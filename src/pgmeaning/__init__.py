"""Search Postgres by meaning.

    import pgmeaning
    client = pgmeaning.connect(dsn)
    client.attach("docs", columns=["title", "body"])
    for hit in client.search("docs", "how to cook rice", k=10, rerank=50): ...

Everything is loaded on first use, so `import pgmeaning` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pgmeaning.version import __version__

if TYPE_CHECKING:
    from pgmeaning import errors
    from pgmeaning.client.async_client import AsyncClient, connect_async
    from pgmeaning.client.client import Client
    from pgmeaning.client.conditions import Condition, where
    from pgmeaning.client.connecting import connect
    from pgmeaning.client.parquet import Imported
    from pgmeaning.client.rerank import Ranked, rerank
    from pgmeaning.client.vectors import Embedding
    from pgmeaning.models.base import load_embedder, load_reranker
    from pgmeaning.types import Cluster, Hit, Label, Match

_HOMES = {
    "AsyncClient": "pgmeaning.client.async_client",
    "Client": "pgmeaning.client.client",
    "connect": "pgmeaning.client.connecting",
    "connect_async": "pgmeaning.client.async_client",
    "Cluster": "pgmeaning.types",
    "Condition": "pgmeaning.client.conditions",
    "Embedding": "pgmeaning.client.vectors",
    "Hit": "pgmeaning.types",
    "Imported": "pgmeaning.client.parquet",
    "Label": "pgmeaning.types",
    "Match": "pgmeaning.types",
    "Ranked": "pgmeaning.client.rerank",
    "load_embedder": "pgmeaning.models.base",
    "load_reranker": "pgmeaning.models.base",
    "rerank": "pgmeaning.client.rerank",
    "where": "pgmeaning.client.conditions",
}

__all__ = [
    "AsyncClient", "Client", "Cluster", "Condition", "Embedding", "Hit", "Imported", "Label", "Match", "Ranked",
    "__version__", "connect", "connect_async", "errors", "load_embedder", "load_reranker", "rerank", "where",
]  # fmt: skip


if not TYPE_CHECKING:  # with it, a type checker would accept every misspelt name

    def __getattr__(name: str) -> object:
        if name == "errors":
            return import_module("pgmeaning.errors")
        if name in _HOMES:
            return getattr(import_module(_HOMES[name]), name)
        raise AttributeError(f"module 'pgmeaning' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
