"""Rerankers behind an endpoint: /classify with token ids where the tokenizer is at hand, else /rerank or /score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np

from pgmeaning.errors import BadVector, InputError, ModelUnavailable
from pgmeaning.models.answers import in_order, numbers
from pgmeaning.models.conversation import check_media, harmless, parts_of, sendable
from pgmeaning.models.endpoint import Endpoint
from pgmeaning.models.options import IDS_TOGETHER, TEXTS_TOGETHER, serving
from pgmeaning.models.prompts import ABSENT, PromptTokenizer, pair_pieces
from pgmeaning.models.registry import templates
from pgmeaning.models.shortening import may_be_too_long, shorter
from pgmeaning.models.text import checked_text, shortened
from pgmeaning.models.token_ids import LONGEST, where_wanted
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Document, Model

# Templates that an engine fills in. Any other takes token ids.
JUDGED = frozenset({"qwen3-vl-reranker"})
CLASSIFY = "/classify"

Body = dict[str, Any]


def load_reranker(model: Model, location: object = None, **options: Any) -> HttpReranker:
    """A reranker behind an endpoint; options as for an embedder. Raises ModelUnavailable for invalid ones."""
    how = serving(model, location, **options)
    as_ids = model.template is not None and how.path in ("", CLASSIFY)
    pairs = where_wanted(model, how, lambda tokenizer: Pairs(tokenizer, model)) if as_ids else None
    if model.template not in JUDGED | {None} and pairs is None:
        raise ModelUnavailable(
            f"model {model.name!r}: an endpoint fills in its own template, not {str(model.template)[:40]!r}",
            hint=f"it can be {' or '.join(sorted(JUDGED))}, or none; with its tokenizer beside the sidecar, any",
        )
    return HttpReranker(Endpoint(model, how), model, pairs)


class Pairs:
    """The ids of (query, document) pairs, token for token what the local backend reads."""

    def __init__(self, tokenizer: Any, model: Model) -> None:
        template = templates().get(model.template or "", model.template or "")
        self._prompts = PromptTokenizer(tokenizer, template, model.max_tokens or LONGEST)
        self._kept_last = int(model.options.get("kept_last_tokens", 5))

    def ids(self, query: Document, documents: Sequence[Document], task: str) -> list[list[int]]:
        """Cut to the model's limit."""
        found = self._prompts.encode([pair_pieces(self._prompts, query, document, task) for document in documents])
        return [self._prompts.cut_text(ids, self._kept_last) for ids in found]


class HttpReranker:
    """A `Reranker` that posts to /classify, /rerank or /score. Any thread may use it."""

    is_remote = True

    def __init__(self, endpoint: Endpoint, model: Model, pairs: Pairs | None) -> None:
        self._endpoint = endpoint
        self._model = model
        self._pairs = pairs
        self._path = endpoint.how.path or "/rerank"

    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        """float32 [n], 0..1. An instruction is sent only if the model has a template, which has a place for it."""
        for side in (query, *documents):
            check_media(self._model, side)
        ids = [] if query.images else [place for place, each in enumerate(documents) if self._goes_as_ids(each)]
        others = sorted(set(range(len(documents))) - set(ids))
        parts = self._cut(ids, IDS_TOGETHER, True) + self._cut(others, TEXTS_TOGETHER, False)
        scores = np.empty(len(documents), np.float32)
        found = self._endpoint.start(lambda part: self._judge(query, documents, part, instruction), parts)()
        for (places, _), judged in zip(parts, found, strict=True):
            scores[places] = judged
        return scores

    def _cut(self, places: list[int], most: int, as_ids: bool) -> list[tuple[list[int], bool]]:
        size = self._endpoint.how.batch_rows or most
        return [(places[start : start + size], as_ids) for start in range(0, len(places), size)]

    def _goes_as_ids(self, document: Document) -> bool:
        return self._pairs is not None and not document.images

    def _judge(
        self, query: Document, documents: Sequence[Document], part: tuple[list[int], bool], instruction: str | None
    ) -> Vectors:
        places, as_ids = part
        judged = [documents[place] for place in places]
        if not as_ids:
            return self._ask_or_apart(query, judged, instruction)
        assert self._pairs is not None
        task = self._task(query, instruction) or self._model.query_prompt or ""
        body = {"input": self._pairs.ids(query, judged, task)}
        return self._endpoint.post(CLASSIFY, body, lambda answer: _probabilities(answer, len(judged)))

    def _ask_or_apart(self, query: Document, documents: Sequence[Document], instruction: str | None) -> Vectors:
        """One document that is too long must not fail the others: each by itself, and that one shortened."""
        try:
            return self._ask(query, documents, instruction)
        except InputError:
            long = [each for each in (query, *documents) if may_be_too_long(each.text, self._model.max_tokens)]
            if not long:
                raise
        return np.concatenate([self._ask_shortened(query, document, instruction) for document in documents])

    def _ask_shortened(self, query: Document, document: Document, instruction: str | None) -> Vectors:
        sides = [list(shorter(each.text or "", self._model.max_tokens)) for each in (query, document)]
        texts = [query.text or "", document.text or ""]
        for found in zip_longest(*sides):
            texts = [text if text is not None else known for text, known in zip(found, texts, strict=True)]
            asked, judged = (
                each if each.text is None else replace(each, text=text)
                for each, text in zip((query, document), texts, strict=True)
            )
            try:
                return self._ask(asked, [judged], instruction)
            except InputError as error:
                refused = error
        raise refused

    def _ask(self, query: Document, documents: Sequence[Document], instruction: str | None) -> Vectors:
        asked, judged = self._content(query), [self._content(document) for document in documents]
        scored = self._path.rstrip("/").endswith("/score")
        names = ("text_1", "text_2") if scored else ("query", self._endpoint.how.rerank_field)
        task = self._task(query, instruction)
        said = {"instruction": harmless(checked_text(task))} if task and self._model.template else {}
        body = {names[0]: asked, names[1]: judged, **said}
        return self._endpoint.post(self._path, body, lambda answer: self._read(answer, len(documents)))

    def _read(self, answer: Any, count: int) -> Vectors:
        found = in_order(answer, count, "score")
        scores = numbers([item.get("score", item.get("relevance_score")) for item in found])
        if self._endpoint.how.sigmoid:
            return np.asarray(1 / (1 + np.exp(-scores.clip(-60, 60))), np.float32)
        if ((scores < 0) | (scores > 1)).any():
            raise BadVector("returned a score that is not 0..1", hint="for logits, set the option sigmoid = true")
        return scores

    def _task(self, query: Document, instruction: str | None) -> str:
        return (instruction or query.instruction or "").strip()

    def _content(self, document: Document) -> Any:
        """A document of only text as a string; one with media as the parts of a message.

        What is not there is the word NULL to a model with a template, and an empty text an empty side.
        """
        if document.images:
            return {"content": parts_of(self._model, document)}
        if not self._model.template:
            return checked_text(shortened(document.text or "", self._model.max_tokens))
        return ABSENT if document.text is None else sendable(self._model, document.text)


def _probabilities(answer: Any, count: int) -> Vectors:
    """Of a classifier with one class: how sure it is of yes."""
    found: list[Any] = [item.get("probs") for item in in_order(answer, count, "score")]
    if not all(isinstance(each, list) and len(each) == 1 for each in found):
        raise BadVector(
            "returned the probabilities of several classes, or none",
            hint="is it served with the --hf-overrides of the documentation? Else set its option send = text",
        )
    return numbers([each[0] for each in found])
