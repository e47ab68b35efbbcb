"""The loaded weights: prompts in, the hidden state of each one's last token out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import AutoProcessor, AutoTokenizer

from pgmeaning.errors import ModelUnavailable
from pgmeaning.models.checkpoints import dtype_of, loaded, tokens_at_once
from pgmeaning.models.pipeline import Budget, Checkpoint
from pgmeaning.models.prompts import PromptTokenizer
from pgmeaning.models.qwen3_vl import layers
from pgmeaning.models.qwen3_vl.packed import PackedModel
from pgmeaning.models.qwen3_vl.packing import Prompt
from pgmeaning.models.qwen3_vl.vision import Vision
from pgmeaning.models.registry import templates
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Model

log = structlog.get_logger()

# Rows of one call, and calls of one claim.
ROWS_ON_CPU, ROWS_ELSEWHERE, CALLS_CLAIMED = 128, 1024, 4
# The least cosine between states of the packed and of the library's own forward pass, as a check at load.
ALIKE, ALIKE_IN_16_BITS = 0.9999, 0.98


def load_network(
    model: Model, kind: Any, *, location: str | Path | None = None, revision: str | None = None,
    device: str | None = None, dtype: str | None = None, threads: int | None = None, batch_tokens: int | None = None,
    packed: bool = True, compile: bool | None = None,
) -> Network:  # fmt: skip
    """Load weights and tokenizer.

    `location`: a folder or a hub name instead of the registry's; `revision`: of the hub's repository. `device`: None
    takes the best there is. `dtype`: float32 or bfloat16; None is float32 on a CPU and bfloat16 elsewhere. `threads`:
    of the whole process. `batch_tokens`: in one forward pass, padding included; None goes by the device. `packed`:
    prompts one behind the other, without padding. `compile`: the layers; None does so on a CUDA device.
    A model's own option `weights: fp8` holds the layers' weights in 8 bits, which changes vectors a little.
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
    prompts = PromptTokenizer(
        tokenizer.backend_tokenizer, templates().get(model.template or "", model.template or ""), _limit(model)
    )
    vision = Vision(load_processor, model.options)
    side = model.options.get("padding_side", "right")
    return Network(
        transformer.to(chosen).eval(), prompts, vision, side, batch_tokens or tokens_at_once(chosen), packed=packed,
        compiled=compile, weights=model.options.get("weights"),
    )  # fmt: skip


class Network:
    """The loaded weights: prompts in, the hidden state of each one's last token out."""

    def __init__(
        self, transformer: Any, tokenizer: PromptTokenizer, vision: Vision, padding_side: str, batch_tokens: int,
        *, packed: bool = True, compiled: bool | None = None, weights: str | None = None,
    ) -> None:  # fmt: skip
        self.tokenizer = tokenizer
        self.vision = vision
        self.transformer = transformer
        self.batch_tokens = batch_tokens
        self.device: torch.device = transformer.device
        self.dtype = str(transformer.dtype).removeprefix("torch.")
        body = getattr(transformer, "model", transformer)  # without the head over the vocabulary
        self._padded = Padded(body, tokenizer, left=padding_side == "left")
        on_cuda = self.device.type == "cuda"
        self._packed = self._checked(body, on_cuda if compiled is None else compiled) if packed else None
        if weights is not None:
            self._shrink(body, weights)
        if self._packed and (on_cuda or compiled):
            self._packed.warm_up(batch_tokens)

    @property
    def budget(self) -> Budget:
        """What one call should hold: one forward pass, and rows enough to fill it with short ones."""
        rows = ROWS_ON_CPU if self.device.type == "cpu" else ROWS_ELSEWHERE
        return Budget(
            self.batch_tokens, rows, CALLS_CLAIMED * rows, padded=not self.packs, launched=self.device.type == "cuda"
        )

    @property
    def packs(self) -> bool:
        """Whether prompts go through one behind the other; else they are padded to the longest of a batch."""
        return self._packed is not None

    @property
    def hidden_size(self) -> int:
        """Numbers in a hidden state."""
        return int(self.transformer.config.text_config.hidden_size)

    def last_hidden(self, prompts: Sequence[Prompt], checkpoint: Checkpoint | None = None) -> Tensor:
        """float32 [n, hidden] on the device: after the final norm, at each prompt's last token; one forward pass.

        On a GPU it is launched, not waited for. `checkpoint` is called between layers where prompts are packed.
        """
        return self._packed(prompts, checkpoint) if self._packed else self._padded(prompts)

    def _checked(self, body: Any, compiled: bool) -> PackedModel | None:
        """The packed forward pass, or None where a version of the library has other layers or means other numbers."""
        pads = self.tokenizer.image_pad, self.tokenizer.video_pad
        try:
            packed = PackedModel(body, pads, self.tokenizer.end, compiled=compiled)
            prompts = [Prompt(ids) for ids in self.tokenizer.encode([["one"], ["two sequences, packed"]])]
            near = cosine_similarity(packed(prompts), self._padded(prompts)).min().item()
            if near < (ALIKE if body.dtype == torch.float32 else ALIKE_IN_16_BITS):
                raise ValueError(f"its states have cosine {near:.4f} to the library's own")
        except (AttributeError, ValueError, TypeError, RuntimeError) as error:
            log.warning("prompts are padded, not packed", reason=str(error).strip().split("\n")[0][:200])
            return None
        return packed

    def _shrink(self, body: Any, weights: str) -> None:
        if weights != "fp8":
            raise ModelUnavailable(f"there are no weights {weights!r}", hint="fp8, or leave the option out for 16 bits")
        if self._packed is None or not layers.has_8_bits(self.device):
            name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
            raise ModelUnavailable(
                f"weights in fp8 cannot be multiplied on this device ({name})",
                hint="they need an NVIDIA GPU of the Hopper generation or newer; register a model without weights: fp8",
            )
        self._packed.put_in_8_bits(body.language_model.layers)


