"""LangChain: a vector store on an ordinary table, a retriever on a table that there is, embeddings, a reranker.

Needs the extra [langchain]. The database's model makes the vectors: what a store adds, SQL finds, and the other way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.vectorstores import VectorStore
    from pydantic import ConfigDict, Field, PrivateAttr
except ImportError as error:
    raise ImportError(f"{error}: pip install 'pgmeaning[langchain]'") from error

import pgmeaning
from pgmeaning import Client, Condition, where
from pgmeaning.client.conditions import Operand, all_of, any_of
from pgmeaning.errors import ArgumentError
from pgmeaning.integrations._text_store import Layout, Text, TextStore

__all__ = ["PgmeaningEmbeddings", "PgmeaningReranker", "PgmeaningRetriever", "PgmeaningVectorStore", "condition"]

# MongoDB's names for operators, as other stores of LangChain have them.
OPERATORS = {
    "$eq": "=", "$ne": "!=", "$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">=", "$in": "in", "$nin": "not in",
    "$like": "like", "$ilike": "ilike", "$contains": "contains", "$any": "any", "$all": "all", "$exists": "exists",
}  # fmt: skip
Filter = Mapping[str, Any] | Condition | None


class PgmeaningEmbeddings(Embeddings):
    """The vectors of a database's model, made by a sidecar; with `local`, by this process.

    `connection` is a Client or a DSN. With `collection`, they are of its model and length; else of `model`, or of the
    only model that the database's collections use.
    """

    def __init__(
        self, connection: Client | str | None = None, *, collection: str | None = None, model: str | None = None,
        local: bool = False, timeout: float = 60,
    ) -> None:  # fmt: skip
        self.client = connection if isinstance(connection, Client) else pgmeaning.connect(connection or "")
        self.collection, self.model, self.local, self.timeout = collection, model, local, timeout

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of texts that are to be found."""
        return self._embedded(texts, as_query=False)

    def embed_query(self, text: str) -> list[float]:
        """The vector of a text to search for."""
        return self._embedded([text], as_query=True)[0]

    def _embedded(self, texts: list[str], *, as_query: bool) -> list[list[float]]:
        made = self.client.embed_many(
            texts, collection=self.collection, model=self.model, as_query=as_query, local=self.local,
            timeout=self.timeout,
        )  # fmt: skip
        return [vector.tolist() for vector in made]


