"""The two protocols, for embedders and rerankers, and how a backend is found by its entry point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np

from pgmeaning.errors import InputError, ModelUnavailable
from pgmeaning.models.pipeline import Budget, Checkpoint, Ready, begin, budget_of, let_in, prepare, ready
from pgmeaning.models.registry import builtin_model
from pgmeaning.models.vectors import Vectors, check_scores, check_vectors
from pgmeaning.types import Document, Model

Input = Document | Mapping[str, Any] | str

EMBEDDERS = "pgmeaning.embedders"
RERANKERS = "pgmeaning.rerankers"

# The extra that installs a backend's packages; for all our other backends it is `local`.
EXTRAS = {"qwen3_vl": "qwen", "http": "http"}


class Embedder(Protocol):
    """Turns documents and queries into vectors that can be compared.

    Calls may come from different threads. Two embedding calls never overlap; `count_tokens` may be called at any time.
    """

    @property
    def dimensions(self) -> int:
        """Length of every vector."""

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        """float32 [n, dimensions], unit length, in order; raises InputError for an input that it cannot embed."""

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        """The same for queries, with the model's query prompt."""

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        """The tokens of each document, for batches by token budget. It must be fast; an estimate is enough."""


class Reranker(Protocol):
    """Judges (query, document) pairs."""

    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        """float32 [n], 0..1, higher is better, in the order given."""


class LoadedEmbedder:
    """An embedder as `load_embedder` returns it: takes mappings and strings too, and lets no bad vector through."""

    def __init__(self, embedder: Embedder, max_tokens: int | None = None) -> None:
        self._embedder = embedder
        self.dimensions = embedder.dimensions
        self.max_tokens = max_tokens  # text beyond this is not read; None: unknown

    def embed_documents(self, documents: Sequence[Input]) -> Vectors:
        """float32 [n, dimensions], unit length; raises InputError for an unsuitable input, and BadVector."""
        return self._checked(self._embedder.embed_documents(as_documents(documents)), len(documents))

    def embed_queries(self, queries: Sequence[Input]) -> Vectors:
        """The same for queries, with the model's query prompt."""
        return self._checked(self._embedder.embed_queries(as_documents(queries)), len(queries))

    def count_tokens(self, documents: Sequence[Input]) -> list[int]:
        """The tokens of each document."""
        return self._embedder.count_tokens(as_documents(documents))

    @property
    def dtype(self) -> str | None:
        """Of its weights, such as 'float32'; None: unknown."""
        return getattr(self._embedder, "dtype", None)

    @property
    def device_kind(self) -> str | None:
        """What it runs on, such as 'cpu' or 'cuda'; None: unknown."""
        return getattr(self._embedder, "device_kind", None)

    @property
    def is_remote(self) -> bool:
        """Whether it runs in a process that others may change while we go on."""
        return bool(getattr(self._embedder, "is_remote", False))

    @property
    def budget(self) -> Budget | None:
        """What one call should hold on the device; None if any size is fine."""
        return budget_of(self._embedder)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """A function called now and then during bulk work, if the backend supports it: see `models.pipeline`."""
        return getattr(self._embedder, "checkpoint", None)

    @checkpoint.setter
    def checkpoint(self, checkpoint: Checkpoint | None) -> None:
        let_in(self._embedder, checkpoint)

    def requests(self, documents: Sequence[Input]) -> int:
        """In how many requests these documents go to an endpoint; 1 where there is none."""
        count = getattr(self._embedder, "requests", None)
        return int(count(as_documents(documents))) if count else 1

    def prepare(self, documents: Sequence[Input]) -> None:
        """Let it start preparing the documents that come next; returns at once."""
        prepare(self._embedder, as_documents(documents))

    def ready(self, documents: Sequence[Input]) -> Iterator[Ready]:
        """The documents in groups, with their images decoded: see `models.pipeline`."""
        return ready(self._embedder, as_documents(documents))

    def begin_documents(self, documents: Sequence[Input]) -> Callable[[], Vectors]:
        """Launch `embed_documents`, if the backend can; the returned function waits for the vectors."""
        finish = begin(self._embedder, as_documents(documents))
        return lambda: self._checked(finish(), len(documents))

    def _checked(self, vectors: Vectors, count: int) -> Vectors:
        return check_vectors(np.asarray(vectors, np.float32), count, self.dimensions)


