"""What is done to a text before a model reads it. Imports nothing heavy."""

from __future__ import annotations

import unicodedata

from pgmeaning.errors import InputError
from pgmeaning.types import Document, Model

# Text beyond this many characters for each token that the model can read is not even sent. A token has 4 or 5, so it
# only matters for text that is nearly all blanks.
CHARACTERS_PER_TOKEN = 32


def checked(text: str) -> str:
    """The text, or InputError where it holds half of a surrogate pair, which cannot be written as UTF-8."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the text is no valid Unicode at character {error.start}: {error.reason}") from None
    return text


def shortened(text: str, max_tokens: int | None) -> str:
    """The text as far as the model could possibly read it."""
    return text if max_tokens is None else text[: max_tokens * CHARACTERS_PER_TOKEN]


def prompted(model: Model, document: Document, prompt: str | None) -> str:
    """The text of a document with a prompt round it; the document's own instruction replaces the model's."""
    text = shortened(checked(document.text or ""), model.max_tokens)
    if prompt is None:
        return text
    before, _, after = prompt.partition("{text}")
    instruction = document.instruction or model.options.get("query_instruction", "")
    return checked(before.replace("{instruction}", instruction)) + text + after


def instruction_of(document: Document, default: str | None) -> str:
    """The instruction for a template: a blank one means the default, and it ends in a punctuation mark."""
    said = (document.instruction or "").strip() or (default or "").strip()
    closed = not said or unicodedata.category(said[-1]).startswith("P")
    return checked(said if closed else said + ".")
