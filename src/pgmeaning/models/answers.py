"""What an endpoint answers, read with care: items in their order, vectors and scores that are numbers."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from pgmeaning.errors import BadVector
from pgmeaning.models.vectors import Vectors


def in_order(answer: Any, count: int, what: str) -> list[Mapping[str, Any]]:
    """The items of an answer, sorted by their `index`, as any order is allowed; raises BadVector if any is missing."""
    items = answer
    if isinstance(answer, dict):
        items = answer.get("data", answer.get("results"))
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadVector(f"answered without {what}s", hint="does it serve the OpenAI API on this path?")
    places = {item.get("index", place): item for place, item in enumerate(items)}
    if len(items) != count or places.keys() != set(range(count)):
        raise BadVector(f"returned {len(items)} {what}s, or wrong indexes, for {count} inputs")
    return [places[place] for place in range(count)]


def vector(value: Any) -> Vectors:
    """A vector given as numbers, or as base64 of little-endian float32, which some engines return on request."""
    if isinstance(value, str):
        try:
            return numbers(np.frombuffer(base64.b64decode(value, validate=True), "<f4"))
        except ValueError as error:
            raise BadVector(f"returned a vector that is not base64 of float32: {error}") from None
    return numbers(value)


def numbers(value: Any) -> Vectors:
    """float32 [n]; raises BadVector for anything else, such as the nulls that some engines write for NaN."""
    try:
        with np.errstate(over="ignore"):
            found = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise BadVector("returned something other than numbers") from None
    if found.ndim != 1 or not np.isfinite(found).all():
        raise BadVector("returned NaN or infinity, or no vector", hint="half precision overflows")
    return found
