"""A collection as a map: its rows' vectors in two dimensions, their clusters, and what a part of them has in common."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from pgmeaning.client import kmeans
from pgmeaning.client.client import Client
from pgmeaning.client.statements import Statements
from pgmeaning.console.connections import Connections
from pgmeaning.console.projection import KEPT, Components, arranged, methods
from pgmeaning.errors import ArgumentError, PgmeaningError
from pgmeaning.models.vectors import Vectors

MOST = 100_000  # points
CLUSTERS = 8
SAMPLED = 5_000  # vectors that clusters are found on
COMPARED = 2_000  # rows of a part, and of the rest, that are read to tell them apart
WORDS = 12
COLOURS = 7  # values with a colour of their own; the others share one


@dataclass(slots=True)
class Chart:
    """A map that is being made, or is made. `step`: what is done at the moment; None: it is ready."""

    step: str | None = "waiting"
    problem: PgmeaningError | None = None
    keys: list[str] = field(default_factory=list)
    places: Vectors = field(default_factory=lambda: np.empty((0, 2), np.float32))
    clusters: list[int] = field(default_factory=list)
    words: dict[int, list[str]] = field(default_factory=dict)
    total: int = 0


class Charts:
    """Maps by collection and method, each made once, on a thread."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._made: dict[tuple[str, str], Chart] = {}
        self._guard = threading.Lock()

    def chart(self, collection: str, method: str, *, anew: bool = False) -> Chart:
        """The map, begun if there is none; raises the error that making it met, and forgets it."""
        if method not in methods():
            raise ArgumentError(f"there is no method {method!r} here", hint=f"there are: {', '.join(methods())}")
        with self._guard:
            known = self._made.get((collection, method))
            if known is None or (anew and known.step is None):
                known = self._made[collection, method] = Chart()
                threading.Thread(target=self._make, args=(known, collection, method), daemon=True).start()
            if known.problem is not None:
                del self._made[collection, method]
                raise known.problem
        return known

    def _make(self, chart: Chart, collection: str, method: str) -> None:
        try:
            with self._connections.asking() as client:
                chart.step = "reading a sample"
                reduced = _read(client, collection, chart)
            chart.step = f"arranging {len(reduced):,} points"
            chart.places = arranged(reduced, method)
            chart.step = None
        except PgmeaningError as error:
            chart.problem = error
        except Exception as error:  # what a library raises on its thread, nobody else would see
            chart.problem = PgmeaningError(f"the map cannot be made: {type(error).__name__}: {error}")


def _read(client: Client, collection: str, chart: Chart) -> Vectors:
    """One pass over the vectors: keys, clusters and components of up to MOST rows, picked at random beyond."""
    statements = client._statements
    sampled = statements.binary("cluster_sample", {"collection": collection, "seed": 0})
    made_of, expected = sampled[0][:2]
    vectors = [row[4] for row in sampled if row[4] is not None]
    if not vectors:
        raise ArgumentError(f"collection {collection!r} has no vectors yet", hint="see Operations for what it owes")
    sample = np.stack([np.asarray(vector.to_numpy(), np.float32) for vector in vectors])
    components, centres = Components(sample), kmeans.centroids(sample[:SAMPLED], CLUSTERS, 0)
    share, luck = min(1.0, MOST / max(1.0, float(expected))), np.random.default_rng(0)
    parts: list[Vectors] = [np.empty((0, min(KEPT, *sample.shape)), np.float32)]
    for keys, page, seen in client._row_vectors(collection, made_of):
        kept = np.flatnonzero(luck.random(len(keys)) < share)
        chart.keys += [keys[place] for place in kept]
        chart.clusters += [int(one) for one in kmeans.nearest(page[kept], centres)[0]]
        parts.append(components.of(page[kept]))
        chart.total += seen
        chart.step = f"reading vectors: {chart.total:,} of about {max(chart.total, int(expected)):,}"
    chart.words = _cluster_words(statements, collection, chart)
    return np.concatenate(parts)[: len(chart.keys)]


def _cluster_words(statements: Statements, collection: str, chart: Chart) -> dict[int, list[str]]:
    """What tells each cluster from the others; places are counted from 1."""
    first: Counter[int] = Counter()
    told = []
    for key, cluster in zip(chart.keys, chart.clusters, strict=True):
        first[cluster] += 1
        if first[cluster] <= 100:
            told.append((key, cluster + 1))
    return {place - 1: found for place, found in _words(statements, collection, told).items()}


