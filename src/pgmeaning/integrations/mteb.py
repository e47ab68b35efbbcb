"""MTEB: what a database's model is worth on its tasks, alone or with the search around it.

Needs the extra [mteb]. `mteb.evaluate(PgmeaningEncoder(client), tasks)` measures the model; with PgmeaningSearch,
documents go into a table, and are found as an application would find them: index, words, reranker and all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

try:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.types import PromptType
except ImportError as error:
    raise ImportError(f"{error}: pip install 'pgmeaning[mteb]'") from error

import numpy as np
from numpy.typing import NDArray

import pgmeaning
from pgmeaning import Client, where
from pgmeaning.errors import ArgumentError, CollectionError
from pgmeaning.integrations._text_store import Text, TextStore
from pgmeaning.models.registry import fingerprint

__all__ = ["PgmeaningEncoder", "PgmeaningSearch"]

PAGE = 1000


class PgmeaningEncoder(AbsEncoder):  # type: ignore[misc]
    """A database's embedding model as an encoder of MTEB: of a collection, by name, or the only one in use.

    Queries and documents get the model's own prompts; a task's are not used. With `local`, this process loads the
    model; else a sidecar has it.
    """

    def __init__(
        self, connection: Client | str | None = None, model: str | None = None, *, collection: str | None = None,
        local: bool = False, timeout: float = 600,
    ) -> None:  # fmt: skip
        self.client = connection if isinstance(connection, Client) else pgmeaning.connect(connection or "")
        self._options: dict[str, Any] = {"collection": collection, "model": model, "local": local, "timeout": timeout}
        used, length = self.client._embedder(collection, model)
        self.mteb_model_meta = _meta(self.client, used, length)

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None, **kwargs: Any
    ) -> NDArray[np.float32]:
        """The vectors of a DataLoader's texts, float32 [n, d]."""
        texts = [text for batch in inputs for text in batch["text"]]
        return self._vectors(texts, as_query=prompt_type == PromptType.query)

    def _vectors(self, texts: Sequence[str], *, as_query: bool) -> NDArray[np.float32]:
        pages = [texts[start : start + PAGE] for start in range(0, len(texts), PAGE)]
        made = [self.client.embed_many(page, as_query=as_query, **self._options) for page in pages]
        return np.array([vector for page in made for vector in page], np.float32)


