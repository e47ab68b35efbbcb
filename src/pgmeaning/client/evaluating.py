"""What an evaluation asks of a database, by the client's connection and with its caller's rights; and its record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from pgvector import Vector
from psycopg.types.json import Jsonb

from pgmeaning import json_values
from pgmeaning.client.arguments import Filter, filtered, jsonb, pair_or_none, texts, whole, whole_or_none
from pgmeaning.client.asking import Asking
from pgmeaning.client.query_vectors import embed_texts_here
from pgmeaning.client.rerank import loaded_reranker, rerank
from pgmeaning.client.statements import Statements
from pgmeaning.database import targets
from pgmeaning.errors import DatabaseError, ModelNotFound
from pgmeaning.evaluation import Queries, read_queries, to_queries
from pgmeaning.evaluation.answers import Options
from pgmeaning.evaluation.results import Evaluation, Generation, JudgedKey, Way
from pgmeaning.types import Hit, Model
from pgmeaning.version import __version__

# A file, a BEIR folder, or mappings such as {"query": "...", "relevant": [keys]}.
AnyQueries = str | Path | Iterable[Mapping[str, Any]]


def given_queries(queries: AnyQueries, qrels: str | Path | None) -> Queries:
    """The queries, read; raises ArgumentError."""
    return read_queries(queries, qrels) if isinstance(queries, str | Path) else to_queries(queries)


def options_of(
    *, ways: Sequence[str], recall: Sequence[int], weights: Sequence[float] | None, candidates: int | None, tune: bool,
    **numbers: int,
) -> Options:  # fmt: skip
    """The options, checked; raises ArgumentError."""
    pair = pair_or_none("weights", weights)
    return Options(
        ways=tuple(texts("ways", ways)), recall=tuple(whole("recall", depth) for depth in recall),
        weights=None if pair is None else tuple(pair), candidates=whole_or_none("candidates", candidates), tune=tune,
        **{name: whole(name, number) for name, number in numbers.items()},
    )  # fmt: skip


class Searching:
    """Searches for an evaluation; with `local` this process loads the models, else a sidecar has them."""

    def __init__(
        self, statements: Statements, asking: Asking, *, filter: Filter, reranker: str | None, local: bool,
        timeout: float,
    ) -> None:  # fmt: skip
        self._statements = statements
        self._asking = asking
        self._filter = filtered(filter, None)["filter"]
        self._reranker = reranker
        self._local = local
        self._timeout = timeout

    def others(self, collection: str) -> list[str]:
        """The other generation of a collection that is being swapped, if it is."""
        name = self._statements.value("evaluation/other_generation", {"collection": collection})
        return [] if name is None else [name]

    def generations(self, collections: Sequence[str]) -> list[Generation]:
        """The collections, in order."""
        rows = self._statements.execute("evaluation/generations", {"collections": list(collections)}).fetchall()
        return [Generation(*row) for row in rows]

    def judged_keys(self, collection: str, keys: Sequence[Any]) -> list[JudgedKey]:
        """The keys, in order."""
        arguments = {"collection": collection, "keys": [jsonb(key) for key in keys]}
        rows = self._statements.execute("evaluation/judged_keys", arguments).fetchall()
        return [JudgedKey(_canonical(json_values.loads(key)), *told) for key, *told in rows]

    def key_of(self, hit: Hit) -> str:
        """The key of a hit as judged_keys() writes it."""
        return _canonical(hit.key)

    def vectors(self, collection: str, queries: Sequence[str]) -> list[Any]:
        """The queries' vectors by the collection's model."""
        if self._local:
            name = self._statements.value("client/query_model", {"collection": collection, "model": None})
            return [Vector(vector) for vector in embed_texts_here(self._model(name), queries)]
        arguments = {
            "collection": collection, "inputs": list(queries), "timeout": timedelta(seconds=self._timeout)
        }  # fmt: skip
        rows = self._asking.once_asked(
            queries, self._timeout, lambda: self._statements.execute("evaluation/vectors", arguments).fetchall(),
            collection=collection,
        )  # fmt: skip
        return [vector for (vector,) in rows]

    def find(self, way: Way, query: str, vector: Any, k: int, among: Sequence[str]) -> list[Hit]:
        """The best k rows, before reranking."""
        told = way.arguments
        weights = told.get("weights")
        arguments = {
            "collection": way.collection, "query": query, "vector": vector, "k": k, "mode": told.get("mode"),
            "candidates": told.get("candidates"), "weights": None if weights is None else list(weights),
            "rank_constant": None, "filter": self._filter, "among": list(among) or None, "columns": None,
        }  # fmt: skip
        return [hit for _, hit in self._statements.hits("evaluation/search", arguments)]

    def scores(self, query: str, hits: Sequence[Hit]) -> list[float]:
        """What the reranker gives each."""
        if not self._local:
            return self._asking.scores(query, hits, self._reranker, self._timeout)
        name = self._reranker or self._statements.value("client/default_reranker", {})
        judge = loaded_reranker(self._model(name))
        ranked = rerank(query, [(hit.text or "")[:100_000] for hit in hits], reranker=judge)
        return [one.score for one in sorted(ranked, key=lambda one: one.index)]

    def _model(self, name: str) -> Model:
        with self._statements.using() as connection:
            found = targets.model(connection, name)
        if found is None:
            raise ModelNotFound(f"this database has no model {name!r}", hint="see: pgmeaning model list")
        return found


def recorded(statements: Statements, evaluation: Evaluation, *, record: bool | None) -> Evaluation:
    """The evaluation, with how many of its measures were recorded. `record` None: those of a comparison, if allowed.

    Raises DatabaseError if they must be recorded, and may not be.
    """
    compared = len({one.way.collection for one in evaluation.measured}) > 1
    if record is False or (record is None and not compared):
        return evaluation
    rows = [{**row, "definition": {**row["definition"], "version": __version__}} for row in evaluation.records()]
    try:
        count = statements.value("evaluation/record", {"rows": Jsonb(rows, dumps=json_values.dumps)})
    except DatabaseError as error:
        if record or error.sqlstate not in ("PM011", psycopg.errors.ReadOnlySqlTransaction.sqlstate):
            raise
        return replace(evaluation, warnings=(*evaluation.warnings, f"not recorded: {error.args[0]}"))
    return replace(evaluation, recorded=int(count))


def _canonical(key: Mapping[str, Any]) -> str:
    return json_values.dumps(dict(sorted(key.items())))
