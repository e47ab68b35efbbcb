"""The loaded weights, and one forward pass: prompts in, the hidden state of each one's last token out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer

from pgmeaning.errors import ModelUnavailable
from pgmeaning.models.checkpoints import dtype_of, loaded, tokens_at_once
from pgmeaning.models.qwen3_vl.prompt import PromptTokenizer
from pgmeaning.models.qwen3_vl.vision import Vision, Visual
from pgmeaning.models.registry import templates
from pgmeaning.types import Model


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
