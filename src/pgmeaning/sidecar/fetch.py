"""Between reading rows and embedding them: fetches and checks the bytes of the images and videos that rows name.

No transaction is open meanwhile, however long a URL takes; a file that is not an image fails only its own row. The
bytes stay encoded, so that rows waiting for the model take little memory: the model decodes them in its turn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import structlog

from pgmeaning.errors import describe
from pgmeaning.media import fetch_media
from pgmeaning.sidecar.bounded_queue import BoundedQueue
from pgmeaning.sidecar.row_vectors import measured
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.work import Output, Work, without_vectors
from pgmeaning.threads import each
from pgmeaning.types import Row

log = structlog.get_logger()


class Fetcher:
    """Fetches what rows name, several rows at once."""

    def __init__(
        self, run: Run, fetchable: BoundedQueue[Work], work: BoundedQueue[Work], outputs: BoundedQueue[Output]
    ) -> None:
        self._run = run
        self._policy = run.settings.media
        self._threads = run.settings.media_threads
        self._stopping = run.stopping
        self._fetchable = fetchable
        self._work = work
        self._outputs = outputs

    def run(self) -> None:
        """Run until the queue ends."""
        while (work := self._next()) is not None:
            started = time.monotonic()
            try:
                rows, errors = self.fetch(work.rows)
            except BaseException as error:
                log.exception("unexpected error", thread="fetch")
                rows, errors = [], [(row, describe(error)) for row in work.rows]
            self._run.recorder.fetched(work.target, len(rows), time.monotonic() - started, work.origin)
            if errors:
                self._run.recorder.failed("fetch", len(errors), work.target)
                self._outputs.put(without_vectors(work.target, errors=errors))
            if rows:
                self._work.put(measured(self._run, replace(work, rows=tuple(rows))), urgent=work.urgent)

    def _next(self) -> Work | None:
        with self._run.recorder.waits("fetch"):
            return self._fetchable.get()

    def fetch(self, rows: Sequence[Row]) -> tuple[list[Row], list[tuple[Row, str]]]:
        """The rows with their bytes, and the rows that failed, each with the reason. Not all of them once stopped."""
        fetched = each(self._fetched, rows, self._threads, self._stopping)
        return (
            [row for row in fetched if isinstance(row, Row)],
            [failed for failed in fetched if isinstance(failed, tuple)],
        )

    def _fetched(self, row: Row) -> Row | tuple[Row, str]:
        if row.document is None or not row.needs_vector:
            return row
        try:
            with self._run.model_call(lambda: [row.claim], what="reading its image or video"):
                return replace(row, document=fetch_media(row.document, self._policy))
        except BaseException as error:  # whatever a decoder raises must fail only this row
            return row, describe(error)
