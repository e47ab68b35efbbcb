"""The values that travel between the layers; all frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Model:
    """One row of the registry: what to run, and everything that changes its vectors.

    `dimensions` is the length of its vectors (0 for a reranker), `min_dimensions` the smallest Matryoshka prefix
    that may be requested (None: only its own dimension).
    """

    name: str
    kind: str  # 'embedder' or 'reranker'
    backend: str  # the entry point that runs it
    status: str = "supported"
    location: str | None = None  # a hub name or a folder
    revision: str | None = None
    dimensions: int = 0
    min_dimensions: int | None = None
    max_tokens: int | None = None
    template: str | None = None
    pooling: str | None = None
    normalize: bool = True
    query_prompt: str | None = None  # with '{text}' in place of the query, or an instruction if the template has one
    document_prompt: str | None = None
    modalities: tuple[str, ...] = ("text",)
    options: Mapping[str, Any] = field(default_factory=dict)
    reranker: str | None = None  # an embedder's companion, which becomes the default along with it


@dataclass(frozen=True, slots=True)
class Release:
    """A named set of models: vectors can be compared between all databases that follow the same release."""

    name: str
    embedder: str
    reranker: str
    dimensions: int
    current: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """What is embedded for one row (or one chunk of it): text, images, video or a mixture."""

    text: str | None = None
    images: tuple[Any, ...] = ()
    videos: tuple[Any, ...] = ()
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a long text is cut: by 'tokens', 'sentences', 'paragraphs' or 'markdown'; `size` and `overlap` in tokens."""

    method: str
    size: int
    overlap: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a row's text. `kept`: the number of the stored chunk with the same text, whose vector it keeps."""

    text: str
    content_hash: bytes
    kept: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One (collection, model): where rows come from and vectors go. `parts` is SQL, quoted by the database itself."""

    collection_id: int
    collection: str
    model: str
    dimensions: int
    vector_type: str  # 'vector' or 'halfvec', the type of the stored vectors
    paused: bool
    problem: str | None
    source_exists: bool
    scanning: bool
    columns: tuple[str, ...]
    template_parts: tuple[tuple[str, str | None], ...] | None
    image: str | None  # the column of images
    video: str | None
    key_width: int
    parts: Mapping[str, str]
    chunking: Chunking | None = None
    has_words: bool = False  # whether its vector table has a column of words
    fingerprint: str = ""  # of the model that makes its vectors
    is_limited: bool = False  # whether its scan may spend only so many tokens, or so much of a sidecar's model
    scan_share: float | None = None  # how much of the model; None: all of it

    @property
    def has_media(self) -> bool:
        """Whether its rows have images or videos."""
        return self.image is not None or self.video is not None

    @property
    def workable(self) -> bool:
        """Whether its rows may be embedded now."""
        return self.source_exists and not self.paused and self.problem is None


@dataclass(frozen=True, slots=True)
class Claim:
    """A sidecar's lease on one queue row; `generation` tells whether the row has changed since."""

    collection_id: int
    model: str
    key: str  # the key columns, as the text of the queue's jsonb
    generation: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Row:
    """A claimed row as it was read. `document` is None if there is nothing to embed or the row is gone.

    A row of several chunks has them in `chunks`, and its `document` is the first of them, with the row's images.
    `key_bytes` are its key columns in PostgreSQL's binary format, for COPY BINARY, whatever their types.
    """

    claim: Claim
    document: Document | None = None
    key_bytes: tuple[bytes | None, ...] = ()
    content_hash: bytes | None = None
    unchanged: bool = False  # its vector was made from exactly this content
    chunks: tuple[Chunk, ...] = ()
    words: bytes | None = None  # a tsvector of its text, in PostgreSQL's binary format
    given: Any = None  # its vectors, float32 [vector_count, d], where another generation of the collection has them

    @property
    def was_found(self) -> bool:
        """Whether the row is still there."""
        return bool(self.key_bytes)

    @property
    def needs_vector(self) -> bool:
        """Whether the row has content that its stored vectors were not made from."""
        return self.document is not None and not self.unchanged

    @property
    def new_chunks(self) -> list[tuple[int, Chunk]]:
        """(number, chunk) of the chunks that have no stored vector to keep."""
        return [(number, chunk) for number, chunk in enumerate(self.chunks) if chunk.kept is None]

    @property
    def keeps_vectors(self) -> bool:
        """Whether stored chunks keep their vectors while others are replaced."""
        return not self.unchanged and any(chunk.kept is not None for chunk in self.chunks)

    @property
    def vector_count(self) -> int:
        """How many vectors must be made for the row."""
        return len(self.new_chunks) if self.chunks else int(self.needs_vector)

    @property
    def documents(self) -> list[Document]:
        """What must be embedded, one per vector: the row's document, or the new ones among its chunks."""
        if self.document is None or self.unchanged or self.given is not None:
            return []
        if not self.chunks:
            return [self.document]
        return [self.document if number == 0 else Document(chunk.text) for number, chunk in self.new_chunks]

    def chunk_hash(self, number: int) -> bytes | None:
        """The hash stored with a chunk. The first chunk's is the hash of the row, which a reconcile compares."""
        return self.chunks[number].content_hash if number else self.content_hash


@dataclass(frozen=True, slots=True)
class Hit:
    """One row that a search found. `distance` is the cosine distance (0..2), `score` higher is better.

    `key` has the key columns as JSON values, with fractions as Decimal; similar() and wait_for() take it.
    `row` has the columns as Python types; a date or time that Python cannot represent (infinity, BC) is a string.
    The ranks, from 1, are its positions among the nearest and (in hybrid search) among those found by words.
    `text` is what was embedded, of the chunk if there are several, and what a reranker judges; None if the caller may
    not read all of it.
    """

    key: dict[str, Any]
    row: dict[str, Any]
    distance: float
    score: float
    chunk: int = 0
    chunk_text: str | None = None
    model: str | None = None
    vector_rank: int | None = None
    text_rank: int | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """Two rows that are near: `key` of one collection, `other_key` of the other. `distance` is cosine (0..2)."""

    key: dict[str, Any]
    other_key: dict[str, Any]
    distance: float
    score: float


@dataclass(frozen=True, slots=True)
class Label:
    """The label nearest to a row; `score` is their cosine similarity."""

    key: dict[str, Any]
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Cluster:
    """Rows that belong together. `key` is the row nearest to the centroid, a unit vector; `keys` are all of them.

    `spread` is their mean cosine distance to it, `words` those that tell it from the other clusters, the best first.
    """

    number: int  # from 1, the largest cluster first
    size: int
    key: dict[str, Any]
    spread: float
    words: tuple[str, ...]
    centroid: Any
    keys: tuple[dict[str, Any], ...]