def _words(statements: Statements, collection: str, told: Sequence[tuple[str, int]]) -> dict[int, list[str]]:
    arguments = {
        "collection": collection, "keys": [key for key, _ in told], "places": [place for _, place in told],
        "word_count": WORDS,
    }  # fmt: skip
    return {place: list(words) for place, words in statements.execute("cluster_words", arguments)}


# ---------------------------------------------------------------- What a part has in common


@dataclass(frozen=True, slots=True)
class Value:
    """A column's value, and which share of the part and of the rest has it."""

    column: str
    value: str
    inside: float
    outside: float


def in_common(
    client: Client, collection: str, chart: Chart, chosen: Sequence[int], columns: Sequence[str]
) -> tuple[list[str], list[Value]]:
    """Words, and values of columns, that are more frequent among the chosen points than among the others."""
    luck = np.random.default_rng(0)
    inside = _some(np.unique([place for place in chosen if 0 <= place < len(chart.keys)]), luck)
    if not len(inside):
        raise ArgumentError("no point was chosen", hint="draw a line around some, or choose a cluster")
    outside = _some(np.setdiff1d(np.arange(len(chart.keys)), np.asarray(chosen, int)), luck)
    parts = [[chart.keys[place] for place in part] for part in (inside, outside)]
    told = [(key, number) for number, part in enumerate(parts, 1) for key in part]
    statements = client._statements
    rows = [values_of(statements, collection, part, columns) for part in parts]
    return _words(statements, collection, told).get(1, []), _telling(columns, *rows)


def _some(places: Any, luck: np.random.Generator) -> Any:
    places = places.astype(int)
    return places if len(places) <= COMPARED else luck.choice(places, COMPARED, replace=False)


def values_of(
    statements: Statements, collection: str, keys: Sequence[str], columns: Sequence[str]
) -> list[list[str | None]]:
    """The rows' columns as text; of those that are still there."""
    if not keys:
        return []
    arguments = {"collection": collection, "keys": list(keys), "columns": list(columns)}
    return [contents for _, contents in statements.execute("console/values", arguments)]


def _telling(columns: Sequence[str], inside: list[list[str | None]], outside: list[list[str | None]]) -> list[Value]:
    """The values whose share differs most; of those that at least two rows have."""
    found: list[Value] = []
    for place, column in enumerate(columns):
        here, there = (Counter(row[place] for row in rows if row[place] is not None) for rows in (inside, outside))
        for value, count in here.most_common(5):
            shares = count / len(inside), there[value] / max(1, len(outside))
            if count > 1 and shares[0] > shares[1]:
                found.append(Value(column, str(value)[:200], *shares))
    return sorted(found, key=lambda one: one.outside - one.inside)[:8]


def colours(values: Sequence[str | None]) -> tuple[list[str], list[int]]:
    """Labels, and each point's: the most frequent values, or for numbers of many values parts of equal size."""
    known = Counter(value for value in values if value is not None)
    numbers = _numbers(list(known))
    if numbers is not None and len(known) > COLOURS:
        return _ranges([None if value is None else float(value) for value in values])
    labels = [value for value, _ in known.most_common(COLOURS)]
    at = {value: place for place, value in enumerate(labels)}
    others = len(labels)
    return [label[:60] for label in labels] + ["other"], [at.get(value or "", others) for value in values]


def _numbers(values: Sequence[str]) -> list[float] | None:
    try:
        return [float(value) for value in values]
    except ValueError:
        return None


def _ranges(values: Sequence[float | None]) -> tuple[list[str], list[int]]:
    there = np.array([value for value in values if value is not None and np.isfinite(value)])
    edges = np.unique(np.quantile(there, np.linspace(0, 1, COLOURS + 1)))
    labels = [f"{low:,.6g} to {high:,.6g}" for low, high in pairwise(edges)]
    at = [
        len(labels) if value is None or not np.isfinite(value)
        else int(np.clip(np.searchsorted(edges, value, "right") - 1, 0, len(labels) - 1))
        for value in values
    ]  # fmt: skip
    return [*labels, "other"], at
