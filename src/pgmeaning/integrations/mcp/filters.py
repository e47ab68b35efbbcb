"""Conditions that an agent gives: columns, operators and values. None of its words become SQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg import sql
from pydantic import BaseModel, ConfigDict, Field

from pgmeaning.errors import ArgumentError

Operator = Literal[
    "=", "!=", "<", "<=", ">", ">=", "in", "not in", "contains", "starts with", "has", "is null", "is not null"
]
Scalar = str | int | float | bool
VALUELESS, LISTS = ("is null", "is not null"), ("in", "not in")


class Condition(BaseModel):
    """One condition on the rows; several must all hold."""

    model_config = ConfigDict(extra="forbid")

    column: str = Field(description="A column of the collection, as `collections` names it.")
    operator: Operator = Field(
        description="How the column is compared. != and not in find rows without a value, too. contains and "
        "starts with look at text, in any case; has: an array holds the value."
    )
    value: Scalar | list[Scalar] | None = Field(
        default=None, description="What it is compared with; a list for in and not in; none for is null."
    )


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition in SQL, with $1, $2, ... for the parameters; both None: every row."""

    condition: str | None = None
    parameters: list[Any] | None = None


def compiled(conditions: Sequence[Condition], columns: Collection[str], collection: str) -> Filter:
    """The filter that they make together. Raises ArgumentError for a column that there is not, or a value that is odd.

    `columns` are those that may be named: a name that only the system knows is refused like any other.
    """
    if not conditions:
        return Filter()
    parts: list[str] = []
    parameters: list[Any] = []
    for condition in conditions:
        if condition.column not in columns:
            raise ArgumentError(
                f"collection {collection!r} has no column {condition.column!r}", hint=f"it has: {', '.join(columns)}"
            )
        text, values = _compiled(condition, len(parameters))
        parts.append(text)
        parameters += values
    return Filter(" AND ".join(parts), parameters or None)


def _compiled(condition: Condition, before: int) -> tuple[str, list[Any]]:
    """The SQL of one, and its parameters, which come behind so many others."""
    column = sql.Identifier(condition.column).as_string()
    operator, value = condition.operator, condition.value
    if operator in VALUELESS:
        _refuse(value is not None, condition, "takes no value")
        return f"{column} {operator.upper()}", []
    if operator in LISTS:
        _refuse(not isinstance(value, list) or not value, condition, "takes a list of values")
        several = value if isinstance(value, list) else []
        places = ", ".join(f"${before + number}" for number in range(1, len(several) + 1))
        wanted = f"{column} IN ({places})" if operator == "in" else f"({column} IN ({places})) IS NOT TRUE"
        return wanted, [_parameter(each) for each in several]
    _refuse(value is None or isinstance(value, list), condition, "takes one value")
    return PATTERNS[operator](column, f"${before + 1}"), [_parameter(value)]


def _refuse(wrong: bool, condition: Condition, rule: str) -> None:
    if wrong:
        raise ArgumentError(
            f"{condition.operator!r} on column {condition.column!r} {rule}, not {condition.value!r}",
            hint='such as {"column": "price", "operator": "<", "value": 20}',
        )


def _parameter(value: Any) -> str:
    """As text, of the type that its column has."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(operator: str) -> Callable[[str, str], str]:
    return lambda column, place: f"{column} {operator} {place}"


# Names of the system's are found first, whatever the caller's search_path: see _filter_path().
PATTERNS: dict[str, Callable[[str, str], str]] = {
    **{operator: _plain(operator) for operator in ("=", "<", "<=", ">", ">=")},
    "!=": lambda column, place: f"{column} IS DISTINCT FROM {place}",
    "contains": lambda column, place: f"strpos(lower({column}::text), lower({place}::text)) > 0",
    "starts with": lambda column, place: f"starts_with(lower({column}::text), lower({place}::text))",
    "has": lambda column, place: f"{place} = ANY ({column})",
}
