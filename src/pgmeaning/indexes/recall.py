"""Measures recall: stored vectors as queries, each left out of its own answer, compared with exact answers.

The neighbours of a stored vector are easier to find than those of a new one: its own place in an index leads to them.
So each query is moved away from its vector, by most of the distance to its nearest neighbour, in directions in which
the vectors differ. Moved by all of it, a query would be further from its neighbours than a new one, and harder.

All of it uses one snapshot, so that rows written meanwhile change nothing. The exact answers of all queries take one
pass over the vectors. A row counts as found if it is as near as the k-th of the exact answer: ties are equally good.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pgvector import Vector
from psycopg.rows import dict_row

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection
from pgmeaning.errors import CollectionError
from pgmeaning.models.vectors import Vectors

K = 10
FIRST_CANDIDATES = 20
MOST_CANDIDATES = 5_120
# The number of exact searches that are timed.
EXACT_SEARCHES = 3
# If the goal is out of reach, this little more recall is not worth twice the candidates.
AS_GOOD = 0.003
# The power of the cosine to the nearest neighbour. With it, queries are as hard as MiniLM vectors that are not stored.
MOVED = 0.75
TINY = np.float32(1e-6)
PAGE = 2000


@dataclass(frozen=True, slots=True)
class Query:
    """A stored vector used as a query."""

    key: str
    vector: str
    own: tuple[str, ...]  # the addresses of its row's vectors
    worst: float = 0.0  # the distance of the k-th row of the exact answer


@dataclass(frozen=True, slots=True)
class Trial:
    """The result for a number of candidates: mean recall, its standard error, and the time of each search."""

    candidates: int
    recall: float
    error: float
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured; `kind` is the index's, 'scan' without one, or 'exact' if every vector is compared."""

    kind: str
    rows: int
    sample: int
    recall_goal: float
    recall: float
    candidates: int | None
    milliseconds: float
    milliseconds_95: float
    exact_milliseconds: float


def measure(connection: Connection, collection_id: int, model: str, *, sample: int, goal: float) -> Report:
    """Pick the fewest candidates that reach the goal. Raises CollectionError if there are too few vectors."""
    with connection.transaction():
        connection.execute(sql.query("index/one_snapshot"))
        measurement = Measurement(connection, collection_id, model)
        queries = measurement.with_answers(measurement.moved(measurement.sample(sample)))
        if len(queries) < 2 or measurement.rows <= K:
            raise CollectionError(
                f"{measurement.rows} vectors of model {model!r} are too few to measure recall",
                hint="a search compares all of them",
            )
        exact = [measurement.search(query, "exact", None)[1] for query in queries[:EXACT_SEARCHES]]
        trial = _pick(measurement, queries, goal) if measurement.kind != "exact" else Trial(0, 1, 0, tuple(exact))
    half, most = (np.percentile(trial.seconds, [50, 95]) * 1000).tolist()
    return Report(
        measurement.kind, measurement.rows, len(queries), goal, trial.recall, trial.candidates or None, half, most,
        float(np.percentile(exact, 50)) * 1000,
    )  # fmt: skip


