"""Judgements by keys as searches return them; what is left out of them is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgmeaning.errors import ArgumentError
from pgmeaning.evaluation.queries import Query
from pgmeaning.evaluation.results import JudgedKey, Searcher

# Query -> key -> grade; of those queries that have any.
Judged = dict[str, dict[str, int]]


def judgements(
    searcher: Searcher, collections: Sequence[str], queries: Sequence[Query], *, every: bool
) -> tuple[Judged, list[str]]:
    """The judgements of rows that are in the table, and what is to be said of the others.

    `every`: rows that not each of the collections has a vector of are left out, too.
    Raises ArgumentError if no judged row is there.
    """
    named = [(query.id, key, grade) for query in queries for key, grade in query.relevant]
    if not named:
        return {}, ["no query is judged: only how alike the lists are is measured"]
    keys = [key for _, key, _ in named]
    looked = [searcher.judged_keys(name, keys) for name in (collections if every else collections[:1])]
    _check_any(looked[0], keys)
    embedded = [all(one.has_vector for one in places) for places in zip(*looked, strict=True)]
    judged: Judged = {}
    for (id, _, grade), key, has_vectors in zip(named, looked[0], embedded, strict=True):
        if key.is_there and (has_vectors or not every):
            judged.setdefault(id, {})[key.key] = grade
    return judged, _told(looked[0], embedded, len(queries) - len(judged), every=every)


def _check_any(found: Sequence[JudgedKey], keys: Sequence[Any]) -> None:
    if not any(key.is_there for key in found):
        raise ArgumentError(
            "none of the judged rows is in the table", detail=f"the first is {keys[0]!r}",
            hint="are these queries of another table, or may you not read these rows?",
        )  # fmt: skip


def _told(found: Sequence[JudgedKey], embedded: Sequence[bool], without: int, *, every: bool) -> list[str]:
    bare = sum(key.is_there and not has_vectors for key, has_vectors in zip(found, embedded, strict=True))
    what = "not each collection has a vector of, and are left out" if every else "have no vector, and cannot be found"
    counts = {
        "judged rows are not in the table, and are left out": sum(not key.is_there for key in found),
        f"judged rows {what}": bare,
        "queries have no judged row, and are left out of the measures": without,
    }
    return [f"{count:,} {told}" for told, count in counts.items() if count]
