"""What callers give, as the database takes it; what makes no sense is refused in words of ours."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import HalfVector, Vector
from psycopg.types.json import Jsonb

from pgmeaning import json_values
from pgmeaning.errors import ArgumentError

# A condition in SQL, or columns and the values that they must equal.
Filter = str | Mapping[str, object] | None
# Numbers, or what a connection with pgvector's types returns.
AnyVector = Sequence[float] | NDArray[Any] | Vector | HalfVector

GREATEST = 2**31 - 1  # of PostgreSQL's int


def whole(name: str, value: Any) -> int:
    """Any whole number, NumPy's too."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ArgumentError(f"{name} is {value!r}", hint="a whole number is wanted") from None
    if abs(number) > GREATEST:
        raise ArgumentError(f"{name} is {number}", hint=f"at most {GREATEST:,} is possible")
    return number


def whole_or_none(name: str, value: Any) -> int | None:
    """None says nothing."""
    return None if value is None else whole(name, value)


def texts(name: str, values: Iterable[str]) -> list[str]:
    """A list of strings: one string would be taken letter by letter."""
    if isinstance(values, str):
        raise ArgumentError(f"{name} is one string", hint=f"a list is wanted: {name}=[{values!r}]")
    if isinstance(values, Iterable):
        given = list(values)
        if all(isinstance(value, str) for value in given):
            return given
    raise ArgumentError(f"{name} is {values!r}", hint="a list of strings is wanted")


def texts_or_none(name: str, values: Iterable[str] | None) -> list[str] | None:
    """None says nothing."""
    return None if values is None else texts(name, values)


def filtered(filter: Filter, params: Sequence[object] | None) -> dict[str, Any]:
    """A filter; its parameters as text, in the form that PostgreSQL itself would write."""
    if not isinstance(filter, str | Mapping | None):
        wanted = "an SQL condition, or a mapping of columns to the values that they must equal"
        raise ArgumentError(f"filter is {filter!r}", hint=f"{wanted} is wanted")
    if isinstance(params, str | bytes | Mapping) or not isinstance(params, Iterable | None):
        raise ArgumentError(f"filter_params is {params!r}", hint="a list is wanted, the first for $1")
    condition = json_values.dumps(filter) if isinstance(filter, Mapping) else filter
    return {"filter": condition, "filter_params": None if params is None else [_as_text(value) for value in params]}


def _as_text(value: object) -> str | None:
    """As PostgreSQL writes it, by psycopg's own adapters: an array as {1,2}, bytes as hex, a date in ISO format."""
    if value is None or isinstance(value, str):
        return value
    transformer = psycopg.adapt.Transformer()
    dumped = transformer.get_dumper(value, psycopg.adapt.PyFormat.TEXT).dump(value)
    return None if dumped is None else bytes(dumped).decode()


def jsonb(key: object) -> Jsonb:
    """A key, or one value of it."""
    return Jsonb(key, dumps=json_values.dumps)


def vector(given: AnyVector) -> Vector:
    """One vector, of whatever float type."""
    numbers = given.to_numpy() if isinstance(given, Vector | HalfVector) else given
    try:
        row = np.asarray(numbers, np.float32)
    except (TypeError, ValueError):
        row = np.empty((0, 0), np.float32)
    if row.ndim != 1:
        raise ArgumentError(f"vector is a {type(given).__name__} that is no vector", hint="a list of numbers is wanted")
    return Vector(row)
