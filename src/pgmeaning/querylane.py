"""Answers the queries that embed() and prepare() ask: beside the bulk work, and before it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import numpy as np
import structlog

from pgmeaning import sql
from pgmeaning.batching import describe
from pgmeaning.connection import Connection
from pgmeaning.models.base import Vectors, check_vectors
from pgmeaning.shelf import Shelf
from pgmeaning.types import Document

log = structlog.get_logger()

REQUESTS_AT_ONCE = 128


class Request(NamedTuple):
    """A query that waits for its vector."""

    id: int
    model: str
    input: str
    as_query: bool


class QueryLane:
    """Takes requests, answers each with a vector or an error, and never lets one wait in vain."""

    def __init__(self, connection: Connection, sidecar: UUID, shelf: Shelf, models: Sequence[str] | None) -> None:
        self._connection = connection
        self._sidecar = sidecar
        self._shelf = shelf
        self._models = list(models) if models is not None else None
        connection.execute(sql.query("listen_requests"))

    def wait(self, seconds: float) -> bool:
        """Sleep until a request is announced or time is up; returns whether one was."""
        return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))

    def answer(self) -> int:
        """Answer what waits; returns how many."""
        arguments = {"sidecar": self._sidecar, "models": self._models, "limit": REQUESTS_AT_ONCE}
        requests = [Request(*row) for row in self._connection.execute(sql.query("take_requests"), arguments).fetchall()]
        groups: dict[tuple[str, bool], list[Request]] = defaultdict(list)
        for request in requests:
            groups[request.model, request.as_query].append(request)
        for (model, as_query), group in groups.items():
            self._answer_group(model, as_query, group)
        return len(requests)

    def _answer_group(self, model: str, as_query: bool, group: Sequence[Request]) -> None:
        try:
            vectors = self._embed(model, as_query, [request.input for request in group])
        except Exception as error:
            if len(group) > 1:
                for request in group:
                    self._answer_group(model, as_query, [request])
            else:
                self._refuse(group[0], describe(error))
            return
        for request, vector in zip(group, vectors, strict=True):
            self._reply("answer_request", request, embedding="[" + ",".join(map(repr, vector.tolist())) + "]")
        log.info("queries answered", model=model, rows=len(group))

    def _embed(self, model: str, as_query: bool, inputs: Sequence[str]) -> Vectors:
        embedder = self._shelf.get(model)
        documents = [Document(text=text) for text in inputs]
        with self._shelf.turn.query():
            vectors = embedder.embed_queries(documents) if as_query else embedder.embed_documents(documents)
        return check_vectors(np.asarray(vectors, np.float32), len(inputs), embedder.dimensions)

    def _refuse(self, request: Request, error: str) -> None:
        log.warning("query refused", model=request.model, error=error)
        self._reply("refuse_request", request, error=error.replace("\0", "")[:2000])

    def _reply(self, name: str, request: Request, **values: str) -> None:
        """Commit the reply, then let the lock go that wakes who waits for it."""
        self._connection.execute(sql.query(name), {"id": request.id, **values})
        self._connection.execute(sql.query("let_go_request"), {"id": request.id})
