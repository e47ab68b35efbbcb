"""Turns the columns of a row into what a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgmeaning.types import Document, Target

# Between columns if there is no template; a null column leaves no gap.
SEPARATOR = "\n\n"


def render(target: Target, texts: Sequence[str | None]) -> str | None:
    """The text of a row: its template filled in (null as an empty string), or its columns joined by blank lines.

    None if all columns are null: there is nothing to embed.
    """
    return filled(target.template_parts, target.columns, texts)


def filled(
    template_parts: Sequence[tuple[str, str | None]] | None, columns: Sequence[str], texts: Sequence[str | None]
) -> str | None:
    """The same for columns and a template that no collection has."""
    if all(text is None for text in texts):
        return None
    if template_parts is None:
        return SEPARATOR.join(text for text in texts if text is not None)
    values = dict(zip(columns, texts, strict=True))
    return "".join(
        literal + ((values[column] or "") if column is not None else "") for literal, column in template_parts
    )


def document(
    target: Target, texts: Sequence[str | None], images: tuple[Any, ...] = (), videos: tuple[Any, ...] = ()
) -> Document | None:
    """The document of a row, or None if there is nothing to embed. Its media are still as the row names them."""
    text = render(target, texts)
    return Document(text, images, videos) if text is not None or images or videos else None


def several(value: Any) -> tuple[Any, ...]:
    """The images or videos of a column's value, which is one or a list; nulls are left out."""
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple(_sourced(element) for element in values if element is not None)


def _sourced(value: Any) -> Any:
    """One image or video: elements of bytea[] come as hexadecimal text, and a list in a list is a video of images."""
    if isinstance(value, list):
        return several(value)
    if isinstance(value, str) and value.startswith("\\x"):
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            return value
    return value
