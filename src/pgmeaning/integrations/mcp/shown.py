"""What an agent is shown of rows: values it can read, none of them endless, and not more in all than it can take in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pgmeaning import json_values
from pgmeaning.settings import Settings
from pgmeaning.types import Hit


class Budget:
    """The characters that are left for an answer."""

    def __init__(self, settings: Settings) -> None:
        self.left = settings.mcp_characters
        self._longest = settings.mcp_value_characters

    def takes(self, document: Mapping[str, Any]) -> bool:
        """Whether it still fits; the first always does, since its values are cut."""
        cost = len(json_values.dumps(document))
        fits = cost <= self.left
        self.left -= cost
        return fits

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row in JSON's types, long values cut."""
        return {name: self.value(value) for name, value in row.items()}

    def value(self, value: Any) -> Any:
        """One value: binary data by its length alone, what is long cut."""
        if isinstance(value, bytes | bytearray | memoryview):
            return f"({len(value):,} bytes)"
        document = json_values.plain(value, lambda content: f"({len(content):,} bytes)")
        if isinstance(document, str):
            return self.text(document)
        text = json_values.dumps(document) if isinstance(document, dict | list) else ""
        return self.text(text) if len(text) > self._longest else document

    def text(self, text: str) -> str:
        """The beginning of a long text, and how much more there is."""
        more = len(text) - self._longest
        return text if more <= 0 else f"{text[: self._longest]}… ({more:,} characters more)"


def hits(found: Iterable[Hit], budget: Budget) -> tuple[list[dict[str, Any]], int]:
    """The hits that fit, and how many were left out."""
    shown: list[dict[str, Any]] = []
    left_out = 0
    for hit in found:
        document = _hit(hit, budget)
        if left_out == 0 and (budget.takes(document) or not shown):
            shown.append(document)
        else:
            left_out += 1
    return shown, left_out


def _hit(hit: Hit, budget: Budget) -> dict[str, Any]:
    document = {
        "key": json_values.plain(hit.key), "row": budget.row(hit.row), "distance": round(hit.distance, 4),
        "score": round(hit.score, 4),
    }  # fmt: skip
    return document if hit.chunk_text is None else {**document, "passage": budget.text(hit.chunk_text)}
