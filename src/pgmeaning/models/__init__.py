"""Models behind two protocols, `Embedder` and `Reranker`; only this package imports inference libraries."""

from pgmeaning.models.base import Embedder, Reranker, load_embedder, load_reranker

__all__ = ["Embedder", "Reranker", "load_embedder", "load_reranker"]
