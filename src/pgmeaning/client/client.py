"""What applications use: attach, search, rerank; always with the caller's privileges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg
from pgvector import Vector
from psycopg.sql import Identifier
from psycopg.types.json import Jsonb

from pgmeaning.client.arguments import (
    After,
    AnyVector,
    Filter,
    cursor,
    filtered,
    jsonb,
    of_model,
    pair_or_none,
    texts,
    texts_or_none,
    whole,
    whole_or_none,
)
from pgmeaning.client.asking import Asking
from pgmeaning.client.diversity import Diversity
from pgmeaning.client.doctor import Diagnosis, examine
from pgmeaning.client.doctor import adopt as adopt_column
from pgmeaning.client.evaluating import AnyQueries, Searching, given_queries, options_of, recorded
from pgmeaning.client.links import Borrowed, Link
from pgmeaning.client.parquet import Transfers
from pgmeaning.client.query_vectors import check_modalities, embed_here, query_document
from pgmeaning.client.relations import Relations
from pgmeaning.client.rerank import loaded_reranker, rerank
from pgmeaning.client.rows import document_of, without
from pgmeaning.client.statements import Statements
from pgmeaning.client.stored_rows import StoredRows
from pgmeaning.client.swaps import Swaps
from pgmeaning.client.vectors import Embedding
from pgmeaning.database import targets
from pgmeaning.errors import ArgumentError, DatabaseError, InputError, ModelNotFound
from pgmeaning.evaluation import Evaluation
from pgmeaning.evaluation.answers import Progress
from pgmeaning.evaluation.run import evaluate
from pgmeaning.models.base import Reranker
from pgmeaning.models.registry import fingerprint
from pgmeaning.releases.agreement import read, write
from pgmeaning.releases.check import Finding
from pgmeaning.releases.registry import describe, findings, use
from pgmeaning.settings import Settings
from pgmeaning.types import Document, Hit, Model

# The kind and the status of the model that attach() takes if none is named.
DEFAULT = ("embedder", "default")


class Client(Relations, Swaps, StoredRows, Diversity, Transfers):
    """A database with pgmeaning. Threads may share it: over one connection they take turns, with a pool or an engine
    each has a connection of its own."""

    def __init__(self, link: Link | psycopg.Connection[Any]) -> None:
        self._link = Borrowed(lambda: link) if isinstance(link, psycopg.Connection) else link
        self._statements = Statements(self._link)
        self._asking = Asking(self._statements)

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The client's connection, in autocommit mode where it is its own. It is another one after a reconnect.

        Raises ArgumentError where it takes connections of a pool or an engine.
        """
        return self._link.connection

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """One transaction, for all that this thread calls in the block and for statements over the connection it gives.

        If the connection is lost meanwhile, what follows raises ConnectionFailed, and nothing of it remains.
        """
        with self._statements.using() as connection, connection.transaction():
            yield connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the client's own connection; one that it was given is its owner's to close."""
        self._link.close()

    def attach(
        self, source: str, columns: Sequence[str] | None = None, template: str | None = None,
        collection: str | None = None, *, image: str | None = None, video: str | None = None, model: str | None = None,
        dimensions: int | None = None, vector_type: str = "vector", chunking: Mapping[str, Any] | None = None,
        language: str | None = None, grant_to: Sequence[str] | None = None, always: bool = False,
        allow_deprecated: bool = False, adopt: str | None = None,
    ) -> str:  # fmt: skip
        """Embed columns of a table from now on; returns the collection's name. `source` is quoted as in SQL.

        `chunking`, such as {"method": "tokens", "size": 512, "overlap": 64}, cuts long texts into chunks, each with a
        vector of its own; the other methods are "sentences", "paragraphs" and "markdown".

        `language`, such as 'english', stores the words of each row beside its vector, for search(mode="hybrid").
        `vector_type` 'halfvec' takes two bytes per number instead of four.

        `always` lets the triggers fire for writes by logical replication too; it takes the table owner's rights.

        `adopt`, a vector column of the table, is taken up instead of embedding all rows, if a sample of it is of the
        model and the present texts: see `doctor`. Meanwhile the collection is paused.

        Raises CollectionError for a table, column or name that cannot be used, ModelNotFound, DatabaseError;
        ArgumentError for a column to adopt that is not of the model, or with chunking, an image or a video.
        """
        if adopt is not None:
            if chunking or image or video:
                raise ArgumentError(
                    "a column has one vector a row, of a text: adopt goes with no chunking, image or video",
                    hint="leave them out, or leave out adopt",
                )
            with self._statements.using() as connection:
                column = Identifier(adopt).as_string(connection)
            self._check_adoptable(f"{source}.{column}", model, columns, template)
        arguments = {
            "source": source, "columns": texts_or_none("columns", columns), "template": template,
            "collection": collection, "image": image, "video": video, "model": model,
            "dimensions": whole_or_none("dimensions", dimensions), "vector_type": vector_type,
            "chunking": None if chunking is None else Jsonb(dict(chunking)), "language": language,
            "grant_to": texts_or_none("grant_to", grant_to), "always": always, "allow_deprecated": allow_deprecated,
        }  # fmt: skip
        if adopt is None:
            return str(self._statements.value("attach", arguments))
        with self.transaction():
            name = str(self._statements.value("attach", arguments))
            self.pause(name)  # or a sidecar would embed what is taken up
        try:
            adopt_column(self._statements, name, adopt)
        finally:
            self.resume(name)
        return name

    def _check_adoptable(
        self, column: str, model: str | None, texts: Sequence[str] | None, template: str | None
    ) -> None:
        wanted = model or next(each["name"] for each in self.models() if (each["kind"], each["status"]) == DEFAULT)
        found = self.doctor(column, wanted, texts or (), template=template)
        if not found.passed:
            raise ArgumentError(f"column {column} cannot be adopted: {found.verdict}", hint=found.next_step)

    def detach(self, collection: str, *, keep_vectors: bool = False) -> None:
        """Stop embedding, and drop the vectors and the view; with `keep_vectors`, `attach` takes them up again."""
        self._statements.value("detach", {"collection": collection, "keep_vectors": keep_vectors})

    def pause(self, collection: str) -> None:
        """Record changes, but embed nothing until `resume`."""
        self._statements.value("pause", {"collection": collection})

    def resume(self, collection: str) -> None:
        """Resume embedding after `pause`."""
        self._statements.value("resume", {"collection": collection})

    def refresh(self, collection: str) -> None:
        """Request a reconcile, which finds missing and stale vectors, and vectors whose row is gone."""
        self._statements.value("refresh", {"collection": collection})

    def retry(self, collection: str) -> int:
        """Try the failed rows again; returns how many there are."""
        return int(self._statements.value("retry", {"collection": collection}))

    def rename_collection(self, collection: str, new_name: str) -> None:
        """Give a collection and its view another name. Raises CollectionError for a name that is taken."""
        self._statements.value("rename_collection", {"collection": collection, "new_name": new_name})

    def wait_for(self, collection: str, key: object = None, timeout: float = 30) -> None:
        """Wait until no row of the collection (or the given row) is owed a vector.

        Raises TimedOut, and DatabaseError if the row failed.
        """
        wanted = None if key is None else jsonb(key)
        self._statements.execute(
            "wait_for", {"collection": collection, "key": wanted, "timeout": timedelta(seconds=timeout)}
        )

    def status(self, collection: str | None = None) -> list[dict[str, Any]]:
        """The rows of pgmeaning.status, of all collections or of one."""
        return self._statements.report("status", collection)

    def lags(self, collection: str | None = None) -> list[dict[str, Any]]:
        """What each collection owes, and for how many seconds its oldest change has waited: `owed`, `oldest`, `failed`.

        `broken`, `paused` and `problem` say why it may not come along, `attended` whether a living sidecar can run its
        model.
        """
        return self._statements.dicts("metrics/collections", {"collection": collection})

    def failures(self, collection: str | None = None) -> list[dict[str, Any]]:
        """The rows of pgmeaning.failures, of all collections or of one."""
        return self._statements.report("failures", collection)

    def sidecars(self) -> list[dict[str, Any]]:
        """The rows of pgmeaning.sidecars."""
        return self._statements.dicts("sidecars", {})

    def models(self) -> list[dict[str, Any]]:
        """The rows of pgmeaning.models."""
        return self._statements.dicts("models", {})

    def releases(self) -> list[dict[str, Any]]:
        """The rows of pgmeaning.releases."""
        return self._statements.dicts("releases", {})

    def plan_index(
        self, collection: str, kind: str | None = None, dimensions: int | None = None
    ) -> list[dict[str, Any]]:
        """The index that the vectors have, the one that would be built (or `kind`), and its cost; a row per model."""
        return self._statements.dicts("plan_index", {"collection": collection, "kind": kind, "dimensions": dimensions})

    def want_index(self, collection: str, kind: str = "auto", dimensions: int | None = None) -> None:
        """Choose the kind of index: auto, none, signature, prefix (of `dimensions`), direct, diskann or vchordrq.

        A sidecar builds it.
        """
        self._statements.value("want_index", {"collection": collection, "kind": kind, "dimensions": dimensions})

    def index_report(self, collection: str | None = None) -> list[dict[str, Any]]:
        """The rows of pgmeaning.index_report, of all collections or of one."""
        return self._statements.report("index_report", collection)

    def add_model(self, model: Model) -> None:
        """Add a model of your own to the registry, such as an endpoint; adding the same model again changes nothing.

        Raises DatabaseError if another model has its name, InputError if its URL or options contain a password.
        """
        urls = (model.location, model.options.get("url"))
        secret = "api_key" in model.options or any("@" in urlsplit(str(url or "")).netloc for url in urls)
        if secret:
            raise InputError(
                f"the location or options of model {model.name!r} contain a password, which must not be stored",
                hint="put the key into PGMEANING_API_KEY",
            )
        self._statements.value("add_model", {"model": Jsonb({**asdict(model), "fingerprint": fingerprint(model)})})

    def model(self, name: str) -> Model:
        """A model of the registry; raises ModelNotFound."""
        with self._statements.using() as connection:
            found = targets.model(connection, name)
        if found is None:
            raise ModelNotFound(f"this database has no model {name!r}", hint="see: pgmeaning model list")
        return found

    def set_default_model(self, name: str, *, reranker: str | None = None, keep_reranker: bool = False) -> None:
        """Make an embedder the default of attach(), or a reranker the default of search(rerank=...).

        An embedder changes the default reranker too: to `reranker`, or else to the embedder's companion, if any.
        """
        self._statements.value(
            "set_default_model", {"name": name, "reranker": reranker, "keep_reranker": keep_reranker}
        )

    def deprecate_model(self, name: str, *, replacement: str | None = None) -> None:
        """Keep serving a model, but refuse it for new collections. Its replacement: the given model, or the default."""
        self._statements.value("deprecate_model", {"name": name, "replacement": replacement})

    def retire_model(self, name: str, *, replacement: str | None = None) -> None:
        """Serve a model no more: its rows stay owed, and queries get an error that names its replacement."""
        self._statements.value("retire_model", {"name": name, "replacement": replacement})

    def support_model(self, name: str) -> None:
        """Take back that a model was deprecated or retired."""
        self._statements.value("support_model", {"name": name})

    def use_release(self, name: str) -> None:
        """Follow a release: its models become the defaults, its dimensions those of new collections.

        Raises ModelNotFound if there is none of that name, DatabaseError if its models are not served any more.
        """
        self._statements.value("use_release", {"name": name})

    def create_release(
        self, name: str, *, embedder: str, reranker: str | None = None, dimensions: int | None = None
    ) -> None:
        """Name models and a length of vectors that belong together; without `dimensions`, the embedder's own."""
        arguments = {"name": name, "embedder": embedder, "reranker": reranker, "dimensions": dimensions}
        self._statements.value("create_release", arguments)

    def export_release(self, file: str | Path, name: str | None = None) -> str:
        """Write a release (None: the current one) with its models and their probes to a file; returns its name.

        Options of models that may be secret are left out. Raises ModelNotFound for an unknown release.
        """
        with self._statements.using() as connection:
            found = describe(connection, name)
        write(found, Path(file))
        return str(found.release["name"])

    def check_release(self, file: str | Path) -> list[Finding]:
        """Each model of a file as this database has it: equal, compatible, different or missing, and why.

        Raises InputError for a damaged file.
        """
        with self._statements.using() as connection:
            return findings(connection, read(Path(file)), Settings().probe_tolerance)

    def compare_release(self, other: Client) -> list[Finding]:
        """The same for another database's current release and the models that its collections use."""
        with other._statements.using() as connection:
            theirs = describe(connection, in_use=True)
        with self._statements.using() as connection:
            return findings(connection, theirs, Settings().probe_tolerance)

    def import_release(self, file: str | Path) -> str:
        """Register a file's models and probes, and follow its release, all or nothing; returns its name.

        Raises InputError for a damaged file, DatabaseError if this database means something else by one of its names.
        """
        wanted = read(Path(file))
        with self._statements.using() as connection:
            use(connection, wanted, Settings().probe_tolerance)
        return str(wanted.release["name"])

    def sign_release(self, name: str, signed_off_by: str) -> None:
        """Record who has signed a release off, once and for all."""
        self._statements.value("sign_release", {"name": name, "signed_off_by": signed_off_by})

    def allow_model(self, name: str, *, allowed: bool = True) -> None:
        """Let everybody ask sidecars for a model that no collection uses and that is no default; or no longer."""
        self._statements.value("allow_model", {"name": name, "allowed": allowed})

    def embed(
        self, text: str | None = None, *, image: Any = None, video: Any = None, collection: str | None = None,
        model: str | None = None, as_query: bool = True, timeout: float = 10,
    ) -> Embedding:  # fmt: skip
        """The vector of a text, float32 [d], made by a sidecar with the collection's model, or with `model`.

        It is a NumPy array with the attributes `model` and `fingerprint`, and `nearest` refuses another model's.

        With neither, the one model that the database's collections use. For an image or a video (or several), alone
        or with a text, this process loads the model and makes the vector itself.
        Raises TimedOut if no sidecar answers, CollectionError if neither is given and several models are in use.
        """
        wanted = query_document(text, image, video)
        if wanted.images or wanted.videos:
            name, dimensions = self._embedder(collection, model)
            return self._embed_here(name, wanted, as_query, dimensions)
        arguments = {
            "input": text, "collection": collection, "model": model, "as_query": as_query,
            "timeout": timedelta(seconds=timeout),
        }  # fmt: skip
        ask = partial(
            self._asking.once_asked, [text or ""], timeout, collection=collection, model=model, as_query=as_query
        )
        vector, *known = ask(lambda: self._statements.execute("embed", arguments).fetchone()) or ((),)
        return Embedding(vector.to_numpy() if isinstance(vector, Vector) else vector, *known)

    def similarity(self, a: str, b: str, model: str | None = None, *, timeout: float = 10) -> float:
        """How close two texts are in meaning: the cosine similarity of their vectors, both embedded as documents."""
        arguments = {"a": a, "b": b, "model": model, "timeout": timedelta(seconds=timeout)}
        ask = partial(self._asking.once_asked, [a, b], timeout, model=model, as_query=False)
        return float(ask(lambda: self._statements.value("similarity", arguments)))

    def prepare(
        self, query: str, collection: str | None = None, model: str | None = None, *, timeout: float = 30
    ) -> None:
        """Put a query's vector into the cache, so that searching for it needs no loopback; raises TimedOut."""
        arguments = {"query": query, "collection": collection, "model": model, "timeout": timedelta(seconds=timeout)}
        self._statements.execute("prepare", arguments)

    def search(
        self, collection: str, query: str | None = None, k: int = 10, *, image: Any = None, video: Any = None,
        rerank: int | None = None, reranker: str | Reranker | None = None, filter: Filter = None,
        filter_params: Sequence[object] | None = None, mode: str | None = None, candidates: int | None = None,
        grouped: bool = True, timeout: float = 10, after: After = None, columns: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
    ) -> list[Hit]:  # fmt: skip
        """The k rows nearest in meaning to a text, the best first; or to an image or video, with or without a text.

        An image is a path, bytes, a data URI or a PIL image; for it, this process loads the collection's model.

        With `rerank`, that many rows are found first, and a reranker judges their texts in a sidecar (None: the
        database's default); `score` is then the reranker's, 0..1, instead of the cosine similarity. A `reranker` that
        is loaded (load_reranker) judges in this process, images too; so does any for a query with an image or video.
        `columns` are those of `row`; None: all. `filter` is an SQL condition on the source's columns, with $1, $2, ...
        for `filter_params`; what `pgmeaning.where` makes; or a mapping of columns to the values that they must equal.
        `mode` "hybrid" searches for the words too; `weights` are the vectors' and the words', 1 and 1.

        A document that was cut into chunks is found once, by its best chunk; with `grouped=False`, every chunk counts.

        `after`, the last hit of a page (or its distance and key), makes this the next page. Rows that are equally near
        are in the order of their keys.
        """
        k, rerank = whole("k", k), whole_or_none("rerank", rerank)
        if rerank is not None and min(k, rerank) < 1:
            raise InputError(f"k is {k} and rerank {rerank}", hint="both must be at least 1")
        wanted = query_document(query, image, video)
        has_media = bool(wanted.images or wanted.videos)
        arguments: dict[str, Any] = {
            "collection": collection, "query": query, "k": k, **filtered(filter, filter_params),
            "mode": mode, "candidates": whole_or_none("candidates", candidates), "grouped": grouped,
            "timeout": timedelta(seconds=timeout), "rerank": None, "reranker": None, **cursor(after),
            "columns": texts_or_none("columns", columns), "weights": pair_or_none("weights", weights),
        }  # fmt: skip
        if has_media:
            arguments |= of_model(self._vector(collection, wanted))
        if rerank is not None and (has_media or not isinstance(reranker, str | None)):
            return self._rerank_here(arguments, wanted, rerank, reranker)
        arguments |= {"rerank": rerank, "reranker": reranker}
        if has_media:
            return self._hits("nearest", arguments)
        with_vectors = partial(self._asking.once_asked, [query or ""], timeout, collection=collection)
        try:
            return with_vectors(lambda: self._hits("search", arguments))
        except DatabaseError as error:
            if rerank is None or not self._asking.lacks_loopback(error):
                raise
        several = {**arguments, "k": max(k, rerank), "rerank": None}
        found = with_vectors(lambda: self._hits("search", several))
        return self._asking.judged(several, found)[:k]

    def search_many(
        self, collection: str, queries: Sequence[str], k: int = 10, *, filter: Filter = None,
        filter_params: Sequence[object] | None = None, mode: str | None = None, candidates: int | None = None,
        grouped: bool = True, timeout: float = 10, columns: Sequence[str] | None = None,
    ) -> list[list[Hit]]:  # fmt: skip
        """What `search` finds for each of the queries, in order, with one call of the model for all of them."""
        asked = texts("queries", queries)
        arguments = {
            "collection": collection, "queries": asked, "k": whole("k", k), **filtered(filter, filter_params),
            "mode": mode, "candidates": whole_or_none("candidates", candidates), "grouped": grouped,
            "timeout": timedelta(seconds=timeout), "columns": texts_or_none("columns", columns),
        }  # fmt: skip
        ask = partial(self._asking.once_asked, asked, timeout, collection=collection)
        answers: list[list[Hit]] = [[] for _ in asked]
        for query, hit in ask(lambda: self._statements.hits("search_many", arguments)):
            answers[query - 1].append(hit)
        return answers

    def nearest(
        self, collection: str, vector: AnyVector, k: int = 10, *,
        filter: Filter = None, filter_params: Sequence[object] | None = None, mode: str | None = None,
        candidates: int | None = None, grouped: bool = True, after: After = None,
        columns: Sequence[str] | None = None,
    ) -> list[Hit]:  # fmt: skip
        """The k rows nearest to a vector of the collection's model: numbers, or a value that a connection returned.

        Raises DatabaseError for what `embed` made with another model. `after` and `columns` as in `search`."""
        arguments = {
            "collection": collection, **of_model(vector), "k": whole("k", k),
            **filtered(filter, filter_params), "mode": mode,
            "candidates": whole_or_none("candidates", candidates), "grouped": grouped, **cursor(after),
            "columns": texts_or_none("columns", columns),
        }  # fmt: skip
        return self._hits("nearest", arguments)

    def similar(
        self, collection: str, key: object, k: int = 10, *,
        filter: Filter = None, filter_params: Sequence[object] | None = None, mode: str | None = None,
        candidates: int | None = None, grouped: bool = True, after: After = None,
        columns: Sequence[str] | None = None,
    ) -> list[Hit]:  # fmt: skip
        """More like this: the k nearest other rows. `key`: a mapping of the key columns, or one value.

        `after` and `columns` as in `search`."""
        arguments = {
            "collection": collection, "key": jsonb(key), "k": whole("k", k), **filtered(filter, filter_params),
            "mode": mode, "candidates": whole_or_none("candidates", candidates), "grouped": grouped, **cursor(after),
            "columns": texts_or_none("columns", columns),
        }  # fmt: skip
        return self._hits("similar", arguments)

    def evaluate(
        self, collection: str, queries: AnyQueries, *, qrels: str | Path | None = None,
        generations: Sequence[str] | None = None, ways: Sequence[str] = ("vectors",), recall: Sequence[int] = (10,),
        rerank: int = 50, reranker: str | None = None,
        weights: Sequence[float] | None = None, candidates: int | None = None, filter: Filter = None,
        tune: bool = False, changed: int = 10, seed: int = 0, record: bool | None = None, local: bool = False,
        timeout: float = 60, progress: Progress | None = None,
    ) -> Evaluation:  # fmt: skip
        """How good the results of searches are: nDCG@10, recall and MRR with 95 % intervals, and milliseconds.

        `queries` is a file (JSON lines, CSV, topics with `qrels`), a BEIR folder, or mappings such as {"query": "...",
        "relevant": [keys]}. `ways` are of vectors, words, hybrid, reranked and hybrid-reranked; `generations` are
        further collections of the same table; None: the one that a swap fills, if any. Each is compared with the
        first, query by query; so are lists of queries that nobody judged. `tune` chooses weights, candidates and
        rerank depth on half of the queries.

        `record` keeps what was found in pgmeaning.evaluations; None: if there are several generations. With `local`
        this process loads the models, else a sidecar has them. `timeout` is in seconds, for each question to it.
        Raises ArgumentError for queries that make no sense, CollectionError, TimedOut.
        """
        options = options_of(
            ways=ways, recall=recall, rerank=rerank, weights=weights, candidates=candidates, changed=changed, tune=tune,
            seed=seed,
        )  # fmt: skip
        searching = Searching(
            self._statements, self._asking, filter=filter, reranker=reranker, local=local, timeout=timeout
        )
        others = searching.others(collection) if generations is None else texts("generations", generations)
        found = evaluate(searching, [collection, *others], given_queries(queries, qrels), options, progress)
        return recorded(self._statements, found, record=record)

    def doctor(
        self, column: str, model: str, texts: Sequence[str] = (), *, template: str | None = None, sample: int = 200
    ) -> Diagnosis:  # fmt: skip
        """Whether a vector column that nobody manages, such as 'docs.embedding', is of a model.

        A sample of its rows is embedded again, in this process: `texts` are the columns that were embedded, joined by
        blank lines, or those of `template`. Raises ArgumentError for a column that holds no vectors.
        """
        return examine(self._statements, column, self.model(model), texts, template, whole("sample", sample))

    def evaluations(self, collection: str | None = None) -> list[dict[str, Any]]:
        """The rows of pgmeaning.evaluations, the newest first, of all collections or of one."""
        return self._statements.dicts("evaluation/evaluations", {"collection": collection})

    def _vector(self, collection: str, query: Document) -> Embedding:
        """The vector of a query with media, made with the collection's model."""
        name, dimensions = self._embedder(collection, None)
        return self._embed_here(name, query, True, dimensions)

    def _embed_here(self, name: str, query: Document, as_query: bool, dimensions: int | None) -> Embedding:
        model = self.model(name)
        vector = embed_here(model, query, as_query=as_query, dimensions=dimensions)
        return Embedding(vector, name, fingerprint(model))

    def _embedder(self, collection: str | None, model: str | None) -> tuple[str, int | None]:
        """The model that embed() would use, and the length of the collection's vectors."""
        arguments = {"collection": collection, "model": model}
        name, dimensions = self._statements.execute("client/query_model", arguments).fetchone() or ("", None)
        return name, dimensions

    def _rerank_here(
        self, arguments: Mapping[str, Any], query: Document, count: int, reranker: str | Reranker | None
    ) -> list[Hit]:
        """Find rows, and judge them in this process, with their images if the reranker takes any."""
        target = self._statements.target(arguments["collection"])
        judge: Reranker
        if isinstance(reranker, str | None):
            model = self._reranker(reranker or self._statements.value("client/default_reranker", {}))
            check_modalities(model, query)
            judge, modalities = loaded_reranker(model), model.modalities
        else:
            judge, modalities = reranker, getattr(reranker, "modalities", ("text",))
        wanted = arguments["columns"]
        media = [] if wanted is None else [c for c in (target.image, target.video) if c and c not in wanted]
        columns = None if wanted is None else [*wanted, *media]
        several = {**arguments, "k": max(arguments["k"], count), "columns": columns}
        found = self._hits("nearest" if "vector" in arguments else "search", several)
        documents = [document_of(target, hit, modalities) for hit in found]
        best = rerank(query, documents, reranker=judge, top_k=arguments["k"])
        return [without(replace(found[result.index], score=result.score), media) for result in best]

    def _reranker(self, name: str) -> Model:
        with self._statements.using() as connection:
            found = targets.model(connection, name)
        if found is None or found.kind != "reranker":
            raise ModelNotFound(f"this database has no reranker {name!r}", hint="pgmeaning model list")
        if found.status == "retired":
            self._statements.execute("refuse_retired", {"name": name})
        return found

    def _hits(self, name: str, arguments: Mapping[str, Any]) -> list[Hit]:
        return [hit for _, hit in self._statements.hits(name, arguments)]
