"""The models that this process serves: loaded as the registry says, and dropped once it says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import psycopg
import structlog

from pgmeaning.database import sql_files as sql
from pgmeaning.database import targets
from pgmeaning.database.connection import Connection
from pgmeaning.database.probes import begin_serving, stored_probes
from pgmeaning.errors import EndpointDown, ModelNotFound, ModelUnavailable, TimedOut
from pgmeaning.models.base import Embedder, Reranker
from pgmeaning.models.guarded import Guarded
from pgmeaning.models.limited import Limited
from pgmeaning.models.loaded import LoadedModels
from pgmeaning.models.options import serving as serving_options
from pgmeaning.models.pipeline import let_in
from pgmeaning.models.probes import check, probed
from pgmeaning.models.registry import located
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.spending import Spending
from pgmeaning.types import Model

log = structlog.get_logger()

# A model's look-up that the server refuses just now says nothing about the model.
PASSING = (psycopg.OperationalError, psycopg.InterfaceError)

# settings.model_timeout is for each 1,024: so long may the probes of one model take.
PROBE_TOKENS = 8192

# Whether a model is retired, its fingerprint, and a hash of its options.
Mark = tuple[bool, str, str]


class Serving:
    """`connect`: a connection of its own for each model that is loaded, which may take minutes."""

    def __init__(
        self, run: Run, connect: Callable[[], AbstractContextManager[Connection]], load: Callable[..., Embedder],
        load_reranker: Callable[..., Reranker],
    ) -> None:  # fmt: skip
        self._run = run
        self._connect = connect
        self._load = load
        self._load_reranker = load_reranker
        self._marks: dict[str, Mark] = {}  # of those that it has tried to load
        self.embedders: LoadedModels[Embedder] = LoadedModels(self._embedder, passing=PASSING)
        self.rerankers: LoadedModels[Reranker] = LoadedModels(self._reranker, self.embedders.priority_lock, PASSING)

    def look(self, connection: Connection) -> None:
        """Drop what the registry defines otherwise by now, or has retired, or serves again: the next use loads it."""
        if not self._marks:
            return
        rows = connection.execute(sql.query("maintenance/model_marks"), {"names": list(self._marks)}).fetchall()
        found: dict[str, Mark] = {name: (retired, *made_of) for name, retired, *made_of in rows}
        for name, mark in list(self._marks.items()):
            if found.get(name) != mark:
                log.warning("the registry has changed: model dropped", model=name)
                del self._marks[name]
                self.embedders.forget(name)
                self.rerankers.forget(name)

    def _embedder(self, name: str) -> Embedder:
        with self._connect() as connection:
            model = self._model(connection, name)
            fingerprint = self._marks[name][1]
            embedder = self._load(model, **self._options(model))
            let_in(embedder, self.embedders.priority_lock.give_way)
            if getattr(embedder, "is_remote", False):
                begin_serving(connection, self._run.id, name, fingerprint)
                return self._remote(model, fingerprint, embedder)
            with self.embedders.priority_lock.bulk(), self._run.model_call(lambda: (), PROBE_TOKENS, "the probes"):
                self._probe(connection, model, fingerprint, embedder)
        return embedder

    def _remote(self, model: Model, fingerprint: str, embedder: Embedder) -> Embedder:
        """With its probes now and then; within its limits, if there are any."""
        how = serving_options(model)
        if not how.is_limited:
            return Guarded(embedder, partial(self._check, model, fingerprint, embedder), self._interval)
        limited = Limited(embedder, Spending(model.name, how, self._connect))
        return Guarded(limited, partial(self._check, model, fingerprint, limited.let_through()), self._interval)

    @property
    def _interval(self) -> float:
        return self._run.settings.probe_interval

    def _check(self, model: Model, fingerprint: str, embedder: Embedder) -> None:
        """The same for a model that is served already. It raises nothing that a row could be blamed for."""
        try:
            with self._connect() as connection:
                self._probe(connection, model, fingerprint, embedder)
        except (psycopg.Error, TimedOut) as error:
            raise EndpointDown(
                f"model {model.name!r}: its probes could not be compared: {str(error).strip()}",
                public=f"model {model.name!r}: its probes could not be compared",
            ) from error

    def _probe(self, connection: Connection, model: Model, fingerprint: str, embedder: Embedder) -> None:
        """Compare what the model gives with its probes, or keep them at its first use; raises ModelDrifted."""
        stored, found = stored_probes(connection, model.name), []
        if not stored:
            found = probed(model, embedder)
            if not found:
                log.warning("model embeds none of its probes: what it serves cannot be compared", model=model.name)
            if begin_serving(connection, self._run.id, model.name, fingerprint, found):
                log.info("first use of a model: its probes are kept", model=model.name, probes=len(found))
                return
            stored = stored_probes(connection, model.name)  # another sidecar was faster
        check(stored, model, embedder, self._run.settings.probe_tolerance)
        begin_serving(connection, self._run.id, model.name, fingerprint)

    def _reranker(self, name: str) -> Reranker:
        with self._connect() as connection:
            model = self._model(connection, name)
        return self._load_reranker(model, **self._options(model))

    def _options(self, model: Model) -> dict[str, bool]:
        """What the settings say about a backend's way of running."""
        chosen = self._run.settings.compile
        return {} if chosen is None or model.backend != "qwen3_vl" else {"compile": chosen}

    def _model(self, connection: Connection, name: str) -> Model:
        """The model as the registry has it; raises ModelError if it is not to be served."""
        mark = connection.execute(sql.query("maintenance/model_marks"), {"names": [name]}).fetchone()
        found = targets.model(connection, name)
        if found is None or mark is None:
            raise ModelNotFound(f"there is no model {name!r} in this database", hint="pgmeaning model list")
        _, retired, fingerprint, options = mark
        self._marks[name] = (retired, fingerprint, options)
        if retired:
            raise ModelUnavailable(
                f"model {name!r} is retired and no longer served",
                hint="pgmeaning status names its replacement and how to move to it; pgmeaning model support serves it",
            )
        return located(found, self._run.settings.location)
