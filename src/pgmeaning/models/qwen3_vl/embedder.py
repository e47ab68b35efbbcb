"""Qwen3-VL-Embedding: a vector is the last token's hidden state, cut to the length wanted, at unit length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from transformers import AutoModel

from pgmeaning.errors import ModelUnavailable
from pgmeaning.models.batches import batches
from pgmeaning.models.pipeline import Budget, Checkpoint, Ready
from pgmeaning.models.qwen3_vl.inputs import Inputs
from pgmeaning.models.qwen3_vl.network import Network, copied_back, load_network
from pgmeaning.models.vectors import Vectors, unit_length
from pgmeaning.types import Document, Model


def load(model: Model, dimensions: int, **options: Any) -> Qwen3VLEmbedder:
    """Load an embedder; options and errors are those of `load_network`."""
    network = load_network(model, AutoModel, **options)
    made = network.hidden_size
    # A caller who names a folder of his own and a length knows what is there; a registry's row promises its model.
    if made != model.dimensions and not (options.get("location") and dimensions <= made):
        raise ModelUnavailable(
            f"model {model.name!r} has {model.dimensions} dimensions, the weights that were found give {made}",
            hint="another model is at its location; to take it all the same, say how many dimensions you want",
        )
    if not network.tokenizer.appends_one_end_token():
        raise ModelUnavailable(
            f"model {model.name!r}: its tokenizer does not put exactly one <|endoftext|> behind a text",
            hint="this is no Qwen3-VL-Embedding checkpoint, or its tokenizer.json was written anew without it",
        )
    return Qwen3VLEmbedder(network, model, dimensions)


class Qwen3VLEmbedder:
    """An `Embedder` over Qwen3-VL-Embedding, which offers all that `models.pipeline` asks for."""

    def __init__(self, network: Network, model: Model, dimensions: int) -> None:
        self.dimensions = dimensions
        self.checkpoint: Checkpoint | None = None
        self._network = network
        self._model = model
        self._inputs = Inputs(network.tokenizer, network.vision)

    @property
    def dtype(self) -> str:
        """Of its weights."""
        return self._network.dtype

    @property
    def device_kind(self) -> str:
        """What it runs on."""
        return str(self._network.device.type)

    @property
    def budget(self) -> Budget:
        """What one call should hold."""
        return self._network.budget

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        """float32 [n, dimensions], unit length; raises InputError for an image or video that cannot be read.

        A missing text without an image is read as `NULL`, an empty one as an empty turn. What is too long is cut on
        the right; its last token stays.
        """
        return self.begin_documents(documents)()

    def begin_documents(self, documents: Sequence[Document]) -> Callable[[], Vectors]:
        """Launch the same, and return what waits for its vectors. `checkpoint` is called between layers."""
        return self._begin(documents, self._model.document_prompt or "", self.checkpoint)

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        """The same with the model's query instruction, unless a query brings its own."""
        return self._begin(queries, self._model.query_prompt or self._model.document_prompt or "", None)()

    def prepare(self, documents: Sequence[Document]) -> None:
        """Begin to read and resize the images and videos of documents that will be embedded next."""
        self._inputs.prepare(documents)

    def ready(self, documents: Sequence[Document]) -> Iterator[Ready]:
        """The documents once `prepare` is done with them; those that cannot be read stand alone."""
        return self._inputs.ready(documents)

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        """Exact for text and images, the most there can be for a video; at most the model's limit."""
        return self._inputs.lengths(documents, self._model.document_prompt or "")

    def _begin(
        self, documents: Sequence[Document], default: str, checkpoint: Checkpoint | None
    ) -> Callable[[], Vectors]:
        lengths = self._inputs.lengths(documents, default)
        cut = list(batches(lengths, self._network.batch_tokens, padded=not self._network.packs))
        launched: list[tuple[list[int], Callable[[], Vectors]]] = []
        for number, batch in enumerate(cut):
            for ahead in cut[number : number + 2]:
                self.prepare([documents[place] for place in ahead.places])
            prompts = [self._inputs.prompt(documents[place], default) for place in batch.places]
            states = self._network.last_hidden(prompts, checkpoint)[:, : self.dimensions]
            launched.append((batch.places, copied_back(states)))

        def finish() -> Vectors:
            vectors = np.empty((len(documents), self.dimensions), np.float32)
            for places, states in launched:
                vectors[places] = states()
            return unit_length(vectors)

        return finish
