"""Marks in texts: the words that a query matched, and where in its document a chunk is. As pieces, escaped later."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pgmeaning.client.statements import Statements
from pgmeaning.errors import DatabaseError

BEGIN, END = "\x02", "\x03"
SHOWN = 20_000  # characters of a text; nobody reads more of it in a list

MOST = 2_000  # characters of a query whose words are marked

# (text, whether it is marked), in order; the texts together are the whole.
Pieces = list[tuple[str, bool]]


def marked(statements: Statements, collection: str, query: str, texts: Sequence[str | None]) -> list[Pieces]:
    """Each text in pieces: by the collection's language, so that "cooking" matches "cook"; else word by word."""
    shown = [(text or "")[:SHOWN] for text in texts]
    if not query or not any(shown):
        return [[(text, False)] for text in shown]
    highlighted = _highlighted(statements, collection, query, shown)
    return [_pieces(text, found) or by_words(text, query) for text, found in zip(shown, highlighted, strict=True)]


def _highlighted(statements: Statements, collection: str, query: str, texts: Sequence[str]) -> list[str | None]:
    try:
        arguments = {"collection": collection, "query": query, "texts": list(texts)}
        rows = [row[0] for row in statements.execute("console/marked", arguments)]
    except DatabaseError:  # a language that was dropped; the words are marked all the same
        rows = []
    return rows or [None] * len(texts)


def _pieces(text: str, highlighted: str | None) -> Pieces | None:
    """What stands between marks; None where the parser has left anything out, or the text has such marks itself."""
    if highlighted is None or BEGIN in text or END in text:
        return None
    first, *others = highlighted.split(BEGIN)
    found = [(first, False)]
    for other in others:
        word, _, rest = other.partition(END)
        found += [(word, True), (rest, False)]
    whole = "".join(piece for piece, _ in found)
    return [piece for piece in found if piece[0]] if whole == text else None


def by_words(text: str, query: str) -> Pieces:
    """Words that begin with a word of the query, whatever the language."""
    words = sorted({re.escape(word) for word in re.findall(r"\w{3,}", query[:MOST])}, key=len, reverse=True)
    if not words:
        return [(text, False)]
    parts = re.split(rf"\b((?:{'|'.join(words)})\w*)", text, flags=re.IGNORECASE)
    return [(part, place % 2 == 1) for place, part in enumerate(parts) if part]


def in_document(document: str, chunk: str) -> Pieces:
    """The document with the chunk marked. A chunk of Markdown has the headings above it before its own text."""
    rest = chunk
    while rest.strip():
        place = document.find(rest)
        if place >= 0:
            return [
                piece for piece in (
                    (document[:place], False), (rest, True), (document[place + len(rest) :], False)
                ) if piece[0]
            ]  # fmt: skip
        rest = rest.partition("\n")[2]
    return [(document, False)]
