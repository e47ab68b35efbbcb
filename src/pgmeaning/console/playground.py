"""One column of the playground: a kind of search, what it found, how long each phase took; or why it cannot."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from pgmeaning import json_values
from pgmeaning.console.asked import Asked
from pgmeaning.console.connections import Connections
from pgmeaning.console.marking import Pieces, marked
from pgmeaning.console.same_answer import arguments, as_python, as_sql
from pgmeaning.errors import ArgumentError, PgmeaningError
from pgmeaning.types import Hit


@dataclass(frozen=True, slots=True)
class Found:
    """A hit as it is shown: its key as JSON, its text in pieces."""

    rank: int
    key: str
    hit: Hit
    pieces: Pieces

    @property
    def label(self) -> str:
        """The key for people: the value alone where it is of one column."""
        values = list(self.hit.key.values())
        return str(values[0]) if len(values) == 1 else ", ".join(f"{k} {v}" for k, v in self.hit.key.items())

    @property
    def others(self) -> dict[str, str]:
        """The row's columns, as short texts."""
        return {name: short(value) for name, value in self.hit.row.items() if value is not None}


@dataclass(slots=True)
class Column:
    """What one kind of search gave. `phases`: (what was done, milliseconds)."""

    kind: str
    found: list[Found] = field(default_factory=list)
    phases: list[tuple[str, float]] = field(default_factory=list)
    sql: str | None = None
    python: str = ""
    problem: PgmeaningError | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done in the body."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.phases.append((name, 1000 * (time.perf_counter() - begun)))

    @property
    def milliseconds(self) -> float:
        """All phases together."""
        return sum(spent for _, spent in self.phases)


def column(connections: Connections, kind: str, wanted: Asked) -> Column:
    """Search. What fails is the column's problem; only a database that is away is an error."""
    made = Column(kind, python=as_python(kind, wanted))
    try:
        with connections.asking() as client:
            made.sql = as_sql(kind, wanted, client.connection)
        hits = _searched(connections, made, kind, wanted)
        made.found = _shown(connections, wanted, hits)
    except PgmeaningError as error:
        made.problem = error
    return made


def _searched(connections: Connections, made: Column, kind: str, wanted: Asked) -> list[Hit]:
    if wanted.image is not None:
        return _by_image(connections, made, kind, wanted)
    with made.phase("the query's vector"), connections.asking() as client:
        client.embed(wanted.query, collection=wanted.collection, timeout=wanted.timeout)
    if kind == "reranked":
        return _reranked(connections, made, wanted)
    with made.phase("search"), connections.reading() as client:
        told = arguments(kind, wanted)
        found = client.search(wanted.collection, wanted.query, timeout=wanted.timeout, **told)
    return [hit for hit in found if hit.text_rank is not None] if kind == "words" else found


def _reranked(connections: Connections, made: Column, wanted: Asked) -> list[Hit]:
    """As search(rerank=...) does, in two steps: so that each is measured, and no question is asked while one reads."""
    with made.phase("search"), connections.reading() as client:
        told = arguments("vectors", replace(wanted, k=max(wanted.k, wanted.rerank)))
        found = client.search(wanted.collection, wanted.query, timeout=wanted.timeout, **told)
    with made.phase(f"rerank {len(found)} rows"), connections.asking() as client:
        scores = client._asking.scores(wanted.query, found, None, wanted.timeout)
    judged = [replace(hit, score=score) for hit, score in zip(found, scores, strict=True)]
    return sorted(judged, key=lambda hit: -hit.score)[: wanted.k]


def _by_image(connections: Connections, made: Column, kind: str, wanted: Asked) -> list[Hit]:
    """For an image this process loads the models itself, as a client does."""
    if kind == "words" and wanted.query:
        return _searched(connections, made, kind, replace(wanted, image=None))
    if kind in ("words", "hybrid"):
        raise ArgumentError("an image has no words", hint="see the vectors' column, or search for a text")
    told = {name: value for name, value in arguments(kind, wanted).items() if name != "rerank"}
    if kind == "reranked":
        with made.phase(f"search and rerank {wanted.rerank} rows here"), connections.reading() as client:
            return client.search(
                wanted.collection, wanted.query or None, image=wanted.image, rerank=wanted.rerank, **told
            )
    with made.phase("the query's vector, made here"), connections.asking() as client:
        vector = client.embed(wanted.query or None, image=wanted.image, collection=wanted.collection)
    with made.phase("search"), connections.reading() as client:
        return client.nearest(wanted.collection, vector, **told)


def _shown(connections: Connections, wanted: Asked, hits: Sequence[Hit]) -> list[Found]:
    with connections.reading() as client:
        texts = marked(client._statements, wanted.collection, wanted.query, [hit.text for hit in hits])
    keys = [json_values.dumps(hit.key) for hit in hits]
    return [Found(rank, *one) for rank, one in enumerate(zip(keys, hits, texts, strict=True), 1)]


def short(value: Any, most: int = 300) -> str:
    """A value as text, for a list: bytes by their number."""
    if isinstance(value, bytes | memoryview):
        return f"{len(value):,} bytes"
    text = value if isinstance(value, str) else str(json_values.plain(value))
    return text if len(text) <= most else text[: most - 1] + "…"