class PgmeaningVectorStore(VectorStore):
    """A vector store on a table of PostgreSQL, which is made if it does not exist.

    `connection` is a Client or a DSN; None: libpq's PG* variables. A new table has `id`, `content`, `metadata` (jsonb)
    and `extra`. A table that there is keeps its columns: its key is the id, the column that is embedded the text, and
    the others are metadata; `content`, `metadata` and `fields` name them otherwise. A table that no collection embeds
    is attached, with `model`, `dimensions`, `language` and the other arguments of `attach`.

    Documents are found as soon as they were added: `wait` seconds are given to a sidecar; with `local`, this process
    embeds documents and queries, and no sidecar need run. Any thread may use it; asynchronous methods run in threads.
    """

    def __init__(
        self, connection: Client | str | None = None, table: str = "documents", *, collection: str | None = None,
        content: str | None = None, metadata: str | None = None, fields: Sequence[str] | None = None, id: str = "id",
        local: bool = False, wait: float = 30, **attach: Any,
    ) -> None:  # fmt: skip
        named = content is not None or metadata is not None or fields is not None
        layout = Layout(id, content, metadata, None, tuple(fields or ())) if named else None
        self.store = TextStore(
            connection, table, collection=collection, layout=layout, local=local, wait=wait, **attach
        )  # fmt: skip

    @property
    def client(self) -> Client:
        """The connection to the database; one thread at a time may use it."""
        return self.store.client

    @property
    def embeddings(self) -> PgmeaningEmbeddings:
        """The embeddings of the store's own model."""
        return PgmeaningEmbeddings(self.client, collection=self.store.collection, local=self.store.local)

    def close(self) -> None:
        """Close the connection, if the store opened it."""
        self.store.close()

    # ------------------------------------------------------------ writing

    def add_texts(
        self, texts: Iterable[str], metadatas: list[dict[str, Any]] | None = None, *,
        ids: Sequence[str | None] | None = None, **kwargs: Any,
    ) -> list[str]:  # fmt: skip
        """Add texts, or replace those with the same ids; returns their ids.

        Raises TimedOut if no sidecar embedded them (they are stored nevertheless), ArgumentError for lists of unequal
        length, or for metadata that a table of yours has no column for.
        """
        given = list(texts)
        described = metadatas if metadatas is not None else [{} for _ in given]
        named = list(ids) if ids is not None else [None] * len(given)
        if not len(given) == len(described) == len(named):
            raise ArgumentError(
                f"there are {len(given)} texts, {len(described)} metadatas and {len(named)} ids",
                hint="give as many of each",
            )
        return self.store.add(
            [Text(id, text, dict(about or {})) for id, text, about in zip(named, given, described, strict=True)]
        )

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents by id; without ids, those that `filter` lets through. Raises ArgumentError for neither."""
        chosen = kwargs.get("filter")
        if ids is not None:
            self.store.delete(ids)
        elif chosen is not None:
            self.store.delete_where(self._condition(chosen))
        else:
            raise ArgumentError("nothing says what to delete", hint="give ids, or filter; filter={} means everything")
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents with these ids, in their order; those that there are not are left out."""
        return [_document(text) for text in self.store.get(ids)]

    @classmethod
    def from_texts(
        cls, texts: list[str], embedding: Embeddings | None = None, metadatas: list[dict[str, Any]] | None = None, *,
        ids: list[str] | None = None, **kwargs: Any,
    ) -> Self:  # fmt: skip
        """A store with texts added. The database's model embeds them: `embedding` is PgmeaningEmbeddings, or None."""
        if embedding is not None:
            if not isinstance(embedding, PgmeaningEmbeddings):
                raise ArgumentError(
                    f"embedding is a {type(embedding).__name__}, but the database's own model embeds",
                    hint="leave it out, or give PgmeaningEmbeddings(connection, model=...)",
                )
            told = {"model": embedding.model} if embedding.model else {}
            kwargs = {"connection": embedding.client, "local": embedding.local, **told, **kwargs}
        store = cls(**kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    # ------------------------------------------------------------ searching

    def similarity_search(self, query: str, k: int = 4, filter: Filter = None, **kwargs: Any) -> list[Document]:
        """The k documents nearest to a text. `mode="hybrid"` searches for its words, too; `rerank` judges that many."""
        return [document for document, _ in self.similarity_search_with_score(query, k, filter, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The same with scores, higher is better: the cosine similarity, or the reranker's judgement."""
        found = self.store.search(query, k, self._condition(filter), **kwargs)
        return [(_document(text), text.score or 0.0) for text in found]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[Document]:
        """The k documents nearest to a vector of the store's own model."""
        return [_document(text) for text in self.store.search(embedding, k, self._condition(filter), **kwargs)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, filter: Filter = None, **kwargs: Any
    ) -> list[Document]:
        """k of the `fetch_k` nearest documents that differ from each other; `lambda_mult` 1 counts nearness alone."""
        found = self.store.diverse(query, k, fetch_k, lambda_mult, self._condition(filter))
        return [_document(text) for text in found]

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, filter: Filter = None,
        **kwargs: Any,
    ) -> list[Document]:  # fmt: skip
        """The same for a vector of the store's own model."""
        found = self.store.diverse(embedding, k, fetch_k, lambda_mult, self._condition(filter))
        return [_document(text) for text in found]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """Scores are similarities already; LangChain wants none below 0."""
        return lambda score: max(0.0, score)

    def _condition(self, filter: Filter) -> Condition | None:
        return condition(filter, self.store.metadata_operand)

    # ------------------------------------------------------------ the same in threads

    async def asimilarity_search_with_score(self, *args: Any, **kwargs: Any) -> list[tuple[Document, float]]:
        """See similarity_search_with_score."""
        return await asyncio.to_thread(self.similarity_search_with_score, *args, **kwargs)

    async def amax_marginal_relevance_search(self, *args: Any, **kwargs: Any) -> list[Document]:
        """See max_marginal_relevance_search."""
        return await asyncio.to_thread(self.max_marginal_relevance_search, *args, **kwargs)

    async def amax_marginal_relevance_search_by_vector(self, *args: Any, **kwargs: Any) -> list[Document]:
        """See max_marginal_relevance_search_by_vector."""
        return await asyncio.to_thread(self.max_marginal_relevance_search_by_vector, *args, **kwargs)

    @classmethod
    async def afrom_texts(cls, *args: Any, **kwargs: Any) -> Self:
        """See from_texts."""
        return await asyncio.to_thread(cls.from_texts, *args, **kwargs)


class PgmeaningRetriever(BaseRetriever):
    """Retrieves rows of a collection as documents: of a table of yours, without a vector store.

    The text of a document is what was embedded of the row (of the chunk, if there are several); `content` names a
    column instead. Its metadata are the other columns, or those in `fields`, and `score`. `filter` is SQL, a mapping
    of columns, or what `pgmeaning.where` makes; the other fields are the arguments of `Client.search`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    connection: Any = None
    collection: str
    k: int = 4
    content: str | None = None
    fields: tuple[str, ...] | None = None
    filter: Any = None
    filter_params: tuple[Any, ...] | None = None
    mode: str | None = None
    rerank: int | None = None
    reranker: Any = None
    timeout: float = 10
    local: bool = Field(default=False, description="embed queries in this process, without a sidecar")
    _store: TextStore = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Connect."""
        self._store = TextStore(self.connection, collection=self.collection, local=self.local)
        chosen = self._store.layout
        content = self.content or (chosen.content if self.fields is None else None)
        fields = chosen.fields if self.fields is None else tuple(self.fields)
        kept = None if self.fields is not None else chosen.metadata
        self._store.layout = Layout(chosen.id, content, kept, None, tuple(f for f in fields if f != content))

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        options = {name: kwargs.get(name, getattr(self, name)) for name in ("mode", "rerank", "reranker", "timeout")}
        wanted = kwargs.get("filter", self.filter)
        params = kwargs.get("filter_params", self.filter_params)
        found = self._store.search(query, kwargs.get("k", self.k), wanted, filter_params=params, **options)
        return [_document(text, {"score": text.score}) for text in found]


class PgmeaningReranker(BaseDocumentCompressor):
    """Judges documents anew, and keeps the best: for ContextualCompressionRetriever, or on its own.

    `model` is the name of a reranker, which this process loads; None: the current release's. The judgement, 0..1, is
    in the metadata as `relevance_score`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    model: str | None = None
    reranker: Any = None
    top_n: int | None = 3
    instruction: str | None = None

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best `top_n` (None: all) in the order of the reranker."""
        ranked = pgmeaning.rerank(
            query, [document.page_content for document in documents], model=self.model, reranker=self.reranker,
            top_k=self.top_n, instruction=self.instruction,
        )  # fmt: skip
        return [
            documents[each.index].model_copy(
                update={"metadata": {**documents[each.index].metadata, "relevance_score": each.score}}
            )
            for each in ranked
        ]


def condition(filter: Filter, operand: Callable[..., Operand]) -> Condition | None:
    """A filter as other stores of LangChain take it, such as {"year": {"$gte": 2020}, "$or": [{...}, {...}]}.

    A key is a key of the metadata; with dots, it is the path to a value in it, where no column has that very name.
    """
    if filter is None or isinstance(filter, Condition):
        return filter
    if not isinstance(filter, Mapping):
        raise ArgumentError(f"filter is {filter!r}", hint='give a mapping, such as {"year": {"$gte": 2020}}')
    return all_of(_conditions(filter, operand))


def _conditions(filter: Mapping[str, Any], operand: Callable[..., Operand]) -> Iterator[Condition]:
    for key, value in filter.items():
        if key in ("$and", "$or"):
            if not isinstance(value, list | tuple):
                raise ArgumentError(f"{key} takes a list of filters, not {value!r}", hint='{"$or": [{...}, {...}]}')
            yield (all_of if key == "$and" else any_of)([condition(each, operand) or all_of([]) for each in value])
        elif key == "$not":
            yield ~(condition(value, operand) or all_of([]))
        elif key.startswith("$"):
            raise ArgumentError(f"there is no operator {key!r}", hint="between filters: $and, $or, $not")
        elif isinstance(value, Mapping) and any(str(name).startswith("$") for name in value):
            yield from (_compared(operand(*key.split(".")), name, given) for name, given in value.items())
        else:
            yield where(operand(*key.split(".")), "=", value)


def _compared(side: Operand, name: str, value: Any) -> Condition:
    if name == "$between":
        low, high = value
        return where(side, ">=", low) & where(side, "<=", high)
    if name not in OPERATORS:
        raise ArgumentError(f"there is no operator {name!r}", hint=f"there are: {', '.join([*OPERATORS, '$between'])}")
    return where(side, OPERATORS[name], value)


def _document(text: Text, more: Mapping[str, Any] | None = None) -> Document:
    return Document(id=text.id, page_content=text.content or "", metadata={**text.metadata, **(more or {})})
