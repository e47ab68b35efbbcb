"""How rows are related: matches, duplicates, clusters, classes. Read page by page, so that nothing runs for long."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from typing import Any, Literal, overload

import numpy as np

from pgmeaning import json_values
from pgmeaning.client import kmeans
from pgmeaning.client.arguments import jsonb, texts, whole, whole_or_none
from pgmeaning.client.asking import Asking
from pgmeaning.client.statements import Statements
from pgmeaning.client.vectors import Embedding
from pgmeaning.errors import ArgumentError, CollectionError
from pgmeaning.models.vectors import Vectors, unit_length
from pgmeaning.types import Cluster, Label, Match

PAGE = 256
# So many rows of a cluster, the nearest to its centroid, say what it is about.
TELLING = 100

# Told from time to time how many rows were looked at, and about how many there are.
Progress = Callable[[int, int], object]


class Relations:
    """The part of a Client that relates rows to each other."""

    _statements: Statements
    _asking: Asking

    def matches(
        self, collection: str, other: str, k: int | None = 1, *, threshold: float | None = None,
        mode: str | None = None, candidates: int | None = None, progress: Progress | None = None,
    ) -> Iterator[Match]:  # fmt: skip
        """For each row its k nearest in another collection of the same model, in the order of the keys, as found.

        With `threshold`, a cosine distance, only those that are so near; and all of them with k=None. A row of a
        collection that is compared with itself does not match itself. Rows with chunks count by their nearest two.
        `mode` and `candidates` as in `search`.

        Raises DatabaseError for vectors of two models or lengths, CollectionError if they change meanwhile.
        """
        arguments = {
            "collection": collection, "other": other, "k": whole_or_none("k", k), "threshold": threshold,
            "mode": mode, "candidates": whole_or_none("candidates", candidates), "page": PAGE,
        }  # fmt: skip
        first = self._matches_page(arguments, None)
        return self._matches(arguments, first, progress)

    def _matches(
        self, arguments: dict[str, Any], page: tuple[Any, ...] | None, progress: Progress | None
    ) -> Iterator[Match]:
        seen = 0
        while page is not None:
            made_of, expected, keys, places, others, distances = page
            seen += len(keys)
            for place, other, distance in zip(places or (), others or (), distances or (), strict=True):
                yield Match(json_values.loads(keys[place - 1]), json_values.loads(other), distance, 1 - distance)
            if progress is not None:
                progress(seen, max(seen, int(expected)))
            page = None
            if len(keys) == PAGE:
                page = self._matches_page(arguments, keys[-1])
                _check_unchanged(arguments["collection"], made_of, page[0])

    def _matches_page(self, arguments: dict[str, Any], after: str | None) -> tuple[Any, ...]:
        row = self._statements.execute("matches_page", {**arguments, "after": _behind(after)}).fetchone()
        return row or ("", 0, [], [], [], [])

    @overload
    def duplicates(
        self, collection: str, threshold: float = 0.05, *, grouped: Literal[False] = False, mode: str | None = None,
        candidates: int | None = None, progress: Progress | None = None,
    ) -> list[Match]: ...  # fmt: skip

    @overload
    def duplicates(
        self, collection: str, threshold: float = 0.05, *, grouped: Literal[True], mode: str | None = None,
        candidates: int | None = None, progress: Progress | None = None,
    ) -> list[list[dict[str, Any]]]: ...  # fmt: skip

    def duplicates(
        self, collection: str, threshold: float = 0.05, *, grouped: bool = False, mode: str | None = None,
        candidates: int | None = None, progress: Progress | None = None,
    ) -> list[Match] | list[list[dict[str, Any]]]:  # fmt: skip
        """Pairs of rows within a cosine distance, once each and the nearest first; grouped: the keys of each group.

        Rows are in one group if pairs lead from one to the other. Rows with chunks count by their nearest two: then
        they share a passage.
        """
        if threshold is None:
            raise ArgumentError("there is no threshold", hint="0.05 is very near; it is a cosine distance")
        found = self.matches(
            collection, collection, None, threshold=threshold, mode=mode, candidates=candidates, progress=progress
        )
        pairs: dict[tuple[str, str], Match] = {}
        for match in found:  # either row may have found the other one, by an index that does not find all
            pairs.setdefault(_unordered(match), match)
        if grouped:
            return _groups([(match.key, match.other_key) for match in pairs.values()])
        return sorted(pairs.values(), key=lambda match: match.distance)

    def clusters(
        self, collection: str, k: int = 10, *, word_count: int = 10, seed: int = 0, progress: Progress | None = None
    ) -> list[Cluster]:
        """Up to k groups of rows by meaning, the largest first, with all their keys; a row counts by its chunks' mean.

        By spherical k-means: centroids are found on a sample of 64 MB, then each row is assigned. The same rows and
        seed give the same clusters. Memory grows with the number of keys, not with the vectors.
        """
        k = whole("k", k)
        arguments = {"collection": collection, "seed": whole("seed", seed)}
        sampled = self._statements.binary("cluster_sample", arguments)
        if k < 1:
            raise ArgumentError(f"k is {k}", hint="give at least 1")
        made_of, expected, model, fingerprint, first = sampled[0]
        if first is None:
            return []
        sample = np.stack([_numbers(row[4]) for row in sampled])
        centres = kmeans.centroids(sample, k, seed)
        members: dict[int, list[tuple[float, str]]] = defaultdict(list)
        seen = 0
        for keys, vectors, count in self._row_vectors(collection, made_of):
            for key, place, cosine in zip(keys, *kmeans.nearest(vectors, centres), strict=True):
                members[int(place)].append((1 - float(cosine), key))
            seen += count
            if progress is not None:
                progress(seen, max(seen, int(expected)))
        largest = sorted(members, key=lambda place: (-len(members[place]), place))
        ordered = [sorted(members[place]) for place in largest]
        words = self._words(collection, [[key for _, key in rows[:TELLING]] for rows in ordered], word_count)
        return [
            _cluster(number, rows, words.get(number, ()), Embedding(centres[place], model, fingerprint))
            for number, (place, rows) in enumerate(zip(largest, ordered, strict=True), start=1)
        ]

    def _words(self, collection: str, telling: Sequence[Sequence[str]], count: int) -> dict[int, tuple[str, ...]]:
        """The words of each cluster, by its number."""
        keys = [(key, number) for number, some in enumerate(telling, start=1) for key in some]
        arguments = {
            "collection": collection, "keys": [key for key, _ in keys], "places": [number for _, number in keys],
            "word_count": max(0, whole("word_count", count)),
        }  # fmt: skip
        return {number: tuple(words) for number, words in self._statements.execute("cluster_words", arguments)}

    def _row_vectors(self, collection: str, made_of: str) -> Iterator[tuple[list[str], Vectors, int]]:
        """(keys, unit vectors, rows looked at), page by page: a row's vector is the mean of its chunks."""
        after: str | None = None
        while True:
            arguments = {"collection": collection, "after": _behind(after), "page": PAGE}
            rows = self._statements.binary("vectors_page", arguments)
            if rows:
                _check_unchanged(collection, made_of, rows[0][0])
            own = [(key, [_numbers(row[2]) for row in some if row[2] is not None]) for key, some in
                   groupby(rows, key=lambda row: row[1])]  # fmt: skip
            kept = [(key, np.mean(chunks, axis=0)) for key, chunks in own if chunks]
            if kept:
                yield [key for key, _ in kept], unit_length(np.stack([mean for _, mean in kept])), len(own)
            if len(own) < PAGE:
                return
            after = own[-1][0]

    def classify(
        self, collection: str, labels: Sequence[str], *, timeout: float = 10, progress: Progress | None = None
    ) -> Iterator[Label]:
        """The label nearest in meaning to each row, in the order of the keys; a row without a vector has none.

        The labels are embedded as queries by the collection's model, once, in a sidecar.
        Raises TimedOut if none answers, ArgumentError for labels that are no list of texts.
        """
        asked = texts("labels", labels)
        arguments = {"collection": collection, "labels": asked, "timeout": timedelta(seconds=timeout), "page": PAGE}
        return self._classes(arguments, self._classes_page(arguments, None), progress)

    def _classes(
        self, arguments: dict[str, Any], page: list[tuple[str, str, float]], progress: Progress | None
    ) -> Iterator[Label]:
        seen = 0
        while page:
            seen += len(page)
            yield from (Label(json_values.loads(key), label, score) for key, label, score in page)
            if progress is not None:
                progress(seen, seen)
            page = self._classes_page(arguments, page[-1][0]) if len(page) == PAGE else []

    def _classes_page(self, arguments: Mapping[str, Any], after: str | None) -> list[tuple[str, str, float]]:
        wanted = {**arguments, "after": _behind(after)}
        patience = arguments["timeout"].total_seconds()
        return self._asking.once_asked(
            arguments["labels"], patience, lambda: self._statements.execute("classify", wanted).fetchall(),
            collection=arguments["collection"],
        )  # fmt: skip


