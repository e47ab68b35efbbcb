"""Rows that are near and differ from each other: maximal marginal relevance, on stored vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pgmeaning.client.arguments import AnyVector, Filter, whole
from pgmeaning.client.arguments import vector as as_vector
from pgmeaning.errors import ArgumentError
from pgmeaning.models.vectors import Vectors, unit_length
from pgmeaning.types import Hit


class Diversity:
    """The part of a Client that searches for rows that differ."""

    def diverse(
        self, collection: str, query: str | AnyVector, k: int = 10, *, candidates: int = 50, balance: float = 0.5,
        filter: Filter = None, filter_params: Sequence[object] | None = None, columns: Sequence[str] | None = None,
        local: bool = False, timeout: float = 10,
    ) -> list[Hit]:  # fmt: skip
        """k of the nearest `candidates` rows, chosen one by one: near to the query, far from those chosen before.

        `query` is a text or a vector. `balance` 1 counts nearness alone, 0 difference alone. With `local`, this process
        loads the model. The other arguments are those of `search`.
        """
        k, candidates = whole("k", k), whole("candidates", candidates)
        if not 0 <= balance <= 1:
            raise ArgumentError(f"balance is {balance}", hint="give a number from 0 (difference) to 1 (nearness)")
        client: Any = self
        given = query
        if isinstance(query, str):
            [given] = client.embed_many([query], collection=collection, local=local, timeout=timeout)
        hits: list[Hit] = client.nearest(
            collection, given, max(k, candidates), filter=filter, filter_params=filter_params, columns=columns
        )
        stored = client.stored_vectors(collection, [hit.key for hit in hits], [hit.chunk for hit in hits])
        there = [(hit, vector) for hit, vector in zip(hits, stored, strict=True) if vector is not None]
        if not there:
            return []
        vectors = np.stack([np.asarray(vector) for _, vector in there])
        wanted = np.asarray(as_vector(given).to_numpy(), np.float32)  # type: ignore[arg-type]
        return [there[place][0] for place in chosen(wanted, vectors, k, balance)]


def chosen(query: Vectors, vectors: Vectors, k: int, balance: float) -> list[int]:
    """The places of k of the vectors, float32 [n, d], in the order in which they are chosen for a query, [d]."""
    if not len(vectors) or k < 1:
        return []
    unit = unit_length(np.asarray(vectors, np.float32))
    nearness = unit @ unit_length(np.asarray(query, np.float32)[None, : unit.shape[1]])[0]
    likeness = np.full(len(unit), -np.inf, np.float32)  # to the nearest of those that are chosen
    picked: list[int] = []
    for _ in range(min(k, len(unit))):
        worth = nearness if not picked else balance * nearness - (1 - balance) * likeness
        worth = np.where(np.isin(np.arange(len(unit)), picked), -np.inf, worth)
        picked.append(int(np.argmax(worth)))
        likeness = np.maximum(likeness, unit @ unit[picked[-1]])
    return picked
