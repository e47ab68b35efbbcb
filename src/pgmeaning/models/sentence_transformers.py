"""Models that the sentence-transformers library runs, with the registry's prompts, pooling, padding and lengths.

The vectors are those of the library's own `encode`. Added are batches that fit the processor's cache (on two cores 1.5
times as fast as the library's batches of 32), a guard against megabytes of text, and errors that say what to do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import batch_to_device

from pgmeaning.errors import InputError, ModelUnavailable
from pgmeaning.media import read_image
from pgmeaning.models.batches import batches
from pgmeaning.models.checkpoints import dtype_of, loaded, tokens_at_once
from pgmeaning.models.text import checked_text, prompted, shortened
from pgmeaning.models.vectors import Vectors, finished, unit_length
from pgmeaning.types import Document, Model

# The registry's names for kinds of pooling -> the library's.
POOLING = {"mean": "mean", "cls": "cls", "last": "lasttoken"}


def load(model: Model, dimensions: int, **options: Any) -> SentenceTransformerEmbedder:
    """Load an embedder; options and errors are those of `load_encoder`."""
    return SentenceTransformerEmbedder(load_encoder(model, **options), model, dimensions)


def load_encoder(
    model: Model, *, location: str | Path | None = None, device: str | None = None, dtype: str | None = None,
    threads: int | None = None, trust_remote_code: bool = False,
) -> Encoder:  # fmt: skip
    """Load the model itself, which the embedder and the late-interaction reranker share.

    `location`: a folder or a hub name instead of the registry's. `device`: None takes the best available. `dtype`: None
    is float32 on a CPU and the checkpoint's own elsewhere. `threads`: for the whole process. `trust_remote_code`: run
    the Python files that come with some checkpoints (gte-Qwen2, jina-clip-v2, gme); never by default.
    Raises ModelUnavailable if the weights cannot be loaded.
    """

    def build(source: dict[str, Any]) -> SentenceTransformer:
        return SentenceTransformer(
            source["pretrained_model_name_or_path"], device=device, revision=source["revision"],
            local_files_only=source["local_files_only"], trust_remote_code=trust_remote_code,
            model_kwargs={"dtype": dtype_of(dtype, device)},
        )  # fmt: skip

    return Encoder(loaded(model, build, location=location, threads=threads), model)


class Encoder:
    """A loaded model: takes texts, and returns what its modules compute."""

    def __init__(self, transformer: SentenceTransformer, model: Model) -> None:
        self.transformer = transformer.eval()
        self.max_tokens = model.max_tokens or transformer.max_seq_length or 512
        transformer.max_seq_length = self.max_tokens
        transformer.tokenizer.padding_side = model.options.get("padding_side", transformer.tokenizer.padding_side)
        self._tokens_at_once = tokens_at_once(transformer.device)
        # A tokenizer keeps its padding and truncation as state, so two threads must not use it at once.
        self._tokenizing = threading.Lock()
        for module in transformer.modules():
            if isinstance(module, Pooling) and model.pooling in POOLING:
                module.pooling_mode = POOLING[model.pooling]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, including special ones, at most `max_tokens`."""
        if not texts:
            return []
        with self._tokenizing:
            found = self.transformer.tokenizer(
                [self.shortened(text) for text in texts], truncation=True, max_length=self.max_tokens,
                return_attention_mask=False, return_token_type_ids=False,
            )  # fmt: skip
        return [len(ids) for ids in found["input_ids"]]

    def run(self, texts: Sequence[str]) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Yield (positions in `texts`, features) in batches of similar length; padding costs time, not precision.

        Features are those of the library: input_ids and attention_mask int64 [n, tokens], token_embeddings
        [n, tokens, d], sentence_embedding [n, d].
        """
        for batch in batches(self.count(texts), self._tokens_at_once):
            yield batch.places, self.forward([self.shortened(texts[place]) for place in batch.places])

    def forward(self, inputs: Sequence[Any]) -> dict[str, torch.Tensor]:
        """One forward pass of all inputs, which are texts or anything else that the library takes."""
        with torch.inference_mode():
            with self._tokenizing:
                features = self.transformer.preprocess(list(inputs))
            found: dict[str, torch.Tensor] = self.transformer(batch_to_device(features, self.transformer.device))
            return found

    def shortened(self, text: str) -> str:
        """The text, cut to the most that the model could read."""
        return shortened(text, self.max_tokens)


class SentenceTransformerEmbedder:
    """An `Embedder` over an Encoder."""

    def __init__(self, encoder: Encoder, model: Model, dimensions: int) -> None:
        self.dimensions = dimensions
        self._encoder = encoder
        self._model = model
        self._together = encoder.transformer.supports(("image", "text"))  # CLIP takes an image or a text
        made = encoder.transformer.get_embedding_dimension()
        if made != model.dimensions:
            raise ModelUnavailable(
                f"model {model.name!r} has {model.dimensions} dimensions, the weights that were found give {made}",
                hint="its location holds another model",
            )

    @property
    def dtype(self) -> str:
        """Of its weights."""
        return str(self._encoder.transformer.dtype).removeprefix("torch.")

    @property
    def device_kind(self) -> str:
        """What it runs on."""
        return str(self._encoder.transformer.device.type)

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        """float32 [n, dimensions]; a missing text counts as empty. Raises InputError for unsupported media."""
        return self._embed(documents, self._model.document_prompt)

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        """The same with the model's query prompt; an instruction of the query's own replaces the model's."""
        return self._embed(queries, self._model.query_prompt)

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        """The tokenizer's own count, at most the model's limit; prompts and images are not counted."""
        return self._encoder.count([document.text or "" for document in documents])

    def _embed(self, documents: Sequence[Document], prompt: str | None) -> Vectors:
        self._check_media(documents)
        vectors = np.empty((len(documents), self._model.dimensions), np.float32)
        plain = [place for place, document in enumerate(documents) if not document.images]
        for places, features in self._encoder.run([self._text(documents[place], prompt) for place in plain]):
            vectors[[plain[place] for place in places]] = _numbers(features)
        for place, document in enumerate(documents):
            if document.images:
                vectors[place] = self._embed_images(document, self._text(document, prompt))
        return finished(vectors, self._model, self.dimensions)

    def _embed_images(self, document: Document, text: str) -> Vectors:
        """The mean of one vector per image; the text has its own if the model takes only one of the two at once."""
        images: list[Any] = [read_image(image) for image in document.images]
        inputs = [{"text": text, "image": image} for image in images] if text and self._together else images
        apart = [text] if text and not self._together else []
        try:
            found = [_numbers(self._encoder.forward(part)) for part in (inputs, apart) if part]
            mean: Vectors = unit_length(np.concatenate(found)).mean(axis=0)
            return mean
        except (OSError, ValueError) as error:
            raise InputError(f"model {self._model.name!r} cannot embed this image: {error}") from error

    def _text(self, document: Document, prompt: str | None) -> str:
        # A model with a template has its own code to fill it in; the prompts are that template's instructions.
        if self._model.template is not None:
            return checked_text(document.text or "")
        return prompted(self._model, document, prompt)

    def _check_media(self, documents: Sequence[Document]) -> None:
        taken = self._model.modalities
        for place, document in enumerate(documents):
            for kind, media in (("image", document.images), ("video", document.videos)):
                if media and (kind not in taken or kind == "video"):
                    raise InputError(
                        f"model {self._model.name!r} cannot embed the {kind} of input {place}",
                        hint=f"it takes {' and '.join(taken)}; a Qwen3-VL-Embedding model takes images and video",
                    )


def _numbers(features: dict[str, torch.Tensor]) -> Vectors:
    found: Vectors = features["sentence_embedding"].float().cpu().numpy()
    return found
