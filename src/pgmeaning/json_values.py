"""Converts values of every type to JSON, and keys back from it with all their digits."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set, ValuesView
from decimal import Decimal
from functools import partial
from typing import Any


def plain(value: Any, of_bytes: Callable[[bytes], str] = bytes.hex) -> Any:
    """A value in types that JSON has: dates as ISO text, numerics with all digits, NaN as PostgreSQL writes it.

    Sets, generators and other collections become lists.
    """
    within = partial(plain, of_bytes=of_bytes)
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case None | str() | int() | float():
            return value
        case bytes() | bytearray() | memoryview():
            return of_bytes(bytes(value))
        case Mapping():
            return {str(key): within(item) for key, item in value.items()}
        case list() | tuple() | deque() | range() | Set() | ValuesView() | Iterator():
            return [within(item) for item in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return within(value.tolist()) if hasattr(value, "tolist") else str(value)


def dumps(value: Any) -> str:
    """JSON for the database, which reads each value's text as its column's type."""
    return json.dumps(plain(value, lambda content: f"\\x{content.hex()}"))


# For jsonb: a float would round a numeric, and turn the key into another row's.
loads = partial(json.loads, parse_float=Decimal)
