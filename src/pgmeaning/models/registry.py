"""The built-in models, releases and templates, read from registry.toml. Imports nothing heavy."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from pgmeaning.errors import ModelNotFound
from pgmeaning.types import Model, Release

# Backends that run the same checkpoint must agree on its vectors, so changing the server does not change the model. If
# one disagrees (other image preprocessing), that is a fault for a probe to find, not another model.
CHECKPOINT_BACKENDS = frozenset({"qwen3_vl", "sentence_transformers", "http"})

# Options of the http backend that say how to talk to an endpoint, and change no vector.
SERVING_OPTIONS = frozenset({
    "url", "served_name", "path", "concurrency", "timeout", "retries", "batch_rows", "api_key_env", "send_dimensions",
    "rerank_field", "sigmoid", "extra_body", "price",
})  # fmt: skip


def builtin_models() -> dict[str, Model]:
    """Every built-in model by name, in the registry's order; the dictionary is the caller's own."""
    return {name: _model(name, entry) for name, entry in _registry()["models"].items()}


def builtin_model(name: str) -> Model:
    """The built-in model of that name; raises ModelNotFound, with the closest names as its hint."""
    entries = _registry()["models"]
    if name not in entries:
        raise ModelNotFound(f"there is no built-in model {name!r}", hint=_suggestion(name, list(entries)))
    return _model(name, entries[name])


def releases() -> dict[str, Release]:
    """Every release by name; exactly one is current."""
    return {name: Release(name=name, **entry) for name, entry in _registry()["releases"].items()}


def current_release() -> Release:
    """The release that a new database follows."""
    return next(release for release in releases().values() if release.current)


def templates() -> dict[str, str]:
    """The named templates: the model's full input, with {instruction}, {content}, {query} and {document} to fill in."""
    return dict(_registry()["templates"])


def located(model: Model, folder: str | None) -> Model:
    """The model, with its location in the folder of models if it is there."""
    own = Path(folder or "", model.name)
    return replace(model, location=str(own.absolute())) if folder and own.is_dir() else model


def fingerprint(model: Model) -> str:
    """Hex SHA-256 of everything that changes a model's vectors. Only with equal fingerprints may they be compared.

    It hashes JSON with sorted keys, no blanks and ASCII escapes, so the order of keys and the version of Python do not
    matter. Included: location, revision, dimensions, max_tokens, pooling, normalize, both prompts, the template's text
    (not its name), the modalities as a set, the options, and the backend's family: backends that run a checkpoint as
    published form one family, and any other backend is its own. Left out, since they change no vector: name, kind,
    status, min_dimensions, reranker and the options for talking to an endpoint (SERVING_OPTIONS; but if its URL is the
    location, the name that is requested there counts). For vectors shorter than the model's own:
    `fingerprint(replace(model, dimensions=...))`.
    Raises ValueError or TypeError for options that JSON cannot hold.
    """
    relevant = {
        "family": "checkpoint" if model.backend in CHECKPOINT_BACKENDS else model.backend,
        "location": model.location,
        "revision": model.revision,
        "dimensions": model.dimensions,
        "max_tokens": model.max_tokens,
        "template": model.template and templates().get(model.template, model.template),
        "pooling": model.pooling,
        "normalize": model.normalize,
        "query_prompt": model.query_prompt,
        "document_prompt": model.document_prompt,
        "modalities": sorted(set(model.modalities)),
        "options": _vector_options(model),
    }
    canonical = json.dumps(relevant, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _vector_options(model: Model) -> dict[str, Any]:
    if model.backend != "http":
        return dict(model.options)
    named_by_url = (model.location or "").startswith(("http://", "https://"))
    left_out = SERVING_OPTIONS - ({"served_name"} if named_by_url else set())
    return {name: value for name, value in model.options.items() if name not in left_out}


@cache
def _registry() -> dict[str, Any]:
    return tomllib.loads(files("pgmeaning.models").joinpath("registry.toml").read_text("utf-8"))


def _model(name: str, entry: dict[str, Any]) -> Model:
    fields = dict(entry)
    modalities = tuple(fields.pop("modalities", ("text",)))
    return Model(name=name, modalities=modalities, options=dict(fields.pop("options", {})), **fields)


def _suggestion(name: str, known: list[str]) -> str:
    spelled = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.4)
    if near:
        return "did you mean " + " or ".join(spelled[match] for match in near) + "?"
    return "known: " + ", ".join(known)
