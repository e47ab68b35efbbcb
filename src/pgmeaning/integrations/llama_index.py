"""LlamaIndex: a vector store on an ordinary table, a retriever on a table that there is, and embeddings.

Needs the extra [llama-index]. The database's model makes the vectors: what a store adds, SQL finds, and the other way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        FilterCondition,
        FilterOperator,
        MetadataFilter,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
except ImportError as error:
    raise ImportError(f"{error}: pip install 'pgmeaning[llama-index]'") from error

import pgmeaning
from pgmeaning import Client, Condition, where
from pgmeaning.client.conditions import all_of, any_of
from pgmeaning.errors import ArgumentError
from pgmeaning.integrations._text_store import Layout, Text, TextStore

__all__ = ["PgmeaningEmbedding", "PgmeaningRetriever", "PgmeaningVectorStore"]

OPERATORS = {
    FilterOperator.EQ: "=", FilterOperator.NE: "!=", FilterOperator.LT: "<", FilterOperator.LTE: "<=",
    FilterOperator.GT: ">", FilterOperator.GTE: ">=", FilterOperator.IN: "in", FilterOperator.NIN: "not in",
    FilterOperator.ANY: "any", FilterOperator.ALL: "all", FilterOperator.CONTAINS: "contains",
    FilterOperator.TEXT_MATCH: "holds", FilterOperator.TEXT_MATCH_INSENSITIVE: "iholds",
    FilterOperator.IS_EMPTY: "empty",
}  # fmt: skip


class PgmeaningVectorStore(BasePydanticVectorStore):
    """A vector store on a table of PostgreSQL, which is made if it does not exist.

    `connection` is a Client or a DSN; None: libpq's PG* variables. A new table has `id`, `content`, `metadata` (jsonb)
    and `extra`, which keeps what else a node is. A table that there is keeps its columns: its key is the id, the column
    that is embedded the text, the others are metadata. One that no collection embeds is attached, with the arguments of
    `attach`.

    The text is embedded by the database's model, whatever embedding a node brings; nodes need none. Nodes are found as
    soon as they were added: `wait` seconds are given to a sidecar; with `local`, this process embeds nodes and queries.
    """

    stores_text: bool = True
    is_embedding_query: bool = False  # a query is embedded by the database's model
    _store: TextStore = PrivateAttr()

    def __init__(
        self, connection: Client | str | None = None, table: str = "documents", *, collection: str | None = None,
        local: bool = False, wait: float = 30, **attach: Any,
    ) -> None:  # fmt: skip
        super().__init__(stores_text=True, is_embedding_query=False)
        self._store = TextStore(connection, table, collection=collection, local=local, wait=wait, **attach)

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex writes down."""
        return "PgmeaningVectorStore"

    @property
    def client(self) -> Client:
        """The connection to the database; one thread at a time may use it."""
        return self._store.client

    def close(self) -> None:
        """Close the connection, if the store opened it."""
        self._store.close()

    # ------------------------------------------------------------ writing

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes, or replace those with the same ids; returns their ids. Raises TimedOut if no sidecar embeds."""
        return self._store.add([_text(node) for node in nodes])

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document."""
        self._store.delete_where(self._of_documents([ref_doc_id]))

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete nodes by id, by filter, or those that are both. Raises ArgumentError for neither: see clear."""
        if node_ids is None and filters is None:
            raise ArgumentError("nothing says what to delete", hint="give node_ids or filters, or call clear()")
        self._store.delete_where(all_of(self._chosen(node_ids, filters)))

    def clear(self) -> None:
        """Delete all nodes; the table stays."""
        self._store.delete_where(None)

    # ------------------------------------------------------------ reading

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """The nodes with these ids, and that the filters let through; None: all."""
        return [_node(text) for text in self._store.find(all_of(self._chosen(node_ids, filters)))]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes nearest to the query's text, or else to its vector, which is of the database's model.

        Modes: default, hybrid (for a table that was attached with `language`) and mmr (`mmr_threshold`: 1 counts
        nearness alone). Raises ArgumentError for other modes.
        """
        wanted = query.query_str if query.query_str is not None else query.query_embedding
        if wanted is None:
            raise ArgumentError("the query has neither a text nor a vector", hint="give query_str")
        condition = self._condition_of(query)
        if query.mode == VectorStoreQueryMode.MMR:
            balance = 0.5 if query.mmr_threshold is None else query.mmr_threshold
            candidates = kwargs.get("mmr_prefetch_k") or 4 * query.similarity_top_k
            found = self._store.diverse(wanted, query.similarity_top_k, candidates, balance, condition)
        elif query.mode in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.HYBRID):
            mode = "hybrid" if query.mode == VectorStoreQueryMode.HYBRID else None
            count = query.hybrid_top_k if mode and query.hybrid_top_k else query.similarity_top_k
            found = self._store.search(wanted, count, condition, mode=mode, **kwargs)
        else:
            raise ArgumentError(f"there is no query mode {query.mode.value!r}", hint="there are: default, hybrid, mmr")
        return VectorStoreQueryResult(
            nodes=[_node(text) for text in found], similarities=[text.score or 0.0 for text in found],
            ids=[str(text.id) for text in found],
        )  # fmt: skip

    # ------------------------------------------------------------ the same in threads

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """See add."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """See delete."""
        await asyncio.to_thread(self.delete, ref_doc_id)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """See delete_nodes."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters)

    async def aclear(self) -> None:
        """See clear."""
        await asyncio.to_thread(self.clear)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """See get_nodes."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """See query."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    # ------------------------------------------------------------ filters

    def _condition_of(self, query: VectorStoreQuery) -> Condition:
        # An empty list means "not said": so an index that keeps no list of its nodes asks.
        conditions = self._chosen(query.node_ids or None, query.filters)
        if query.doc_ids:
            conditions.append(self._of_documents(query.doc_ids))
        return all_of(conditions)

    def _chosen(self, node_ids: Sequence[str] | None, filters: MetadataFilters | None) -> list[Condition]:
        chosen = [] if node_ids is None else [where(self._store.layout.id, "in", list(node_ids))]
        return chosen if filters is None else [*chosen, self._combined(filters)]

    def _combined(self, filters: MetadataFilters) -> Condition:
        conditions = [
            self._combined(each) if isinstance(each, MetadataFilters) else self._compared(each)
            for each in filters.filters
        ]
        if filters.condition == FilterCondition.OR:
            return any_of(conditions)
        return ~any_of(conditions) if filters.condition == FilterCondition.NOT else all_of(conditions)

    def _compared(self, one: MetadataFilter) -> Condition:
        operand = self._store.metadata_operand(one.key)
        if one.operator == FilterOperator.IS_EMPTY:
            return where(operand, "empty") | where(operand, "=", None)
        return where(operand, OPERATORS[one.operator], one.value)

    def _of_documents(self, ids: Sequence[str]) -> Condition:
        """The nodes of documents; where the table keeps no nodes, a row is a document."""
        layout = self._store.layout
        return where(layout.id if layout.extra is None else (layout.extra, "ref_doc_id"), "in", list(ids))


