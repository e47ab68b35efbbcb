"""Asks a sidecar from outside a transaction, as SQL's prepare() does: for databases without a dblink loopback."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from psycopg.pq import TransactionStatus

from pgmeaning.client.statements import Statements
from pgmeaning.errors import DatabaseError, TimedOut
from pgmeaning.types import Hit

T = TypeVar("T")


class Asking:
    """Questions to sidecars over the client's own connection."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    def once_asked(
        self, inputs: Sequence[str], timeout: float, call: Callable[[], T], *, collection: str | None = None,
        model: str | None = None, as_query: bool = True,
    ) -> T:  # fmt: skip
        """What the call returns; where there is no loopback, once a sidecar was asked as SQL's prepare() does."""
        try:
            return call()
        except DatabaseError as error:
            if not self.lacks_loopback(error):
                raise
        self._ask("ask_vectors", timeout, {
            "collection": collection, "model": model, "inputs": list(dict.fromkeys(inputs)), "as_query": as_query,
        })  # fmt: skip
        return call()

    def lacks_loopback(self, error: DatabaseError) -> bool:
        """Whether a question needs a loopback that is not there; in a transaction it cannot be asked otherwise."""
        if error.sqlstate != "PM009":
            return False
        with self._statements.using() as connection:
            return connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE

    def _ask(self, name: str, timeout: float, arguments: Mapping[str, Any]) -> list[str]:
        """A sidecar's replies, one for each question; raises TimedOut."""
        replies: list[str] | None = self._statements.value(name, {**arguments, "timeout": timedelta(seconds=timeout)})
        if replies is None:
            raise TimedOut(f"no sidecar answered within {timeout} s", hint="start one: pgmeaning sidecar")
        return replies

    def judged(self, arguments: Mapping[str, Any], found: Sequence[Hit]) -> list[Hit]:
        """Hits in the order of a sidecar's reranker, which is asked without a loopback."""
        timeout = arguments["timeout"].total_seconds()
        scores = self.scores(arguments["query"], found, arguments["reranker"], timeout)
        judged = [replace(hit, score=score) for hit, score in zip(found, scores, strict=True)]
        return sorted(judged, key=lambda hit: -hit.score)

    def scores(self, query: str, found: Sequence[Hit], reranker: str | None, timeout: float) -> list[float]:
        """What a sidecar's reranker gives each of the hits; None: the database's default."""
        documents = [(hit.text or "")[:100_000] for hit in found]
        if not documents:
            return []
        [reply] = self._ask("ask_scores", timeout, {"query": query, "reranker": reranker, "documents": documents})
        return [float(score) for score in reply[1:-1].split(",")]
