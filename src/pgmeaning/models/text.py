"""Prepares a text before a model reads it. Imports nothing heavy."""

from __future__ import annotations

import unicodedata

from pgmeaning.errors import InputError
from pgmeaning.types import Document, Model

# Text beyond this many characters per token of the model's limit is not even tokenised. A token has 4 or 5, so it
# only matters for text that is nearly all blanks. Tokenising a megabyte to keep 256 tokens of it takes seconds.
CHARACTERS_PER_TOKEN = 32


def checked_text(text: str) -> str:
    """The text; raises InputError if it contains half of a surrogate pair, which no tokenizer takes."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the text is not valid Unicode at character {error.start}: {error.reason}") from None
    return text


def text_alone(model: str, document: Document, what: str) -> str:
    """The text for a reranker that takes only text; raises InputError if there is an image or a video."""
    if document.images or document.videos:
        raise InputError(
            f"model {model!r} cannot judge images or video, and the {what} has one",
            hint="a Qwen3-VL-Reranker model can",
        )
    return document.text or ""


def shortened(text: str, max_tokens: int | None) -> str:
    """The text, cut to the most that the model could read."""
    return text if max_tokens is None else text[: max_tokens * CHARACTERS_PER_TOKEN]


def prompted(model: Model, document: Document, prompt: str | None) -> str:
    """The text of a document inside a prompt; the document's own instruction replaces the model's."""
    text = checked_text(shortened(document.text or "", model.max_tokens))
    if prompt is None:
        return text
    before, _, after = prompt.partition("{text}")
    task = document.instruction or model.options.get("query_instruction", "")
    return checked_text(before.replace("{instruction}", task)) + text + after


def instruction(wanted: str | None, default: str) -> str:
    """Stripped, with a full stop unless it ends with punctuation; the default if blank. As in the reference code."""
    text = (wanted or "").strip() or default.strip()
    return text if not text or unicodedata.category(text[-1]).startswith("P") else text + "."
