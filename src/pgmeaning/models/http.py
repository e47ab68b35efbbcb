"""Models that a serving engine runs: vLLM, text-embeddings-inference (TEI), SGLang, Infinity, Ollama.

`location` is the engine's base URL. Or the model keeps its hub name as location and has the option `url`: then its
vectors may be compared with those that other backends make with that checkpoint. Options (`models.options`) come from
the registry and from the code that loads the model, which takes precedence. The key comes from PGMEANING_API_KEY or
from the file that PGMEANING_API_KEY_FILE names, never from the database, and goes to PGMEANING_API_KEY_HOSTS alone.

POST /v1/embeddings, with the first of these that applies:

- token ids, `{"input": [[ids], ...]}`, made here (`models.token_ids`) and cut here: texts of a model with a template
  whose tokenizer is at hand, or wherever the option `send` is 'tokens'. They reach the model as the local backend reads
  them, whatever is in them.
- `messages`, several conversations in a request where the engine takes that: a model with a template, and images or no
  tokenizer (Qwen3-VL-Embedding, gme-Qwen2-VL). vLLM fills them into the model's own template.
- `input`, texts in the registry's prompts.

No engine is left to cut: a text that it refuses as too long is shortened here and sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from pgmeaning.errors import BadVector, InputError, ModelUnavailable
from pgmeaning.models.answers import in_order, vector
from pgmeaning.models.batches import batches
from pgmeaning.models.conversation import check_media, conversation, image_tokens
from pgmeaning.models.endpoint import Endpoint
from pgmeaning.models.http_reranker import load_reranker
from pgmeaning.models.options import IDS_TOGETHER, IMAGES_TOGETHER, TEXTS_TOGETHER, serving
from pgmeaning.models.pipeline import Budget
from pgmeaning.models.shortening import may_be_too_long, shorter
from pgmeaning.models.text import prompted
from pgmeaning.models.token_ids import TokenIds, token_ids
from pgmeaning.models.vectors import Vectors, finished
from pgmeaning.types import Document, Model

__all__ = ["HttpEmbedder", "load", "load_reranker"]  # the entry points

# Templates that an engine fills in from a conversation. Any other takes token ids.
CONVERSATIONS = frozenset({"qwen3-vl", "gme-qwen2-vl"})

CHARACTERS_PER_TOKEN = 4  # a guess, for batches by budget
CALLS_CLAIMED = 2
# Engines that take ids and conversations also send vectors in 4 bytes a number, which is read much faster.
PACKED = {"encoding_format": "base64"}
LEAST_TOGETHER = 4  # texts in a request; fewer are not worth spreading over several

Body = dict[str, Any]


def load(model: Model, dimensions: int, location: object = None, **options: Any) -> HttpEmbedder:
    """An embedder behind an endpoint, which is not contacted yet; raises ModelUnavailable for invalid options."""
    how = serving(model, location, **options)
    tokens = token_ids(model, how)
    if model.template not in CONVERSATIONS | {None} and tokens is None:
        raise ModelUnavailable(
            f"model {model.name!r}: an endpoint fills in its own template, not {str(model.template)[:40]!r}",
            hint=f"it can be {' or '.join(sorted(CONVERSATIONS))}, or none; with its tokenizer beside the sidecar, any",
        )
    return HttpEmbedder(Endpoint(model, how), model, dimensions, tokens)


@dataclass(frozen=True, slots=True)
class Part:
    """What goes into one request: the places of its documents, and what makes their vectors."""

    places: Sequence[int]
    documents: Sequence[Document]
    ask: Callable[[Sequence[Document], str | None], Vectors]


class HttpEmbedder:
    """An `Embedder` that posts to /v1/embeddings. Any thread may use it."""

    is_remote = True

    def __init__(self, endpoint: Endpoint, model: Model, dimensions: int, tokens: TokenIds | None) -> None:
        self.dimensions = dimensions
        self._endpoint = endpoint
        self._model = model
        self._tokens = tokens
        self._takes_several = True  # conversations in a request, until it is known otherwise
        shorter_wanted = dimensions < model.dimensions
        self._cut_here = shorter_wanted and (
            not endpoint.how.send_dimensions or bool(model.options.get("layer_norm_before_cut"))
        )
        self._asked = {"dimensions": dimensions} if shorter_wanted and not self._cut_here else {}

    @property
    def budget(self) -> Budget:
        """A call fills all requests that may be under way: an endpoint knows no padding, and batches by itself."""
        how = self._endpoint.how
        rows = how.concurrency * self._together(IDS_TOGETHER if self._tokens else TEXTS_TOGETHER)
        tokens = how.concurrency * how.batch_tokens
        limits = [limit for limit in (how.tokens_per_minute, how.tokens_per_day) if limit]
        return Budget(
            min([tokens, *limits]), rows, CALLS_CLAIMED * rows, padded=False, launched=True, least=2 * how.concurrency
        )

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        """float32 [n, dimensions]. Raises InputError if the endpoint refuses an input, or it cannot be sent."""
        return self.begin_documents(documents)()

    def begin_documents(self, documents: Sequence[Document]) -> Callable[[], Vectors]:
        """Send the same, and return what waits for the answers."""
        prompt = self._model.document_prompt
        parts = list(self._parts(documents, prompt))
        answers = self._endpoint.start(lambda part: part.ask(part.documents, prompt), parts)
        return lambda: self._whole(parts, answers())

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        """The same with the model's query prompt, beside bulk work; a query's own instruction replaces the model's."""
        prompt = self._model.query_prompt
        parts = list(self._parts(queries, prompt))
        return self._whole(parts, self._endpoint.each(lambda part: part.ask(part.documents, prompt), parts))

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        """Exact where the tokenizer is at hand; else a guess, a token per four characters."""
        return self._lengths(documents, self._model.document_prompt)

    def requests(self, documents: Sequence[Document]) -> int:
        """In how many requests these documents go."""
        return sum(1 for _ in self._parts(documents, self._model.document_prompt))

    def _lengths(self, documents: Sequence[Document], prompt: str | None) -> list[int]:
        most = self._model.max_tokens or 1 << 30
        counted = self._tokens.lengths(documents, prompt) if self._tokens else map(_guessed, documents)
        media = (image_tokens(self._model, document) if document.images else 0 for document in documents)
        return [min(text + images, most) for text, images in zip(counted, media, strict=True)]

    def _parts(self, documents: Sequence[Document], prompt: str | None) -> Iterator[Part]:
        for document in documents:
            check_media(self._model, document)
        lengths = self._lengths(documents, prompt)
        apart = {place for place, document in enumerate(documents) if self._may_be_refused(document)}
        yield from (Part([place], [documents[place]], self._ask_shortened) for place in sorted(apart))
        for is_sent, most, ask in (
            (self._goes_as_ids, IDS_TOGETHER, self._ask_ids),
            (self._goes_as_images, IMAGES_TOGETHER, self._ask_conversations),
            (self._goes_as_text, TEXTS_TOGETHER, self._ask_conversations if self._model.template else self._ask_texts),
        ):
            places = [place for place, each in enumerate(documents) if is_sent(each) and place not in apart]
            yield from self._cut(places, documents, lengths, most, ask)

    def _cut(
        self, places: Sequence[int], documents: Sequence[Document], lengths: Sequence[int], most: int,
        ask: Callable[[Sequence[Document], str | None], Vectors],
    ) -> Iterator[Part]:  # fmt: skip
        how, rows = self._endpoint.how, self._together(most)
        if not how.requests_per_minute:  # else few large ones
            least = 1 if most == IMAGES_TOGETHER else LEAST_TOGETHER
            rows = min(rows, max(least, ceil(len(places) / how.concurrency)))
        for batch in batches([lengths[place] for place in places], how.batch_tokens, max(rows, 1), padded=False):
            chosen = [places[place] for place in batch.places]
            yield Part(chosen, [documents[place] for place in chosen], ask)

    def _together(self, most: int) -> int:
        return self._endpoint.how.batch_rows or most

    def _goes_as_ids(self, document: Document) -> bool:
        return self._tokens is not None and not document.images

    def _goes_as_images(self, document: Document) -> bool:
        return bool(document.images)

    def _goes_as_text(self, document: Document) -> bool:
        return self._tokens is None and not document.images

    def _may_be_refused(self, document: Document) -> bool:
        return self._tokens is None and may_be_too_long(document.text, self._model.max_tokens)

    def _whole(self, parts: Sequence[Part], answers: Sequence[Vectors]) -> Vectors:
        if not parts:
            return np.empty((0, self.dimensions), np.float32)
        found = np.concatenate(answers)
        vectors = np.empty_like(found)
        vectors[[place for part in parts for place in part.places]] = found
        # An engine that does not know `dimensions` returns all of them.
        return finished(vectors, self._model, self.dimensions)

    def _ask_ids(self, documents: Sequence[Document], prompt: str | None) -> Vectors:
        assert self._tokens is not None
        return self._post({"input": self._tokens.ids(documents, prompt), **PACKED}, len(documents))

    def _ask_texts(self, documents: Sequence[Document], prompt: str | None) -> Vectors:
        return self._post({"input": [prompted(self._model, each, prompt) for each in documents]}, len(documents))

    def _ask_conversations(self, documents: Sequence[Document], prompt: str | None) -> Vectors:
        if len(documents) == 1:
            return self._converse(documents, prompt)
        if self._takes_several:
            try:
                return self._converse(documents, prompt)
            except InputError:  # one of them, or that they are several, which older engines do not take
                vectors = self._one_by_one(documents, prompt)
                self._takes_several = False
                return vectors
        return self._one_by_one(documents, prompt)

    def _one_by_one(self, documents: Sequence[Document], prompt: str | None) -> Vectors:
        return np.concatenate([self._converse([document], prompt) for document in documents])

    def _converse(self, documents: Sequence[Document], prompt: str | None) -> Vectors:
        said = [conversation(self._model, self._fitted(document, prompt), prompt) for document in documents]
        body = {
            "messages": said if len(said) > 1 else said[0],
            "continue_final_message": True,
            "add_special_tokens": True,
            **PACKED,
        }
        return self._post(body, len(documents))

    def _fitted(self, document: Document, prompt: str | None) -> Document:
        """With its text cut so that images and text together are within the limit, if that can be told."""
        if self._tokens is None:
            return document
        return replace(document, text=self._tokens.fitting(document, prompt, image_tokens(self._model, document)))

    def _ask_shortened(self, documents: Sequence[Document], prompt: str | None) -> Vectors:
        """One document that may be too long: shorter and shorter, until the endpoint takes it."""
        ask = self._ask_conversations if self._model.template else self._ask_texts
        (document,) = documents
        for text in shorter(document.text or "", self._model.max_tokens, image_tokens(self._model, document)):
            try:
                return ask([replace(document, text=text)], prompt)
            except InputError as error:
                refused = error
        raise refused

    def _post(self, body: Body, count: int) -> Vectors:
        how = self._endpoint.how
        said = {name: how.extra_body[name] for name in PACKED if name in how.extra_body}
        return self._endpoint.post(
            how.path or "/v1/embeddings", {"encoding_format": "float", **self._asked, **body, **said},
            lambda answer: self._read(answer, count),
        )  # fmt: skip

    def _read(self, answer: Any, count: int) -> Vectors:
        rows = [vector(item.get("embedding")) for item in in_order(answer, count, "vector")]
        expected = {self._model.dimensions} if self._cut_here else {self.dimensions, self._model.dimensions}
        lengths = {len(row) for row in rows}
        if len(lengths) > 1 or not lengths <= expected:
            raise BadVector(
                f"returned vectors of length {' and '.join(map(str, sorted(lengths)))}, not {self.dimensions}",
                hint=f"does it serve {self._endpoint.how.served_name!r}?",
            )
        return np.stack(rows)


def _guessed(document: Document) -> int:
    return 1 + len(document.text or "") // CHARACTERS_PER_TOKEN
