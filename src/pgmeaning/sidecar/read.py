"""Turns claims into work: reads the rows as they are now and cuts long texts; a row that cannot be read fails alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import psycopg
import structlog

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, is_passing
from pgmeaning.documents.chunking import Cutter, Cutters, with_known
from pgmeaning.documents.template import document, several
from pgmeaning.models.base import Embedder
from pgmeaning.models.vectors import Vectors
from pgmeaning.sidecar.broken import check_visible
from pgmeaning.sidecar.in_flight import InFlight
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.session import Session
from pgmeaning.sidecar.source import Source, SourceRow
from pgmeaning.sidecar.work import Claimed, Work
from pgmeaning.types import Claim, Document, Row, Target

log = structlog.get_logger()
T = TypeVar("T")

# Rows to be cut are read and embedded together up to this many bytes of text and this many chunks, or one alone.
BYTES_TOGETHER = 1 << 20
CHUNKS_TOGETHER = 4096


class Reader:
    """Reads claimed rows."""

    def __init__(self, run: Run, session: Session, in_flight: InFlight, cutters: Cutters) -> None:
        self._run = run
        self._settings = run.settings
        self._session = session
        self._in_flight = in_flight
        self._cutters = cutters

    def work(self, claimed: Claimed) -> Iterator[Work]:
        """The rows to embed, in suitable portions; claims whose rows cannot be read are failed here."""
        left = list(claimed.claims)
        characters = None if claimed.target.chunking else characters_for(claimed.embedder)
        started = time.monotonic()
        try:
            for claims, rows in self._portions(claimed):
                self._run.recorder.read(claimed.target, len(rows), time.monotonic() - started, claimed.origin)
                for some in _by_chunks(rows) if claimed.target.chunking else [rows]:
                    if some:
                        yield Work(
                            claimed.target, tuple(some), claimed.embedder, urgent=claimed.urgent,
                            characters=characters, origin=claimed.origin,
                        )  # fmt: skip
                left = left[len(claims) :]
                started = time.monotonic()
        except BaseException:
            self._in_flight.drop(left)  # so that they count as lost and are handed back over the next connection
            raise

    def _portions(self, claimed: Claimed) -> Iterator[tuple[Sequence[Claim], list[Row]]]:
        """(claims, their rows): all at once, or in portions if texts are cut into chunks."""
        target, embedder = claimed.target, claimed.embedder
        if target.chunking is None:
            yield claimed.claims, self._given(target, self._read(target, claimed.claims, characters_for(embedder)))
            return
        cutter = self._cutters.cutter(target.model, target.chunking, embedder)
        for claims in together(claimed.claims, self._sizes(target, claimed.claims), BYTES_TOGETHER):
            rows = self._read(target, claims, self._settings.document_characters + 1)
            yield claims, self._given(target, self._cut(target, rows, cutter))

    def _given(self, target: Target, rows: list[Row]) -> list[Row]:
        return with_given(self._session.connection, target, rows) if "sibling" in target.parts else rows

    def _sizes(self, target: Target, claims: Sequence[Claim]) -> list[int]:
        """The bytes of each row; if one cannot be measured, each is read alone."""
        try:
            return self._session.source.sizes(target, [claim.key for claim in claims])
        except psycopg.Error as error:
            if self._session.source.is_closed or is_passing(error):
                raise
            return [BYTES_TOGETHER] * len(claims)

    def _read(self, target: Target, claims: Sequence[Claim], characters: int) -> list[Row]:
        """Read the rows; if that fails, halve them until the row that causes it is alone."""
        try:
            rows = read_rows(
                self._session.connection, self._session.source, target, claims, characters,
                self._settings.media_max_bytes,
            )  # fmt: skip
            if not all(row.was_found for row in rows):
                check_visible(self._session.connection, self._session.source, target)
            return rows
        except psycopg.Error as error:
            if self._session.errors.is_of_collection(target, error):
                self._session.queue.release(claims)
                self._in_flight.drop(claims)
                return []
            if len(claims) == 1:
                self._fail("read", target, claims, [f"the row cannot be read: {error}"])
                return []
        middle = len(claims) // 2
        return [row for half in (claims[:middle], claims[middle:]) for row in self._read(target, half, characters)]

    def _cut(self, target: Target, rows: Sequence[Row], cutter: Cutter) -> list[Row]:
        """The rows with their chunks and the vectors these may keep; a row that cannot be cut fails."""
        with self._run.model_call(lambda: [row.claim for row in rows], what="cutting it into chunks"):
            cut, errors = cutter.cut(rows)
        if errors:
            log.warning("rows failed", collection=target.collection, rows=len(errors), error=errors[0][1])
            self._fail("cut", target, [row.claim for row, _ in errors], [error for _, error in errors])
        known = known_chunks(self._session.connection, target, cut)
        return with_known(cut, known, first_too=not target.has_media)

    def _fail(self, kind: str, target: Target, claims: Sequence[Claim], errors: Sequence[str]) -> None:
        self._run.recorder.failed(kind, len(claims), target)
        self._session.queue.fail(claims, errors)
        self._in_flight.drop(claims)


def _by_chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    return together(rows, [len(row.chunks) or 1 for row in rows], CHUNKS_TOGETHER)


def together(items: Sequence[T], sizes: Sequence[int], most: int) -> Iterator[Sequence[T]]:
    """The items in order, grouped up to that total size; a larger item is alone."""
    start = total = 0
    for place, size in enumerate(sizes):
        if place > start and total + size > most:
            yield items[start:place]
            start, total = place, 0
        total += size
    if items:
        yield items[start:]


def characters_for(embedder: Embedder) -> int:
    """How much of a column can matter to the model: far more than its longest input, in characters."""
    tokens = getattr(embedder, "max_tokens", None) or 8192
    return min(131_072, max(8192, 32 * int(tokens)))


def read_rows(
    connection: Connection, source: Source, target: Target, claims: Sequence[Claim], characters: int,
    media_bytes: int = 1 << 26,
) -> list[Row]:  # fmt: skip
    """The claimed rows as they are now, in the claims' order; a row that is gone has no document.

    `characters` bounds each column, so that a text of a megabyte costs no more than the model can read; `media_bytes`
    bounds an image or video likewise: of a larger one, just enough is read to see that it is too large.
    """
    keys = [claim.key for claim in claims]
    known = dict(connection.execute(sql.composed("rows/known_hashes", target.parts), {"keys": keys}).fetchall())
    found = source.rows(target, keys, characters, media_bytes)
    return [_row(target, claim, found.get(place), known.get(place)) for place, claim in enumerate(claims, start=1)]


def _row(target: Target, claim: Claim, found: SourceRow | None, known_hash: bytes | None) -> Row:
    if found is None:
        return Row(claim)
    if found.content_hash is None:  # the database says what counts as content, here as in a scan
        return Row(claim, None, found.key)
    unchanged = found.content_hash == known_hash
    content = document(target, found.texts, *_media(target, found.media))
    return Row(claim, content, found.key, found.content_hash, unchanged, words=found.words)


def _media(target: Target, values: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The images and the videos of a row, as it names them."""
    found = [() if value is None else several(value) for value in values]
    images = found.pop(0) if target.image is not None else ()
    return images, found.pop(0) if target.video is not None else ()


