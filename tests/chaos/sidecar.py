"""A sidecar process whose model misbehaves: python -m tests.chaos.sidecar DSN SEED.

One text in a few hundred makes it fail, panic, hang or return NaN; which ones is a matter of the text and the seed.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import zlib
from collections.abc import Sequence

import numpy as np

from pgmeaning.models.base import Embedder, load_embedder
from pgmeaning.models.vectors import Vectors
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Document, Model
from tests.probes import are_probes


class Panic(BaseException):
    """What PyO3 raises is no Exception either."""


class Misbehaving:
    """The synthetic model, with moods."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = random.Random(seed)
        self.dimensions = 0

    def load(self, model: Model) -> Embedder:
        """What a Sidecar takes as `load`."""
        self._inner = load_embedder(model)
        self.dimensions = self._inner.dimensions
        return self

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        vectors = self._inner.embed_documents(documents)
        if are_probes(documents):
            return vectors
        for document in documents:
            self._misbehave(zlib.crc32(f"{self._seed} {document.text}".encode()) % 4000, vectors)
        if self._random.random() < 0.002:
            raise RuntimeError("the device was busy")
        return vectors

    def _misbehave(self, mood: int, vectors: Vectors) -> None:
        if mood < 4:
            raise ValueError("the model cannot stand this text")
        if mood < 6:
            raise Panic("the tokenizer panicked")
        if mood < 8:
            vectors[:] = np.nan
        if mood == 8:
            threading.Event().wait()

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        return self._inner.embed_queries(queries)

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        return self._inner.count_tokens(documents)


def main(dsn: str, seed: str) -> int:
    """Run until a signal; settings come from the environment."""
    sidecar = Sidecar(dsn, Settings(), load=Misbehaving(int(seed)).load)
    signal.signal(signal.SIGTERM, lambda *_: sidecar.stop())
    return sidecar.run()


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
