"""Answers the requests of embed(), prepare() and rerank(), ahead of bulk work."""

from __future__ import annotations

import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import numpy as np
import psycopg
import structlog
from pgvector import Vector

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection
from pgmeaning.errors import ModelError, ModelNotFound, ModelUnavailable, TimedOut, describe, describe_in_public
from pgmeaning.models.base import Embedder, Reranker
from pgmeaning.models.loaded import LoadedModels
from pgmeaning.models.vectors import Vectors, check_vectors
from pgmeaning.sidecar.run import STOP_POLL, Run
from pgmeaning.types import Document

log = structlog.get_logger()

REQUESTS_AT_ONCE = 128
# The most requests for a vector that are taken at once, so that none waits behind more.
DOCUMENTS_AT_ONCE = 16
REST_SECONDS = 0.5
# An error that comes again is not logged for so long; and so many different ones are remembered.
QUIET_SECONDS = 60.0
COMPLAINTS = 1000


class Request(NamedTuple):
    """A query that waits for its vector, or for the scores of its documents."""

    id: UUID
    model: str
    input: str
    as_query: bool
    documents: list[str] | None
    seconds: float  # how long somebody waits for the reply
    answered: bool  # by the answer to an equal query
    waited: float = 0.0  # seconds, until it was taken
    taken: float = 0.0  # when it was, by this process's clock

    @property
    def age(self) -> float:
        """How long somebody has been waiting for the reply."""
        return self.waited + time.monotonic() - self.taken


@dataclass(slots=True)
class Complaint:
    """An error that was logged, when, and how often it came since."""

    at: float
    reference: str
    again: int = 0


class Requests:
    """Takes requests, and answers each or says why it cannot; none is left waiting."""

    def __init__(self, run: Run, connection: Connection, loaded: Callable[[str], bool]) -> None:
        """`loaded`: whether a model can be asked without loading it."""
        self._run = run
        self._connection = connection
        self._is_loaded = loaded
        self._complaints: dict[tuple[str, str], Complaint] = {}
        connection.execute(sql.query("requests/listen_requests"))

    def wait(self, seconds: float) -> bool:
        """Sleep until a request is announced or time is up; returns whether one was."""
        return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))

    def run(self) -> None:
        """Run until the sidecar stops."""
        while not self._run.stopping.is_set():
            if not self.answer():
                self._rest()

    def _rest(self) -> None:
        """Rest until a request is announced or a deferred one is ready; not for long, as a NOTIFY can get lost."""
        end = time.monotonic() + min(self._run.settings.poll, REST_SECONDS)
        while time.monotonic() < end and not self._run.stopping.is_set():
            if self.wait(STOP_POLL) or self.is_ready():
                return

    def answer(self) -> int:
        """Answer what waits; returns how many."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether a deferred request can be answered now."""
        return False

    def _take(self, limit: int, *, rerank: bool) -> list[Request]:
        models = None if self._run.models is None else list(self._run.models)
        arguments = {"sidecar": self._run.id, "models": models, "limit": limit, "rerank": rerank}
        rows = self._connection.execute(sql.query("requests/take_requests"), arguments).fetchall()
        return self._served([Request(*row)._replace(taken=time.monotonic()) for row in rows])

    def _served(self, requests: Sequence[Request]) -> list[Request]:
        """Those for a model that is loaded or may be; the others are refused, since anybody may ask for any name."""
        asked = {r.model for r in requests if not self._is_loaded(r.model)} - set(self._run.models or ())
        if not asked:
            return list(requests)
        known = dict(
            self._connection.execute(
                sql.query("requests/served_models"), {"ids": [r.id for r in requests if r.model in asked]}
            ).fetchall()
        )
        for request in requests:
            if request.model in asked and not known.get(request.model):
                self._refuse(request, _not_served(request.model, exists=request.model in known))
        return [request for request in requests if request.model not in asked or known.get(request.model)]

    def _watched(self, requests: Sequence[Request]) -> AbstractContextManager[None]:
        """Watch a call of a model: if it does not return in time, the requests are refused, and the process ends."""

        def give_up(connection: Connection, error: str) -> None:
            for request in requests:
                connection.execute(sql.query("requests/refuse_request"), {"id": request.id, "error": error})

        return self._run.watch.call("the model", self._run.settings.model_timeout, give_up)

    def _refuse(self, request: Request, error: BaseException) -> None:
        """Tell whoever asked the kind of error, and the log the rest of it, such as what an endpoint replied."""
        self._run.recorder.failed("query" if request.documents is None else "rerank")
        reference = self._complain(request.model, describe(error))
        told = f"{describe_in_public(error)[:2000]} (reference {reference} in the sidecar's log)"
        arguments = {"id": request.id, "error": told.replace("\0", "")}
        self._connection.execute(sql.query("requests/refuse_request"), arguments)
        self._let_go([request])

    def _report(self, kind: str, requests: Sequence[Request], started: float) -> None:
        for request in requests:
            self._run.recorder.answered(kind, request.model, request.age, time.monotonic() - started)

    def _complain(self, model: str, error: str) -> str:
        """Log an error once, and then now and then, with how often it came meanwhile: anybody can ask what fails.

        Returns the reference under which it was logged.
        """
        said = self._complaints.get((model, error))
        if said is None or time.monotonic() - said.at > QUIET_SECONDS:
            if len(self._complaints) >= COMPLAINTS:
                self._complaints.clear()
            again = {"again": said.again} if said else {}
            said = self._complaints[model, error] = Complaint(time.monotonic(), secrets.token_hex(4))
            log.warning("query refused", model=model, reference=said.reference, error=error, **again)
        else:
            said.again += 1
        return said.reference

    def _mark_loading(self, requests: Sequence[Request], seconds: float | None) -> None:
        """So that whoever gives up waiting learns that the model is being loaded, and for how long; None: it is not."""
        arguments = {"ids": [request.id for request in requests], "seconds": seconds}
        self._connection.execute(sql.query("requests/mark_loading"), arguments)

    def _let_go(self, requests: Sequence[Request]) -> None:
        """Once the reply is committed, wake whoever waits for it."""
        arguments = {"ids": [request.id for request in requests]}
        self._connection.execute(sql.query("requests/let_go_requests"), arguments)


