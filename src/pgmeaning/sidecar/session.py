"""A thread's connection and what goes with it: the queue, the registry, and how to judge errors."""

from __future__ import annotations

from dataclasses import dataclass

from pgmeaning.database.connection import Connection
from pgmeaning.database.targets import Registry
from pgmeaning.sidecar.broken import SourceErrors
from pgmeaning.sidecar.in_flight import InFlight
from pgmeaning.sidecar.queue import Queue
from pgmeaning.sidecar.run import Run


@dataclass(frozen=True, slots=True)
class Session:
    """For one thread: it claims and reads over the same connection."""

    connection: Connection
    queue: Queue
    registry: Registry
    errors: SourceErrors


def session(run: Run, in_flight: InFlight, connection: Connection) -> Session:
    """A session over a new connection."""
    registry = Registry()
    return Session(
        connection, Queue(connection, run.id, run.settings), registry, SourceErrors(connection, registry, in_flight)
    )