class Padded:
    """The library's own forward pass: prompts padded to the longest."""

    def __init__(self, body: Any, tokenizer: PromptTokenizer, *, left: bool) -> None:
        self._body = body
        self._tokenizer = tokenizer
        self._left = left

    def __call__(self, prompts: Sequence[Prompt]) -> Tensor:
        """float32 [n, hidden]: after the final norm, at each prompt's last token."""
        with torch.inference_mode():
            inputs = self._inputs(prompts)
            states = self._body(**inputs, use_cache=False).last_hidden_state
            last = torch.tensor([len(prompt.ids) - 1 for prompt in prompts], device=states.device)
            places = torch.full_like(last, -1) if self._left else last
            return torch.as_tensor(states[torch.arange(len(prompts), device=states.device), places].float())

    def _inputs(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        width = max(len(prompt.ids) for prompt in prompts)
        ids = torch.full((len(prompts), width), self._tokenizer.end)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            place = slice(width - len(prompt.ids), None) if self._left else slice(len(prompt.ids))
            ids[row, place] = torch.as_tensor(prompt.ids)
            mask[row, place] = 1
        visuals = _visuals(prompts)
        grids = {name: grid for name, grid in visuals.items() if name.endswith("grid_thw")}
        kinds = (ids == self._tokenizer.image_pad).int() + 2 * (ids == self._tokenizer.video_pad).int()
        # Worked out here, for text too: the network counts padding on the left as if it were text.
        positions, _ = self._body.get_rope_index(ids, mm_token_type_ids=kinds, attention_mask=mask, **grids)
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **visuals}
        return {name: value.to(self._body.device) for name, value in inputs.items()}


def copied_back(states: Tensor) -> Callable[[], Vectors]:
    """Begin to copy float32 states to the host; what is returned waits for them."""
    if states.device.type != "cuda":
        return lambda: states.cpu().numpy()
    there = torch.empty(states.shape, dtype=states.dtype, pin_memory=True)
    there.copy_(states, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)
    copied.record()

    def wait() -> Vectors:
        copied.synchronize()
        found: Vectors = there.numpy()
        return found

    return wait


def _visuals(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Patches and grids of all prompts, in their order, under the network's names."""
    found: dict[str, Tensor] = {}
    images = [visual for prompt in prompts for visual in prompt.images]
    videos = [visual for prompt in prompts for visual in prompt.videos]
    for visuals, patches, grid in (
        (images, "pixel_values", "image_grid_thw"), (videos, "pixel_values_videos", "video_grid_thw"),
    ):  # fmt: skip
        if visuals:
            found[patches] = torch.cat([visual.patches("cpu") for visual in visuals])
            found[grid] = torch.tensor([visual.grid for visual in visuals])
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
