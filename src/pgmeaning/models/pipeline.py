"""What an embedder may offer beyond its protocol, so that bulk work and queries share a device well.

All of it is optional: without it, a call is one piece of work that is done when the call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from pgmeaning.types import Document

if TYPE_CHECKING:
    from pgmeaning.models.vectors import Vectors

Checkpoint = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Budget:
    """How much fits the device: tokens and rows of one call, and rows to claim ahead of it."""

    tokens: int
    rows: int
    claim_rows: int
    padded: bool  # whether every row of a call costs as much as the longest
    launched: bool = False  # whether `begin_documents` returns before the device is done


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
