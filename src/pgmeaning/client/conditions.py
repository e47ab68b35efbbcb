"""Conditions on columns and on metadata (jsonb), put together in Python: values are parameters, never part of the SQL.

A condition is true or false for every row, never unknown: what is missing equals nothing, and is less than nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import psycopg

from pgmeaning import json_values
from pgmeaning.errors import ArgumentError

# A column; or a jsonb column and the path to one of its values.
Operand = str | Sequence[str]
ORDERINGS = ("<", "<=", ">", ">=")
OPERATORS = (
    "=", "!=", *ORDERINGS, "in", "not in", "contains", "any", "all", "like", "ilike", "holds", "iholds", "exists",
    "empty",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """What `where` makes, and what a `filter` may be. `a & b`, `a | b` and `~a` combine conditions.

    `pieces` are the SQL before, between and behind the parameters.
    """

    pieces: tuple[str, ...]
    params: tuple[str | None, ...] = ()

    @property
    def text(self) -> str:
        """Its SQL, with $1, $2, ... where its parameters belong."""
        numbered = [piece if place == 0 else f"${place}{piece}" for place, piece in enumerate(self.pieces)]
        return "".join(numbered)

    def __and__(self, other: Condition) -> Condition:
        return _joined(" AND ", (self, other))

    def __or__(self, other: Condition) -> Condition:
        return _joined(" OR ", (self, other))

    def __invert__(self) -> Condition:
        return _surrounded("(", self, ") IS NOT TRUE")


EVERYTHING = Condition(("true",))
NOTHING = Condition(("false",))


def all_of(conditions: Iterable[Condition]) -> Condition:
    """True where each of them is; everywhere if there are none."""
    return _joined(" AND ", tuple(conditions))


def any_of(conditions: Iterable[Condition]) -> Condition:
    """True where one of them is; nowhere if there are none."""
    return _joined(" OR ", tuple(conditions))


def where(operand: Operand, operator: str, value: object = None) -> Condition:
    """A condition on a column: where("price", "<", 20); or on metadata: where(("metadata", "year"), ">=", 2020).

    Operators: = != < <= > >=; in, not in (a list); contains, any, all (of an array's elements); like, ilike; holds,
    iholds (a text inside a text); exists, empty (with False: the opposite). None equals what is missing. A value
    of metadata is less or greater than one of its own kind only; texts that are dates are compared as such, in UTC
    where they name no zone. Raises ArgumentError for an operator that does not exist or a value that does not fit it.
    """
    side = _Column(operand) if isinstance(operand, str) else _Metadata(operand)
    if operator not in OPERATORS:
        raise ArgumentError(f"there is no operator {operator!r}", hint=f"there are: {', '.join(OPERATORS)}")
    if operator in ORDERINGS:
        return NOTHING if value is None else side.ordered(operator, value)
    return _MEANING[operator](side, value)


# ---------------------------------------------------------------- the two kinds of operands


class _Column:
    """A column; PostgreSQL decides by its type what a value means."""

    def __init__(self, name: str) -> None:
        self.sql = self.text = _quoted(name)

    def equals(self, value: Any) -> Condition:
        return self.missing() if value is None else Condition((f"{self.sql} = ", ""), (as_text(value),))

    def missing(self) -> Condition:
        return Condition((f"{self.sql} IS NULL",))

    def ordered(self, operator: str, value: Any) -> Condition:
        return Condition((f"{self.sql} {operator} ", ""), (as_text(value),))

    def among(self, values: list[Any]) -> Condition:
        given = [value for value in values if value is not None]
        found = Condition((f"{self.sql} = ANY (", ")"), (as_text(given),)) if given else NOTHING
        return found | self.missing() if len(given) < len(values) else found

    def has_element(self, value: Any) -> Condition:
        return Condition(("", f" = ANY ({self.sql})"), (as_text(value),))

    def empty(self) -> Condition:
        return Condition((f"coalesce({self.sql}::text, '') = ANY ('{{\"\",\"{{}}\"}}')",))


class _Metadata:
    """A value in a jsonb column, by the path to it. A JSON null is what is missing."""

    def __init__(self, path: Sequence[str]) -> None:
        if not path or not all(isinstance(part, str) for part in path):
            raise ArgumentError(f"{path!r} names no value", hint='give a column, or ("metadata", "year")')
        self._column, self._keys = _quoted(path[0]), list(path[1:])
        # The path is written as a literal: a parameter would be one more for each mention.
        keys = "ARRAY[" + ", ".join(_literal(key) for key in self._keys) + "]::text[]"
        self.sql = f"nullif({self._column} #> {keys}, 'null')" if self._keys else self._column
        self.text = f"({self._column} #>> {keys})"

    def equals(self, value: Any) -> Condition:
        if value is None:
            return self.missing()
        if isinstance(value, Mapping | list | tuple) or not self._keys:
            return Condition((f"{self.sql} = ", "::jsonb"), (as_json(value),))
        written = as_json(value)
        for key in reversed(self._keys):  # contained: an index on the column answers this
            written = f"{{{json_values.dumps(key)}: {written}}}"
        return Condition((f"{self._column} @> ", "::jsonb"), (written,))

    def missing(self) -> Condition:
        return Condition((f"{self.sql} IS NULL",))

    def ordered(self, operator: str, value: Any) -> Condition:
        if isinstance(value, date) or (isinstance(value, str) and is_moment(value)):
            written = value if isinstance(value, str) else value.isoformat()
            moment = f"coalesce(pgmeaning._moment({self.sql}) {operator} pgmeaning._moment("
            return Condition((moment, "::jsonb), false)"), (as_json(written),))
        if isinstance(value, str):
            kind = f"coalesce(jsonb_typeof({self.sql}) = 'string' AND {self.text} {operator} "
            return Condition((kind, "::text, false)"), (value,))
        kind = "boolean" if isinstance(value, bool) else "number"
        if kind == "number" and not isinstance(value, int | float | Decimal) and not hasattr(value, "__float__"):
            raise ArgumentError(f"{value!r} is neither less nor greater than anything", hint="give a number or a text")
        # The kind decides first: PostgreSQL orders an array above a number.
        compared = f"CASE WHEN jsonb_typeof({self.sql}) = '{kind}' THEN {self.sql} {operator} "
        return Condition((compared, "::jsonb ELSE false END"), (as_json(value),))

    def among(self, values: list[Any]) -> Condition:
        given = [value for value in values if value is not None]
        listed = Condition(
            (f"coalesce({self.sql} IN (SELECT jsonb_array_elements(", "::jsonb)), false)"), (_json_list(given),)
        )
        found = listed if given else NOTHING
        return found | self.missing() if len(given) < len(values) else found

    def has_element(self, value: Any) -> Condition:
        is_array = f"coalesce(jsonb_typeof({self.sql}) = 'array' AND {self.sql} @> "
        return Condition((is_array, "::jsonb, false)"), (_json_list([value]),))

    def empty(self) -> Condition:
        return Condition((f"coalesce({self.sql} IN ('\"\"', '[]', '{{}}'), true)",))


Side = _Column | _Metadata


def _is_in(side: Side, value: object) -> Condition:
    return side.among(_listed(value, "in"))


def _elements(join: Callable[[Iterable[Condition]], Condition]) -> Callable[[Side, object], Condition]:
    return lambda side, value: join([side.has_element(each) for each in _listed(value, "any and all")])


def _like(operator: str) -> Callable[[Side, object], Condition]:
    return lambda side, value: Condition(
        (f"coalesce({side.text}::text {operator} ", "::text, false)"), (_string(value),)
    )


def _holds(function: str) -> Callable[[Side, object], Condition]:
    """Whether a text has another one in it; `function` is applied to both."""
    return lambda side, value: Condition(
        (f"coalesce(strpos({function}({side.text}::text), {function}(", "::text)) > 0, false)"), (_string(value),)
    )


def _unless_false(value: object, condition: Condition) -> Condition:
    return ~condition if value is False else condition


_MEANING: dict[str, Callable[[Side, object], Condition]] = {
    "=": lambda side, value: side.equals(value),
    "!=": lambda side, value: ~side.equals(value),
    "in": _is_in,
    "not in": lambda side, value: ~_is_in(side, value),
    "contains": lambda side, value: side.has_element(value),
    "any": _elements(any_of),
    "all": _elements(all_of),
    "like": _like("LIKE"),
    "ilike": _like("ILIKE"),
    "holds": _holds(""),
    "iholds": _holds("lower"),
    "exists": lambda side, value: _unless_false(value, ~side.missing()),
    "empty": lambda side, value: _unless_false(value, side.empty()),
}


# ---------------------------------------------------------------- values


def as_text(value: object) -> str | None:
    """A value in PostgreSQL's output format, by psycopg's adapters: an array as {1,2}, bytes as hex, dates in ISO."""
    if value is None or isinstance(value, str):
        return value
    transformer = psycopg.adapt.Transformer()
    try:
        dumped = transformer.get_dumper(value, psycopg.adapt.PyFormat.TEXT).dump(value)
    except psycopg.Error as error:  # a list of mixed types, a type that PostgreSQL lacks
        raise ArgumentError(f"{value!r} is no value of PostgreSQL's: {error}", hint="give values of one type") from None
    return None if dumped is None else bytes(dumped).decode()


def as_json(value: object) -> str:
    """A value as JSON, a decimal with all its digits."""
    return str(value) if isinstance(value, Decimal) and value.is_finite() else json_values.dumps(value)


def _json_list(values: Sequence[object]) -> str:
    return f"[{', '.join(as_json(value) for value in values)}]"


def is_moment(value: str) -> bool:
    """Whether a text is a date, or a date and a time, in ISO 8601."""
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return value[4:5] == value[7:8] == "-"


def _listed(value: object, operator: str) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ArgumentError(f"{operator} takes a list of values, not {value!r}", hint=f"give [{value!r}]")
    return list(value)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ArgumentError(f"{value!r} is no text", hint="texts are compared with texts")
    return value


# ---------------------------------------------------------------- pieces


def _joined(word: str, conditions: Sequence[Condition]) -> Condition:
    if not conditions:
        return EVERYTHING if word == " AND " else NOTHING
    first, *others = conditions
    made = _surrounded("(", first, ")")
    for other in others:
        made = _behind(made, word, other)
    return made


def _surrounded(before: str, condition: Condition, behind: str) -> Condition:
    pieces = list(condition.pieces)
    pieces[0] = before + pieces[0]
    pieces[-1] += behind
    return Condition(tuple(pieces), condition.params)


def _behind(first: Condition, word: str, other: Condition) -> Condition:
    second = _surrounded("(", other, ")")
    middle = first.pieces[-1] + word + second.pieces[0]
    return Condition((*first.pieces[:-1], middle, *second.pieces[1:]), first.params + second.params)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    """A key of metadata as a literal. A backslash in it has no place in a filter with parameters: see sql/.../45."""
    if "\\" in text or "\0" in text:
        raise ArgumentError(f"key {text!r} of metadata cannot be filtered by", hint="filter by another key")
    return "'" + text.replace("'", "''") + "'"
