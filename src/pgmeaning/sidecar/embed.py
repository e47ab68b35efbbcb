"""The step that embeds: rows become vectors, batch by batch, with no transaction open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import structlog

from pgmeaning.errors import EndpointDown, ModelDrifted, describe
from pgmeaning.models.base import Embedder
from pgmeaning.models.batches import Batch, batches
from pgmeaning.models.loaded import LoadedModels
from pgmeaning.models.pipeline import prepare, ready
from pgmeaning.sidecar.batches import Embedded, embed, failed, launch
from pgmeaning.sidecar.bounded_queue import BoundedQueue
from pgmeaning.sidecar.pace import Paces
from pgmeaning.sidecar.row_vectors import RowVectors
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.usage import Used
from pgmeaning.sidecar.work import Output, Work, embedded, without_vectors
from pgmeaning.types import Document

log = structlog.get_logger()

# Between two batches, fresh rows go before them for so long at most: a stream of changes must not stop all else.
URGENT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Launched:
    """A batch on its way through the model. `finish` waits for its vectors."""

    work: Work
    vectors: RowVectors
    places: Sequence[int]
    documents: Sequence[Document]
    tokens: int
    started: float
    finish: Callable[[], Embedded]


def _cut(batch: Launched) -> int:
    """How many documents are as long as the model reads, or longer, by tokens or by what was read of the row."""
    tokens = getattr(batch.work.embedder, "max_tokens", None) or float("inf")
    characters = batch.work.characters or float("inf")
    return sum(
        batch.work.lengths[place] >= tokens or len(document.text or "") >= characters
        for place, document in zip(batch.places, batch.documents, strict=True)
    )


class EmbedStep:
    """Takes work and hands on outputs; queries go before its batches.

    Where a device works asynchronously, one batch is launched before the vectors of the last are awaited.
    """

    def __init__(
        self, run: Run, embedders: LoadedModels[Embedder], paces: Paces, work: BoundedQueue[Work],
        outputs: BoundedQueue[Output],
    ) -> None:  # fmt: skip
        self._run = run
        self._embedders = embedders
        self._paces = paces
        self._work = work
        self._outputs = outputs
        self._launched: Launched | None = None
        self._finished_at = 0.0

    def run(self) -> None:
        """Run until the queue of work ends; then end the queue of outputs."""
        while (work := self._next()) is not None:
            self._embed_or_fail(work)
        self._outputs.end()

    def _embed_or_fail(self, work: Work) -> None:
        try:
            self._embed(work)
        except BaseException as error:
            log.exception("unexpected error", thread="embed")
            errors = [(row, describe(error)) for row in work.rows]
            self._run.recorder.failed("embed", len(errors), work.target)
            self._outputs.put(without_vectors(work.target, errors=errors))

    def _next(self) -> Work | None:
        """The next work; unless it is there already, what was launched is finished first."""
        if self._launched is not None:
            if (work := self._work.get_nowait()) is not None:
                return work
            self._finish()
        with self._run.recorder.waits("embed"):
            return self._work.get()

    def _embed(self, work: Work) -> None:
        others = [row for row in work.rows if not row.vector_count]
        if others:
            self._outputs.put(without_vectors(work.target, others))
        self._hand_on_given(work)
        vectors = RowVectors([row for row in work.rows if row.documents], work.target.dimensions)
        for batch, ahead in self._batches(work, vectors):
            self._let_urgent_go_first(work)
            if self._run.stopping.is_set():
                return
            with self._run.model_call(partial(vectors.claims, ahead)):
                prepare(work.embedder, [vectors.documents[place] for place in ahead])
            if self._embedders.is_suspended(work.target.model) or not self._embed_batch(work, vectors, batch):
                self._outputs.put(without_vectors(work.target, handed_back=vectors.waiting))
                return

    def _hand_on_given(self, work: Work) -> None:
        """Rows whose vectors another generation has need no model."""
        given = [row for row in work.rows if row.given is not None]
        if given:
            self._outputs.put(embedded(work.target, given, np.concatenate([row.given for row in given]), ()))
            self._run.usage.add(work.target, Used(reused=len(given)))
            self._run.recorder.reused(work.target, len(given))

    def _let_urgent_go_first(self, work: Work) -> None:
        """Between two batches: a fresh row does not wait for the rest of a bulk."""
        until = time.monotonic() + URGENT_SECONDS
        while not work.urgent and time.monotonic() < until and (urgent := self._work.get_urgent()) is not None:
            self._embed_or_fail(urgent)

    def _batches(self, work: Work, vectors: RowVectors) -> Iterator[tuple[Batch, list[int]]]:
        """(batch, the places of the next): what fits the model's device."""
        budget = self._run.budget(work.embedder)
        cut = list(batches(work.lengths, budget.tokens, budget.rows, padded=budget.padded))
        for number, batch in enumerate(cut, start=1):
            yield batch, cut[number].places if number < len(cut) else []

    def _embed_batch(self, work: Work, vectors: RowVectors, batch: Batch) -> bool:
        """Embed a batch, or launch it and finish the one before; False: the model must not be used."""
        places = vectors.needed(batch.places)
        if not places:
            return True
        for group, documents, error in self._ready(work, vectors, places):
            tokens = batch.tokens * len(group) // len(places)
            if not self._embed_group(work, vectors, group, documents, error, tokens):
                return False
        return True

    def _ready(
        self, work: Work, vectors: RowVectors, places: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], Sequence[Document], BaseException | None]]:
        """(places, documents, error) of what may go through the model together: decoded while queries may use it."""
        groups = ready(work.embedder, [vectors.documents[place] for place in places])
        start = 0
        while True:
            with self._run.model_call(partial(vectors.claims, places[start:]), what="decoding images and videos"):
                group = next(groups, None)
            if group is None:
                return
            yield places[start : start + len(group.documents)], group.documents, group.error
            start += len(group.documents)

    def _embed_group(
        self, work: Work, vectors: RowVectors, places: Sequence[int], documents: Sequence[Document],
        error: BaseException | None, tokens: int,
    ) -> bool:  # fmt: skip
        started = time.monotonic()
        try:
            finish = (
                self._launch(work, vectors, places, documents, tokens)
                if error is None
                else partial(failed, error, work.target.dimensions)
            )
        except (EndpointDown, ModelDrifted) as unfit:
            self._embedders.suspend(work.target.model, unfit)
            self._run.recorder.failed("endpoint" if isinstance(unfit, EndpointDown) else "drift", target=work.target)
            return False
        self._finish()
        self._launched = Launched(work, vectors, places, documents, tokens, started, finish)
        if not self._run.budget(work.embedder).launched:
            self._finish()
        return True

    def _launch(
        self, work: Work, vectors: RowVectors, places: Sequence[int], documents: Sequence[Document], tokens: int
    ) -> Callable[[], Embedded]:
        with ExitStack() as stack:
            with self._run.recorder.waits("model"):
                stack.enter_context(self._embedders.priority_lock.bulk())
            stack.enter_context(self._run.model_call(partial(vectors.claims, places), tokens))
            return launch(work.embedder, documents, work.target.dimensions)

    def _finish(self) -> None:
        """Hand on the rows that have all their vectors with the batch that was launched."""
        if (batch := self._launched) is None:
            return
        self._launched = None
        target, vectors = batch.work.target, batch.vectors
        with self._run.model_call(partial(vectors.claims, batch.places), batch.tokens):
            found = self._awaited(batch)
        now = time.monotonic()
        seconds, self._finished_at = now - max(batch.started, self._finished_at), now
        self._paces[target.model, target.has_media].record(len(batch.places) * vectors.rows_each, seconds)
        self._run.usage.add(target, Used(len(batch.places), batch.tokens, seconds, _cut(batch)))
        self._report(batch, seconds)
        done = vectors.take(batch.places, found)
        if done.errors:
            self._run.recorder.failed("embed", len(done.errors), target)
        if done.rows or done.errors:
            output = embedded(target, done.rows, done.vectors, done.errors, tokens=batch.tokens, seconds=seconds)
            self._outputs.put(replace(output, origin=batch.work.origin))

    def _report(self, batch: Launched, seconds: float) -> None:
        """What the batch was like: its share of padding, and how much of what a call may hold it was."""
        budget = self._run.budget(batch.work.embedder)
        real = sum(batch.work.lengths[place] for place in batch.places)
        self._run.recorder.embedded(
            batch.work.target, len(batch.places), batch.tokens, seconds,
            padding=max(0.0, 1 - real / max(batch.tokens, 1)),
            fill=min(1.0, max(batch.tokens / budget.tokens, len(batch.places) / budget.rows)),
            origin=batch.work.origin,
        )  # fmt: skip

    def _awaited(self, batch: Launched) -> Embedded:
        """What became of a batch; if the device failed, it is embedded again, to find the document that is to blame."""
        try:
            return batch.finish()
        except BaseException:
            with self._embedders.priority_lock.bulk():
                return embed(batch.work.embedder, batch.documents, batch.work.target.dimensions)
