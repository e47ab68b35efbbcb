"""From the columns of a row to what a model takes."""

from __future__ import annotations

from collections.abc import Sequence

from pgmeaning.types import Document, Target

# Between columns when there is no template; a missing one leaves no gap.
SEPARATOR = "\n\n"


def render(target: Target, texts: Sequence[str | None]) -> str | None:
    """The text of a row: its template filled in (null as nothing), or its columns joined by blank lines.

    None when all of the columns are null: there is nothing to embed.
    """
    if all(text is None for text in texts):
        return None
    if target.template_parts is None:
        return SEPARATOR.join(text for text in texts if text is not None)
    values = dict(zip(target.columns, texts, strict=True))
    return "".join(
        literal + ((values[column] or "") if column is not None else "") for literal, column in target.template_parts
    )


def document(target: Target, texts: Sequence[str | None]) -> Document | None:
    """The document of a row, or None when there is nothing to embed."""
    text = render(target, texts)
    return None if text is None else Document(text=text)