def _not_served(model: str, *, exists: bool) -> ModelError:
    if not exists:
        return ModelNotFound(f"there is no model {model!r} in this database", hint="pgmeaning model list")
    return ModelUnavailable(
        f"model {model!r} is not in use", hint="whoever manages models allows it: pgmeaning model allow"
    )


class QueryRequests(Requests):
    """Embeds queries: those that wait at the same time go through the model together, equal ones once."""

    def __init__(self, run: Run, connection: Connection, embedders: LoadedModels[Embedder]) -> None:
        super().__init__(run, connection, embedders.is_at_hand)
        self._embedders = embedders
        self._answered = 0  # since the cache was trimmed
        self._put_off: list[Request] = []  # until their model is loaded; meanwhile other models' queries are answered
        self._loaders: dict[str, threading.Thread] = {}

    def is_ready(self) -> bool:
        """Whether a deferred request can be answered now."""
        return any(self._embedders.is_at_hand(request.model) for request in self._put_off)

    def answer(self) -> int:
        """Answer what waits; returns how many."""
        requests = self._answerable(self._put_off + self._take(REQUESTS_AT_ONCE, rerank=False))
        groups: dict[tuple[str, bool], dict[str, list[Request]]] = defaultdict(lambda: defaultdict(list))
        for request in requests:
            if not request.answered:
                groups[request.model, request.as_query][request.input].append(request)
        if known := [request for request in requests if request.answered]:
            self._let_go(known)
        for (model, as_query), group in groups.items():
            self._answer_group(model, as_query, group)
        self._trim()
        return len(requests)

    def _answerable(self, requests: Sequence[Request]) -> list[Request]:
        """Those whose model is loaded, or known not to run; the others are deferred, and their models loaded."""
        at_hand = {name: self._embedders.is_at_hand(name) for name in {request.model for request in requests}}
        for name in (name for name, there in at_hand.items() if not there):
            if name not in self._loaders or not self._loaders[name].is_alive():
                self._loaders[name] = threading.Thread(target=self._load, args=(name,), daemon=True)
                self._loaders[name].start()
        known = {request.id for request in self._put_off}
        if loaded := [request for request in self._put_off if at_hand[request.model]]:
            self._mark_loading(loaded, None)
        self._put_off = [request for request in requests if not at_hand[request.model]]
        for request in self._put_off:
            if request.id not in known:
                self._mark_loading([request], self._embedders.loading_seconds(request.model))
        return [request for request in requests if at_hand[request.model]]

    def _load(self, name: str) -> None:
        # The one is logged already, and the next request is told; after the other it is tried again in a moment.
        with suppress(ModelError, psycopg.Error):
            self._embedders.get(name)

    def _answer_group(self, model: str, as_query: bool, group: Mapping[str, Sequence[Request]]) -> None:
        """Embed several texts, and answer every request for each."""
        started = time.monotonic()
        try:
            with self._watched([request for requests in group.values() for request in requests]):
                vectors = self._embed(model, as_query, list(group))
        except BaseException as error:
            if len(group) > 1:
                for text, requests in group.items():
                    self._answer_group(model, as_query, {text: requests})
            else:
                for request in next(iter(group.values())):
                    self._refuse(request, error)
            return
        for (text, requests), vector in zip(group.items(), vectors, strict=True):
            arguments = {"model": model, "as_query": as_query, "input": text, "embedding": Vector(vector).to_text()}
            self._connection.execute(sql.query("answer_request"), arguments)
            self._let_go(requests)
            self._report("query", requests, started)
        self._answered += len(group)
        log.info("queries answered", model=model, rows=sum(map(len, group.values())), texts=len(group))

    def _trim(self) -> None:
        """Trim the cache now and then, so that a burst of queries does not go far above the bound."""
        settings = self._run.settings
        if self._answered > settings.cache_rows / 10:
            trim_cache(self._connection, settings.cache_rows, settings.cache_seconds)
            self._answered = 0

    def _embed(self, model: str, as_query: bool, inputs: Sequence[str]) -> Vectors:
        embedder = self._embedders.get(model)
        documents = [Document(text=text) for text in inputs]
        with ExitStack() as stack:
            with self._run.recorder.waits("query"):
                stack.enter_context(self._embedders.priority_lock.query())
            vectors = embedder.embed_queries(documents) if as_query else embedder.embed_documents(documents)
        return check_vectors(np.asarray(vectors, np.float32), len(inputs), embedder.dimensions)


