"""Qwen3-VL-Embedding: a vector is the last token's hidden state, cut to the length wanted, at unit length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import AutoModel

from pgmeaning.errors import ModelUnavailable
from pgmeaning.models.base import Vectors, unit_length
from pgmeaning.models.batches import batches
from pgmeaning.models.qwen3_vl.network import Network, load_network
from pgmeaning.models.qwen3_vl.packing import Prompt
from pgmeaning.models.qwen3_vl.prompt import Piece
from pgmeaning.models.qwen3_vl.vision import Visual
from pgmeaning.models.text import instruction
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
    """An `Embedder` over Qwen3-VL-Embedding."""

    def __init__(self, network: Network, model: Model, dimensions: int) -> None:
        self.dimensions = dimensions
        self._network = network
        self._model = model

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        """float32 [n, dimensions], unit length; raises InputError for an image or video that cannot be read.

        A missing text without an image is read as `NULL`, an empty one as an empty turn. What is too long is cut on
        the right; its last token stays.
        """
        return self._embed(documents, self._model.document_prompt or "")

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        """The same with the model's query instruction, unless a query brings its own."""
        return self._embed(queries, self._model.query_prompt or self._model.document_prompt or "")

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        """Exact for text and images, the most there can be for a video; at most the model's limit."""
        return self._lengths(documents, self._texts(documents, self._model.document_prompt or ""))

    def _texts(self, documents: Sequence[Document], default: str) -> list[list[int]]:
        """The ids of the prompts without their images."""
        return self._network.tokenizer.encode([self._pieces(document, default, ()) for document in documents])

    def _lengths(self, documents: Sequence[Document], texts: Sequence[list[int]]) -> list[int]:
        vision, limit = self._network.vision, self._network.tokenizer.max_tokens
        return [
            min(len(ids) + vision.media_tokens(document), limit) for ids, document in zip(texts, documents, strict=True)
        ]

    def _embed(self, documents: Sequence[Document], default: str) -> Vectors:
        vectors = np.empty((len(documents), self.dimensions), np.float32)
        texts = self._texts(documents, default)
        for batch in batches(self._lengths(documents, texts), self._network.batch_tokens):
            prompts = [self._prompt(documents[place], default, texts[place]) for place in batch.places]
            states = self._network.last_hidden(prompts)
            vectors[batch.places] = states[:, : self.dimensions].cpu().numpy()
        return unit_length(vectors)

    def _prompt(self, document: Document, default: str, text: list[int]) -> Prompt:
        tokenizer, vision = self._network.tokenizer, self._network.vision
        if not document.images and not document.videos:
            return Prompt(tokenizer.cut_right(text))
        videos = tuple(vision.video(video) for video in document.videos)
        images = tuple(vision.image(image) for image in document.images)
        (ids,) = tokenizer.encode([self._pieces(document, default, (*videos, *images))])
        return Prompt(tokenizer.cut_right(ids), images, videos)

    def _pieces(self, document: Document, default: str, visuals: Sequence[Visual]) -> list[Piece]:
        tokenizer = self._network.tokenizer
        task = tokenizer.text(instruction(document.instruction, default))
        content = list(
            tokenizer.content(document, [visual.placeholder for visual in visuals], textless=document.text is None)
        )
        return tokenizer.fill({"instruction": [task], "content": content})
