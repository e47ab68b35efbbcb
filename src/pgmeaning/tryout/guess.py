"""What the columns of a file are: their types, which is the key, and which are worth searching by meaning."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pgmeaning import json_values

# Integers without leading zeros: 007 is a code.
INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,2})?")
DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
BOOLEAN = re.compile(r"true|false", re.IGNORECASE)
LINK = re.compile(r"(https?|ftp)://\S+|\S+@\S+\.\S+|[0-9a-fA-F-]{32,}|\S+/\S+\.\w{1,5}")
PATTERNS = (("boolean", BOOLEAN), ("bigint", INTEGER), ("numeric", NUMBER), ("date", DATE))
KEYS = ("id", "key", "uuid", "guid", "package", "sku", "isbn", "slug", "code", "name")
TITLES = ("title", "name", "subject", "summary", "headline", "question", "package")
MOST_COLUMNS, SAMPLE = 4, 2000


@dataclass
class Column:
    """A column as far as it was seen."""

    name: str
    type: str = ""
    seen: int = 0
    characters: int = 0
    links: int = 0
    words: int = 0

    def see(self, value: Any) -> None:
        """One more value."""
        if value is None:
            return
        self.type = _wider(self.type, _type(value))
        self.seen += 1
        if isinstance(value, str) and self.seen <= SAMPLE:
            self.characters += len(value)
            self.links += LINK.fullmatch(value.strip()) is not None
            self.words += " " in value.strip()

    @property
    def is_text(self) -> bool:
        """Whether it is worth reading: no numbers, dates, addresses or codes."""
        sampled = min(self.seen, SAMPLE)
        return self.type == "text" and sampled > 0 and self.links * 2 < sampled and self.words * 10 >= sampled

    @property
    def length(self) -> float:
        """Characters on average."""
        return self.characters / max(1, min(self.seen, SAMPLE))


def seen(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> tuple[list[Column], int]:
    """The columns after one pass over all rows, and how many rows there are."""
    found, count = [Column(name) for name in columns], 0
    for row in rows:
        count += 1
        for column, value in zip(found, row, strict=True):
            column.see(value)
    for column in found:
        column.type = column.type or "text"
    return found, count


def _type(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "bigint" if abs(value) < 2**63 else "numeric"
        case float() | Decimal():
            return "numeric"
        case datetime.datetime():
            return "timestamptz" if value.tzinfo else "timestamp"
        case datetime.date():
            return "date"
        case bytes():
            return "bytea"
        case str():
            return next((name for name, pattern in PATTERNS if pattern.fullmatch(value) and _real(name, value)), "text")
        case dict() | list():
            return "jsonb"
    return "text"


def _real(name: str, value: str) -> bool:
    """Whether there is such a day."""
    if name != "date":
        return True
    try:
        datetime.date.fromisoformat(value)
    except ValueError:
        return False
    return True


def _wider(a: str, b: str) -> str:
    if not a or a == b:
        return b
    if {a, b} == {"bigint", "numeric"}:
        return "numeric"
    return "text"


def stored(column: Column, value: Any) -> Any:
    """The value as COPY takes it for the column's type: no null bytes, which PostgreSQL's text cannot hold."""
    if value is None or isinstance(value, bytes):
        return value
    if column.type == "jsonb":
        return json_values.dumps(value).replace("\\u0000", "")
    if column.type == "text" and not isinstance(value, str):
        return json_values.dumps(value) if isinstance(value, dict | list) else str(json_values.plain(value))
    return value.replace("\0", "") if isinstance(value, str) else value


def key_candidates(columns: Sequence[Column], rows: int) -> list[str]:
    """Columns that may be the key, by their names and the values that they have, the likeliest first."""
    whole = [column for column in columns if column.seen == rows and column.type in ("bigint", "text")]
    short = [column for column in whole if column.type == "bigint" or column.length <= 100]
    named = {column.name.lower(): column.name for column in short}
    by_name = [named[name] for name in KEYS if name in named]
    return by_name + [each.name for each in short if each.name.lower().endswith("_id") and each.name not in by_name]


def embedded(columns: Sequence[Column]) -> list[str]:
    """The columns whose meaning is worth searching: a title first, then the longest; of none, any text at all."""
    words = [column for column in columns if column.type == "text" and column.seen]
    texts = [column for column in words if column.is_text or column.name.lower() in TITLES]  # a title may be one word
    if not any(column.is_text for column in texts):
        texts = words
    chosen = sorted(texts, key=lambda column: -column.length)[:MOST_COLUMNS]
    return [column.name for column in sorted(chosen, key=lambda c: (c.name.lower() not in TITLES, c.length))]


def template(columns: Sequence[str]) -> str | None:
    """Those columns as a template, the first as a heading; None where a name has braces."""
    if any("{" in name or "}" in name for name in columns):
        return None
    return "\n\n".join(f"{{{name}}}" for name in columns)
