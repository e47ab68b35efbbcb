"""Chooses what has a number on one half of the judged queries, and says on the other half what that is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pgmeaning.errors import ArgumentError
from pgmeaning.evaluation.answers import Run
from pgmeaning.evaluation.compare import estimate
from pgmeaning.evaluation.measures import NDCG, K, Values, measured
from pgmeaning.evaluation.queries import Query
from pgmeaning.evaluation.results import Tuned, Way
from pgmeaning.types import Hit

# What is tried, what is preferred among equals first: the default, or what costs least.
WEIGHTS: tuple[tuple[float, float], ...] = ((1, 1), (2, 1), (1, 2), (4, 1), (1, 4), (8, 1), (1, 8), (1, 0))
DEPTHS = (10, 20, 50, 100)
CANDIDATES: tuple[int | None, ...] = (None, 50, 100, 200, 400, 800)
LEAST_QUERIES = 10

Tried = list[tuple[Mapping[str, Any], float]]


def tuned(run: Run, way: Way) -> Tuned:
    """The best weights, depth and candidates of a way, as far as it has them. Raises ArgumentError for too few queries.

    One after the other, each with those chosen before: a grid of all would fit chance as well.
    """
    judged = [query for query in run.queries if query.id in run.judged]
    if len(judged) < LEAST_QUERIES:
        hint = f"tuning takes at least {LEAST_QUERIES}; half of them measure what the other half chose"
        raise ArgumentError(f"{len(judged)} judged queries are too few to tune by", hint=hint)
    order = np.random.default_rng(run.options.seed).permutation(len(judged))
    chosen_on = [judged[place] for place in order[: len(judged) // 2]]
    others = [judged[place] for place in order[len(judged) // 2 :]]
    best, tried = _chosen(run, way, chosen_on)
    value, default = _values(run, best, others), _values(run, way, others)
    seed = run.options.seed
    return Tuned(
        best, way, len(chosen_on), tuple(tried), estimate(value, seed), estimate(default, seed),
        estimate(value - default, seed), statement(best), call(best),
    )  # fmt: skip


def _chosen(run: Run, way: Way, queries: Sequence[Query]) -> tuple[Way, Tried]:
    tried: Tried = []

    def best(options: Sequence[tuple[Way, float]]) -> Way:
        tried.extend((option.arguments, value) for option, value in options)
        highest = max(value for _, value in options)
        return next(option for option, value in options if value >= highest - 1e-9)

    if way.kind.startswith("hybrid"):
        run.progress(f"tuning {way.label}: weights", 0, 3)
        way = best([(one, _mean(run, one, queries)) for one in (way.with_(weights=weights) for weights in WEIGHTS)])
    if way.kind != "words":
        run.progress(f"tuning {way.label}: candidates", 1, 3)
        options = dict.fromkeys((way.candidates, *CANDIDATES))
        way = best([(one, _mean(run, one, queries)) for one in (way.with_(candidates=count) for count in options)])
    if way.rerank is not None:
        run.progress(f"tuning {way.label}: rerank", 2, 3)
        way = best(_depths(run, way, queries))
    return way, tried


def _mean(run: Run, way: Way, queries: Sequence[Query]) -> float:
    """Of what is found before reranking: it decides what a reranker sees."""
    return float(_measured(run, queries, lambda query: run.find(way, query, run.options.k)).mean())


def _depths(run: Run, way: Way, queries: Sequence[Query]) -> list[tuple[Way, float]]:
    """Each depth, with the means; a row is judged once, since a judgement is of one row."""
    deepest = max(DEPTHS)
    found = {query.id: run.find(way, query, deepest) for query in queries}
    scores = {query.id: run.searcher.scores(query.text, found[query.id]) for query in queries}

    def mean(depth: int) -> float:
        def answer(query: Query) -> list[Hit]:
            return run.reranked(found[query.id][:depth], scores[query.id][:depth])

        return float(_measured(run, queries, answer).mean())

    return [(way.with_(rerank=depth), mean(depth)) for depth in DEPTHS]


def _values(run: Run, way: Way, queries: Sequence[Query]) -> Values:
    """nDCG@10 of each query, float64 [n], as search() would answer it."""

    def answer(query: Query) -> list[Hit]:
        hits = run.find(way, query, max(K, way.rerank or 0))
        return hits if way.rerank is None else run.reranked(hits, run.searcher.scores(query.text, hits))

    return _measured(run, queries, answer)


def _measured(run: Run, queries: Sequence[Query], answer: Callable[[Query], list[Hit]]) -> Values:
    found = {query.id: run.keys(answer(query)[:K]) for query in queries}
    return measured({query.id: run.judged[query.id] for query in queries}, found, (K,))[NDCG]


# ---------------------------------------------------------------- how to use it


def statement(way: Way) -> str:
    """The search with these numbers in SQL."""
    name = way.collection.replace("'", "''")
    more = "".join(f", {argument} => {_sql(value)}" for argument, value in way.arguments.items())
    return f"SELECT * FROM pgmeaning.search('{name}', 'your query'{more})"


def _sql(value: Any) -> str:
    if isinstance(value, tuple):
        return "'{" + ", ".join(f"{number:g}" for number in value) + "}'"
    return f"'{value}'" if isinstance(value, str) else str(value)


def call(way: Way) -> str:
    """The same in Python."""
    more = "".join(f", {argument}={value!r}" for argument, value in way.arguments.items())
    return f'client.search({way.collection!r}, "your query"{more})'
