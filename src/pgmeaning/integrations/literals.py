"""Calls of pgmeaning's functions as plain SQL without parameters, for migrations that may only be printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

TYPES = {"columns": "text[]", "grant_to": "name[]", "chunking": "jsonb"}


def literal(value: Any, type: str | None = None) -> str:
    """A value as SQL: a text, number, truth value, mapping (as JSON) or list of texts."""
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, Mapping):
        value = json.dumps(value)
    if not isinstance(value, str):
        return f"ARRAY[{', '.join(map(literal, value))}]::{type}"
    quoted = "'" + value.replace("'", "''") + "'"
    if "\\" in value:
        quoted = "E" + quoted.replace("\\", "\\\\")
    return quoted + (f"::{type}" if type else "")


def call(function: str, first: str, arguments: Mapping[str, Any]) -> str:
    """A call of one of pgmeaning's functions; `first` is SQL, the other arguments are named."""
    named = [f"{name} => {literal(value, TYPES.get(name))}" for name, value in arguments.items()]
    return f"pgmeaning.{function}({', '.join([first, *named])})"


def altering(collection: str, changes: Mapping[str, Any], *, undo: bool) -> str:
    """A call that starts a swap; with `undo`, that gives up the one before, or else starts one to `changes`."""
    start = call("swap_start", literal(collection), changes)
    return f"CASE WHEN NOT pgmeaning._undo_swap({literal(collection)}) THEN {start} END" if undo else start
