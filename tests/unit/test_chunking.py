"""Texts are cut where it was asked for, within the model's count of tokens, and nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgmeaning.documents.chunking import Cutter, Limits, stretches, with_known
from pgmeaning.documents.headings import Headings
from pgmeaning.errors import InputError
from pgmeaning.models.base import load_embedder
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Chunk, Chunking, Claim, Document, Row
from tests.needs import needs_package

LIMITS = Limits(10_000_000, 100_000)
METHODS = ["tokens", "sentences", "paragraphs", "markdown"]


class Counting:
    """Tokens are words and marks, with two around each text; it counts no further than it reads."""

    dimensions = 8

    def __init__(self, max_tokens: int | None = None) -> None:
        self.max_tokens = max_tokens
        self.counted = 0

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        raise NotImplementedError

    embed_queries = embed_documents

    def tokens(self, text: str) -> int:
        return len(re.findall(r"\w{1,6}|[^\w\s]", text))

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        self.counted += sum(len(document.text or "") for document in documents)
        return [min(2 + self.tokens(document.text or ""), self.max_tokens or 1 << 30) for document in documents]


class Guessing(Counting):
    """A token each four characters, as endpoints are reckoned: words do not add up."""

    def tokens(self, text: str) -> int:
        return len(text) // 4


def split(
    text: str, method: str = "tokens", size: int = 16, overlap: int = 0, model: Counting | None = None
) -> list[str]:
    return Cutter(model or Counting(), Chunking(method, size, overlap), LIMITS).split(text)


PROSE = " ".join(f"This is sentence number {number}, and it ends here." for number in range(60))
TEXTS = {
    "prose": PROSE,
    "paragraphs": "\n\n".join(PROSE[start : start + 200] for start in range(0, 2000, 200)),
    "no spaces": "x" * 5000,
    "chinese": "今天天气很好。我们去公园散步，看到很多花。" * 100,
    "emoji": "👩‍👩‍👧‍👦🇩🇪👍🏽e\u0301" * 300,
    "code": "def f(x):\n    return x\n\n\n" * 100,
    "spaces": "a" + " " * 3000 + "b" + "\n" * 3000 + "c" * 200,
    "nothing": "", "one": "x", "blank": " \n " * 500,
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", [Counting, Guessing], ids=["counting", "guessing"])
def test_no_chunk_is_longer_than_asked_and_nothing_is_lost(model: type[Counting], method: str, text: str) -> None:
    chunks = split(text, method, 32, model=model())
    assert all(model().tokens(chunk) <= 32 for chunk in chunks)
    squeezed = "".join("".join(chunks).split())
    assert squeezed == "".join(text.split())


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=2000), st.sampled_from(["tokens", "sentences", "paragraphs"]), st.integers(0, 31))
def test_any_text_comes_out_whole_and_in_order(text: str, method: str, overlap: int) -> None:
    chunks = split(text, method, 32, overlap)
    place = 0
    for chunk in chunks:
        found = text.find(chunk, max(0, place - len(chunk)))
        assert found >= 0
        place = found + len(chunk)
    if overlap == 0:
        assert "".join("".join(chunks).split()) == "".join(text.split())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [16, 17, 20, 31])
def test_no_character_is_cut_in_two(method: str, size: int) -> None:
    clusters = ["👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "e\u0301", "한", "ก็"]
    chunks = split("".join(clusters) * 200, method, size)
    assert len(chunks) > 10
    whole = re.compile(f"(?:{'|'.join(map(re.escape, clusters))})+")
    assert all(whole.fullmatch(chunk) for chunk in chunks)


def test_by_tokens_chunks_are_full_and_overlap_by_as_much_as_was_asked() -> None:
    words = [f"w{number}" for number in range(500)]
    chunks = [chunk.split() for chunk in split(" ".join(words), "tokens", 50, 10)]
    assert {len(chunk) for chunk in chunks[:-1]} == {50}
    assert all(before[-10:] == after[:10] for before, after in pairwise(chunks))
    assert list(dict.fromkeys(word for chunk in chunks for word in chunk)) == words


def test_by_tokens_a_full_stop_or_a_line_end_is_no_place_to_cut() -> None:
    text = " ".join(f"w{number}{'.' if number % 7 == 0 else ''}" + "\n\n" * (number % 11 == 0) for number in range(300))
    sizes = [Counting().tokens(chunk) for chunk in split(text, "tokens", 40)]
    assert min(sizes[:-1]) >= 38


def test_by_sentences_a_chunk_ends_where_a_sentence_ends_also_across_lines() -> None:
    chunks = split(PROSE.replace(" it ", "\n\nit "), "sentences", 30)
    assert len(chunks) > 10
    assert all(chunk.startswith("This") and chunk.endswith("here.") for chunk in chunks)


def test_by_paragraphs_a_chunk_ends_where_a_paragraph_ends() -> None:
    paragraphs = [f"{name} is. One of. Many." for name in "abcdefghij"]
    chunks = split("\n\n".join(paragraphs), "paragraphs", 20)
    assert [paragraph for chunk in chunks for paragraph in chunk.split("\n\n")] == paragraphs
    assert len(chunks) == 5


def test_a_paragraph_that_is_too_long_is_cut_by_sentences() -> None:
    assert all(chunk.endswith("here.") for chunk in split(PROSE, "paragraphs", 30))


MARKDOWN = """# Rice

