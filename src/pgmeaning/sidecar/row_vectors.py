"""Vectors come back batch by batch and text by text; a row is written once it has all of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pgmeaning.models.batches import token_lengths
from pgmeaning.models.vectors import Vectors
from pgmeaning.sidecar.batches import Embedded
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.work import Work
from pgmeaning.types import Claim, Document, Row


@dataclass(slots=True)
class _Partial:
    """The vectors so far of a row that needs several, and how many are missing."""

    vectors: Vectors
    missing: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Rows that have all their vectors, in the rows' order; and rows that failed, each with the reason."""

    rows: tuple[Row, ...]
    vectors: Vectors
    errors: tuple[tuple[Row, str], ...]


class RowVectors:
    """The texts of some rows, each once, and the rows that wait for them."""

    def __init__(self, rows: Sequence[Row], dimensions: int) -> None:
        self._dimensions = dimensions
        self._waiting = dict(enumerate(rows))
        self._partial: dict[int, _Partial] = {}
        pieces: list[tuple[int, int]] = []
        texts: list[Document] = []
        for place, row in self._waiting.items():
            own = row.documents
            if len(own) > 1:
                self._partial[place] = _Partial(np.empty((len(own), dimensions), np.float32), len(own))
            pieces += [(place, piece) for piece in range(len(own))]
            texts += own
        self.documents, places = unique(texts)
        self.rows_each = len(rows) / max(len(texts), 1)  # how much of a row one of the texts makes up
        self._users: list[list[tuple[int, int]]] = [[] for _ in self.documents]
        for user, place in zip(pieces, places, strict=True):
            self._users[place].append(user)

    def hand_back(self) -> list[Row]:
        """Rows that do not have all their vectors yet, nor an error; from now on none waits."""
        rows, self._waiting = list(self._waiting.values()), {}
        return rows

    def needed(self, places: Sequence[int]) -> Sequence[int]:
        """The documents among these that a row still waits for; a failed row waits for none."""
        return [place for place in places if any(row in self._waiting for row, _ in self._users[place])]

    def claims(self, places: Sequence[int]) -> list[Claim]:
        """Those of the rows that wait for one of these documents."""
        rows = {row for place in places for row, _ in self._users[place] if row in self._waiting}
        return [self._waiting[row].claim for row in sorted(rows)]

    def take(self, places: Sequence[int], embedded: Embedded) -> Finished:
        """The outcome of a batch, which held these documents."""
        errors = tuple(error for place, text in embedded.errors.items() for error in self._fail(places[place], text))
        users = [self._users[places[place]] for place in embedded.places]
        rows, vectors = (self._gather if self._partial else self._spread)(users, embedded.vectors)
        return Finished(tuple(rows), vectors, errors)

    def _fail(self, place: int, error: str) -> list[tuple[Row, str]]:
        rows = {row for row, _ in self._users[place] if row in self._waiting}
        for row in rows:
            self._partial.pop(row, None)
        return [(self._waiting.pop(row), error) for row in sorted(rows)]

    def _spread(self, users: Sequence[Sequence[tuple[int, int]]], vectors: Vectors) -> tuple[list[Row], Vectors]:
        """If each row has one vector, as most do: the batch's own, repeated for rows of the same text."""
        rows = [row for of_text in users for row, _ in of_text if row in self._waiting]
        spread = [index for index, of_text in enumerate(users) for row, _ in of_text if row in self._waiting]
        ready = [self._waiting.pop(row) for row in rows]
        return ready, vectors if spread == list(range(len(vectors))) else vectors[spread]

    def _gather(self, users: Sequence[Sequence[tuple[int, int]]], vectors: Vectors) -> tuple[list[Row], Vectors]:
        """If rows wait for several, keep the vectors that came, and return the rows that are complete."""
        rows: list[Row] = []
        found = [np.empty((0, self._dimensions), np.float32)]
        for of_text, vector in zip(users, vectors, strict=True):
            for row, piece in of_text:
                whole = self._added(row, piece, vector) if row in self._waiting else None
                if whole is not None:
                    rows.append(self._waiting.pop(row))
                    found.append(whole)
        return rows, np.concatenate(found)

    def _added(self, row: int, piece: int, vector: Vectors) -> Vectors | None:
        """All vectors of a row, once the last has come."""
        partial = self._partial.get(row)
        if partial is None:
            return vector[None]
        partial.vectors[piece] = vector
        partial.missing -= 1
        return self._partial.pop(row).vectors if not partial.missing else None


def measured(run: Run, work: Work) -> Work:
    """The work with the lengths of its documents: counted before its turn, beside the model."""
    documents, _ = unique([document for row in work.rows for document in row.documents])
    with run.model_call(lambda: [row.claim for row in work.rows]):
        return replace(work, lengths=tuple(token_lengths(work.embedder, documents)))


def unique(documents: Sequence[Document]) -> tuple[list[Document], list[int]]:
    """The distinct documents, and for each document its position among them."""
    seen: dict[object, int] = {}
    distinct: list[Document] = []
    places: list[int] = []
    for document in documents:
        media = _media_identity(document.images), _media_identity(document.videos)
        place = seen.setdefault((document.text, document.instruction, media), len(distinct))
        if place == len(distinct):
            distinct.append(document)
        places.append(place)
    return distinct, places


def _media_identity(value: object) -> object:
    """Equal for equal bytes and names, and for lists of these; any other object equals only itself."""
    if isinstance(value, tuple | list):
        return tuple(map(_media_identity, value))
    return value if isinstance(value, bytes | str) else id(value)
