"""Groups documents into batches for a model: by token budget instead of row count, with similar lengths together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pgmeaning.models.base import Embedder
from pgmeaning.types import Document


@dataclass(frozen=True, slots=True)
class Batch:
    """Positions of documents that go through the model together, and the tokens they cost, padding included."""

    places: list[int]
    tokens: int


def batches(lengths: Sequence[int], budget: int, rows: int | None = None, *, padded: bool = True) -> Iterator[Batch]:
    """Cut documents of these lengths (in tokens) into batches, the longest first, none of which exceeds the budget.

    A document longer than the budget is alone. `rows`: the most documents in a batch. `padded`: whether each costs as
    much as the longest in its batch.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    if not padded:
        yield from _packed(order, lengths, budget, rows or len(order))
        return
    while order:
        # Every document of a batch is padded to the longest, which comes first.
        longest = max(lengths[order[0]], 1)
        size = max(1, min(rows or len(order), budget // longest))
        yield Batch(order[:size], longest * len(order[:size]))
        order = order[size:]


def _packed(order: Sequence[int], lengths: Sequence[int], budget: int, rows: int) -> Iterator[Batch]:
    places: list[int] = []
    tokens = 0
    for place in order:
        if places and (tokens + lengths[place] > budget or len(places) == rows):
            yield Batch(places, tokens)
            places, tokens = [], 0
        places.append(place)
        tokens += lengths[place]
    if places:
        yield Batch(places, tokens)


def token_lengths(embedder: Embedder, documents: Sequence[Document]) -> list[int]:
    """Tokens of each document; a rough guess if the model cannot count them: embedding will show the faulty one."""
    try:
        counted = embedder.count_tokens(documents)
    except BaseException:
        counted = []
    return counted if len(counted) == len(documents) else [1 + len(document.text or "") // 4 for document in documents]
