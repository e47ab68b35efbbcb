"""The last steps of the sidecar's pipeline: write vectors and finish their claims, or record why there are none."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import psycopg
import structlog

from pgmeaning.database.connection import Connection, is_passing
from pgmeaning.models.base import Vectors
from pgmeaning.sidecar import store
from pgmeaning.sidecar.bounded_queue import Channel
from pgmeaning.sidecar.queue import Queue
from pgmeaning.types import Claim, Row, Target

if TYPE_CHECKING:
    from pgmeaning.sidecar.process import Sidecar

log = structlog.get_logger()

# Rows (and vectors) that one transaction of a writer takes together, when they wait for it.
WRITE_ROWS = 256


@dataclass(frozen=True, slots=True)
class Output:
    """Rows whose fate is known: vectors (float32 [n, d]) of those that need one, in order; errors; or none yet."""

    target: Target
    rows: tuple[Row, ...]
    vectors: Vectors
    errors: tuple[tuple[Claim, str], ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    handed_back: tuple[Claim, ...] = ()  # untried: nothing is wrong with these rows

    @property
    def claims(self) -> list[Claim]:
        """All claims whose fate this is."""
        return [row.claim for row in self.rows] + [claim for claim, _ in self.errors] + list(self.handed_back)


class Writer:
    """One of the threads that write. What it took from the channel it keeps until it is written or given up."""

    def __init__(self, sidecar: Sidecar, outputs: Channel[Output]) -> None:
        self._sidecar = sidecar
        self._outputs = outputs
        self._pending: list[Output] = []

    def run(self, connection: Connection) -> None:
        """Until the channel has ended; after a lost connection once more, over a new one, with what is pending.

        Written twice it is not: claims that ended already are no longer there to end again.
        """
        queue = Queue(connection, self._sidecar.id, self._sidecar.settings)
        while self._pending or self._take():
            for group in _by_target(self._pending):
                self._write(connection, queue, group)
                self._pending = [output for output in self._pending if not any(output is done for done in group)]

    def _take(self) -> bool:
        """Wait for an output, and add what else waits, up to a transaction's worth."""
        output = self._outputs.get()
        while output is not None:
            self._pending.append(output)
            full = sum(max(len(p.rows), len(p.vectors)) for p in self._pending) >= WRITE_ROWS
            output = None if full else self._outputs.get_nowait()
        return bool(self._pending)

    def _write(self, connection: Connection, queue: Queue, outputs: Sequence[Output]) -> None:
        """End the claims of one target, one way or another."""
        try:
            self._end(connection, queue, outputs)
        except psycopg.errors.LockNotAvailable:
            # Somebody's open transaction holds the vectors or the queue's rows: others go on, these after the lease.
            self._sidecar.postpone(outputs[0].target)
        except Exception as error:
            if connection.closed or (isinstance(error, psycopg.Error) and is_passing(error)):
                raise
            log.exception("unexpected error", thread="writer")
            claims = [claim for output in outputs for claim in output.claims]
            queue.fail(claims, [f"the vector cannot be written: {error}"] * len(claims))
        for output in outputs:
            self._sidecar.held.drop(output.claims)

    def _end(self, connection: Connection, queue: Queue, outputs: Sequence[Output]) -> None:
        target = outputs[0].target
        rows = [row for output in outputs for row in output.rows]
        errors = [error for output in outputs for error in output.errors]
        started = time.monotonic()
        vectors = [output.vectors for output in outputs]
        together = vectors[0] if len(vectors) == 1 else np.concatenate(vectors)
        written = _write_rows(connection, queue, target, rows, together)
        if errors:
            queue.fail([claim for claim, _ in errors], [error for _, error in errors])
            log.warning(
                "rows failed", collection=target.collection, model=target.model, rows=len(errors), error=errors[0][1]
            )
        queue.release([claim for output in outputs for claim in output.handed_back])
        self._sidecar.count_rows(written)
        log.info(
            "batch", collection=target.collection, model=target.model, rows=len(rows), written=written,
            tokens=sum(output.tokens for output in outputs),
            embed_seconds=round(sum(output.seconds for output in outputs), 4),
            write_seconds=round(time.monotonic() - started, 4),
        )  # fmt: skip


def _write_rows(connection: Connection, queue: Queue, target: Target, rows: Sequence[Row], vectors: Vectors) -> int:
    """Write, halving what the database refuses until the refused row stands alone."""
    try:
        return store.write(connection, queue, target, rows, vectors) if rows else 0
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        # Of a detached collection no claim is left to fail; any other must not be embedded over and over.
        log.info(
            "collection changed or detached meanwhile", collection=target.collection, error=str(error).split("\n")[0]
        )
        queue.fail([row.claim for row in rows], [f"the vector cannot be written: {error}"] * len(rows))
        return 0
    except psycopg.Error as error:
        if connection.closed or is_passing(error):
            raise
        if len(rows) == 1:
            queue.fail([rows[0].claim], [f"the vector cannot be written: {error}"])
            return 0
    middle = len(rows) // 2
    split = sum(map(store.vector_count, rows[:middle]))
    first = _write_rows(connection, queue, target, rows[:middle], vectors[:split])
    return first + _write_rows(connection, queue, target, rows[middle:], vectors[split:])


def _by_target(outputs: Sequence[Output]) -> list[list[Output]]:
    groups: dict[tuple[int, str], list[Output]] = {}
    for output in outputs:
        groups.setdefault((output.target.collection_id, output.target.model), []).append(output)
    return list(groups.values())
