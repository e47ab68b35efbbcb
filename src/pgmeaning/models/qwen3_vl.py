"""Qwen3-VL-Embedding and Qwen3-VL-Reranker: text, pictures and video, as the models' own reference code computes them.

Source: the code of the Qwen3-VL-Embedding repository (github.com/QwenLM/Qwen3-VL-Embedding) and its report
(arXiv:2601.04720).

    Document --pieces--> token ids and patches --parts of similar length--> network --last token--> vector or score
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from pgmeaning.errors import ModelUnavailable
from pgmeaning.models.base import Vectors, unit_length
from pgmeaning.models.checkpoints import dtype_of, loaded, parts, tokens_at_once
from pgmeaning.models.qwen3_vl_prompt import ABSENT, Piece, PromptTokenizer
from pgmeaning.models.qwen3_vl_vision import Vision, Visual
from pgmeaning.models.registry import templates
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


def load_reranker(model: Model, **options: Any) -> Qwen3VLReranker:
    """Load a reranker; options and errors are those of `load_network`."""
    return Qwen3VLReranker(load_network(model, AutoModelForImageTextToText, **options), model)


def load_network(
    model: Model, kind: Any, *, location: str | Path | None = None, revision: str | None = None,
    device: str | None = None, dtype: str | None = None, threads: int | None = None, batch_tokens: int | None = None,
) -> Network:  # fmt: skip
    """Load weights and tokenizer.

    `location`: a folder or a hub name instead of the registry's; `revision`: of the hub's repository. `device`: None
    takes the best there is. `dtype`: float32 or bfloat16; None is float32 on a CPU and bfloat16 elsewhere. `threads`:
    of the whole process. `batch_tokens`: in one forward pass, padding included; None goes by the device.
    Raises ModelUnavailable where the weights are not to be had, or in half precision, in which they give NaN.
    """
    if dtype in ("float16", "half"):
        raise ModelUnavailable(f"model {model.name!r} gives NaN in {dtype}", hint="ask for bfloat16 or float32")
    chosen = _device(device)

    def build(source: dict[str, Any]) -> tuple[Any, Any, dict[str, Any], Callable[[], Any]]:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        transformer, found = kind.from_pretrained(
            **source, dtype=_dtype(dtype, chosen), attn_implementation=_attention(chosen), output_loading_info=True
        )
        return tokenizer, transformer, found, partial(AutoProcessor.from_pretrained, **source)

    tokenizer, transformer, found, load_processor = loaded(
        model, build, location=location, revision=revision, threads=threads
    )
    if getattr(transformer.config, "model_type", None) != "qwen3_vl":
        raise ModelUnavailable(
            f"model {model.name!r}: a {transformer.config.model_type} is at its location, not a Qwen3-VL",
            hint="check the location",
        )
    if missing := sorted(found["missing_keys"]):
        # The library would fill them with random numbers.
        raise ModelUnavailable(
            f"model {model.name!r}: {len(missing)} weights are missing at its location, among them {missing[0]}",
            hint="fetch the checkpoint anew",
        )
    prompts = PromptTokenizer(tokenizer, templates().get(model.template or "", model.template or ""), _limit(model))
    vision = Vision(load_processor, model.options)
    side = model.options.get("padding_side", "right")
    return Network(transformer.to(chosen).eval(), prompts, vision, side, batch_tokens or tokens_at_once(chosen))


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the network reads for one input."""

    ids: list[int]
    images: tuple[Visual, ...] = ()
    videos: tuple[Visual, ...] = ()


class Network:
    """The loaded weights: prompts in, the hidden state of each one's last token out."""

    def __init__(
        self, transformer: Any, tokenizer: PromptTokenizer, vision: Vision, padding_side: str, batch_tokens: int
    ) -> None:
        self.tokenizer = tokenizer
        self.vision = vision
        self.transformer = transformer
        self.batch_tokens = batch_tokens
        self._body = getattr(transformer, "model", transformer)  # without the head over the vocabulary
        self._left = padding_side == "left"

    @property
    def hidden_size(self) -> int:
        """Numbers in a hidden state."""
        return int(self.transformer.config.text_config.hidden_size)

    def last_hidden(self, prompts: Sequence[Prompt]) -> Tensor:
        """float32 [n, hidden]: after the final norm, at each prompt's last token; one forward pass."""
        with torch.inference_mode():
            inputs = self._padded(prompts)
            states = self._body(**inputs, use_cache=False).last_hidden_state
            last = torch.tensor([len(prompt.ids) - 1 for prompt in prompts], device=states.device)
            places = torch.full_like(last, -1) if self._left else last
            return torch.as_tensor(states[torch.arange(len(prompts), device=states.device), places].float())

    def _padded(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        width = max(len(prompt.ids) for prompt in prompts)
        ids = torch.full((len(prompts), width), self.tokenizer.end)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            place = slice(width - len(prompt.ids), None) if self._left else slice(len(prompt.ids))
            ids[row, place] = torch.tensor(prompt.ids)
            mask[row, place] = 1
        visuals = _visuals(prompts)
        grids = {name: grid for name, grid in visuals.items() if name.endswith("grid_thw")}
        kinds = (ids == self.tokenizer.image_pad).int() + 2 * (ids == self.tokenizer.video_pad).int()
        # Worked out here, for text too: the network counts padding on the left as if it were text.
        positions, _ = self._body.get_rope_index(ids, mm_token_type_ids=kinds, attention_mask=mask, **grids)
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **visuals}
        return {name: value.to(self.transformer.device) for name, value in inputs.items()}


