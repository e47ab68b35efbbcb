"""Answers queries in each way to search: their vectors are made once a model, and the ways take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pgmeaning.errors import ArgumentError
from pgmeaning.evaluation.measures import K
from pgmeaning.evaluation.queries import Query
from pgmeaning.evaluation.results import KINDS, Generation, Searcher, Way
from pgmeaning.types import Hit

SHOWN_TEXT = 300
EMBEDDED_AT_ONCE = 100

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to evaluate. `recall`: depths; `rerank`: how many rows a reranker judges; `changed`: how many to show."""

    ways: tuple[str, ...] = ("vectors",)
    recall: tuple[int, ...] = (10,)
    rerank: int = 50
    weights: tuple[float, ...] | None = None
    candidates: int | None = None
    changed: int = 10
    tune: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.ways if kind not in KINDS]
        if unknown or not self.ways:
            raise ArgumentError(f"there is no way {unknown[0] if unknown else ''!r}", hint=f"ways: {', '.join(KINDS)}")
        if not self.recall or min(*self.recall, self.rerank, 1) < 1:
            raise ArgumentError("recall and rerank are numbers of rows", hint="give whole numbers from 1")

    @property
    def k(self) -> int:
        """How long lists are."""
        return max(K, *self.recall)


@dataclass
class Lists:
    """What one way found: for each query the keys and the texts, the best first; and how long each search took."""

    way: Way
    keys: dict[str, list[str]] = field(default_factory=dict)
    texts: dict[str, list[str | None]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)


@dataclass
class Run:
    """An evaluation under way."""

    searcher: Searcher
    options: Options
    generations: list[Generation]
    queries: Sequence[Query]
    judged: dict[str, dict[str, int]]  # query -> key -> grade, of those that have any
    among: Mapping[str, Sequence[str]]  # collection -> those that must have a row, too
    progress: Progress
    vectors: dict[tuple[str, str], Any] = field(default_factory=dict)  # (model, query)

    def vector(self, collection: str, query: Query) -> Any:
        return self.vectors[self.model(collection), query.text]

    def model(self, collection: str) -> str:
        return next(one.model for one in self.generations if one.collection == collection)

    def embed(self) -> None:
        """Each text once a model."""
        texts = list(dict.fromkeys(query.text for query in self.queries))
        for model, collection in {one.model: one.collection for one in self.generations}.items():
            for start in range(0, len(texts), EMBEDDED_AT_ONCE):
                self.progress(f"embedding with {model}", start, len(texts))
                some = texts[start : start + EMBEDDED_AT_ONCE]
                vectors = self.searcher.vectors(collection, some)
                self.vectors.update(((model, text), vector) for text, vector in zip(some, vectors, strict=True))

    def find(self, way: Way, query: Query, k: int) -> list[Hit]:
        """Before reranking. By words alone: what vectors add behind is no answer of theirs."""
        vector = self.vector(way.collection, query)
        hits = self.searcher.find(way, query.text, vector, k, self.among.get(way.collection, ()))
        return [hit for hit in hits if hit.text_rank is not None] if way.kind == "words" else hits

    def answer(self, way: Way, query: Query) -> list[Hit]:
        """The list of a way, as search() would return it."""
        k = self.options.k
        if way.rerank is None:
            return self.find(way, query, k)
        hits = self.find(way, query, max(k, way.rerank))
        return self.reranked(hits, self.searcher.scores(query.text, hits))[:k]

    @staticmethod
    def reranked(hits: Sequence[Hit], scores: Sequence[float]) -> list[Hit]:
        """Ties in the order that they had."""
        order = sorted(range(len(hits)), key=lambda place: -scores[place])
        return [hits[place] for place in order]

    def keys(self, hits: Sequence[Hit]) -> list[str]:
        return [self.searcher.key_of(hit) for hit in hits]


def answered(run: Run, ways: Sequence[Way]) -> list[Lists]:
    """Each query in all ways, one after the other, so that what else the machine does is shared by all."""
    lists = [Lists(way) for way in ways]
    for way in ways:
        run.answer(way, run.queries[0])  # plans and pages are cached, and models loaded: not what is measured
    for number, query in enumerate(run.queries):
        run.progress("searching", number, len(run.queries))
        for one in lists:
            started = time.perf_counter()
            hits = run.answer(one.way, query)
            one.seconds.append(time.perf_counter() - started)
            one.keys[query.id] = run.keys(hits)
            one.texts[query.id] = [None if hit.text is None else hit.text[:SHOWN_TEXT] for hit in hits[:K]]
    return lists
