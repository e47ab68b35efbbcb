"""What a person asks at the page: a query, how many rows, a filter. Checked before anything is done."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgmeaning.errors import ArgumentError

KINDS = ("vectors", "words", "hybrid", "reranked")
MOST_ROWS = 100
MOST_RERANKED = 500
MOST_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True)
class Asked:
    """A search. `image`: the bytes of one; `rerank`: how many of the nearest rows a reranker judges."""

    collection: str
    query: str = ""
    image: bytes | None = None
    k: int = 10
    rerank: int = 50
    filter: str | None = None
    timeout: float = 20

    @property
    def has_question(self) -> bool:
        """Whether there is anything to search for."""
        return bool(self.query or self.image)


def asked(given: Any) -> Asked:
    """What the page sent; raises ArgumentError."""
    if not isinstance(given, Mapping):
        raise ArgumentError("not an object", hint='send {"collection": "docs", "query": "..."}')
    wanted = Asked(
        collection=_text(given, "collection"), query=_text(given, "query").strip(),
        image=_image(given.get("image")), k=_number(given, "k", 10, MOST_ROWS),
        rerank=_number(given, "rerank", 50, MOST_RERANKED), filter=_text(given, "filter").strip() or None,
    )  # fmt: skip
    if not wanted.has_question:
        raise ArgumentError("there is nothing to search for", hint="type a query, or drop an image")
    return wanted


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name) or ""
    if not isinstance(value, str) or len(value) > MOST_CHARACTERS:
        raise ArgumentError(f"{name} is no text", hint=f"at most {MOST_CHARACTERS:,} characters")
    return value


def _number(given: Mapping[str, Any], name: str, default: int, most: int) -> int:
    value = given.get(name, default)
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise ArgumentError(f"{name} is {value!r}", hint="give a whole number") from None
    if not 1 <= number <= most:
        raise ArgumentError(f"{name} is {number}", hint=f"give a number from 1 to {most}")
    return number


def _image(given: Any) -> bytes | None:
    """The bytes of a data URI: base64, as the page's own script writes it."""
    if not given:
        return None
    start, comma, encoded = str(given).partition(",")
    try:
        if not (comma and start.startswith("data:image/") and start.endswith(";base64")):
            raise ValueError
        return base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        raise ArgumentError("this is no image", hint="drop a picture: PNG, JPEG, WebP or GIF") from None
