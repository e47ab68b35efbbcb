"""Turns callers' arguments into what the database takes; wrong ones are refused with our own errors."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector, Vector
from psycopg.types.json import Jsonb

from pgmeaning import json_values
from pgmeaning.client.conditions import Condition, as_text
from pgmeaning.client.vectors import Embedding
from pgmeaning.errors import ArgumentError
from pgmeaning.types import Hit

# An SQL condition, one that where() made, or a mapping of columns to the values that they must equal.
Filter = str | Condition | Mapping[str, object] | None
# Numbers, or a vector as a connection with pgvector's types returns it.
AnyVector = Sequence[float] | NDArray[Any] | Vector | HalfVector
# Where a page begins: behind the last hit of the page before, or its distance and key.
After = Hit | tuple[float, object] | None

GREATEST = 2**31 - 1  # PostgreSQL's largest integer


def whole(name: str, value: Any) -> int:
    """Any whole number, including NumPy's."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(f"{name} is {value!r}", hint="give a whole number") from None
    if abs(number) > GREATEST:
        raise ArgumentError(f"{name} is {number}", hint=f"the maximum is {GREATEST:,}")
    return number


def whole_or_none(name: str, value: Any) -> int | None:
    """None says nothing."""
    return None if value is None else whole(name, value)


def texts(name: str, values: Iterable[str]) -> list[str]:
    """A list of strings; a single string is refused, since it would be taken letter by letter."""
    if isinstance(values, str):
        raise ArgumentError(f"{name} is one string", hint=f"give a list: {name}=[{values!r}]")
    if isinstance(values, Iterable):
        given = list(values)
        if all(isinstance(value, str) for value in given):
            return given
    raise ArgumentError(f"{name} is {values!r}", hint="give a list of strings")


def texts_or_none(name: str, values: Iterable[str] | None) -> list[str] | None:
    """None says nothing."""
    return None if values is None else texts(name, values)


def pair_or_none(name: str, values: Sequence[float] | None) -> list[float] | None:
    """Two numbers, such as weights; None says nothing."""
    if values is None:
        return None
    try:
        first, second = values
        return [float(first), float(second)]
    except (TypeError, ValueError):
        raise ArgumentError(f"{name} is {values!r}", hint="give two numbers") from None


def filtered(filter: Filter, params: Sequence[object] | None) -> dict[str, Any]:
    """The arguments for a filter, with its parameters as text in PostgreSQL's output format."""
    if isinstance(filter, Condition):
        if params is not None:
            raise ArgumentError("filter_params go with no condition of where()", hint="it has its values already")
        return {"filter": filter.text, "filter_params": list(filter.params) or None}
    if not isinstance(filter, str | Mapping | None):
        wanted = "an SQL condition, what where() makes, or a mapping of columns to the values that they must equal"
        raise ArgumentError(f"filter is {filter!r}", hint=f"give {wanted}")
    if isinstance(params, str | bytes | Mapping) or not isinstance(params, Iterable | None):
        raise ArgumentError(f"filter_params is {params!r}", hint="give a list; its first value is for $1")
    condition = json_values.dumps(filter) if isinstance(filter, Mapping) else filter
    return {"filter": condition, "filter_params": None if params is None else [as_text(value) for value in params]}


def jsonb(key: object) -> Jsonb:
    """A key, or one value of it."""
    return Jsonb(key, dumps=json_values.dumps)


def cursor(after: After) -> dict[str, Any]:
    """The arguments for the row behind which a page begins; both None for the first page."""
    if isinstance(after, Hit):
        return {"after_distance": after.distance, "after_key": jsonb(after.key)}
    if after is None:
        return {"after_distance": None, "after_key": None}
    try:
        distance, key = after
        return {"after_distance": float(distance), "after_key": jsonb(key)}
    except (TypeError, ValueError):
        hint = "give the last hit of the page before, or its distance and its key"
        raise ArgumentError(f"after is {after!r}", hint=hint) from None


def vector(given: AnyVector) -> Vector:
    """One vector, of any float type."""
    numbers = given.to_numpy() if isinstance(given, Vector | HalfVector) else given
    try:
        row = np.asarray(numbers, np.float32)
    except (TypeError, ValueError):
        row = np.empty((0, 0), np.float32)
    if row.ndim != 1:
        raise ArgumentError(f"vector is a {type(given).__name__}, but not of numbers", hint="give a list of numbers")
    return Vector(row)


def of_model(given: AnyVector) -> dict[str, Any]:
    """The arguments for a vector, with the model that made it, where it says so."""
    known = given if isinstance(given, Embedding) else None
    return {
        "vector": vector(given), "vector_model": getattr(known, "model", None),
        "fingerprint": getattr(known, "fingerprint", None),
    }  # fmt: skip
