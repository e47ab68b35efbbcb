"""From a template and what fills it to the token ids that a model reads, here or behind an endpoint.

Control tokens come from the template and from images alone. A user's `<|im_end|>` is read as the ten characters that
it is. Text between two control tokens is tokenised as one piece, whoever wrote its parts, as the reference code does.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgmeaning.errors import InputError, ModelUnavailable
from pgmeaning.models.text import checked_text, instruction, shortened
from pgmeaning.types import Document

END = "<|endoftext|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
# What stands for a content that is not there.
ABSENT = "NULL"
# What is counted is embedded soon afterwards; so many tokens are remembered meanwhile.
TOKENS_KEPT = 4_000_000
FIELD = re.compile(r"\{(\w+)\}")

Ids = NDArray[np.int32]
# A piece of a prompt: text that somebody wrote, or token ids.
Piece = str | tuple[int, ...]


class PromptTokenizer:
    """Qwen's tokenizer, with what is a control token and what is text kept apart. Any thread may use it."""

    def __init__(self, tokenizer: Any, template: str, max_tokens: int) -> None:
        """`tokenizer`: a tokenizers.Tokenizer, which is this object's own from now on."""
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # a control token that somebody wrote is text
        added = tokenizer.get_added_tokens_decoder()
        special = {token.content: number for number, token in added.items() if token.special}
        missing = {END, IMAGE_PAD, VIDEO_PAD} - set(special)
        if missing:
            raise ModelUnavailable(
                f"the tokenizer has no {' and no '.join(sorted(missing))}",
                hint="no Qwen3-VL is at the model's location",
            )
        self.end, self.image_pad, self.video_pad = special[END], special[IMAGE_PAD], special[VIDEO_PAD]
        self.special_ids = frozenset(special.values())
        self._ids = special
        self._control = re.compile("|".join(re.escape(token) for token in special))
        # Literals and fields in turn; a literal's control tokens are meant.
        self._template = [
            part if place % 2 else tuple(self.control(part)) for place, part in enumerate(FIELD.split(template))
        ]

    def control(self, literal: str) -> Iterator[Piece]:
        """The pieces of a text of ours, in which a control token is one."""
        start = 0
        for found in self._control.finditer(literal):
            if found.start() > start:
                yield literal[start : found.start()]
            yield (self._ids[found.group()],)
            start = found.end()
        if start < len(literal):
            yield literal[start:]

    def fill(self, fields: Mapping[str, Iterable[Piece]]) -> list[Piece]:
        """The template with its fields filled in: ids, and texts joined to whole ones."""
        pieces: list[Piece] = []
        for part in self._template:
            for piece in fields[part] if isinstance(part, str) else part:
                if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
                    pieces[-1] += piece
                elif piece:
                    pieces.append(piece)
        return pieces

    def content(self, document: Document, placeholders: Sequence[str], *, textless: bool) -> Iterator[Piece]:
        """Videos, images, text, without a separator; `NULL` where there is nothing."""
        for placeholder in placeholders:
            yield from self.control(placeholder)
        if not textless:
            yield self.text(document.text or "")
        elif not document.images and not document.videos:
            yield ABSENT

    def text(self, text: str) -> str:
        """A user's text as far as the model could possibly read it; raises InputError for half a surrogate pair."""
        return checked_text(shortened(text, self.max_tokens))

    def encode(self, prompts: Sequence[Sequence[Piece]]) -> list[list[int]]:
        """The token ids of each prompt, of any length."""
        texts = [piece for prompt in prompts for piece in prompt if isinstance(piece, str)]
        found = iter(self._encode_texts(texts))
        return [
            [number for piece in prompt for number in (next(found) if isinstance(piece, str) else piece)]
            for prompt in prompts
        ]

    def _encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        return [each.ids for each in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def first_tokens(self, text: str, count: int) -> str:
        """The text, or as much of its beginning as is at most so many tokens."""
        text = self.text(text)
        while len(found := self._tokenizer.encode(text, add_special_tokens=False)) > count:
            # A word that was cut may take a token more than its beginning did.
            text = text[: min(found.offsets[count][0], len(text) - 1)]
        return text

    def cut_right(self, ids: Ids) -> Ids:
        """At most `max_tokens`, the last one kept; raises InputError where an image would be cut."""
        if len(ids) <= self.max_tokens:
            return ids
        media = np.flatnonzero(np.isin(ids, (self.image_pad, self.video_pad)))
        # The vision end marker belongs to its image.
        if len(media) and media[-1] + 2 > self.max_tokens - 1:
            raise self._too_much_media(int(media[-1]) + 1)
        return np.append(ids[: self.max_tokens - 1], ids[-1:])

    def cut_text(self, ids: list[int], kept_last: int) -> list[int]:
        """At most `max_tokens` before the last ones: every control token, and of the others the first."""
        head, tail = ids[:-kept_last], ids[-kept_last:]
        if len(head) <= self.max_tokens:
            return ids
        room = self.max_tokens - sum(number in self.special_ids for number in head)
        if room < 0:
            raise self._too_much_media(len(head))
        kept: list[int] = []
        for number in head:
            if number in self.special_ids:
                kept.append(number)
            elif room > 0:
                kept.append(number)
                room -= 1
        return kept + tail

    def appends_one_end_token(self) -> bool:
        """Whether a text, as the checkpoint's own tokenizer reads it, ends with exactly one end token."""
        ids: list[int] = self._tokenizer.encode("x").ids
        return ids[-1:] == [self.end] and ids.count(self.end) == 1

    def _too_much_media(self, tokens: int) -> InputError:
        return InputError(
            f"the images and videos of this input take {tokens:,} tokens, the model reads {self.max_tokens:,}",
            hint="give fewer or smaller ones",
        )


def document_pieces(
    tokenizer: PromptTokenizer, document: Document, default: str, placeholders: Sequence[str] = ()
) -> list[Piece]:
    """An embedder's prompt for a document, in pieces of text and control tokens."""
    task = tokenizer.text(instruction(document.instruction, default))
    content = list(tokenizer.content(document, placeholders, textless=document.text is None))
    return tokenizer.fill({"instruction": [task], "content": content})


def pair_pieces(
    tokenizer: PromptTokenizer, query: Document, document: Document, task: str,
    asked: Sequence[str] = (), judged: Sequence[str] = (),
) -> list[Piece]:  # fmt: skip
    """A reranker's prompt for a pair; `asked` and `judged` are the placeholders of their images and videos."""
    return tokenizer.fill(
        {
            "instruction": [tokenizer.text(task)],
            "query": list(tokenizer.content(query, asked, textless=query.text is None)),
            "document": list(tokenizer.content(document, judged, textless=document.text is None)),
        }
    )


class TokenCache:
    """Ids by what they were made of, the latest ones, from any thread."""

    def __init__(self, tokens: int = TOKENS_KEPT) -> None:
        self._limit = tokens
        self._held = 0
        self._kept: OrderedDict[Hashable, Ids] = OrderedDict()
        self._changing = Lock()

    def get(self, keys: Sequence[Hashable]) -> list[Ids | None]:
        """None for what is not there."""
        with self._changing:
            return [self._kept.get(key) for key in keys]

    def made(self, keys: Sequence[Hashable], make: Callable[[Sequence[int]], Sequence[Sequence[int]]]) -> list[Ids]:
        """The ids for each key; `make` is given the places of those that are not there yet."""
        found = self.get(keys)
        new = [place for place, ids in enumerate(found) if ids is None]
        made = {place: np.array(numbers, np.int32) for place, numbers in zip(new, make(new), strict=True)}
        self.put([(keys[place], ids) for place, ids in made.items()])
        return [made[place] if ids is None else ids for place, ids in enumerate(found)]

    def put(self, entries: Iterable[tuple[Hashable, Ids]]) -> None:
        """Keep these; the oldest go."""
        with self._changing:
            for key, ids in entries:
                self._held += len(ids) - len(self._kept.pop(key, ()))
                self._kept[key] = ids
            while self._held > self._limit:
                self._held -= len(self._kept.popitem(last=False)[1])
