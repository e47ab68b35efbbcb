"""A thread's connection and what goes with it: the queue, the registry, and how to judge errors."""

from __future__ import annotations

from dataclasses import dataclass

from pgmeaning.database.connection import Connection
from pgmeaning.database.targets import Registry
from pgmeaning.sidecar.broken import SourceErrors
from pgmeaning.sidecar.in_flight import InFlight
from pgmeaning.sidecar.queue import Queue
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.source import Source


@dataclass(frozen=True, slots=True)
class Session:
    """For the thread that claims and reads. `source`: where it reads rows, over another connection."""

    connection: Connection
    source: Source
    queue: Queue
    registry: Registry
    errors: SourceErrors


def session(run: Run, in_flight: InFlight, connection: Connection, source: Source) -> Session:
    """A session over new connections."""
    registry = Registry()
    queue = Queue(connection, run.id, run.settings)
    return Session(connection, source, queue, registry, SourceErrors(connection, source, registry, in_flight))
