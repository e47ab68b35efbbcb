"""Models that a serving engine runs: vLLM, text-embeddings-inference (TEI), SGLang, Infinity, Ollama.

`location` is the engine's base URL. Or the model keeps its hub name as location and has the option `url`: then its
vectors may be compared with those that other backends make with that checkpoint. Options (`Serving`) come from the
registry and from the code that loads the model, which takes precedence. The key comes from PGMEANING_API_KEY or from
the file that PGMEANING_API_KEY_FILE names, never from the database, and goes to PGMEANING_API_KEY_HOSTS alone.

- Embeddings: POST /v1/embeddings. A model without a template gets `input`, with the registry's prompts; many inputs per
  request. One whose template is ChatML (Qwen3-VL-Embedding, gme-Qwen2-VL) gets `messages`, which vLLM fills into the
  model's own template: system, user, an empty assistant turn; one document per request, media as data URIs.
- Scores: POST /rerank, or /score with the option path = "/score".

A user's text stays text: an engine reads `<|im_end|>` in a message as the control token, so `<|word|>` is sent as
`<| word|>`. An engine cuts or refuses a text that is too long; vLLM cuts with
extra_body = {"truncate_prompt_tokens": -1}.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pgmeaning.errors import BadVector, InputError, ModelUnavailable
from pgmeaning.models.data_uri import image_uri, video_uri
from pgmeaning.models.endpoint import Endpoint, serving
from pgmeaning.models.text import checked_text, instruction, prompted, shortened
from pgmeaning.models.vectors import Vectors, finished
from pgmeaning.types import Document, Model

# Templates that an engine fills in from a conversation. Any other would be ignored silently.
CONVERSATIONS = frozenset({"qwen3-vl", "gme-qwen2-vl"})
JUDGED = frozenset({"qwen3-vl-reranker"})

CHARACTERS_PER_TOKEN = 4  # a guess, for batches by budget
TOKENS_PER_MEDIUM = 1024

CONTROL = re.compile(r"<\|(?=[^\s<>|]+\|>)")

Body = dict[str, Any]


def load(model: Model, dimensions: int, location: object = None, **options: Any) -> HttpEmbedder:
    """An embedder behind an endpoint, which is not contacted yet; raises ModelUnavailable for invalid options."""
    _check_template(model, CONVERSATIONS)
    return HttpEmbedder(Endpoint(model, serving(model, location, **options)), model, dimensions)


def load_reranker(model: Model, location: object = None, **options: Any) -> HttpReranker:
    """A reranker behind an endpoint; options as for `load`."""
    _check_template(model, JUDGED)
    return HttpReranker(Endpoint(model, serving(model, location, **options)), model)


class HttpEmbedder:
    """An `Embedder` that posts to /v1/embeddings."""

    is_remote = True

    def __init__(self, endpoint: Endpoint, model: Model, dimensions: int) -> None:
        self.dimensions = dimensions
        self._endpoint = endpoint
        self._model = model
        shorter = dimensions < model.dimensions
        self._cut_here = shorter and (
            not endpoint.how.send_dimensions or bool(model.options.get("layer_norm_before_cut"))
        )
        self._asked = {"dimensions": dimensions} if shorter and not self._cut_here else {}

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        """float32 [n, dimensions]. Raises InputError if the endpoint refuses an input, or it cannot be sent."""
        return self._embed(documents, self._model.document_prompt)

    def embed_queries(self, queries: Sequence[Document]) -> Vectors:
        """The same with the model's query prompt; an instruction of the query's own replaces the model's."""
        return self._embed(queries, self._model.query_prompt)

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        """A guess: a token per four characters, 1024 per image or video."""
        return [_tokens(document, self._model.max_tokens) for document in documents]

    def _embed(self, documents: Sequence[Document], prompt: str | None) -> Vectors:
        for document in documents:
            check_media(self._model, document)
        parts = list(self._parts(documents))
        found = self._endpoint.each(lambda part: self._ask(part, prompt), parts)
        if not found:
            return np.empty((0, self.dimensions), np.float32)
        # An engine that does not know `dimensions` returns all of them.
        return finished(np.concatenate(found), self._model, self.dimensions)

    def _parts(self, documents: Sequence[Document]) -> Iterator[Sequence[Document]]:
        """The documents of each request; a conversation holds only one."""
        size = 1 if self._model.template else self._endpoint.how.batch_rows
        for start in range(0, len(documents), size):
            yield documents[start : start + size]

    def _ask(self, documents: Sequence[Document], prompt: str | None) -> Vectors:
        if self._model.template:
            body = conversation(self._model, documents[0], prompt)
        else:
            body = {"input": [prompted(self._model, document, prompt) for document in documents]}
        encoding = self._endpoint.how.extra_body.get("encoding_format", "float")
        path = self._endpoint.how.path or "/v1/embeddings"
        return self._endpoint.post(
            path,
            {"encoding_format": encoding, **self._asked, **body},
            lambda answer: self._read(answer, len(documents)),
        )

    def _read(self, answer: Any, count: int) -> Vectors:
        rows = [_vector(item.get("embedding")) for item in _in_order(answer, count, "vector")]
        expected = {self._model.dimensions} if self._cut_here else {self.dimensions, self._model.dimensions}
        lengths = {len(row) for row in rows}
        if len(lengths) > 1 or not lengths <= expected:
            raise BadVector(
                f"returned vectors of length {' and '.join(map(str, sorted(lengths)))}, not {self.dimensions}",
                hint=f"does it serve {self._endpoint.how.served_name!r}?",
            )
        return np.stack(rows)


