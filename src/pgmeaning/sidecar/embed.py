"""The step that embeds: rows become vectors, batch by batch, with no transaction open."""

from __future__ import annotations

import time

import structlog

from pgmeaning.errors import EndpointDown, describe
from pgmeaning.models.base import Embedder
from pgmeaning.models.batches import Batch, batches, token_lengths
from pgmeaning.models.loaded import LoadedModels
from pgmeaning.sidecar.batches import embed
from pgmeaning.sidecar.bounded_queue import BoundedQueue
from pgmeaning.sidecar.pace import Paces
from pgmeaning.sidecar.row_vectors import RowVectors
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.work import Output, Work, embedded, without_vectors

log = structlog.get_logger()


class EmbedStep:
    """Takes work and hands on outputs; queries go before its batches."""

    def __init__(
        self, run: Run, embedders: LoadedModels[Embedder], paces: Paces, work: BoundedQueue[Work],
        outputs: BoundedQueue[Output],
    ) -> None:  # fmt: skip
        self._run = run
        self._embedders = embedders
        self._paces = paces
        self._work = work
        self._outputs = outputs

    def run(self) -> None:
        """Run until the queue of work ends; then end the queue of outputs."""
        while (work := self._work.get()) is not None:
            try:
                self._embed(work)
            except Exception as error:
                log.exception("unexpected error", thread="embed")
                errors = [(row, describe(error)) for row in work.rows]
                self._outputs.put(without_vectors(work.target, errors=errors))
        self._outputs.end()

    def _embed(self, work: Work) -> None:
        others = [row for row in work.rows if not row.vector_count]
        if others:
            self._outputs.put(without_vectors(work.target, others))
        vectors = RowVectors([row for row in work.rows if row.vector_count], work.target.dimensions)
        lengths = token_lengths(work.embedder, vectors.documents)
        settings = self._run.settings
        for batch in batches(lengths, settings.batch_tokens, settings.batch_rows):
            if self._run.stopping.is_set():
                return
            if self._embedders.is_suspended(work.target.model) or not self._embed_batch(work, vectors, batch):
                self._outputs.put(without_vectors(work.target, handed_back=vectors.waiting))
                return

    def _embed_batch(self, work: Work, vectors: RowVectors, batch: Batch) -> bool:
        """Embed a batch and hand on the rows that now have all their vectors; False: the endpoint is down."""
        places = vectors.needed(batch.places)
        if not places:
            return True
        documents = [vectors.documents[place] for place in places]
        started = time.monotonic()
        try:
            with self._embedders.priority_lock.bulk():
                found = embed(work.embedder, documents, work.target.dimensions)
        except EndpointDown as error:
            self._embedders.suspend(work.target.model, error)
            return False
        seconds = time.monotonic() - started
        self._paces[work.target.model, work.target.has_media].record(len(places) * vectors.rows_each, seconds)
        done = vectors.take(places, found)
        if done.rows or done.errors:
            self._outputs.put(
                embedded(work.target, done.rows, done.vectors, done.errors, tokens=batch.tokens, seconds=seconds)
            )
        return True
