"""From columns to a text: templates, nulls and empty strings."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pgmeaning.documents.template import document, render
from pgmeaning.types import Target

Parts = tuple[tuple[str, str | None], ...]
TEMPLATE: Parts = (("{", "title"), ("}: ", "body"), (".", None))


def target(parts: Parts | None = None) -> Target:
    return Target(
        collection_id=1, collection="docs", model="m", dimensions=8, vector_type="vector", paused=False, problem=None,
        source_exists=True,
        scanning=False, columns=("title", "body"), template_parts=parts, image=None, video=None, key_width=1,
        parts={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(["a", "b"], "a\n\nb"), (["a", None], "a"), ([None, "b"], "b"), (["", "b"], "\n\nb"), (["", ""], "\n\n")],
)
def test_columns_are_joined_by_a_blank_line_and_a_null_leaves_no_gap(
    texts: Sequence[str | None], expected: str
) -> None:
    assert render(target(), texts) == expected


@pytest.mark.parametrize(
    ("texts", "expected"), [(["a", "b"], "{a}: b."), (["a", None], "{a}: ."), (["{body}", "%s"], "{{body}}: %s.")]
)
def test_a_template_is_filled_in_once_and_a_null_is_nothing(texts: Sequence[str | None], expected: str) -> None:
    assert render(target(TEMPLATE), texts) == expected


def test_a_column_may_stand_twice_in_a_template() -> None:
    assert render(target((("", "title"), ("-", "title"), ("", None))), ["a", "b"]) == "a-a"


@pytest.mark.parametrize("parts", [None, TEMPLATE])
def test_a_row_whose_columns_are_all_null_has_nothing_to_embed(parts: Parts | None) -> None:
    assert document(target(parts), [None, None]) is None


def test_a_row_of_empty_strings_is_still_a_document() -> None:
    found = document(target(), ["", None])
    assert found is not None
    assert found.text == ""
