"""Exact token ids for an engine, made beside the sidecar: what is too long is cut here, as the model itself cuts it.

An engine that is sent ids reads no control token in a user's text, fills in no template, and never cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

import structlog

from pgmeaning.errors import InputError, ModelUnavailable
from pgmeaning.models import places
from pgmeaning.models.options import Serving, is_url
from pgmeaning.models.prompts import Ids, PromptTokenizer, TokenCache, document_pieces
from pgmeaning.models.registry import templates
from pgmeaning.models.text import prompted
from pgmeaning.types import Document, Model

log = structlog.get_logger()

T = TypeVar("T")

FILE = "tokenizer.json"
LONGEST = 8192  # tokens, of a model that does not say


class TokenIds(Protocol):
    """The ids of an embedder's documents."""

    def ids(self, documents: Sequence[Document], prompt: str | None) -> list[list[int]]:
        """What the model reads, cut to its limit; for texts alone."""

    def lengths(self, documents: Sequence[Document], prompt: str | None) -> list[int]:
        """How many tokens each text takes in the prompt, at most the model's limit."""

    def fitting(self, document: Document, prompt: str | None, taken: int) -> str | None:
        """The document's text, cut so that with `taken` tokens besides it is within the limit."""


def token_ids(model: Model, how: Serving) -> TokenIds | None:
    """What makes the ids of an embedder behind an endpoint, or None where texts are sent.

    Raises ModelUnavailable if ids are wanted and something is missing for them, naming it.
    """
    return where_wanted(model, how, lambda tokenizer: (FilledIn if model.template else Plain)(tokenizer, model))


def where_wanted(model: Model, how: Serving, build: Callable[[Any], T]) -> T | None:
    """What `build` makes of the model's tokenizer, or None where texts are sent.

    Without a word in the options ids are for models with a template alone: of the engines that serve others, some take
    none. Raises ModelUnavailable if the options ask for ids, and the tokenizer is missing or another model's.
    """
    if how.send == "text" or (how.send == "auto" and not how.tokenizer and not model.template):
        return None
    try:
        return build(_read(model, _file(model, how)))
    except ModelUnavailable as error:
        if how.send == "tokens" or how.tokenizer:
            raise
        log.warning("texts go to the endpoint as texts, not as token ids", model=model.name, reason=str(error))
        return None


def _file(model: Model, how: Serving) -> Path:
    """The tokenizer's file; raises ModelUnavailable if it is nowhere."""
    wanted = how.tokenizer or ("" if is_url(model.location) else model.location or "")
    if not wanted:
        raise _missing(model, "its location is a URL, which holds no tokenizer")
    folder = places.find_weights(model, wanted)
    if isinstance(folder, Path):
        if not (folder / FILE).is_file():
            raise _missing(model, f"there is no {FILE} in {folder}")
        return folder / FILE
    return _from_hub(model, folder)


def _from_hub(model: Model, name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
    except ImportError as error:
        raise _missing(model, f"the package {error.name} is not installed") from None
    revision = model.revision
    if isinstance(kept := try_to_load_from_cache(name, FILE, revision=revision), str):
        return Path(kept)
    try:
        return Path(hf_hub_download(name, FILE, revision=revision, local_files_only=not places.hub_has(name, revision)))
    except Exception as error:  # the libraries' chain of network errors would hide what to do
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise _missing(model, f"the hub's {name} has no {FILE}, or cannot be reached: {reason}") from None


def _read(model: Model, file: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise _missing(model, "the package tokenizers is not installed (pip install 'pgmeaning[http]')") from None
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # it raises Exception itself
        raise _missing(model, f"{file} cannot be read: {error}") from None


def _missing(model: Model, what: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"model {model.name!r} has no tokenizer beside the sidecar: {what}",
        hint="set its option tokenizer to a folder with tokenizer.json or to a hub name, or send = text",
    )


class FilledIn:
    """Of a model with a template: token for token what the local backend reads."""

    def __init__(self, tokenizer: Any, model: Model) -> None:
        template = templates().get(model.template or "", model.template or "")
        self._prompts = PromptTokenizer(tokenizer, template, model.max_tokens or LONGEST)
        self._kept = TokenCache()

    def ids(self, documents: Sequence[Document], prompt: str | None) -> list[list[int]]:
        """What the model reads, cut to its limit; for texts alone."""
        return [self._prompts.cut_right(found).tolist() for found in self._whole(documents, prompt or "")]

    def lengths(self, documents: Sequence[Document], prompt: str | None) -> list[int]:
        """How many tokens each text takes in the prompt, at most the model's limit."""
        return [min(len(found), self._prompts.max_tokens) for found in self._whole(documents, prompt or "")]

    def fitting(self, document: Document, prompt: str | None, taken: int) -> str | None:
        """The document's text, cut so that with `taken` tokens besides it is within the limit."""
        if document.text is None:
            return None
        blank = Document("", instruction=document.instruction)
        room = self._prompts.max_tokens - taken - len(self._whole([blank], prompt or "")[0])
        if room < 0:
            raise InputError(
                f"the images of this input take {taken:,} tokens, the model reads {self._prompts.max_tokens:,}",
                hint="give fewer or smaller ones",
            )
        return self._prompts.first_tokens(document.text, room)

    def _whole(self, documents: Sequence[Document], prompt: str) -> list[Ids]:
        keys = [(document.text, document.instruction, prompt) for document in documents]

        def make(places: Sequence[int]) -> list[list[int]]:
            return self._prompts.encode([document_pieces(self._prompts, documents[at], prompt) for at in places])

        return self._kept.made(keys, make)


class Plain:
    """Of a model without one: the text in its prompt, with the tokenizer's own special tokens around it."""

    def __init__(self, tokenizer: Any, model: Model) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._most = model.max_tokens or LONGEST
        tokenizer.no_padding()
        tokenizer.enable_truncation(self._most)
        self._encoding = Lock()

    def ids(self, documents: Sequence[Document], prompt: str | None) -> list[list[int]]:
        """What the model reads, cut to its limit."""
        texts = [prompted(self._model, document, prompt) for document in documents]
        with self._encoding:
            return [found.ids for found in self._tokenizer.encode_batch(texts)]

    def lengths(self, documents: Sequence[Document], prompt: str | None) -> list[int]:
        """How many tokens each takes."""
        return [len(found) for found in self.ids(documents, prompt)]

    def fitting(self, document: Document, prompt: str | None, taken: int) -> str | None:
        """The text as it is: without a template there are no images."""
        return document.text