class PgmeaningRetriever(BaseRetriever):
    """Retrieves rows of a collection as nodes: of a table of yours, without an index.

    The text of a node is what was embedded of the row (of the chunk, if there are several), its metadata the other
    columns. The other arguments are those of `Client.search`; with `local`, this process embeds the query.
    """

    def __init__(
        self, connection: Client | str | None, collection: str, *, k: int = 4, filter: Any = None,
        filter_params: Sequence[object] | None = None, local: bool = False, **search: Any,
    ) -> None:  # fmt: skip
        self._store = TextStore(connection, collection=collection, local=local)
        chosen = self._store.layout
        self._store.layout = Layout(chosen.id, chosen.content, chosen.metadata, None, chosen.fields)
        self._k, self._filter, self._params, self._search = k, filter, filter_params, search
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = self._store.search(
            query_bundle.query_str, self._k, self._filter, filter_params=self._params, **self._search
        )  # fmt: skip
        return [NodeWithScore(node=_node(text), score=text.score) for text in found]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


class PgmeaningEmbedding(BaseEmbedding):
    """The vectors of a database's model, made by a sidecar; with `local`, by this process.

    With `collection`, they are of its model and length; else of `model`, or of the only model in use.
    """

    _client: Client = PrivateAttr()
    _options: dict[str, Any] = PrivateAttr()

    def __init__(
        self, connection: Client | str | None = None, *, collection: str | None = None, model: str | None = None,
        local: bool = False, timeout: float = 60, **settings: Any,
    ) -> None:  # fmt: skip
        super().__init__(model_name=model or collection or "pgmeaning", **settings)
        self._client = connection if isinstance(connection, Client) else pgmeaning.connect(connection or "")
        self._options = {"collection": collection, "model": model, "local": local, "timeout": timeout}

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex writes down."""
        return "PgmeaningEmbedding"

    def _embedded(self, texts: list[str], *, as_query: bool) -> list[list[float]]:
        return [vector.tolist() for vector in self._client.embed_many(texts, as_query=as_query, **self._options)]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embedded([query], as_query=True)[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embedded([text], as_query=False)[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embedded(texts, as_query=False)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)


# ---------------------------------------------------------------- nodes


def _text(node: BaseNode) -> Text:
    """A node as a row: its text and metadata in columns of their own, the rest in `extra`."""
    kept = node_to_metadata_dict(node, remove_text=True, flat_metadata=False)
    rest = json.loads(kept["_node_content"])
    rest.pop("metadata", None)
    extra = {"node": rest, "type": kept["_node_type"], "ref_doc_id": node.ref_doc_id}
    return Text(node.node_id, node.get_content(metadata_mode=MetadataMode.NONE), dict(node.metadata), extra)


def _node(text: Text) -> BaseNode:
    if not text.extra or "node" not in text.extra:  # a row that SQL has inserted
        return TextNode(id_=str(text.id), text=text.content or "", metadata=text.metadata)
    content = json.dumps({**text.extra["node"], "metadata": text.metadata})
    return metadata_dict_to_node({"_node_content": content, "_node_type": text.extra["type"]}, text.content or "")
