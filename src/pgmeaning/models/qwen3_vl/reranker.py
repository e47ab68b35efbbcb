"""Qwen3-VL-Reranker: a document's score is how sure the model is that its answer is yes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText

from pgmeaning.errors import ModelUnavailable
from pgmeaning.models.batches import batches
from pgmeaning.models.pipeline import Checkpoint
from pgmeaning.models.prompts import Piece, pair_pieces
from pgmeaning.models.qwen3_vl.network import Network, copied_back, load_network
from pgmeaning.models.qwen3_vl.packing import Prompt
from pgmeaning.models.qwen3_vl.vision import Visual
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Document, Model


def load_reranker(model: Model, **options: Any) -> Qwen3VLReranker:
    """Load a reranker; options and errors are those of `load_network`."""
    return Qwen3VLReranker(load_network(model, AutoModelForImageTextToText, **options), model)


class Qwen3VLReranker:
    """A `Reranker` over Qwen3-VL-Reranker: how sure the model is that its answer is yes."""

    def __init__(self, network: Network, model: Model) -> None:
        self.checkpoint: Checkpoint | None = None
        self._network = network
        self._model = model
        options = model.options
        self._kept_last = int(options.get("kept_last_tokens", 5))
        head = network.transformer.lm_head.weight
        yes, no = int(options.get("yes_token", 9693)), int(options.get("no_token", 2152))
        if max(yes, no) >= len(head):
            raise ModelUnavailable(
                f"model {model.name!r}: the vocabulary at its location has {len(head)} tokens, too few for a Qwen3-VL",
                hint="another model is at its location",
            )
        self._direction = (head[yes].float() - head[no].float()).detach()

    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        """float32 [n], 0..1; raises InputError for an image or video that cannot be read.

        A side without text, image and video is read as `NULL`, an empty text as an empty side. Of what is too long the
        first tokens are read.
        """
        task = (instruction or query.instruction or "").strip() or self._model.query_prompt or ""
        scores = np.empty(len(documents), np.float32)
        texts = self._network.tokenizer.encode([self._pieces(query, each, task, (), ()) for each in documents])
        lengths = self._lengths(query, documents, texts)
        launched = []
        for batch in batches(lengths, self._network.batch_tokens, padded=not self._network.packs):
            prompts = [self._prompt(query, documents[place], task, texts[place]) for place in batch.places]
            states = self._network.last_hidden(prompts, self.checkpoint)
            launched.append((batch.places, copied_back(torch.sigmoid(states @ self._direction))))
        for places, judged in launched:
            scores[places] = judged()
        return scores

    def _lengths(self, query: Document, documents: Sequence[Document], texts: Sequence[list[int]]) -> list[int]:
        vision, limit = self._network.vision, self._network.tokenizer.max_tokens + self._kept_last
        asked = vision.media_tokens(query)
        return [
            min(len(ids) + asked + vision.media_tokens(document), limit)
            for ids, document in zip(texts, documents, strict=True)
        ]

    def _prompt(self, query: Document, document: Document, task: str, text: list[int]) -> Prompt:
        tokenizer, vision = self._network.tokenizer, self._network.vision
        if not any(side.images or side.videos for side in (query, document)):
            return Prompt(tokenizer.cut_text(text, self._kept_last))
        videos = [tuple(vision.video(video) for video in side.videos) for side in (query, document)]
        images = [tuple(vision.image(image) for image in side.images) for side in (query, document)]
        pieces = self._pieces(query, document, task, videos[0] + images[0], videos[1] + images[1])
        (ids,) = tokenizer.encode([pieces])
        return Prompt(tokenizer.cut_text(ids, self._kept_last), images[0] + images[1], videos[0] + videos[1])

    def _pieces(
        self, query: Document, document: Document, task: str, asked: Sequence[Visual], judged: Sequence[Visual]
    ) -> list[Piece]:
        return pair_pieces(self._network.tokenizer, query, document, task, _placeholders(asked), _placeholders(judged))


def _placeholders(visuals: Sequence[Visual]) -> list[str]:
    return [visual.placeholder for visual in visuals]