def known_chunks(
    connection: Connection, target: Target, rows: Sequence[Row]
) -> dict[int, dict[bytes, list[int]]]:  # fmt: skip
    """For rows of several chunks, by their position: the numbers of the stored chunks, by the hash of their text."""
    places = [place for place, row in enumerate(rows) if row.chunks]
    if not places:
        return {}
    statement = sql.composed("rows/known_chunks", target.parts)
    found: dict[int, dict[bytes, list[int]]] = {}
    keys = [rows[place].claim.key for place in places]
    for place, number, content in connection.execute(statement, {"keys": keys}).fetchall():
        found.setdefault(places[place - 1], {}).setdefault(content, []).append(number)
    return found


def with_given(connection: Connection, target: Target, rows: list[Row]) -> list[Row]:
    """The rows, those with their vectors of which another generation of the collection has them all."""
    wanted = [(place, *each) for place, row in enumerate(rows) for each in _wanted(target, row)]
    if not wanted:
        return rows
    arguments = {
        "keys": [rows[place].claim.key for place, *_ in wanted], "hashes": [hash for _, hash, _ in wanted],
        "whole": [whole for *_, whole in wanted], "dimensions": target.dimensions,
    }  # fmt: skip
    with connection.cursor(binary=True) as cursor:
        found = cursor.execute(sql.composed("rows/sibling_vectors", target.parts), arguments).fetchall()
    vectors: dict[int, list[bytes]] = {}
    for number, sent in found:
        vectors.setdefault(wanted[number - 1][0], []).append(sent)
    return [
        replace(row, given=_numbers(vectors[place]), document=Document())
        if len(vectors.get(place, ())) == row.vector_count > 0
        else row
        for place, row in enumerate(rows)
    ]


def _wanted(target: Target, row: Row) -> list[tuple[bytes, bool]]:
    """(hash, whether it is of the whole row) of each vector that must be made for a row."""
    if not row.vector_count or row.content_hash is None:
        return []
    if not row.chunks:
        return [(row.content_hash, True)] if target.parts["alike"] == "true" else []
    return [] if target.has_media else [(chunk.content_hash, False) for _, chunk in row.new_chunks]


def _numbers(sent: Sequence[bytes]) -> Vectors:
    """float32 [n, d], of vectors in pgvector's binary format: the number of dimensions, a zero, the elements."""
    return np.stack([np.frombuffer(each, ">f4", offset=4).astype(np.float32) for each in sent])
