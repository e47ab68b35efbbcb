"""The synthetic model with a behaviour: it waits, counts, fails or returns rubbish for the texts that a test names."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pgmeaning.models.base import Embedder, load_embedder
from pgmeaning.models.pipeline import Ready
from pgmeaning.models.synthetic import SyntheticEmbedder
from pgmeaning.models.vectors import Vectors, unit_length
from pgmeaning.types import Document, Model
from tests.probes import are_probes

Act = Callable[[list[str], Vectors], Vectors]


class Watched:
    """Counts the texts that it embeds, and lets `act` see each batch before and change its vectors."""

    def __init__(self, act: Act | None = None) -> None:
        self.embedded: Counter[str] = Counter()
        self.batches: list[list[str]] = []
        self.dimensions = 0
        self._act = act
        self._lock = threading.Lock()

    def load(self, model: Model) -> Embedder:
        """What a Sidecar takes as `load`."""
        self._inner = load_embedder(model)
        self.dimensions = self._inner.dimensions
        return self

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        texts = [document.text or "" for document in documents]
        if are_probes(documents):
            return self._inner.embed_documents(documents)
        with self._lock:
            self.embedded.update(texts)
            self.batches.append(texts)
        vectors = self._inner.embed_documents(documents)
        return vectors if self._act is None else self._act(texts, vectors)

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        return self._inner.embed_queries(queries)

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        return self._inner.count_tokens(documents)

    def ready(self, documents: Sequence[Document]) -> Iterator[Ready]:
        return self._inner.ready(documents)


def slowly(seconds: float, then: Act | None = None) -> Act:
    """Take that long for each batch, and then do something else with it."""

    def _act(texts: list[str], vectors: Vectors) -> Vectors:
        threading.Event().wait(seconds)
        return vectors if then is None else then(texts, vectors)

    return _act


class Gate:
    """Makes a model wait at the first batch with a certain text, until the test lets it go on."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self, texts: list[str], vectors: Vectors) -> Vectors:
        if self._text in texts:
            self._reached.set()
            assert self._opened.wait(60)
        return vectors

    def reached(self) -> None:
        """Wait until the model has the text in hand."""
        assert self._reached.wait(30), "the model was never given the text"

    def open(self) -> None:
        """Let the model go on."""
        self._opened.set()


def raising(*poison: str) -> Act:
    """Fail each batch that holds one of these texts."""

    def _act(texts: list[str], vectors: Vectors) -> Vectors:
        found = set(poison) & set(texts)
        if found:
            raise ValueError(f"cannot stand {sorted(found)}")
        return vectors

    return _act


def returning(rubbish: dict[str, float]) -> Callable[[list[str], Vectors], Vectors]:
    """Fill the vectors of these texts with a number, such as NaN."""

    def _act(texts: list[str], vectors: Vectors) -> Vectors:
        vectors = np.array(vectors)
        for place, text in enumerate(texts):
            if text in rubbish:
                vectors[place] = rubbish[text]
        return vectors

    return _act


class Clustered(SyntheticEmbedder):
    """Vectors that have neighbours: a topic's own direction, by the first word, and some noise."""

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        first = [(document.text or "").split()[:1] for document in documents]
        topics = super().embed_documents([Document(text="".join(word)) for word in first])
        return unit_length(topics + 0.5 * super().embed_documents(documents))