{0}

## Cooking

{0}

```python
# no heading
```

### With a lid

{0}

## Storing

{0}
"""


def test_in_markdown_each_chunk_has_the_headings_that_it_stands_under() -> None:
    filler = "\n\n".join(f"Line {number} of it says a few words." for number in range(12))
    chunks = split(MARKDOWN.format(filler), "markdown", 48)
    assert all(Counting().tokens(chunk) <= 48 for chunk in chunks)
    paths = [
        [line for line in chunk.splitlines() if line.startswith("#") and "no heading" not in line] for chunk in chunks
    ]
    seen = list(dict.fromkeys(map(tuple, paths)))
    assert ("# Rice", "## Cooking", "### With a lid") in seen
    assert ("# Rice", "## Storing") in seen
    assert all(path[0] == "# Rice" for path in paths)
    assert "# no heading" in "\n".join(chunks)


def test_headings_too_long_for_their_share_lose_the_outermost_first() -> None:
    text = f"# {'very ' * 30}long\n\n## Short\n\n" + "word " * 200
    chunks = split(text, "markdown", 32)
    assert all(Counting().tokens(chunk) <= 32 for chunk in chunks)
    assert [chunk for chunk in chunks if chunk.startswith("## Short\n\nword")]


def test_headings_are_those_of_commonmark() -> None:
    text = "Top\n===\n\ntext\r\n\r\n## A #\n\n    # code\n\n> # quoted\n\n#hash\n\nB\n---\nend"
    headings = Headings(text)
    assert headings.above(0) == ()
    assert headings.above(text.index("text")) == ("# Top",)
    assert headings.above(text.index("## A")) == ("# Top",)
    assert headings.above(text.index("#hash")) == ("# Top", "## A")
    assert headings.above(text.index("end")) == ("# Top", "## B")


def test_a_size_beyond_what_the_model_reads_is_cut_down_to_it() -> None:
    model = Counting(max_tokens=20)
    chunks = split(PROSE, "tokens", 64, model=model)
    assert max(map(model.tokens, chunks)) <= 18


def test_words_are_counted_once_and_remembered() -> None:
    model = Counting()
    cutter = Cutter(model, Chunking("sentences", 64), LIMITS)
    text = PROSE * 40
    cutter.split(text)
    assert model.counted < 2 * len(text)


def test_a_text_beyond_the_limits_is_refused_with_what_can_be_done() -> None:
    for limits, setting in ((Limits(100, 10), "CHARACTERS"), (Limits(10_000, 10), "CHUNKS")):
        with pytest.raises(InputError) as caught:
            Cutter(Counting(), Chunking("tokens", 16), limits).split("word " * 500)
        assert setting in str(caught.value.hint)


def test_with_the_small_model_s_own_tokenizer_no_chunk_is_too_long() -> None:
    needs_package("sentence_transformers", "local")
    embedder = load_embedder("all-MiniLM-L6-v2")
    for method in METHODS:
        for text in TEXTS.values():
            chunks = Cutter(embedder, Chunking(method, 64, 8), LIMITS).split(text)
            assert max(embedder.count_tokens(chunks), default=0) <= 64 + 2


def test_stretches_are_cut_at_good_places_and_make_up_the_text() -> None:
    text = ("word " * 50 + "\n\n") * 20
    parts = list(stretches(text, 1000))
    assert "".join(part for _, part in parts) == text
    assert all(len(part) <= 1000 and text[place : place + len(part)] == part for place, part in parts)
    assert all(text[place - 1] == "\n" for place, _ in parts[1:])


def row(*hashes: bytes) -> Row:
    return Row(Claim(1, "m", "{}", 1, 1), Document("x"), (), b"r", False, tuple(Chunk(h.decode(), h) for h in hashes))


@pytest.mark.parametrize(
    ("known", "first_too", "kept"),
    [
        ({b"a": [0], b"b": [1]}, True, [0, 1, None]),
        ({b"b": [0], b"a": [2]}, True, [2, 0, None]),
        ({b"a": [0], b"b": [1]}, False, [None, 1, None]),
        ({b"b": [0], b"c": [1]}, False, [None, None, 1]),
        ({b"b": [1, 2]}, True, [None, 1, None]),
        ({}, True, [None, None, None]),
    ],
)
def test_stored_chunks_are_kept_by_their_text(
    known: dict[bytes, list[int]], first_too: bool, kept: list[int | None]
) -> None:
    (found,) = with_known([row(b"a", b"b", b"c")], {0: known}, first_too=first_too)
    assert [chunk.kept for chunk in found.chunks] == kept


def test_a_stored_chunk_is_kept_by_one_chunk_alone() -> None:
    (found,) = with_known([row(b"a", b"a", b"a")], {0: {b"a": [5, 1]}}, first_too=True)
    assert [chunk.kept for chunk in found.chunks] == [5, 1, None]
