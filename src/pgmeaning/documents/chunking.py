"""Cuts long texts into chunks of the collection's size in tokens, counted with the model's own tokenizer.

A text that fits stays in one piece. A splitter decides where to cut (at Unicode's sentences, words and characters, or
at CommonMark's blocks), and asks for the length of a candidate a dozen times per chunk. So words are counted once and
remembered, and only the finished chunks are counted as a whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from pgmeaning.documents.headings import Headings
from pgmeaning.errors import InputError, describe
from pgmeaning.models.base import Embedder
from pgmeaning.models.batches import token_lengths
from pgmeaning.types import Chunk, Chunking, Document, Row

# Roughly what tokenizers treat as words; single characters in scripts without spaces (Chinese, Japanese, Thai).
WIDE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
WORD = re.compile(rf"[{WIDE}]|[^\s{WIDE}]{{1,32}}|\s\s+")
WORDS_REMEMBERED = 100_000
# The sum of the words' tokens differs from the text's count, but in proportion: samples tell the ratio, to which some
# reserve is added unless the two are almost the same.
SAMPLES, SAMPLE_CHARACTERS = 10, 200
SAME, RESERVE = 0.02, 1.05
# With line ends, or also full stops, replaced, the largest unit that a splitter finds is the sentence, or the word.
AS_SENTENCES = str.maketrans("\r\n\v\f\x85\u2028\u2029", "       ")
AS_WORDS = {**AS_SENTENCES, **str.maketrans(".!?…。！？｡．", "," * 9)}
# A splitter's time grows with the square of a text that has no place to cut, so it is given a stretch at a time.
STRETCH_CHARACTERS = 1 << 15
STRETCH_SIZES = 64
# Headings in front of a chunk of markdown take at most one in this many of its tokens.
CONTEXT_SHARE = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a row may hold; a row with more fails."""

    characters: int
    chunks: int


