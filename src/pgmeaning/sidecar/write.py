"""The last step: writes vectors and finishes their claims in one transaction, or records why there are none."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate

import numpy as np
import psycopg
import structlog

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, is_passing, retrying
from pgmeaning.models.vectors import Vectors
from pgmeaning.sidecar.bounded_queue import BoundedQueue
from pgmeaning.sidecar.copy_binary import copy_payload
from pgmeaning.sidecar.in_flight import InFlight
from pgmeaning.sidecar.queue import Queue
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.work import Output
from pgmeaning.types import Claim, Row, Target

log = structlog.get_logger()

# The most rows (and vectors) that a writer puts into one transaction, if they are waiting.
WRITE_ROWS = 256


class Vanished(Exception):
    """A stored chunk whose vector a row was to keep is gone, as when somebody emptied the table meanwhile."""

    def __init__(self, row: Row) -> None:
        super().__init__(row.claim.key)
        self.row = row


class ModelChanged(Exception):
    """A target's vectors are of another model than the registry has by now."""


class Writer:
    """One of the threads that write. It keeps what it took from the queue until that is written or given up."""

    def __init__(self, run: Run, in_flight: InFlight, outputs: BoundedQueue[Output]) -> None:
        self._run = run
        self._in_flight = in_flight
        self._outputs = outputs
        self._pending: list[Output] = []

    def run(self, connection: Connection) -> None:
        """Run until the queue ends. After a lost connection it is called again with a new one, for what is pending.

        Nothing is written twice: a claim that is already finished no longer stands.
        """
        queue = Queue(connection, self._run.id, self._run.settings)
        while self._pending or self._take():
            for group in _by_target(self._pending):
                self._write(connection, queue, group)
                self._pending = [output for output in self._pending if not any(output is done for done in group)]

    def _take(self) -> bool:
        """Wait for an output, and add those that are waiting, up to one transaction's worth."""
        with self._run.recorder.waits("write"):
            output = self._outputs.get()
        while output is not None:
            self._pending.append(output)
            full = sum(max(len(p.rows), len(p.vectors)) for p in self._pending) >= WRITE_ROWS
            output = None if full else self._outputs.get_nowait()
        return bool(self._pending)

    def _write(self, connection: Connection, queue: Queue, outputs: Sequence[Output]) -> None:
        """Finish the claims of one target, one way or another."""
        try:
            self._end(connection, queue, outputs)
        except (psycopg.errors.LockNotAvailable, ModelChanged) as error:
            # Another transaction locks the vectors or the queue rows, or this is no longer their model: others go on.
            if isinstance(error, ModelChanged):
                log.error("the model was changed: nothing is written", collection=outputs[0].target.collection)
            self._in_flight.postpone(outputs[0].target)
            self._hand_back(queue, [claim for output in outputs for claim in output.claims])
        except Exception as error:
            if connection.closed or (isinstance(error, psycopg.Error) and is_passing(error)):
                raise
            log.exception("unexpected error", thread="writer")
            self._run.recorder.failed("write", len(outputs), outputs[0].target)
            claims = [claim for output in outputs for claim in output.claims]
            queue.fail(claims, [f"the vector cannot be written: {error}"] * len(claims))
        for output in outputs:
            self._in_flight.drop(output.claims)

    def _hand_back(self, queue: Queue, claims: Sequence[Claim]) -> None:
        """Untried, since waiting for a lock is no attempt; if queue rows are locked, claims wait for their lease."""
        with suppress(psycopg.errors.LockNotAvailable):
            queue.release(claims)

    def _end(self, connection: Connection, queue: Queue, outputs: Sequence[Output]) -> None:
        target = outputs[0].target
        rows = [row for output in outputs for row in output.rows]
        errors = [error for output in outputs for error in output.errors]
        started = time.monotonic()
        vectors = [output.vectors for output in outputs]
        together = vectors[0] if len(vectors) == 1 else np.concatenate(vectors)
        written = _write_rows(connection, queue, target, rows, together)
        seconds = time.monotonic() - started
        self._report(queue, target, written, seconds, outputs)
        if errors:
            queue.fail([claim for claim, _ in errors], [error for _, error in errors])
            log.warning(
                "rows failed", collection=target.collection, model=target.model, rows=len(errors), error=errors[0][1]
            )
        queue.release([claim for output in outputs for claim in output.handed_back])
        self._in_flight.count_rows(target, written)
        log.info(
            "batch", collection=target.collection, model=target.model, rows=len(rows), written=written,
            tokens=sum(output.tokens for output in outputs),
            embed_seconds=round(sum(output.seconds for output in outputs), 4),
            write_seconds=round(seconds, 4),
        )  # fmt: skip

    def _report(
        self, queue: Queue, target: Target, written: int, seconds: float, outputs: Sequence[Output]
    ) -> None:  # fmt: skip
        """Of several outputs in one transaction, the first one's trace shows it."""
        recorder = self._run.recorder
        recorder.written(target, written, seconds, outputs[0].origin)
        recorder.lost(queue.lapsed)
        recorder.outrun(queue.outrun)
        recorder.failed("write", queue.refused, target)
        queue.lapsed = queue.outrun = queue.refused = 0