class PgmeaningSearch:
    """A table that is searched, for MTEB's retrieval and reranking tasks.

    A task's documents go into a table of their own, `table` with the task's name behind it, which stays: a second run
    embeds what has changed. With `collection`, its rows are searched instead, whose keys are the ids of the documents;
    nothing is written. `mode`, `rerank` and `reranker` are those of `Client.search`; `attach` has arguments of
    `Client.attach`, such as `model`, `dimensions` and `language`. With `local`, this process embeds.
    """

    def __init__(
        self, connection: Client | str | None = None, *, table: str = "mteb", collection: str | None = None,
        mode: str | None = None, rerank: int | None = None, reranker: str | None = None, local: bool = False,
        wait: float = 3600, **attach: Any,
    ) -> None:  # fmt: skip
        self.client = connection if isinstance(connection, Client) else pgmeaning.connect(connection or "")
        self._table, self._collection, self._local, self._wait = table, collection, local, wait
        self._attach = attach
        self._options: dict[str, Any] = {"mode": mode, "rerank": rerank, "reranker": reranker}
        self._store: TextStore | None = None
        if collection is not None:
            self._store = TextStore(self.client, collection=collection, local=local)
            used, length = self.client._embedder(collection, None)
        else:
            used, length = attach.get("model") or _default(self.client), attach.get("dimensions")
        ways = [name for name in (mode, "reranked" if rerank else None) if name]
        self._meta = _meta(self.client, used, length, "-".join(["search", *ways]))

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """The model's name, with the way of searching behind it; its revision is the model's fingerprint."""
        return self._meta

    def index(
        self, corpus: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, encode_kwargs: Any = None,
        num_proc: int | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        """Put a task's documents into their table, and wait until all are embedded.

        Raises CollectionError where a given collection lacks some of them, TimedOut where no sidecar embeds.
        """
        if self._collection is not None:
            self._check_there([str(document["id"]) for document in corpus])
            return
        name = _table_name(self._table, task_metadata.name, hf_split, hf_subset)
        self._store = TextStore(self.client, name, local=self._local, wait=self._wait, **self._attach)
        given: set[str] = set()
        for page in _pages(corpus):
            self._store.add([Text(str(document["id"]), _text_of(document)) for document in page])
            given.update(str(document["id"]) for document in page)
        self._store.delete([str(text.id) for text in self._store.find() if text.id not in given])

    def search(
        self, queries: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, top_k: int, encode_kwargs: Any = None,
        top_ranked: Mapping[str, Sequence[str]] | None = None, num_proc: int | None = None, **kwargs: Any,
    ) -> dict[str, dict[str, float]]:  # fmt: skip
        """For each query the best documents with their scores; of `top_ranked`, where that says which."""
        store = self._store
        if store is None:
            raise ArgumentError("there is no index to search", hint="call index() first")
        names, texts = [str(id) for id in queries["id"]], _query_texts(queries)
        found: dict[str, dict[str, float]] = {}
        for name, query in zip(names, self._asked(store, texts), strict=True):
            among = None if top_ranked is None else list(top_ranked.get(name, ()))
            condition = None if among is None else where(store.layout.id, "in", among)
            best = [] if query is None or among == [] else store.search(query, top_k, condition, **self._options)
            found[name] = {str(text.id): float(text.score or 0.0) for text in best}
        return found

    def _asked(self, store: TextStore, texts: Sequence[str]) -> Iterator[Any]:
        """What is searched for: vectors, made together, unless the search takes the text; None for a blank one."""
        if any(self._options.values()):
            yield from (text if text.strip() else None for text in texts)
            return
        for start in range(0, len(texts), PAGE):
            page = texts[start : start + PAGE]
            wanted = [text for text in page if text.strip()]
            made = iter(self.client.embed_many(wanted, collection=store.collection, local=self._local, timeout=600))
            yield from (next(made) if text.strip() else None for text in page)

    def _check_there(self, ids: Sequence[str]) -> None:
        assert self._store is not None
        there = {text.id for text in self._store.get(ids)}
        missing = [id for id in ids if id not in there]
        if missing:
            raise CollectionError(
                f"collection {self._collection!r} lacks {len(missing)} of the task's documents, such as {missing[0]!r}",
                hint="leave out collection: a table is made for the task",
            )


def _meta(client: Client, model: str, dimensions: int | None, way: str | None = None) -> ModelMeta:
    known = client.model(model)
    named = f"pgmeaning/{model}" if way is None else f"pgmeaning/{model}-{way}"
    return ModelMeta.create_empty({
        "name": re.sub(r"[^\w./-]", "_", named), "revision": fingerprint(known)[:12],
        "embed_dim": dimensions or known.dimensions, "max_tokens": known.max_tokens,
        "similarity_fn_name": ScoringFunction.COSINE, "modalities": ["text"],
    })  # fmt: skip


def _default(client: Client) -> str:
    return str(next(
        each["name"] for each in client.models() if each["kind"] == "embedder" and each["status"] == "default"
    ))  # fmt: skip


def _table_name(prefix: str, *parts: str) -> str:
    """At most 40 characters of small letters, digits and underscores, so that the names of the vectors' table fit."""
    return re.sub(r"\W+", "_", "_".join([prefix, *parts]).lower())[:40].strip("_")


def _pages(documents: Any) -> Iterator[list[Mapping[str, Any]]]:
    page: list[Mapping[str, Any]] = []
    for document in documents:
        page.append(document)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page


def _text_of(document: Mapping[str, Any]) -> str:
    """A document's title and text, as MTEB's own encoders get them."""
    return " ".join(part for part in (document.get("title"), document["text"]) if part).strip()


def _query_texts(queries: Any) -> list[str]:
    """The queries' texts, with what a task instructs, or what was said before in a dialogue."""
    return [
        " ".join(part for part in (_said(query["text"]), query.get("instruction")) if part).strip() for query in queries
    ]


def _said(text: Any) -> str:
    if isinstance(text, str):
        return text
    return "; ".join(turn["content"] if isinstance(turn, Mapping) else str(turn) for turn in text)
