"""What the torch backends share: loading a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as transformers_logging

from pgmeaning.errors import ModelUnavailable
from pgmeaning.models import places
from pgmeaning.types import Model

# Tokens in one forward pass, padding included. On a CPU more than this leaves the cache and costs up to half the speed.
TOKENS_ON_CPU = 1024
TOKENS_ELSEWHERE = 16_384

T = TypeVar("T")


def loaded(
    model: Model, build: Callable[[dict[str, Any]], T], *, location: str | Path | None = None,
    revision: str | None = None, threads: int | None = None,
) -> T:  # fmt: skip
    """The result of `build`, which gets `pretrained_model_name_or_path` and the related arguments.

    Raises ModelUnavailable if the weights cannot be loaded.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    where = places.find_weights(model, location)
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(where), "revision": None, "local_files_only": True}
    if isinstance(where, str):
        source["revision"] = revision or model.revision
        source["local_files_only"] = not places.hub_has(where, source["revision"])
    try:
        with _quiet_libraries():
            return build(source)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        # The library's own chain of network and parser errors would hide what to do.
        raise _unavailable(model, where, error) from None


def dtype_of(name: str | None, device: str | None) -> Any:
    if name is None:
        on_cpu = device == "cpu" or (device is None and not torch.accelerator.is_available())
        return torch.float32 if on_cpu else "auto"
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ModelUnavailable(f"there is no dtype {name!r}", hint="float32, bfloat16 or float16")
    return found


def _unavailable(model: Model, where: Path | str, error: Exception) -> ModelUnavailable:
    source = f"from the folder {where}" if isinstance(where, Path) else f"under its hub name {where}"
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ModelUnavailable(
        f"model {model.name!r} cannot be loaded {source}: {reason}", hint=places.how_to_point(model)
    )


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Suppress progress bars, and reports of weights for another purpose (a head that is not used)."""
    loading, fetching = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if loading:
            transformers_logging.enable_progress_bar()
        if fetching:
            enable_progress_bars()


def tokens_at_once(device: torch.device) -> int:
    """Tokens that one forward pass should hold on that device, padding included."""
    return TOKENS_ON_CPU if device.type == "cpu" else TOKENS_ELSEWHERE
