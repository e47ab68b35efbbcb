"""From documents to prompts, ahead of the network: ids made once, images prepared on several threads."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import numpy as np

from pgmeaning.models.pipeline import Ready
from pgmeaning.models.prompts import Ids, PromptTokenizer, TokenCache, document_pieces
from pgmeaning.models.qwen3_vl.packing import Prompt
from pgmeaning.models.qwen3_vl.vision import END, IMAGE, START, Vision, Visual
from pgmeaning.types import Document

# Documents whose images are prepared, or about to be, and that nobody has asked for yet.
DOCUMENTS_AHEAD = 128
THREADS = min(8, max(1, (os.cpu_count() or 1) // 2))


class Inputs:
    """The prompts of an embedder's documents."""

    def __init__(self, tokenizer: PromptTokenizer, vision: Vision) -> None:
        self._tokenizer = tokenizer
        self._vision = vision
        self._kept = TokenCache()
        self._ahead: OrderedDict[int, tuple[Document, Future[list[Visual]]]] = OrderedDict()
        self._changing = threading.Lock()

    def lengths(self, documents: Sequence[Document], default: str) -> list[int]:
        """Exact for text and images, the most there can be for a video; at most the model's limit."""
        vision, limit = self._vision, self._tokenizer.max_tokens
        return [
            min(len(ids) - 3 * self._marked(document) + vision.media_tokens(document), limit)
            for ids, document in zip(self.texts(documents, default), documents, strict=True)
        ]

    def texts(self, documents: Sequence[Document], default: str) -> list[Ids]:
        """The ids of the prompts, with one token for each image, and nothing for videos."""
        keys = [(document.text, document.instruction, default, self._marked(document)) for document in documents]
        media = START + IMAGE + END

        def make(places: Sequence[int]) -> list[list[int]]:
            marked = [(documents[place], [media] * self._marked(documents[place])) for place in places]
            return self._tokenizer.encode([document_pieces(self._tokenizer, each, default, at) for each, at in marked])

        return self._kept.made(keys, make)

    def prepare(self, documents: Iterable[Document]) -> None:
        """Begin with their images and videos; returns at once."""
        for document in documents:
            if not (document.images or document.videos):
                continue
            with self._changing:
                if id(document) not in self._ahead:
                    self._ahead[id(document)] = document, self._pool.submit(self._visuals, document)
                while len(self._ahead) > DOCUMENTS_AHEAD:
                    self._ahead.popitem(last=False)[1][1].cancel()

    def ready(self, documents: Sequence[Document]) -> Iterator[Ready]:
        """The documents once they are prepared: those that could not be stand alone."""
        self.prepare(documents)
        group: list[Document] = []
        for document in documents:
            with self._changing:
                known = self._ahead.get(id(document))
            error = None if known is None or known[1].cancelled() else known[1].exception()
            if error is None:
                group.append(document)
                continue
            with self._changing:
                self._ahead.pop(id(document), None)
            if group:
                yield Ready(group)
            yield Ready([document], error)
            group = []
        if group:
            yield Ready(group)

    def prompt(self, document: Document, default: str) -> Prompt:
        """What the network reads; raises InputError for an image or video that cannot be read."""
        if not document.images and not document.videos:
            return Prompt(self._tokenizer.cut_right(self.texts([document], default)[0]))
        visuals = self._taken(document)
        videos, images = visuals[: len(document.videos)], visuals[len(document.videos) :]
        if videos:
            pieces = document_pieces(self._tokenizer, document, default, [visual.placeholder for visual in visuals])
            ids = np.array(self._tokenizer.encode([pieces])[0], np.int32)
        else:
            (ids,) = self.texts([document], default)
            times = np.ones(len(ids), np.int64)
            times[ids == self._tokenizer.image_pad] = [visual.tokens for visual in images]
            ids = np.repeat(ids, times)
        return Prompt(self._tokenizer.cut_right(ids), tuple(images), tuple(videos))

    def _marked(self, document: Document) -> int:
        return 0 if document.videos else len(document.images)

    def _taken(self, document: Document) -> list[Visual]:
        with self._changing:
            known = self._ahead.pop(id(document), None)
        if known is None or known[1].cancelled():
            return self._visuals(document)
        return known[1].result()

    def _visuals(self, document: Document) -> list[Visual]:
        videos = [self._vision.video(video) for video in document.videos]
        return videos + [self._vision.image(image) for image in document.images]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(THREADS, "pgmeaning images")