class HttpReranker:
    """A `Reranker` that posts to /rerank or /score."""

    def __init__(self, endpoint: Endpoint, model: Model) -> None:
        self._endpoint = endpoint
        self._model = model
        self._path = endpoint.how.path or "/rerank"

    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        """float32 [n], 0..1. An instruction is sent only if the model has a template, which has a place for it."""
        size = self._endpoint.how.batch_rows
        parts = [documents[start : start + size] for start in range(0, len(documents), size)]
        found = self._endpoint.each(lambda part: self._ask(query, part, instruction), parts)
        return np.concatenate([np.empty(0, np.float32), *found])

    def _ask(self, query: Document, documents: Sequence[Document], instruction: str | None) -> Vectors:
        asked, judged = self._content(query), [self._content(document) for document in documents]
        scored = self._path.rstrip("/").endswith("/score")
        names = ("text_1", "text_2") if scored else ("query", self._endpoint.how.rerank_field)
        body = {names[0]: asked, names[1]: judged, **self._instruction(query, instruction)}
        return self._endpoint.post(self._path, body, lambda answer: self._read(answer, len(documents)))

    def _read(self, answer: Any, count: int) -> Vectors:
        found = _in_order(answer, count, "score")
        scores = _numbers([item.get("score", item.get("relevance_score")) for item in found])
        if self._endpoint.how.sigmoid:
            return np.asarray(1 / (1 + np.exp(-scores.clip(-60, 60))), np.float32)
        if ((scores < 0) | (scores > 1)).any():
            raise BadVector("returned a score that is not 0..1", hint="for logits, set the option sigmoid = true")
        return scores

    def _instruction(self, query: Document, instruction: str | None) -> Body:
        said = (instruction or query.instruction or "").strip()
        return {"instruction": harmless(checked_text(said))} if said and self._model.template else {}

    def _content(self, document: Document) -> Any:
        """A document of only text as a string; one with media as the parts of a message."""
        check_media(self._model, document)
        if document.images or document.videos:
            return {"content": parts_of(self._model, document)}
        text = checked_text(shortened(document.text or "", self._model.max_tokens))
        return harmless(text) if self._model.template else text


def conversation(model: Model, document: Document, prompt: str | None) -> Body:
    """The messages that vLLM turns into the sequence that a Qwen3-VL-Embedding model was trained on."""
    system = harmless(checked_text(instruction(document.instruction, prompt or "")))
    return {
        "messages": [
            {"role": "system", "content": [_text(system)]},
            {"role": "user", "content": parts_of(model, document)},
            {"role": "assistant", "content": [_text("")]},
        ],
        "continue_final_message": True,
        "add_special_tokens": True,
    }


def parts_of(model: Model, document: Document) -> list[Body]:
    """Videos, images, text, in the order of the model's training; an empty document is the word NULL."""
    parts: list[Body] = [{"type": "video_url", "video_url": {"url": video_uri(video)}} for video in document.videos]
    parts += [{"type": "image_url", "image_url": {"url": image_uri(image)}} for image in document.images]
    if document.text is not None:
        parts.append(_text(harmless(checked_text(shortened(document.text, model.max_tokens)))))
    return parts or [_text("NULL")]


def harmless(text: str) -> str:
    """The text with `<|word|>` as `<| word|>`, which no tokenizer reads as a control token."""
    return CONTROL.sub("<| ", text)


def check_media(model: Model, document: Document) -> None:
    """Raise InputError for an image or video that the model does not take."""
    for kind, media in (("image", document.images), ("video", document.videos)):
        if media and (kind not in model.modalities or not model.template):
            raise InputError(
                f"model {model.name!r} takes no {kind} through its endpoint",
                hint="a Qwen3-VL model on vLLM does",
            )


def _check_template(model: Model, known: frozenset[str]) -> None:
    if model.template is not None and model.template not in known:
        raise ModelUnavailable(
            f"model {model.name!r}: an endpoint fills in its own template, not {model.template[:40]!r}",
            hint=f"it can be {' or '.join(sorted(known))}, or none",
        )


def _text(text: str) -> Body:
    return {"type": "text", "text": text}


def _tokens(document: Document, most: int | None) -> int:
    text = 1 + len(document.text or "") // CHARACTERS_PER_TOKEN
    media = TOKENS_PER_MEDIUM * (len(document.images) + len(document.videos))
    return text + media if most is None else min(text + media, most)


def _in_order(answer: Any, count: int, what: str) -> list[Body]:
    """The items of an answer, sorted by their `index`, as any order is allowed; raises BadVector if any is missing."""
    items = answer
    if isinstance(answer, dict):
        items = answer.get("data", answer.get("results"))
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadVector(f"answered without {what}s", hint="does it serve the OpenAI API on this path?")
    places = {item.get("index", place): item for place, item in enumerate(items)}
    if len(items) != count or places.keys() != set(range(count)):
        raise BadVector(f"returned {len(items)} {what}s, or wrong indexes, for {count} inputs")
    return [places[place] for place in range(count)]


def _vector(value: Any) -> Vectors:
    """A vector given as numbers, or as base64 of little-endian float32, which some engines return on request."""
    if isinstance(value, str):
        try:
            return _numbers(np.frombuffer(base64.b64decode(value, validate=True), "<f4"))
        except ValueError as error:
            raise BadVector(f"returned a vector that is not base64 of float32: {error}") from None
    return _numbers(value)


def _numbers(value: Any) -> Vectors:
    """float32 [n]; raises BadVector for anything else, such as the nulls that some engines write for NaN."""
    try:
        with np.errstate(over="ignore"):
            numbers = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise BadVector("returned something other than numbers") from None
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise BadVector("returned NaN or infinity, or no vector", hint="half precision overflows")
    return numbers
