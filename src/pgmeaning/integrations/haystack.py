"""Haystack: a document store on an ordinary table, retrievers and a ranker.

Needs the extra [haystack]. The database's model makes the vectors: what a store writes, SQL finds, and the other way.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.dataclasses import ByteStream, SparseEmbedding
    from haystack.document_stores.errors import DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
    from haystack.document_stores.types.filter_policy import apply_filter_policy
    from haystack.errors import FilterError
    from haystack.utils import Secret
except ImportError as error:
    raise ImportError(f"{error}: pip install 'pgmeaning[haystack]'") from error

import pgmeaning
from pgmeaning import Client, Condition, where
from pgmeaning.client.conditions import ORDERINGS, Operand, all_of, any_of, is_moment
from pgmeaning.errors import DatabaseError
from pgmeaning.integrations._text_store import DUPLICATE, OnConflict, Text, TextStore

__all__ = ["PgmeaningDocumentStore", "PgmeaningEmbeddingRetriever", "PgmeaningRanker", "PgmeaningRetriever"]

OPERATORS = {"==": "=", "!=": "!=", ">": ">", ">=": ">=", "<": "<", "<=": "<=", "in": "in", "not in": "not in"}
POLICIES: dict[DuplicatePolicy, OnConflict] = {
    DuplicatePolicy.NONE: "fail", DuplicatePolicy.FAIL: "fail", DuplicatePolicy.SKIP: "skip",
    DuplicatePolicy.OVERWRITE: "update",
}  # fmt: skip
Filters = Mapping[str, Any] | None
T = TypeVar("T")


class PgmeaningDocumentStore:
    """A document store on a table of PostgreSQL, which is made if it does not exist.

    `connection` is a Secret with a DSN, or a Client, which is not serialised. A new table has `id`, `content`,
    `metadata` (jsonb) and `extra`, which keeps blobs, and the embeddings that documents bring: they come back with the
    documents, but the database's model makes those that are searched. A table that there is keeps its columns: its key
    is the id, the column that is embedded the content, the others are meta. One that no collection embeds is attached,
    with the arguments of `attach`, such as `model` and `language`.

    Documents are found as soon as they were written: `wait` seconds are given to a sidecar; with `local`, this process
    embeds documents and queries. It connects on first use; asynchronous methods run in threads.
    """

    def __init__(
        self, connection: Secret | Client = Secret.from_env_var("PGMEANING_DSN"),  # noqa: B008
        table: str = "documents", *, collection: str | None = None, local: bool = False, wait: float = 30,
        **attach: Any,
    ) -> None:  # fmt: skip
        self.connection, self.table, self.collection = connection, table, collection
        self.local, self.wait, self.attach = local, wait, attach
        self._store: TextStore | None = None
        self._opening = threading.Lock()

    @property
    def store(self) -> TextStore:
        """What Haystack's names stand for; it connects on first use."""
        with self._opening:
            if self._store is None:
                given = self.connection
                self._store = TextStore(
                    given.resolve_value() if isinstance(given, Secret) else given, self.table,
                    collection=self.collection, local=self.local, wait=self.wait, **self.attach,
                )  # fmt: skip
        return self._store

    def close(self) -> None:
        """Close the connection, if the store opened it; the next use connects again."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def to_dict(self) -> dict[str, Any]:
        """For a pipeline's file. Raises TypeError for a store that was given a Client."""
        if not isinstance(self.connection, Secret):
            raise TypeError("a store with a Client cannot be serialised: give connection=Secret.from_env_var(...)")
        return default_to_dict(
            self, connection=self.connection.to_dict(), table=self.table, collection=self.collection, local=self.local,
            wait=self.wait, **self.attach,
        )  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PgmeaningDocumentStore:
        """From a pipeline's file."""
        given = data["init_parameters"]
        parameters = {**given, "connection": Secret.from_dict(given["connection"])}
        made: PgmeaningDocumentStore = default_from_dict(cls, {**data, "init_parameters": parameters})
        return made

    # ------------------------------------------------------------ documents

    def count_documents(self) -> int:
        """How many documents there are."""
        return self.store.count()

    def filter_documents(self, filters: Filters = None) -> list[Document]:
        """The documents that the filters let through; None: all. Raises FilterError."""
        return [_document(text) for text in self.store.find(self.condition(filters))]

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Write documents; returns how many. NONE means FAIL.

        Raises DuplicateDocumentError, and then nothing was written; TimedOut if no sidecar embeds them: they are
        stored nevertheless; ValueError for what is no document.
        """
        if not isinstance(documents, list) or not all(isinstance(each, Document) for each in documents):
            raise ValueError(f"write_documents takes a list of Documents, not {documents!r}")
        try:
            return self.store.write([_text(document) for document in documents], on_conflict=POLICIES[policy])[1]
        except DatabaseError as error:
            if error.sqlstate != DUPLICATE:
                raise
            raise DuplicateDocumentError(f"{error}; DuplicatePolicy.OVERWRITE would replace it") from error

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents by id; those that there are not are passed over."""
        self.store.delete(document_ids)

    def delete_all_documents(self) -> None:
        """Delete all documents; the table stays."""
        self.store.delete_where(None)

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Delete the documents that the filters let through; returns how many."""
        return self.store.delete_where(self.condition(filters))

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Add to the meta of the documents that the filters let through, or replace it; returns how many."""
        return self.store.update_where(self.condition(filters), meta)

    # ------------------------------------------------------------ metadata

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        """How many documents the filters let through."""
        return self.store.count(self.condition(filters))

    def count_unique_metadata_by_filter(self, filters: dict[str, Any], metadata_fields: list[str]) -> dict[str, int]:
        """How many different values each field has, of the documents that the filters let through."""
        condition = self.condition(filters)
        return {_bare(name): len(self.store.values(self._operand(name), condition)) for name in metadata_fields}

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """The fields, each with a type: text, integer, real, boolean, array, object; "column" for one of its own."""
        names = {"string": "text", "number": "integer"}
        kinds = {key: {"type": names.get(kind, kind)} for key, kind in self.store.metadata_kinds().items()}
        return {**kinds, **{name: {"type": "column"} for name in self.store.layout.fields}}

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """The least and the greatest value of a field: of its numbers, or else of its texts; None if there is none."""
        values = self.store.values(self._operand(metadata_field))
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        ordered: list[Any] = numbers or [value for value in values if isinstance(value, str)]
        return {"min": min(ordered, default=None), "max": max(ordered, default=None)}

    def get_metadata_field_unique_values(
        self, metadata_field: str, search_term: str | None = None, from_: int = 0, size: int | None = 10,
        filters: Filters = None,
    ) -> tuple[list[Any], int]:  # fmt: skip
        """A page of a field's different values, and how many there are; `search_term`: those that it is part of."""
        values = self.store.values(self._operand(metadata_field), self.condition(filters))
        if search_term:
            values = [value for value in values if search_term.lower() in str(value).lower()]
        return values[from_ : None if size is None else from_ + size], len(values)

    # ------------------------------------------------------------ filters

    def condition(self, filters: Filters) -> Condition | None:
        """Haystack's filters as a condition. Raises FilterError for those that make no sense."""
        return _condition(filters, self._operand) if filters else None

    def _operand(self, name: str) -> Operand:
        layout = self.store.layout
        column = {"id": layout.id, "content": layout.content}.get(name)
        if column is not None:
            return column
        return self.store.metadata_operand(*_bare(name).split("."))

    # ------------------------------------------------------------ the same in threads

    async def count_documents_async(self) -> int:
        """See count_documents."""
        return await asyncio.to_thread(self.count_documents)

    async def filter_documents_async(self, filters: Filters = None) -> list[Document]:
        """See filter_documents."""
        return await asyncio.to_thread(self.filter_documents, filters)

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """See write_documents."""
        return await asyncio.to_thread(self.write_documents, documents, policy)

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        """See delete_documents."""
        await asyncio.to_thread(self.delete_documents, document_ids)

    async def delete_all_documents_async(self) -> None:
        """See delete_all_documents."""
        await asyncio.to_thread(self.delete_all_documents)

    async def delete_by_filter_async(self, filters: dict[str, Any]) -> int:
        """See delete_by_filter."""
        return await asyncio.to_thread(self.delete_by_filter, filters)

    async def update_by_filter_async(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """See update_by_filter."""
        return await asyncio.to_thread(self.update_by_filter, filters, meta)

    async def count_documents_by_filter_async(self, filters: dict[str, Any]) -> int:
        """See count_documents_by_filter."""
        return await asyncio.to_thread(self.count_documents_by_filter, filters)

    async def count_unique_metadata_by_filter_async(
        self, filters: dict[str, Any], metadata_fields: list[str]
    ) -> dict[str, int]:
        """See count_unique_metadata_by_filter."""
        return await asyncio.to_thread(self.count_unique_metadata_by_filter, filters, metadata_fields)

    async def get_metadata_fields_info_async(self) -> dict[str, dict[str, str]]:
        """See get_metadata_fields_info."""
        return await asyncio.to_thread(self.get_metadata_fields_info)

    async def get_metadata_field_min_max_async(self, metadata_field: str) -> dict[str, Any]:
        """See get_metadata_field_min_max."""
        return await asyncio.to_thread(self.get_metadata_field_min_max, metadata_field)

    async def get_metadata_field_unique_values_async(
        self, metadata_field: str, search_term: str | None = None, from_: int = 0, size: int | None = 10,
        filters: Filters = None,
    ) -> tuple[list[Any], int]:  # fmt: skip
        """See get_metadata_field_unique_values."""
        return await asyncio.to_thread(
            self.get_metadata_field_unique_values, metadata_field, search_term, from_, size, filters
        )


class _Retrieving:
    """What both retrievers have."""

    def __init__(
        self, document_store: PgmeaningDocumentStore, filters: dict[str, Any] | None = None, top_k: int = 10,
        filter_policy: FilterPolicy | str = FilterPolicy.REPLACE,
    ) -> None:  # fmt: skip
        if not isinstance(document_store, PgmeaningDocumentStore):
            raise ValueError("document_store must be a PgmeaningDocumentStore")
        self.document_store, self.filters, self.top_k = document_store, filters, top_k
        self.filter_policy = FilterPolicy.from_str(filter_policy) if isinstance(filter_policy, str) else filter_policy

    def _found(
        self, query: str | list[float], filters: dict[str, Any] | None, top_k: int | None, **options: Any
    ) -> dict[str, list[Document]]:
        chosen = apply_filter_policy(self.filter_policy, self.filters, filters)
        condition = self.document_store.condition(chosen)
        count = self.top_k if top_k is None else top_k
        found = self.document_store.store.search(query, count, condition, **options)
        return {"documents": [_document(text) for text in found]}

    def _written(self, **more: Any) -> dict[str, Any]:
        return default_to_dict(
            self, document_store=self.document_store.to_dict(), filters=self.filters, top_k=self.top_k,
            filter_policy=self.filter_policy.value, **more,
        )  # fmt: skip

    @classmethod
    def from_dict(cls: type[T], data: dict[str, Any]) -> T:
        """From a pipeline's file."""
        given = data["init_parameters"]
        store = PgmeaningDocumentStore.from_dict(given["document_store"])
        made: T = default_from_dict(cls, {**data, "init_parameters": {**given, "document_store": store}})
        return made


@component
class PgmeaningRetriever(_Retrieving):
    """Retrieves documents nearest in meaning to a text, which the database's model embeds: no embedder is needed.

    `mode` "hybrid" searches for the words, too (where the table was attached with `language`); with `rerank`, that
    many are found first and judged by `reranker` (None: the database's default).
    """

    def __init__(
        self, document_store: PgmeaningDocumentStore, filters: dict[str, Any] | None = None, top_k: int = 10,
        filter_policy: FilterPolicy | str = FilterPolicy.REPLACE, mode: str | None = None, rerank: int | None = None,
        reranker: str | None = None,
    ) -> None:  # fmt: skip
        # component makes the class anew, and super() would look for the old one.
        _Retrieving.__init__(self, document_store, filters, top_k, filter_policy)
        self.mode, self.rerank, self.reranker = mode, rerank, reranker

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """The documents, the best first, with scores: the cosine similarity, or the reranker's judgement."""
        return self._found(query, filters, top_k, mode=self.mode, rerank=self.rerank, reranker=self.reranker)

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """See run."""
        return await asyncio.to_thread(self.run, query, filters, top_k)

    def to_dict(self) -> dict[str, Any]:
        """For a pipeline's file."""
        return self._written(mode=self.mode, rerank=self.rerank, reranker=self.reranker)


@component
class PgmeaningEmbeddingRetriever(_Retrieving):
    """Retrieves documents nearest to a vector, which is of the database's model."""

    @component.output_types(documents=list[Document])
    def run(
        self, query_embedding: list[float], filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """The documents, the nearest first, with the cosine similarity."""
        return self._found(query_embedding, filters, top_k)

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query_embedding: list[float], filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """See run."""
        return await asyncio.to_thread(self.run, query_embedding, filters, top_k)

    def to_dict(self) -> dict[str, Any]:
        """For a pipeline's file."""
        return self._written()


@component
class PgmeaningRanker:
    """Judges documents anew with a reranker that this process loads; None: the current release's."""

    def __init__(self, model: str | None = None, top_k: int | None = 10, instruction: str | None = None) -> None:
        self.model, self.top_k, self.instruction = model, top_k, instruction

    def warm_up(self) -> None:
        """Load the model."""
        pgmeaning.rerank("warm", ["up"], model=self.model)

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """The best documents in the reranker's order, with its judgement, 0..1, as their score."""
        ranked = pgmeaning.rerank(
            query, [document.content or "" for document in documents], model=self.model,
            top_k=self.top_k if top_k is None else top_k, instruction=self.instruction,
        )  # fmt: skip
        return {"documents": [replace(documents[each.index], score=each.score) for each in ranked]}

    def to_dict(self) -> dict[str, Any]:
        """For a pipeline's file."""
        return default_to_dict(self, model=self.model, top_k=self.top_k, instruction=self.instruction)


# ---------------------------------------------------------------- filters


def _condition(filters: Mapping[str, Any], operand: Callable[[str], Operand]) -> Condition:
    if not isinstance(filters, Mapping):
        raise FilterError(f"a filter is a mapping, not {filters!r}")
    if "operator" not in filters:
        raise FilterError(f"a filter without 'operator': {filters!r}")
    if "field" in filters:
        return _comparison(filters, operand)
    if "conditions" not in filters:
        raise FilterError(f"a filter with neither 'field' nor 'conditions': {filters!r}")
    conditions = [_condition(each, operand) for each in filters["conditions"]]
    name = filters["operator"]
    if name not in ("AND", "OR", "NOT"):
        raise FilterError(f"there is no operator {name!r} between conditions; there are: AND, OR, NOT")
    if name == "OR":
        return any_of(conditions)
    return all_of(conditions) if name == "AND" else ~all_of(conditions)


def _comparison(filter: Mapping[str, Any], operand: Callable[[str], Operand]) -> Condition:
    name = filter["operator"]
    if "value" not in filter:
        raise FilterError(f"a condition without 'value': {filter!r}")
    if name not in OPERATORS:
        raise FilterError(f"there is no operator {name!r}; there are: {', '.join(OPERATORS)}")
    value, operator, side = filter["value"], OPERATORS[name], operand(filter["field"])
    if operator in ORDERINGS and isinstance(value, str) and not is_moment(value):
        raise FilterError(f"{name} compares numbers and dates, and {value!r} is neither")
    if operator in ORDERINGS and isinstance(value, list | tuple | dict):
        raise FilterError(f"{name} takes one value, not {value!r}")
    if operator in ("in", "not in") and not isinstance(value, list):
        raise FilterError(f"{name} takes a list, not {value!r}")
    if operator in ("=", "!=") and isinstance(value, str) and is_moment(value) and not isinstance(side, str):
        same = where(side, "=", value) | (where(side, ">=", value) & where(side, "<=", value))
        return same if operator == "=" else ~same
    return where(side, operator, value)


def _bare(name: str) -> str:
    return name.removeprefix("meta.")


# ---------------------------------------------------------------- documents


def _text(document: Document) -> Text:
    """A document as a row: content and meta in columns of their own, the rest in `extra`."""
    given = document.to_dict(flatten=False)
    extra = {name: given[name] for name in ("blob", "embedding", "sparse_embedding") if given[name] is not None}
    return Text(document.id, document.content, dict(document.meta), extra or None)


def _document(text: Text) -> Document:
    kept = text.extra or {}
    blob, sparse = kept.get("blob"), kept.get("sparse_embedding")
    return Document(
        id=str(text.id), content=text.content, meta=text.metadata, score=text.score, embedding=kept.get("embedding"),
        blob=ByteStream.from_dict(blob) if blob else None,
        sparse_embedding=SparseEmbedding.from_dict(sparse) if sparse else None,
    )  # fmt: skip