class LoadedReranker:
    """A reranker as `load_reranker` returns it: takes mappings and strings too, and lets no bad score through."""

    def __init__(self, reranker: Reranker, modalities: Sequence[str] = ("text",)) -> None:
        self._reranker = reranker
        self.modalities = tuple(modalities)

    @property
    def is_remote(self) -> bool:
        """Whether it runs elsewhere, so that a call holds up nothing here."""
        return bool(getattr(self._reranker, "is_remote", False))

    def score(self, query: Input, documents: Sequence[Input], instruction: str | None = None) -> Vectors:
        """float32 [n], 0..1; raises InputError for an unsuitable input, and BadVector."""
        judged = as_documents(documents)
        if not judged:
            return np.empty(0, np.float32)
        return check_scores(
            np.asarray(self._reranker.score(as_document(query), judged, instruction), np.float32), len(judged)
        )


def load_embedder(model: Model | str, dimensions: int | None = None, **options: Any) -> LoadedEmbedder:
    """Load an embedder (a built-in one by name) through its backend's entry point; `options` are the backend's.

    Raises ModelNotFound for an unknown name, ModelUnavailable where the model cannot run here.
    """
    wanted = _resolved(model, "embedder")
    length = wanted.dimensions if dimensions is None else dimensions
    check_dimensions(wanted, length)
    return LoadedEmbedder(_factory(EMBEDDERS, wanted)(wanted, dimensions=length, **options), wanted.max_tokens)


def load_reranker(model: Model | str, **options: Any) -> LoadedReranker:
    """Load a reranker (a built-in one by name) through its backend's entry point; `options` are the backend's.

    Raises ModelNotFound for an unknown name, ModelUnavailable where the model cannot run here.
    """
    wanted = _resolved(model, "reranker")
    return LoadedReranker(_factory(RERANKERS, wanted)(wanted, **options), wanted.modalities)


def as_documents(items: Sequence[Input]) -> list[Document]:
    """Each item as a Document; raises InputError for the first that cannot be one."""
    if isinstance(items, str | Mapping | Document):
        raise InputError("a single input was given instead of a list", hint="put it into a list")
    return [item if isinstance(item, Document) else as_document(item) for item in items]


def as_document(item: Input) -> Document:
    """A string is a text. A mapping may have `text`, `image`, `video` and `instruction`; None counts as missing.

    `image` is an image or a list of images; `video` is a path or a list of images; `videos` is a list of videos.
    """
    match item:
        case Document():
            return item
        case str():
            return Document(text=item)
        case Mapping():
            return _document_of(dict(item))
    raise InputError(
        f"an input of type {type(item).__name__} cannot be embedded",
        hint="give a string, a mapping with 'text' and 'image', or a Document",
    )


def check_dimensions(model: Model, wanted: int) -> None:
    """Raise ModelUnavailable unless the model can make vectors of that length (its own or a Matryoshka prefix)."""
    smallest = model.min_dimensions or model.dimensions
    if not smallest <= wanted <= model.dimensions:
        raise ModelUnavailable(
            f"model {model.name!r} has no {wanted}-dimensional vectors",
            hint=f"choose {smallest} to {model.dimensions}" if model.min_dimensions else f"it has {smallest}",
        )


def _document_of(fields: dict[str, Any]) -> Document:
    images = _several(fields.pop("image", None)) + _several(fields.pop("images", None))
    video, videos = fields.pop("video", None), _several(fields.pop("videos", None))
    text, instruction = fields.pop("text", None), fields.pop("instruction", None)
    if fields:
        raise InputError(
            f"an input has no field {next(iter(fields))!r}", hint="it may have text, image, video and instruction"
        )
    if not isinstance(text, str | None):
        raise InputError(f"the text of an input is a {type(text).__name__}", hint="make it a string")
    return Document(text, images, videos if video is None else (video, *videos), instruction)


def _several(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _resolved(model: Model | str, kind: str) -> Model:
    found = builtin_model(model) if isinstance(model, str) else model
    if found.kind != kind:
        raise ModelUnavailable(
            f"model {found.name!r} is of kind {found.kind}, not {kind}",
            hint=f"use load_{found.kind}()",
        )
    return found


def _factory(group: str, model: Model) -> Any:
    found = list(entry_points(group=group, name=model.backend))
    if not found:
        known = sorted(entry.name for entry in entry_points(group=group))
        raise ModelUnavailable(
            f"model {model.name!r} needs the backend {model.backend!r}, which is not installed",
            hint=f"installed here: {', '.join(known) or 'none'}; a package can add one under the entry point {group}",
        )
    try:
        return found[0].load()
    except ImportError as error:
        raise ModelUnavailable(
            f"model {model.name!r} cannot run here: {error}",
            hint=f"install its packages: pip install 'pgmeaning[{EXTRAS.get(model.backend, 'local')}]'",
        ) from error
