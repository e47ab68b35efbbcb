"""What making vectors takes, summed up by target, and added to the database now and then."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass

import psycopg

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection
from pgmeaning.types import Target


@dataclass(slots=True)
class Used:
    """`documents` that a model has read, their `tokens`, and the model's `seconds`; see pgmeaning.usage."""

    documents: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cut: int = 0
    reused: int = 0

    def add(self, other: Used) -> None:
        """Add another's numbers to these."""
        self.documents += other.documents
        self.tokens += other.tokens
        self.seconds += other.seconds
        self.cut += other.cut
        self.reused += other.reused


class Usage:
    """For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: dict[tuple[int, str], Used] = {}
        self._seconds: dict[tuple[int, str], float] = {}

    def add(self, target: Target, used: Used) -> None:
        """Note what was used for a target."""
        place = target.collection_id, target.model
        with self._lock:
            self._pending.setdefault(place, Used()).add(used)
            self._seconds[place] = self._seconds.get(place, 0.0) + used.seconds

    def seconds(self, target: Target) -> float:
        """How long this process's model has worked for a target."""
        with self._lock:
            return self._seconds.get((target.collection_id, target.model), 0.0)

    def flush(self, connection: Connection) -> None:
        """Add what is pending to the database's; what cannot be added stays pending."""
        with self._lock:
            pending, self._pending = self._pending, {}
        for (collection_id, model), used in pending.items():
            arguments = {"collection_id": collection_id, "model": model, **asdict(used)}
            try:
                connection.execute(sql.query("maintenance/record_usage"), arguments)
            except psycopg.Error:
                with self._lock:
                    self._pending.setdefault((collection_id, model), Used()).add(used)
                if connection.closed:
                    raise