class Qwen3VLEmbedder:
    """An `Embedder` over Qwen3-VL-Embedding."""

    def __init__(self, network: Network, model: Model, dimensions: int) -> None:
        self.dimensions = dimensions
        self._network = network
        self._model = model

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        """float32 [n, dimensions], unit length; raises InputError for a picture or video that cannot be read.

        A missing text without a picture is read as `NULL`, an empty one as an empty turn. What is too long is cut on
        the right; its last token stays.
        """
        return self._embed(documents, self._model.document_prompt or "")

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        """The same with the model's query instruction, unless a query brings its own."""
        return self._embed(queries, self._model.query_prompt or self._model.document_prompt or "")

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        """Exact for text and pictures, the most there can be for a video; at most the model's limit."""
        return self._lengths(documents, self._texts(documents, self._model.document_prompt or ""))

    def _texts(self, documents: Sequence[Document], default: str) -> list[list[int]]:
        """The ids of the prompts without their pictures."""
        return self._network.tokenizer.encode([self._pieces(document, default, ()) for document in documents])

    def _lengths(self, documents: Sequence[Document], texts: Sequence[list[int]]) -> list[int]:
        vision, limit = self._network.vision, self._network.tokenizer.max_tokens
        return [
            min(len(ids) + _media_tokens(vision, document), limit)
            for ids, document in zip(texts, documents, strict=True)
        ]

    def _embed(self, documents: Sequence[Document], default: str) -> Vectors:
        vectors = np.empty((len(documents), self.dimensions), np.float32)
        texts = self._texts(documents, default)
        for places in parts(self._lengths(documents, texts), self._network.batch_tokens):
            prompts = [self._prompt(documents[place], default, texts[place]) for place in places]
            states = self._network.last_hidden(prompts)
            vectors[places] = states[:, : self.dimensions].cpu().numpy()
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
        content = list(_content(tokenizer, document, visuals, document.text is None))
        return tokenizer.fill({"instruction": [task], "content": content})


class Qwen3VLReranker:
    """A `Reranker` over Qwen3-VL-Reranker: how sure the model is that its answer is yes."""

    def __init__(self, network: Network, model: Model) -> None:
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
        """float32 [n], 0..1; raises InputError for a picture or video that cannot be read.

        An empty or missing side is read as `NULL`. Of what is too long the first tokens are read.
        """
        task = (instruction or query.instruction or "").strip() or self._model.query_prompt or ""
        scores = np.empty(len(documents), np.float32)
        texts = self._network.tokenizer.encode([self._pieces(query, each, task, (), ()) for each in documents])
        for places in parts(self._lengths(query, documents, texts), self._network.batch_tokens):
            prompts = [self._prompt(query, documents[place], task, texts[place]) for place in places]
            states = self._network.last_hidden(prompts)
            scores[places] = torch.sigmoid(states @ self._direction).cpu().numpy()
        return scores

    def _lengths(self, query: Document, documents: Sequence[Document], texts: Sequence[list[int]]) -> list[int]:
        vision, limit = self._network.vision, self._network.tokenizer.max_tokens + self._kept_last
        asked = _media_tokens(vision, query)
        return [
            min(len(ids) + asked + _media_tokens(vision, document), limit)
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
        tokenizer = self._network.tokenizer
        return tokenizer.fill(
            {
                "instruction": [tokenizer.text(task)],
                "query": list(_content(tokenizer, query, asked, not query.text)),
                "document": list(_content(tokenizer, document, judged, not document.text)),
            }
        )


def _content(
    tokenizer: PromptTokenizer, document: Document, visuals: Sequence[Visual], textless: bool
) -> Iterator[Piece]:
    """Videos, pictures, text, without a separator; `NULL` where there is nothing."""
    for visual in visuals:
        yield from tokenizer.control(visual.placeholder)
    if not textless:
        yield tokenizer.text(document.text or "")
    elif not document.images and not document.videos:
        yield ABSENT


def _media_tokens(vision: Vision, document: Document) -> int:
    images = sum(vision.image_tokens(image) for image in document.images)
    return images + sum(vision.video_tokens(video) for video in document.videos)


def _visuals(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Patches and grids of all prompts, in their order, under the network's names."""
    found: dict[str, Tensor] = {}
    images = [visual for prompt in prompts for visual in prompt.images]
    videos = [visual for prompt in prompts for visual in prompt.videos]
    for visuals, patches, grid in (
        (images, "pixel_values", "image_grid_thw"), (videos, "pixel_values_videos", "video_grid_thw"),
    ):  # fmt: skip
        if visuals:
            found[patches] = torch.cat([visual.patches for visual in visuals])
            found[grid] = torch.cat([visual.grid for visual in visuals])
    return found


def _limit(model: Model) -> int:
    return model.max_tokens or 8192


def _device(name: str | None) -> torch.device:
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device(name or best or "cpu")


def _dtype(name: str | None, device: torch.device) -> Any:
    return dtype_of(name, device.type) if name else (torch.float32 if device.type == "cpu" else torch.bfloat16)


def _attention(device: torch.device) -> str:
    return "flash_attention_2" if device.type == "cuda" and find_spec("flash_attn") else "sdpa"
