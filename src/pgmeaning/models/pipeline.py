"""What an embedder may offer beyond its protocol, so that bulk work and queries share a device well.

All of it is optional: without it, a call is one piece of work that is done when the call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, cast

from pgmeaning.media import read_image
from pgmeaning.types import Document

if TYPE_CHECKING:
    from pgmeaning.models.vectors import Vectors

Checkpoint = Callable[[], None]

# Pixels of decoded images that are held at four bytes each: those of a row are reduced to so many in all.
HELD_PIXELS = 64_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """How much fits the device: tokens and rows of one call, and rows to claim ahead of it."""

    tokens: int
    rows: int
    claim_rows: int
    padded: bool  # whether every row of a call costs as much as the longest
    launched: bool = False  # whether `begin_documents` returns before the device is done
    least: int = 1  # rows to claim at least, however slow it is: what keeps all of an endpoint's requests busy


@dataclass(frozen=True, slots=True)
class Ready:
    """Documents that may go to the model together; or one that cannot, and why."""

    documents: Sequence[Document]
    error: BaseException | None = None


class Embeds(Protocol):
    """What `begin` needs from an embedder."""

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        """float32 [n, dimensions]."""


class Pipelined(Protocol):
    """All the optional methods.

    `checkpoint`, if it is set, is called every few milliseconds of bulk work, by the thread that does it; until it
    returns, another thread may embed queries.
    """

    checkpoint: Checkpoint | None

    @property
    def budget(self) -> Budget:
        """What one call should hold on the device."""

    def prepare(self, documents: Sequence[Document]) -> None:
        """Start preparing the documents that come next (reading images); returns at once."""

    def ready(self, documents: Sequence[Document]) -> Iterator[Ready]:
        """The documents in groups, in their order, each once its images and videos are prepared."""

    def begin_documents(self, documents: Sequence[Document]) -> Callable[[], Vectors]:
        """Launch `embed_documents`; the returned function waits for the vectors. Raises InputError likewise."""


def budget_of(embedder: object) -> Budget | None:
    """What one call should hold; None if any size is fine."""
    found = getattr(embedder, "budget", None)
    return found if isinstance(found, Budget) else None


def prepare(embedder: object, documents: Sequence[Document]) -> None:
    """Let the embedder start preparing the documents that come next, if it can."""
    if hasattr(embedder, "prepare"):
        cast(Pipelined, embedder).prepare(documents)


def ready(embedder: object, documents: Sequence[Document]) -> Iterator[Ready]:
    """The documents in groups, in their order, with all done that may be done before the embedder's turn.

    Images are decoded, as many as may be held at a time. Videos stay as they are unless the embedder prepares them.
    """
    if hasattr(embedder, "ready"):
        yield from cast(Pipelined, embedder).ready(documents)
        return
    group: list[Document] = []
    held = 0
    for document in documents:
        try:
            decoded = _decoded(document) if document.images else document
        except Exception as error:  # whatever a decoder raises concerns this document
            if group:
                yield Ready(group)
            yield Ready([document], error)
            group, held = [], 0
            continue
        pixels = sum(image.width * image.height for image in decoded.images)
        if group and held + pixels > HELD_PIXELS:
            yield Ready(group)
            group, held = [], 0
        group.append(decoded)
        held += pixels
    if group:
        yield Ready(group)


def _decoded(document: Document) -> Document:
    each = HELD_PIXELS // len(document.images)
    return replace(document, images=tuple(read_image(image, at_most=each) for image in document.images))


def begin(embedder: Embeds, documents: Sequence[Document]) -> Callable[[], Vectors]:
    """Launch `embed_documents`, or run it if it cannot be launched; the returned function waits for the vectors."""
    if hasattr(embedder, "begin_documents"):
        return cast(Pipelined, embedder).begin_documents(documents)
    vectors = embedder.embed_documents(documents)
    return lambda: vectors


def let_in(embedder: object, checkpoint: Checkpoint | None) -> None:
    """Have `checkpoint` called now and then during `embed_documents`, if the backend can."""
    if hasattr(embedder, "checkpoint"):
        cast(Pipelined, embedder).checkpoint = checkpoint