class RerankRequests(Requests):
    """Judges documents, one query at a time; queries for vectors go through between its batches."""

    def __init__(self, run: Run, connection: Connection, rerankers: LoadedModels[Reranker]) -> None:
        super().__init__(run, connection, rerankers.is_at_hand)
        self._rerankers = rerankers

    def answer(self) -> int:
        """Answer the request that has waited longest, if there is one; returns how many were answered."""
        requests = self._take(1, rerank=True)
        for request in requests:
            started = time.monotonic()
            try:
                with self._watched([request]):
                    scores = self._score(request)
            except BaseException as error:
                self._refuse(request, error)
            else:
                arguments = {"id": request.id, "scores": "{" + ",".join(map(repr, scores)) + "}"}
                self._connection.execute(sql.query("requests/answer_rerank"), arguments)
                self._let_go([request])
                self._report("rerank", [request], started)
                log.info("documents reranked", model=request.model, rows=len(scores))
        return len(requests)

    def _score(self, request: Request) -> list[float]:
        deadline = time.monotonic() + request.seconds
        reranker, query = self._loaded(request), Document(text=request.input)
        documents = [Document(text=text) for text in request.documents or ()]
        scores: list[float] = []
        for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
            if time.monotonic() > deadline:
                raise TimedOut(f"{len(scores)} of {len(documents)} documents were judged in time")
            with self._rerankers.priority_lock.query():
                judged = reranker.score(query, documents[start : start + DOCUMENTS_AT_ONCE], None)
            scores += np.asarray(judged, np.float64).tolist()
        return scores

    def _loaded(self, request: Request) -> Reranker:
        if self._rerankers.is_at_hand(request.model):
            return self._rerankers.get(request.model)
        self._mark_loading([request], self._rerankers.loading_seconds(request.model))
        loaded = self._rerankers.get(request.model)
        self._mark_loading([request], None)
        return loaded


def trim_cache(connection: Connection, rows: int, seconds: float) -> None:
    """Keep the cache of query vectors within its bounds of size and age."""
    connection.execute(sql.query("requests/trim_cache"), {"rows": rows, "age": timedelta(seconds=seconds)})
