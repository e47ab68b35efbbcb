"""The headings of a markdown text, as CommonMark defines them: not those in code, and underlined ones too."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt

LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Heading:
    """One heading: where its line begins, and its path of headings, the outermost first and itself last."""

    place: int
    level: int
    path: tuple[str, ...]


class Headings:
    """All headings of a text."""

    def __init__(self, text: str) -> None:
        self._headings = _headings(text)
        self._places = [heading.place for heading in self._headings]

    def contexts(self) -> set[str]:
        """Every path of headings that may be above a chunk."""
        return {"\n".join(heading.path) for heading in self._headings}

    def above(self, place: int) -> tuple[str, ...]:
        """The headings above a position, without one that begins there, since the chunk then has it."""
        found = bisect_right(self._places, place)
        if not found:
            return ()
        path = self._headings[found - 1].path
        return path[:-1] if bisect_left(self._places, place) < found else path


def _headings(text: str) -> list[Heading]:
    if not text:
        return []
    starts = [0, *(match.end() for match in LINE_END.finditer(text))]
    tokens = MarkdownIt("commonmark").disable("inline").parse(text)
    found: list[Heading] = []
    above: list[tuple[int, str]] = []
    for token, title in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map is not None:
            level = int(token.tag[1:])
            above = [(outer, line) for outer, line in above if outer < level]
            above.append((level, f"{'#' * level} {' '.join(title.content.split())}".rstrip()))
            found.append(Heading(starts[token.map[0]], level, tuple(line for _, line in above)))
    return found
