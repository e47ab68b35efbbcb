"""Values as JSON can carry them."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import numpy as np
import pytest

from pgmeaning import json_values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "NaN"),
        ([1.5, float("inf"), {"a": float("-inf")}], [1.5, "Infinity", {"a": "-Infinity"}]),
        (np.array([1.5, np.nan]), [1.5, "NaN"]),
        (np.int64(5), 5),
        (Decimal("12345678901234567890.123456"), "12345678901234567890.123456"),
        (Decimal("NaN"), "NaN"),
        (date(2026, 2, 3), "2026-02-03"),
        (datetime(2026, 2, 3, 4, tzinfo=UTC), "2026-02-03T04:00:00+00:00"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (b"\x01\xff", "01ff"),
        ({1: (True, None)}, {"1": [True, None]}),
    ],
)
def test_every_value_becomes_one_that_json_has(value: object, expected: object) -> None:
    assert json_values.plain(value) == expected
    json.dumps(json_values.plain(value), allow_nan=False)


@pytest.mark.parametrize("several", [{"en"}, frozenset({"en"}), {"en": 1}.keys(), {1: "en"}.values(), iter(["en"])])
def test_whatever_holds_several_values_is_a_list(several: object) -> None:
    assert json_values.plain(several) == ["en"]


def test_numbers_come_back_with_all_digits() -> None:
    text = '{"id": 12345678901234567890.123456}'
    assert json.loads(json_values.dumps(json_values.loads(text))) == {"id": "12345678901234567890.123456"}
    assert json_values.loads(text) == {"id": Decimal("12345678901234567890.123456")}