class Tokens:
    """Counts the tokens of texts, without the special tokens that the model adds to every text."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._most: int | None = getattr(embedder, "max_tokens", None)
        self._words: dict[str, int] = {}
        (self.frame,) = token_lengths(embedder, [Document("")])

    def room(self, size: int) -> int:
        """The most tokens in a chunk: `size`, or less if the model reads less. A count at its limit may mean more."""
        return size if self._most is None else max(1, min(size, self._most - self.frame - 1))

    def exactly(self, texts: Sequence[str]) -> list[int]:
        """Counts by the model's tokenizer, which stops counting where the model stops reading."""
        return [count - self.frame for count in token_lengths(self._embedder, [Document(text) for text in texts])]

    def by_words(self, text: str) -> int:
        """The sum of the counts of the words."""
        words = WORD.findall(text)
        try:
            return sum([self._words[word] for word in words])
        except KeyError:
            self._learn(words)
            return sum([self._words[word] for word in words])

    def _learn(self, words: Sequence[str]) -> None:
        if len(self._words) > WORDS_REMEMBERED:
            self._words.clear()
        missing = list({word for word in words if word not in self._words})
        # With a space in front, as usual in a text: many tokenizers treat that as another word.
        self._words.update(zip(missing, self.exactly([" " + word for word in missing]), strict=True))

    def scale(self, text: str) -> float:
        """The ratio of the text's tokens to the sum over its words; 0 if that sum says nothing about the text."""
        self.by_words(text)  # all words at once
        step = max(len(text) // SAMPLES, SAMPLE_CHARACTERS)
        samples = [text[start : start + SAMPLE_CHARACTERS] for start in range(0, len(text), step)]
        known = sum(map(self.by_words, samples))
        ratio = sum(self.exactly(samples)) / known if known else 0
        return 1 if abs(ratio - 1) < SAME else ratio * RESERVE


class Cutter:
    """Cuts the rows of collections with the same chunking and model."""

    def __init__(self, embedder: Embedder, chunking: Chunking, limits: Limits) -> None:
        self._tokens = Tokens(embedder)
        self._chunking = chunking
        self._limits = limits
        self._room = self._tokens.room(chunking.size)

    def cut(self, rows: Sequence[Row]) -> tuple[list[Row], list[tuple[Row, str]]]:
        """The rows, long ones with their chunks; and the rows that cannot be cut, each with the reason."""
        long = self._long(rows)
        done: list[Row] = []
        errors: list[tuple[Row, str]] = []
        for row in rows:
            try:
                done.append(self._cut(row) if id(row) in long else row)
            except BaseException as error:  # whatever a tokenizer raises for a text must fail only its row
                errors.append((row, describe(error)))
        return done, errors

    def _long(self, rows: Sequence[Row]) -> set[int]:
        """Rows whose text may not fit; a text that is far too long is not counted."""
        texts = {id(row): row.document.text or "" for row in rows if row.document is not None and not row.unchanged}
        short = [(row, text) for row, text in texts.items() if len(text) <= STRETCH_CHARACTERS]
        counts = self._tokens.exactly([text for _, text in short])
        fitting = {row for (row, _), count in zip(short, counts, strict=True) if count <= self._room}
        return texts.keys() - fitting

    def _cut(self, row: Row) -> Row:
        assert row.document is not None
        texts = self.split(row.document.text or "")
        if len(texts) < 2:
            return row
        chunks = [Chunk(text, hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()) for text in texts]
        return replace(row, document=replace(row.document, text=texts[0]), chunks=tuple(chunks))

    def split(self, text: str) -> list[str]:
        """The chunks of a text, in order; raises InputError if it exceeds the limits."""
        if len(text) > self._limits.characters:
            raise InputError(
                f"the text has more than {self._limits.characters} characters", hint="see PGMEANING_DOCUMENT_CHARACTERS"
            )
        chunks: list[str] = []
        for chunk in self._pieces(text):
            chunks.append(chunk)
            if len(chunks) > self._limits.chunks:
                raise InputError(
                    f"the text has more than {self._limits.chunks} chunks",
                    hint="choose a larger size or less overlap, or raise PGMEANING_DOCUMENT_CHUNKS",
                )
        return chunks

    def _pieces(self, text: str) -> Iterator[str]:
        headings = Headings(text) if self._chunking.method == "markdown" else Headings("")
        reserve = min(self._room // CONTEXT_SHARE, max(map(self._tokens.by_words, headings.contexts()), default=0))
        room = self._room - reserve
        for start, stretch in stretches(text, max(STRETCH_CHARACTERS, STRETCH_SIZES * self._chunking.size)):
            for place, piece in self._fitting(stretch, room):
                yield self._context(headings, start + place, reserve) + piece

    def _fitting(self, text: str, room: int) -> Iterator[tuple[int, str]]:
        """(position, piece), none longer than `room`: by exact counts where the sum over the words was too low."""
        scale = self._tokens.scale(text)
        if not scale:
            yield from self._split(text, room, self._exactly)
            return
        pieces = self._split(text, room, lambda part: ceil(self._tokens.by_words(part) * scale))
        counts = self._tokens.exactly([piece for _, piece in pieces])
        for (place, piece), count in zip(pieces, counts, strict=True):
            if count <= room:
                yield place, piece
            else:
                yield from ((place + offset, part) for offset, part in self._split(piece, room, self._exactly))

    def _split(self, text: str, room: int, count: Callable[[str], int]) -> list[tuple[int, str]]:
        masked = text.translate(MASKS[self._chunking.method])
        kind = MarkdownSplitter if self._chunking.method == "markdown" else TextSplitter
        splitter = kind.from_callback(count, room, min(self._chunking.overlap, room - 1))
        return [(place, text[place : place + len(piece)]) for place, piece in splitter.chunk_indices(masked)]

    def _exactly(self, text: str) -> int:
        return self._tokens.exactly([text])[0]

    def _context(self, headings: Headings, place: int, reserve: int) -> str:
        """The headings above a position, without the outermost ones if there is no room for them."""
        lines = headings.above(place)
        while lines and self._tokens.by_words("\n".join(lines)) > reserve:
            lines = lines[1:]
        return "\n".join(lines) + "\n\n" if lines else ""


class Cutters:
    """The cutters of one process, kept because each remembers the tokens of words."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._cutters: dict[tuple[str, Chunking], Cutter] = {}

    def cutter(self, model: str, chunking: Chunking, embedder: Embedder) -> Cutter:
        """The cutter for a model and a way to cut."""
        if (model, chunking) not in self._cutters:
            self._cutters[model, chunking] = Cutter(embedder, chunking, self._limits)
        return self._cutters[model, chunking]


MASKS: dict[str, dict[int, int]] = {
    "tokens": AS_WORDS, "sentences": AS_SENTENCES, "paragraphs": {}, "markdown": {},
}  # fmt: skip


def stretches(text: str, most: int) -> Iterator[tuple[int, str]]:
    """(position, part) of a text, each at most `most` characters, cut at the last good place."""
    start = 0
    while len(text) - start > most:
        end = _good_end(text, start + most // 2, start + most)
        yield start, text[start:end]
        start = end
    yield start, text[start:]


def _good_end(text: str, first: int, last: int) -> int:
    for mark in ("\n#", "\n\n", "\n", ". ", "。", " "):
        found = text.rfind(mark, first, last)
        if found > first:
            return found + 1
    return last


def with_known(rows: Sequence[Row], known: dict[int, dict[bytes, list[int]]], *, first_too: bool) -> list[Row]:
    """The rows, with the stored vectors that their chunks may keep.

    `known`: by a row's position, the numbers of its stored chunks by hash. `first_too`: whether the first chunk's
    vector is made from its text alone.
    """
    return [
        replace(row, chunks=tuple(_keep(row.chunks, known[place], first_too))) if place in known and row.chunks else row
        for place, row in enumerate(rows)
    ]


def _keep(chunks: Sequence[Chunk], known: dict[bytes, list[int]], first_too: bool) -> Iterator[Chunk]:
    """Each stored chunk is kept once, by the chunk that has its number if there is one."""
    free = {text: set(numbers if first_too else [n for n in numbers if n > 0]) for text, numbers in known.items()}
    still = {n for n, chunk in enumerate(chunks) if n in free.get(chunk.content_hash, ()) and (first_too or n > 0)}
    for taken in free.values():
        taken -= still
    for number, chunk in enumerate(chunks):
        spare = free.get(chunk.content_hash, set()) if first_too or number > 0 else set()
        kept = number if number in still else spare.pop() if spare else None
        yield chunk if kept is None else replace(chunk, kept=kept)