def _write_rows(connection: Connection, queue: Queue, target: Target, rows: Sequence[Row], vectors: Vectors) -> int:
    """Write; if the database refuses, halve the rows until the refused row is alone."""
    try:
        return write(connection, queue, target, rows, vectors) if rows else 0
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        # A detached collection has no claims left to fail; rows of any other must not be embedded over and over.
        log.info(
            "collection changed or detached meanwhile", collection=target.collection, error=str(error).split("\n")[0]
        )
        queue.fail([row.claim for row in rows], [f"the vector cannot be written: {error}"] * len(rows))
        return 0
    except psycopg.Error as error:
        if connection.closed or is_passing(error):
            raise
        if len(rows) == 1:
            log.warning("rows failed", collection=target.collection, model=target.model, rows=1, error=str(error))
            queue.refused += 1
            queue.fail([rows[0].claim], [f"the vector cannot be written: {error}"])
            return 0
    middle = len(rows) // 2
    split = sum(row.vector_count for row in rows[:middle])
    first = _write_rows(connection, queue, target, rows[:middle], vectors[:split])
    return first + _write_rows(connection, queue, target, rows[middle:], vectors[split:])


def _by_target(outputs: Sequence[Output]) -> list[list[Output]]:
    groups: dict[tuple[int, str], list[Output]] = {}
    for output in outputs:
        groups.setdefault((output.target.collection_id, output.target.model), []).append(output)
    return list(groups.values())


def write(connection: Connection, queue: Queue, target: Target, rows: Sequence[Row], vectors: Vectors) -> int:
    """Write the vectors of rows whose claim still stands and finish those claims, in one transaction.

    `vectors` is float32 [n, dimensions]: those of the rows' `documents`, in order. Returns the number of rows.
    """
    try:
        return retrying(lambda: _write(connection, queue, target, rows, vectors))
    except Vanished as gone:
        queue.release([gone.row.claim])  # to be read again
        place = next(place for place, row in enumerate(rows) if row is gone.row)
        start, end = _starts(rows)[place : place + 2]
        rest = [*rows[:place], *rows[place + 1 :]]
        return write(connection, queue, target, rest, np.delete(vectors, slice(start, end), axis=0)) if rest else 0


def _write(connection: Connection, queue: Queue, target: Target, rows: Sequence[Row], vectors: Vectors) -> int:
    starts = _starts(rows)
    with connection.transaction():
        places = queue.finish([row.claim for row in rows])
        standing = [rows[place] for place in places]
        changed = [row.claim.key for row in standing if not row.unchanged and not row.keeps_vectors]
        if changed:
            connection.execute(sql.composed("rows/remove_vectors", target.parts), {"keys": changed})
        for row in standing:
            if row.keeps_vectors:
                _keep_chunks(connection, target, row)
        new = [row for row in standing if row.vector_count]
        if new:
            _check_fingerprint(connection, target)
            if len(standing) < len(rows):
                vectors = vectors[[index for place in places for index in range(starts[place], starts[place + 1])]]
            payload = copy_payload(target, new, vectors)
            with connection.cursor().copy(sql.composed("rows/copy_vectors", target.parts, parameters=False)) as copy:
                copy.write(payload)
    return len(standing)


def _check_fingerprint(connection: Connection, target: Target) -> None:
    arguments = {"collection_id": target.collection_id, "model": target.model, "fingerprint": target.fingerprint}
    if connection.execute(sql.query("rows/check_fingerprint"), arguments, prepare=True).fetchone() != (True,):
        raise ModelChanged(target.model)


def _starts(rows: Sequence[Row]) -> list[int]:
    """The offset where each row's vectors begin, and where the last row's end."""
    return [0, *accumulate(row.vector_count for row in rows)]


def _keep_chunks(connection: Connection, target: Target, row: Row) -> None:
    kept = [(chunk.kept, number) for number, chunk in enumerate(row.chunks) if chunk.kept is not None]
    arguments = {
        "key": row.claim.key, "old": [old for old, _ in kept], "new": [number for _, number in kept],
        "hashes": [row.chunk_hash(number) for _, number in kept],
    }  # fmt: skip
    if connection.execute(sql.composed("rows/keep_chunks", target.parts), arguments).fetchone() != (len(kept),):
        raise Vanished(row)