def _pick(measurement: Measurement, queries: Sequence[Query], goal: float) -> Trial:
    """Double the candidates until the goal is surely reached, then try between the last two; else take the best."""
    trials = [measurement.trial(queries, FIRST_CANDIDATES)]
    while not _reached(trials[-1], goal) and trials[-1].candidates < min(MOST_CANDIDATES, measurement.rows):
        trials.append(measurement.trial(queries, trials[-1].candidates * 2))
    if len(trials) > 1 and _reached(trials[-1], goal):
        between = measurement.trial(queries, trials[-2].candidates * 3 // 2)
        return between if _reached(between, goal) else trials[-1]
    # Never surely reached: the fewest candidates that reach it on average, or that come close to the best.
    best = max(trial.recall for trial in trials)
    return next(trial for trial in trials if trial.recall >= min(goal, best - AS_GOOD))


def _reached(trial: Trial, goal: float) -> bool:
    return trial.recall - trial.error >= goal


class Measurement:
    """One vector table in one snapshot."""

    def __init__(self, connection: Connection, collection_id: int, model: str) -> None:
        self._connection = connection
        self._id = {"collection_id": collection_id, "model": model}
        with connection.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute(sql.query("index/measure_target"), {**self._id, "k": K}).fetchone()
        if found is None:
            raise CollectionError("the collection is gone", hint="pgmeaning status lists all collections")
        self._parts = {"vectors": found["vectors"], "key_json": found["key_json"], "same_key": found["same_key"]}
        self.kind: str = found["kind"]
        self._mode: str | None = {"scan": "signature", "exact": "exact"}.get(self.kind, "index")
        self.rows = 0

    def sample(self, size: int) -> list[Query]:
        """Random stored vectors."""
        statement = sql.composed("index/measure_sample", self._parts)
        rows = self._connection.execute(statement, {"size": size}).fetchall()
        return [Query(key, vector, tuple(own)) for key, vector, own in rows]

    def moved(self, queries: Sequence[Query]) -> list[Query]:
        """The queries, each moved nearly as far from its vector as the vector's nearest neighbour is."""
        if not queries:
            return []
        vectors = _matrix(queries)
        distances = [min(self.search(query, self._mode, None)[0], default=0.0) for query in queries]
        moved = moved_away(vectors, np.clip(1 - np.array(distances, np.float32), 0, 1) ** MOVED)
        return [replace(query, vector=Vector(vector).to_text()) for query, vector in zip(queries, moved, strict=True)]

    def with_answers(self, queries: Sequence[Query]) -> list[Query]:
        """The queries, each with the distance of the last row of its exact answer."""
        if not queries:
            return []
        wanted = _matrix(queries)
        nearest = [Nearest(K, query.own) for query in queries]
        name = "pgmeaning_measure"
        with self._connection.cursor(name, binary=True) as cursor:
            cursor.execute(sql.composed("index/measure_vectors", self._parts, parameters=False))
            while page := cursor.fetchmany(PAGE):
                self.rows += len(page)
                self._compare(wanted, nearest, page)
        statement = sql.composed("index/measure_distance", self._parts)
        answers = []
        for query, best in zip(queries, nearest, strict=True):
            arguments = {"vector": query.vector, "places": best.places}
            (worst,) = self._connection.execute(statement, arguments).fetchone() or (0.0,)
            answers.append(replace(query, worst=worst))
        return answers

    @staticmethod
    def _compare(wanted: NDArray[np.float32], nearest: Sequence[Nearest], page: Sequence[tuple[str, bytes]]) -> None:
        places = [place for place, _ in page]
        vectors = np.stack([np.frombuffer(raw, ">f4", offset=4) for _, raw in page]).astype(np.float32)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-30))
        for best, similarities in zip(nearest, wanted @ vectors.T, strict=True):
            best.take(similarities, places)

    def trial(self, queries: Sequence[Query], candidates: int) -> Trial:
        """Search for each query."""
        shares, seconds = [], []
        for query in queries:
            distances, took = self.search(query, self._mode, candidates)
            shares.append(
                sum(distance <= query.worst + 1e-9 for distance in distances) / min(K, self.rows - len(query.own))
            )
            seconds.append(took)
        error = float(np.std(shares) / np.sqrt(len(shares)))
        return Trial(candidates, min(1.0, float(np.mean(shares))), error, tuple(seconds))

    def search(self, query: Query, mode: str | None, candidates: int | None) -> tuple[list[float], float]:
        """The distances of the rows that a search finds, and its time in seconds."""
        arguments = {
            **self._id, "vector": query.vector, "k": K, "mode": mode, "candidates": candidates, "leave_out": query.key,
        }  # fmt: skip
        started = time.perf_counter()
        rows = self._connection.execute(sql.query("index/measure_search"), arguments).fetchall()
        return [distance for (distance,) in rows], time.perf_counter() - started


class Nearest:
    """The nearest vectors seen so far, without the query's own."""

    def __init__(self, k: int, own: Sequence[str]) -> None:
        self._k = k
        self._own = set(own)
        self._best: list[tuple[float, str]] = []

    def take(self, similarities: NDArray[np.float32], places: Sequence[str]) -> None:
        """Consider more vectors."""
        count = min(len(places), self._k + len(self._own))
        for index in np.argpartition(-similarities, count - 1)[:count].tolist():
            if places[index] not in self._own:
                self._best.append((float(similarities[index]), places[index]))
        self._best = sorted(self._best, reverse=True)[: self._k]

    @property
    def places(self) -> list[str]:
        """The addresses of the nearest vectors."""
        return [place for _, place in self._best]


def moved_away(vectors: Vectors, similarities: NDArray[np.float32]) -> Vectors:
    """Unit vectors with these cosines to the given ones, moved by random mixtures of the vectors' differences."""
    differences = vectors - vectors.mean(axis=0)
    mixtures = np.random.default_rng(0).standard_normal((len(vectors), len(vectors)), dtype=np.float32) @ differences
    mixtures -= (mixtures * vectors).sum(axis=1, keepdims=True) * vectors
    lengths = np.linalg.norm(mixtures, axis=1, keepdims=True)
    cosines = np.where(lengths[:, 0] > TINY, np.clip(similarities, 0, 1), 1)[:, None].astype(np.float32)
    moved: Vectors = cosines * vectors + np.sqrt(1 - cosines**2) * mixtures / np.maximum(lengths, TINY)
    return moved


def _matrix(queries: Sequence[Query]) -> Vectors:
    """The queries' vectors, of unit length."""
    vectors = np.array([query.vector[1:-1].split(",") for query in queries], np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), TINY)
    return vectors


def record(connection: Connection, collection_id: int, model: str, report: Report) -> None:
    """Store the result where searches look, unless the collection is gone."""
    values = {name: getattr(report, name) for name in Report.__slots__}
    connection.execute(
        sql.query("index/record_measurement"), {"collection_id": collection_id, "model": model, **values}
    )