def _behind(key: str | None) -> Any:
    return None if key is None else jsonb(json_values.loads(key))


def _numbers(vector: Any) -> Any:
    return np.asarray(vector.to_numpy() if hasattr(vector, "to_numpy") else vector, np.float32)


def _check_unchanged(collection: str, before: str, now: str) -> None:
    if before != now:
        raise CollectionError(f"the vectors of {collection!r} were replaced meanwhile", hint="call it once more")


def _unordered(match: Match) -> tuple[str, str]:
    a, b = sorted((json_values.dumps(match.key), json_values.dumps(match.other_key)))
    return a, b


def _groups(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """What pairs connect, by union-find; keys in the order in which they came."""
    keys = {json_values.dumps(key): key for pair in pairs for key in pair}
    parent = {name: name for name in keys}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for key, other in pairs:
        parent[root(json_values.dumps(other))] = root(json_values.dumps(key))
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, key in keys.items():
        groups[root(name)].append(key)
    return list(groups.values())


def _cluster(number: int, rows: Sequence[tuple[float, str]], words: tuple[str, ...], centroid: Embedding) -> Cluster:
    keys = tuple(json_values.loads(key) for _, key in rows)
    return Cluster(number, len(rows), keys[0], sum(away for away, _ in rows) / len(rows), words, centroid, keys)
