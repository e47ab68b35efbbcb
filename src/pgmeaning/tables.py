"""Shows rows to people: as tables, or one field per line on a narrow terminal; values can be copied back."""

from __future__ import annotations

import json
import re
from collections.abc import Collection as Names
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pgmeaning.json_values import plain

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

# Below this width a table would break every value, so each field gets its own line, as with psql's \x.
NARROW = 60
# The width that a column of text needs beside keys, which are not broken; and the separator between columns.
TEXT_WIDTH, SEPARATOR = 8, 3
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Text without control characters, which a terminal would obey; line ends and tabs stay."""
    return CONTROL.sub("", text)


def table(
    rows: Sequence[Mapping[str, Any]], columns: Iterable[str], width: int, *,
    keys: Names[str] = (), exact: Names[str] = (),
) -> Table | Text:  # fmt: skip
    """Some columns of rows; one field per line if the width is small, or would break a key.

    `exact` columns are the user's own, shown as SQL reads them; `keys` are never broken, so they can be copied.
    """
    names = list(columns)
    cells = [[copyable(row[name]) if name in exact else shown(row[name]) for name in names] for row in rows]
    whole = [name in keys for name in names]
    if width < NARROW or _needed(names, cells, whole) > width:
        return _vertical(names, cells, width)
    return _horizontal(names, cells, whole, [any(_is_number(row[name]) for row in rows) for name in names])


def _needed(names: Sequence[str], cells: Sequence[Sequence[str]], whole: Sequence[bool]) -> int:
    """The least width of a table with unbroken keys; other columns can be broken, so without keys any width works."""
    from rich.cells import cell_len

    lengths = [max(map(cell_len, column)) for column in zip(names, *cells, strict=True)]
    least = [length if key else min(length, TEXT_WIDTH) for key, length in zip(whole, lengths, strict=True)]
    return sum(least) + SEPARATOR * (len(least) - 1) if any(whole) else 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _horizontal(
    names: Sequence[str], cells: Sequence[Sequence[str]], whole: Sequence[bool], numeric: Sequence[bool]
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, key, right in zip(names, whole, numeric, strict=True):
        header = Text(printable(name))
        drawn.add_column(header, justify="right" if right else "left", overflow="fold", no_wrap=key)
    for row in cells:
        drawn.add_row(*map(Text, row))
    return drawn


def _vertical(names: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> Text:
    """One field per line. The terminal itself wraps long lines, so text copied from it has no line ends inserted."""
    from rich.text import Text

    titles = [printable(name) for name in names]
    margin = max(map(len, titles))
    lines = []
    for number, row in enumerate(cells, 1):
        lines.append(f"-[ RECORD {number} ]".ljust(width, "-"))
        for title, cell in zip(titles, row, strict=True):
            lines += _field(title.ljust(margin), cell)
    return Text("\n".join(lines))


def _field(title: str, cell: str) -> list[str]:
    first, *more = cell.split("\n")
    return [f"{title} | {first}".rstrip(), *(f"{' ' * len(title)} | {line}".rstrip() for line in more)]


def shown(value: Any) -> str:
    """One of our values for people to read: numbers without separators, measurements rounded."""
    return printable(_shown(value))


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if hasattr(value, "isoformat"):
        return value.isoformat(sep=" ", timespec="seconds") if hasattr(value, "hour") else value.isoformat()  # type: ignore[no-any-return]
    return str(value)


def copyable(value: Any) -> str:
    """One of the user's values, with all its digits, as PostgreSQL reads it."""
    return printable(_copyable(value))


def _copyable(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"\\x{bytes(value).hex()}"
    if isinstance(value, dict | list | tuple):
        return as_json_text(value)
    if hasattr(value, "isoformat"):
        return value.isoformat(sep=" ") if hasattr(value, "year") and hasattr(value, "hour") else value.isoformat()  # type: ignore[no-any-return]
    return str(value)


def as_json_text(value: Any) -> str:
    """A key, or any other jsonb, as pgmeaning's functions take it; numerics with all their digits."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(str(name))}: {as_json_text(item)}' for name, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_json_text, value))}]"
    return str(value) if isinstance(value, Decimal) else json.dumps(plain(value), ensure_ascii=False)
