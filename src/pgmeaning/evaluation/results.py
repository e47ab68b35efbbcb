"""The values of an evaluation, from a way to search to what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from pgmeaning.errors import ArgumentError
from pgmeaning.evaluation.compare import Estimate
from pgmeaning.types import Hit

KINDS = ("vectors", "words", "hybrid", "reranked", "hybrid-reranked")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to search one collection. `rerank`: how many rows a reranker judges; None: there is none."""

    collection: str
    kind: str
    rerank: int | None = None
    weights: tuple[float, ...] | None = None
    candidates: int | None = None

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.collection}: {self.kind}"

    @property
    def mode(self) -> str | None:
        """The mode of search()."""
        return None if self.kind in ("vectors", "reranked") else "hybrid"

    @property
    def arguments(self) -> dict[str, Any]:
        """What search() is told besides collection and query."""
        weights = (0.0, 1.0) if self.kind == "words" else self.weights if self.mode else None
        told = {"mode": self.mode, "weights": weights, "candidates": self.candidates, "rerank": self.rerank}
        return {name: value for name, value in told.items() if value is not None}

    def with_(self, **changes: Any) -> Way:
        """The same with other values."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Generation:
    """A collection as it was found; `mark` is equal as long as its vectors are made in the same manner."""

    collection: str
    source: int
    source_name: str
    model: str
    has_text: bool
    owed: int
    failed: int
    vectors: int | None
    mark: Mapping[str, Any]

    @property
    def is_complete(self) -> bool:
        """Whether each row has its vector."""
        return not self.owed and not self.failed


@dataclass(frozen=True, slots=True)
class JudgedKey:
    """A key as searches return it, whether there is such a row, and whether it has a vector."""

    key: str
    is_there: bool
    has_vector: bool


class Searcher(Protocol):
    """What an evaluation asks of a database."""

    def generations(self, collections: Sequence[str]) -> list[Generation]:
        """The collections, in order. Raises CollectionError for one that there is not."""

    def judged_keys(self, collection: str, keys: Sequence[Any]) -> list[JudgedKey]:
        """The keys, in order. Raises DatabaseError for a value that is no key of the collection."""

    def vectors(self, collection: str, queries: Sequence[str]) -> list[Any]:
        """The queries' vectors by the collection's model, in order, and in full length."""

    def find(self, way: Way, query: str, vector: Any, k: int, among: Sequence[str]) -> list[Hit]:
        """The best k rows before reranking, of those that the collections `among` have a vector of, too."""

    def scores(self, query: str, hits: Sequence[Hit]) -> list[float]:
        """What the reranker gives each."""

    def key_of(self, hit: Hit) -> str:
        """The key of a hit as judged_keys() writes it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One way's measures, of all judged queries and of each tag's; milliseconds of a search without the model."""

    way: Way
    model: str
    measures: Mapping[str, Estimate]
    tags: Mapping[str, Mapping[str, Estimate]]
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A measure of one way beside another's; `change` is of way minus base, in pairs. `tag` None: all queries."""

    way: Way
    base: Way
    measure: str
    tag: str | None
    value: float
    base_value: float
    change: Estimate


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike the lists of two ways are, 0..1, whatever anybody judges."""

    way: Way
    base: Way
    overlap: Estimate
    rank_biased_overlap: Estimate


@dataclass(frozen=True, slots=True)
class Shown:
    """A row in a list: its key, how its text begins (None: it may not be read), its grade (0: it is no answer)."""

    key: str
    text: str | None
    grade: int


@dataclass(frozen=True, slots=True)
class Changed:
    """A query whose list is another one now. `change` is of nDCG@10; None: it is not judged."""

    way: Way
    base: Way
    query: str
    tags: tuple[str, ...]
    change: float | None
    rank_biased_overlap: float
    before: tuple[Shown, ...]
    after: tuple[Shown, ...]


@dataclass(frozen=True, slots=True)
class Tuned:
    """Numbers chosen on one half of the queries, and what they are worth on the other: nDCG@10."""

    way: Way
    default: Way
    chosen_on: int
    tried: tuple[tuple[Mapping[str, Any], float], ...]
    value: Estimate
    default_value: Estimate
    change: Estimate
    statement: str
    call: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured. All intervals have 95 %."""

    collection: str
    source: str
    name: str
    queries: int
    judged: int
    k: int
    warnings: tuple[str, ...]
    measured: tuple[Measured, ...]
    differences: tuple[Difference, ...] = ()
    likenesses: tuple[Likeness, ...] = ()
    changed: tuple[Changed, ...] = ()
    tuned: tuple[Tuned, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    recorded: int = 0

    @property
    def names(self) -> list[str]:
        """The collections, in order."""
        return list(dict.fromkeys(one.way.collection for one in self.measured))

    def as_document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def falls_below(self, goals: Mapping[str, float]) -> list[str]:
        """What the last collection's ways do not reach; raises ArgumentError for what was not measured."""
        last = [one for one in self.measured if one.way.collection == self.names[-1]]
        known = list(last[0].measures)
        for name in goals:
            if name not in known:
                hint = f"measured: {', '.join(known)}" if known else "no query is judged"
                raise ArgumentError(f"{name!r} was not measured", hint=hint)
        return [
            f"{one.way.label}: {name} is {one.measures[name].mean:.4f}, below {goal}"
            for one in last
            for name, goal in goals.items()
            if one.measures[name].mean < goal
        ]

    def records(self) -> list[dict[str, Any]]:
        """For record_evaluation(): comparisons of two collections; of one alone, its measures."""
        rows = [_comparison(one) for one in self.differences if one.way.collection != one.base.collection]
        rows += [row for one in self.likenesses if one.way.collection != one.base.collection for row in _alike(one)]
        rows = rows or [row for one in self.measured for row in _alone(one)]
        return [{**row, "definition": {**self.settings, **row["definition"]}} for row in rows]


def _comparison(one: Difference) -> dict[str, Any]:
    return {
        "collection": one.way.collection, "other_collection": one.base.collection, "queries": one.change.n,
        "measure": one.measure, "value": one.value, "other_value": one.base_value,
        "difference_low": one.change.low, "difference_high": one.change.high,
        "definition": {**_definition(one.way), "tag": one.tag},
    }  # fmt: skip


def _alike(one: Likeness) -> list[dict[str, Any]]:
    """Likeness is of both, so there is no value of the other's alone."""
    values = {"overlap@10": one.overlap, "rank-biased overlap": one.rank_biased_overlap}
    return [
        {
            "collection": one.way.collection, "other_collection": one.base.collection, "queries": value.n,
            "measure": name, "value": value.mean, "definition": _definition(one.way),
        }
        for name, value in values.items()
    ]  # fmt: skip


def _alone(one: Measured) -> list[dict[str, Any]]:
    groups = [(None, one.measures), *one.tags.items()]
    return [
        {
            "collection": one.way.collection, "other_collection": None, "queries": value.n, "measure": name,
            "value": value.mean, "definition": {**_definition(one.way), "tag": tag},
        }
        for tag, values in groups
        for name, value in values.items()
    ]  # fmt: skip


def _definition(way: Way) -> dict[str, Any]:
    return {"way": way.kind, "arguments": way.arguments}
