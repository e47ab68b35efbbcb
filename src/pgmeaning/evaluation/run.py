"""An evaluation from the queries to the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pgmeaning.errors import ArgumentError, CollectionError
from pgmeaning.evaluation import tune
from pgmeaning.evaluation.answers import Lists, Options, Progress, Run, answered
from pgmeaning.evaluation.compare import CONFIDENCE, RESAMPLES, Estimate, estimate
from pgmeaning.evaluation.judgements import judgements
from pgmeaning.evaluation.measures import NDCG, K, Values, measured, overlap, rank_biased_overlap
from pgmeaning.evaluation.queries import Queries, Query
from pgmeaning.evaluation.results import (
    Changed,
    Difference,
    Evaluation,
    Generation,
    Likeness,
    Measured,
    Searcher,
    Shown,
    Way,
)

# A tag of fewer judged queries says nothing; its queries still count among all.
LEAST_OF_A_TAG = 2


def evaluate(
    searcher: Searcher, collections: Sequence[str], given: Queries, options: Options, progress: Progress | None = None
) -> Evaluation:
    """Answer the queries in each way with each of the collections, which are of one table; compare with the first.

    Raises CollectionError for collections that cannot be compared, or that changed meanwhile.
    """
    run, warnings = _prepared(searcher, collections, given, options, progress or (lambda *_: None))
    run.embed()
    ways = [_way(options, name, kind) for name in collections for kind in options.ways]
    lists = answered(run, ways)
    values = {one.way: measured(run.judged, one.keys, options.recall) if run.judged else {} for one in lists}
    pairs = list(_pairs(lists))
    tuned = tuple(tune.tuned(run, way) for way in ways if way.collection == collections[-1]) if options.tune else ()
    _check_unchanged(run)
    return Evaluation(
        collection=collections[0], source=run.generations[0].source_name, name=given.name, queries=len(run.queries),
        judged=len(run.judged), k=options.k, warnings=(*given.warnings, *warnings),
        measured=tuple(_measured(run, one, values[one.way]) for one in lists),
        differences=tuple(found for one, base in pairs for found in _differences(run, one, base, values)),
        likenesses=tuple(_likeness(run, one, base) for one, base in pairs),
        changed=tuple(found for one, base in pairs for found in _changed(run, one, base, values)),
        tuned=tuned, settings=_settings(given, options, run),
    )  # fmt: skip


def _way(options: Options, collection: str, kind: str) -> Way:
    rerank = options.rerank if kind.endswith("reranked") else None
    weights = options.weights if kind.startswith("hybrid") else None
    return Way(collection, kind, rerank, weights, options.candidates)


def _settings(given: Queries, options: Options, run: Run) -> dict[str, Any]:
    """What a record says of how it was measured."""
    return {
        "queries": given.name, "k": options.k, "seed": options.seed, "resamples": RESAMPLES, "confidence": CONFIDENCE,
        "common_rows_only": bool(run.among),
    }  # fmt: skip


# ---------------------------------------------------------------- before


def _prepared(
    searcher: Searcher, collections: Sequence[str], given: Queries, options: Options, progress: Progress
) -> tuple[Run, list[str]]:
    if len(set(collections)) < len(collections):
        raise ArgumentError("a collection is named twice", hint="name each once")
    generations = searcher.generations(collections)
    warnings = [_incomplete(one) for one in generations if not one.is_complete]
    for other in generations[1:]:
        if other.source != generations[0].source:
            message = (
                f"{other.collection!r} is of {other.source_name}, {collections[0]!r} of {generations[0].source_name}"
            )
            raise CollectionError(message, hint="only collections of one table can be compared")
    half_filled = len(generations) > 1 and bool(warnings)
    if half_filled:
        warnings.append("only rows that each collection has a vector of are looked at")
    among = {name: [other for other in collections if other != name] for name in collections} if half_filled else {}
    judged, told = judgements(searcher, collections, given.queries, every=half_filled)
    return Run(searcher, options, generations, given.queries, judged, among, progress), [*warnings, *told]


def _incomplete(one: Generation) -> str:
    failed = f", and {one.failed:,} failed" if one.failed else ""
    return f"{one.collection!r} owes {one.owed:,} rows their vectors{failed}: what has none cannot be found"


def _check_unchanged(run: Run) -> None:
    """An activated or altered generation in the middle would have the two halves of one number from two of them."""
    names = [one.collection for one in run.generations]
    for before, now in zip(run.generations, run.searcher.generations(names), strict=True):
        if (before.source, before.mark) != (now.source, now.mark):
            message = f"collection {before.collection!r} became another one while it was evaluated"
            raise CollectionError(message, hint="evaluate again once nobody changes it")


def _pairs(lists: Sequence[Lists]) -> Iterator[tuple[Lists, Lists]]:
    """Another generation's beside the first one's of the same kind; and in the first, other kinds beside the first."""
    first = lists[0].way
    for one in lists:
        kind = first.kind if one.way.collection == first.collection else one.way.kind
        base = next(other for other in lists if (other.way.collection, other.way.kind) == (first.collection, kind))
        if base is not one:
            yield one, base


# ---------------------------------------------------------------- results


def _groups(run: Run) -> dict[str | None, Values]:
    """The places of judged queries, of all (None) and of each tag: int [n]."""
    tags: dict[str | None, list[int]] = {None: list(range(len(run.judged)))}
    by_id = {query.id: query.tags for query in run.queries}
    for place, id in enumerate(run.judged):
        for tag in by_id[id]:
            tags.setdefault(tag, []).append(place)
    return {tag: np.array(places) for tag, places in tags.items() if tag is None or len(places) >= LEAST_OF_A_TAG}


def _measured(run: Run, one: Lists, values: Mapping[str, Values]) -> Measured:
    seed, groups = run.options.seed, _groups(run)
    estimates = {
        tag: {name: estimate(of[places], seed) for name, of in values.items()} for tag, places in groups.items()
    }
    p50, p95 = np.quantile(one.seconds, [0.5, 0.95]) * 1000
    model = run.model(one.way.collection)
    of_tags = dict(sorted((tag, found) for tag, found in estimates.items() if tag is not None))
    return Measured(one.way, model, estimates[None], of_tags, float(p50), float(p95))


def _differences(run: Run, one: Lists, base: Lists, values: Mapping[Way, Mapping[str, Values]]) -> Iterator[Difference]:
    for tag, places in sorted(_groups(run).items(), key=lambda group: group[0] or ""):
        for measure, of in values[one.way].items():
            now, before = of[places], values[base.way][measure][places]
            change = estimate(now - before, run.options.seed)
            yield Difference(one.way, base.way, measure, tag, float(now.mean()), float(before.mean()), change)


def _likeness(run: Run, one: Lists, base: Lists) -> Likeness:
    overlaps = [overlap(base.keys[id], keys) for id, keys in one.keys.items()]
    alike = [rank_biased_overlap(base.keys[id], keys) for id, keys in one.keys.items()]
    return Likeness(one.way, base.way, _mean(run, overlaps), _mean(run, alike))


def _mean(run: Run, values: Sequence[float]) -> Estimate:
    return estimate(np.array(values), run.options.seed)


def _changed(run: Run, one: Lists, base: Lists, values: Mapping[Way, Mapping[str, Values]]) -> list[Changed]:
    """The queries whose lists differ, those first that gained or lost most, then those least alike."""
    gains: dict[str, float] = {}
    if run.judged:
        change = values[one.way][NDCG] - values[base.way][NDCG]
        gains = dict(zip(run.judged, change.tolist(), strict=True))
    found = [
        Changed(
            one.way, base.way, query.text, query.tags, gains.get(query.id),
            rank_biased_overlap(base.keys[query.id], one.keys[query.id]),
            _shown(run, base, query), _shown(run, one, query),
        )
        for query in run.queries
        if base.keys[query.id][:K] != one.keys[query.id][:K]
    ]  # fmt: skip
    found.sort(key=lambda changed: (-abs(changed.change or 0), changed.rank_biased_overlap))
    return found[: run.options.changed]


def _shown(run: Run, one: Lists, query: Query) -> tuple[Shown, ...]:
    grades = run.judged.get(query.id, {})
    keys, texts = one.keys[query.id][:K], one.texts[query.id]
    return tuple(Shown(key, text, grades.get(key, 0)) for key, text in zip(keys, texts, strict=True))
