"""Rows as people read them: wide as a table, narrow with one field a line, and what is a key can be copied."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from pgmeaning.tables import as_json_text, copyable, table

Rows = Sequence[Mapping[str, Any]]
UUID_KEY = UUID("0b1d5f0e-7c1f-4a52-9a3e-2f6f6a4f5c11")


def printed(rows: Rows, width: int, *, keys: Collection[str] = (), exact: Collection[str] = ()) -> str:
    """As the commands print them on a console of that width."""
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False)
    console.print(table(rows, list(rows[0]), width, keys=keys, exact=exact), soft_wrap=True)
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 59, 60, 120])
def test_a_number_has_no_thousands_separators(width: int) -> None:
    assert "12345678" in printed([{"id": 12345678, "title": "rice"}], width)


@pytest.mark.parametrize("width", [40, 59, 60, 80, 120])
@pytest.mark.parametrize(
    ("key", "text"),
    [
        (12345678901234567890, "12345678901234567890"),
        (Decimal("12345678901234567890.123456"), "12345678901234567890.123456"),
        (UUID_KEY, str(UUID_KEY)),
        (0.1 + 0.2, "0.30000000000000004"),
        (datetime(2026, 2, 3, 4, 5, 6, 789, UTC), "2026-02-03 04:05:06.000789+00:00"),
        (date(2026, 2, 3), "2026-02-03"),
        (b"\x01\xff", "\\x01ff"),
        (True, "true"),
        ("(1,two)", "(1,two)"),  # of a composite type
    ],
)
def test_a_key_is_printed_whole_and_unbroken(width: int, key: object, text: str) -> None:
    row = {"score": 0.5, "distance": 0.5, "id": key, "title": "a long title of several words " * 5}
    assert text in printed([row], width, keys=["id"], exact=["id", "title"])


def test_below_60_columns_each_field_has_a_line_of_its_own() -> None:
    rows: Rows = [{"id": 1, "title": "rice"}, {"id": 22, "title": None}]
    assert printed(rows, 20) == (
        "-[ RECORD 1 ]-------\n"
        "id    | 1\n"
        "title | rice\n"
        "-[ RECORD 2 ]-------\n"
        "id    | 22\n"
        "title |\n"
    )  # fmt: skip
    assert "|" not in printed(rows, 60)


def test_a_long_field_is_left_for_the_terminal_to_break_and_one_of_lines_keeps_its_margin() -> None:
    assert "a" * 100 in printed([{"id": "a" * 100}], 40)
    assert printed([{"body": "one\ntwo"}], 40).splitlines()[1:] == ["body | one", "     | two"]


@pytest.mark.parametrize("width", [40, 120])
def test_control_characters_do_not_reach_the_terminal(width: int) -> None:
    text = printed([{"\x1b[31mname": "\x1b[31mrice\x07\x9b31m"}], width, exact=["\x1b[31mname"])
    assert "rice" in text
    assert not {"\x1b", "\x07", "\x9b"} & set(text)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 110, 200])
def test_keys_that_leave_no_room_make_a_table_vertical(width: int) -> None:
    row = {f"key{number}": str(UUID_KEY) for number in range(3)} | {"title": "rice"}
    text = printed([row], width, keys=list(row)[:3])
    assert text.count(str(UUID_KEY)) == 3
    assert ("|" in text) == (width < 120)


def test_measures_of_ours_are_rounded_and_values_of_the_users_are_not() -> None:
    text = printed([{"score": 0.123456, "price": 0.123456, "made": timedelta(days=1)}], 120, exact=["price"])
    assert text.splitlines()[-1].split(maxsplit=2) == ["0.123", "0.123456", "1 day, 0:00:00"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"id": 12345, "part": "a, b"}, '{"id": 12345, "part": "a, b"}'),
        ({"id": Decimal("12345678901234567890.123456")}, '{"id": 12345678901234567890.123456}'),
        ({"place": {"x": 1, "y": None}}, '{"place": {"x": 1, "y": null}}'),
        ({"name": "漢字"}, '{"name": "漢字"}'),
    ],
)
def test_a_key_is_json_that_sql_functions_take(value: dict[str, Any], text: str) -> None:
    assert as_json_text(value) == text
    assert copyable(value) == text
