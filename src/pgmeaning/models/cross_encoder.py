"""Classic rerankers, which read query and document together, run by the sentence-transformers library.

The scores are those of the library's CrossEncoder with a sigmoid. Added are batches that fit the processor's cache, a
guard against megabytes of text, and errors that say what to do.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from pgmeaning.errors import ModelUnavailable
from pgmeaning.models.batches import batches
from pgmeaning.models.checkpoints import dtype_of, loaded, tokens_at_once
from pgmeaning.models.text import checked_text, shortened, text_alone
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Document, Model


def load(
    model: Model, *, location: str | Path | None = None, device: str | None = None, dtype: str | None = None,
    threads: int | None = None, trust_remote_code: bool = False,
) -> CrossEncoderReranker:  # fmt: skip
    """Load the reranker; options and errors as for the sentence_transformers backend."""

    def build(source: dict[str, Any]) -> CrossEncoder:
        return CrossEncoder(
            source["pretrained_model_name_or_path"], device=device, revision=source["revision"],
            local_files_only=source["local_files_only"], trust_remote_code=trust_remote_code,
            max_length=model.max_tokens, model_kwargs={"dtype": dtype_of(dtype, device)},
        )  # fmt: skip

    return CrossEncoderReranker(loaded(model, build, location=location, threads=threads), model)


class CrossEncoderReranker:
    """A `Reranker` over a classifier of pairs."""

    def __init__(self, network: CrossEncoder, model: Model) -> None:
        if network.num_labels != 1:
            raise ModelUnavailable(
                f"model {model.name!r} returns {network.num_labels} numbers for a pair, but a reranker returns one",
                hint="it is another kind of classifier",
            )
        self._network = network
        self._name = model.name
        self._max_tokens: int = model.max_tokens or network.max_seq_length or 512
        self._tokens_at_once = tokens_at_once(network.device)
        self._turn = threading.Lock()  # a tokenizer keeps its padding as state

    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        """float32 [n], 0..1. An instruction has no effect, and text beyond the model's limit is not read.

        Raises InputError for an image or a video.
        """
        question = self._text(query, "query")
        texts = [self._text(document, f"document {place}") for place, document in enumerate(documents)]
        scores = np.empty(len(texts), np.float32)
        for batch in batches([self._length(question, text) for text in texts], self._tokens_at_once):
            scores[batch.places] = self._predict([(question, texts[place]) for place in batch.places])
        return scores

    def _predict(self, pairs: list[tuple[str, str]]) -> Vectors:
        with self._turn:
            found: Vectors = self._network.predict(
                pairs, batch_size=len(pairs), activation_fn=torch.nn.Sigmoid(), show_progress_bar=False
            )
        return found

    def _length(self, query: str, text: str) -> int:
        """A rough token count of a pair. Too low costs memory, too high speed; neither changes a score."""
        return min(self._max_tokens, 3 + (len(query) + len(text)) // 4)

    def _text(self, document: Document, what: str) -> str:
        return checked_text(shortened(text_alone(self._name, document, what), self._max_tokens))
