"""Made-up vectors at almost no cost, for tests and for benchmarks of everything but the model.

A vector is a series of blocks picked from a fixed table by a hash of the input. So the same input gives the same vector
in every process, on every machine; two inputs are almost orthogonal (cosine about 0, standard deviation 1 / sqrt(d));
and a shorter vector is the normalised beginning of a longer one. They have no meaning: similar texts are not close.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from pgmeaning.models.pipeline import Ready
from pgmeaning.models.vectors import Vectors, unit_length
from pgmeaning.types import Document, Model

# 65,536 blocks of 16 components are 4 MB, so the table stays in cache; two bytes of the hash pick a block.
BLOCK = 16
BLOCKS = 1 << 16


def load(model: Model, dimensions: int, **_options: Any) -> SyntheticEmbedder:
    """The embedder. Options are ignored, since there is nothing to choose."""
    return SyntheticEmbedder(dimensions)


class SyntheticEmbedder:
    """Unit vectors from a hash of text and media. An instruction has no effect; queries are embedded like documents."""

    dtype = "float32"

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._blocks = -(-dimensions // BLOCK)

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        """float32 [n, dimensions], unit length."""
        picks = b"".join([self._picks(document) for document in documents])
        blocks = _table().take(np.frombuffer(picks, np.dtype("<u2")), axis=0)
        vectors = blocks.reshape(len(documents), self._blocks * BLOCK)
        if self.dimensions % BLOCK == 0:
            # Every block has length 1; multiplying by a constant is cheaper than measuring.
            vectors *= np.float32(self._blocks**-0.5)
            return vectors
        return unit_length(vectors[:, : self.dimensions])

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        """The same vectors as for documents."""
        return self.embed_documents(queries)

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        """One per 256 characters, image or video: a long text costs little more than a short one."""
        return [
            1 + len(document.text or "") // 256 + len(document.images) + len(document.videos) for document in documents
        ]

    def ready(self, documents: Sequence[Document]) -> Iterator[Ready]:
        """The documents as they are: it hashes bytes, and decodes nothing."""
        return iter([Ready(documents)])

    def _picks(self, document: Document) -> bytes:
        # SHAKE gives as many bytes as requested, and fewer are a prefix of more: hence the Matryoshka prefix.
        if document.images or document.videos:
            return hashlib.shake_128(_serialised(document)).digest(2 * self._blocks)
        text = document.text
        data = b"-" if text is None else b"t" + text.encode("utf-8", "surrogatepass")
        return hashlib.shake_128(data).digest(2 * self._blocks)


@cache
def _table() -> Vectors:
    """float32 [BLOCKS, BLOCK], rows of length 1, no component zero. Hashed, as numpy's generators may change."""
    data = hashlib.shake_128(b"pgmeaning synthetic vectors, table 1").digest(BLOCKS * BLOCK * 2)
    return unit_length(np.frombuffer(data, np.dtype("<i2")).reshape(BLOCKS, BLOCK).astype(np.float32) + 0.5)


def _serialised(document: Document) -> bytes:
    """Everything that is embedded of a document, so that no two different ones come out the same."""
    return _packed(b"m", [_bytes(document.text), _bytes(document.images), _bytes(document.videos)])


def _bytes(value: object) -> bytes:
    """The content of an image or array, of bytes, text and lists of these; the repr of a path or anything else."""
    if isinstance(value, bytes | bytearray | memoryview):
        return b"b" + bytes(value)
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, list | tuple):
        return _packed(b"l", [_bytes(part) for part in value])
    if hasattr(value, "tobytes"):
        return _packed(b"a", [repr(_shape(value)).encode(), value.tobytes()])
    return b"r" + repr(value).encode("utf-8", "surrogatepass")


def _shape(value: object) -> tuple[object, ...]:
    """What distinguishes images with the same bytes: size and mode of a PIL image, shape and type of an array."""
    return tuple(str(getattr(value, name, None)) for name in ("size", "mode", "shape", "dtype"))


def _packed(kind: bytes, parts: Sequence[bytes]) -> bytes:
    return kind + b"".join(len(part).to_bytes(8, "little") + part for part in parts)
