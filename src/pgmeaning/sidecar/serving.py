"""The models that this process serves: loaded as the registry says, and dropped once it says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import psycopg
import structlog

from pgmeaning.database import sql_files as sql
from pgmeaning.database import targets
from pgmeaning.database.connection import Connection
from pgmeaning.errors import ModelNotFound, ModelUnavailable
from pgmeaning.models.base import Embedder, Reranker
from pgmeaning.models.loaded import LoadedModels
from pgmeaning.models.pipeline import let_in
from pgmeaning.models.registry import located
from pgmeaning.sidecar.run import Run
from pgmeaning.types import Model

log = structlog.get_logger()

# A model's look-up that the server refuses just now says nothing about the model.
PASSING = (psycopg.OperationalError, psycopg.InterfaceError)

# Whether a model is retired, and its fingerprint.
Mark = tuple[bool, str]


class Serving:
    """`connect`: a connection of its own for each model that is loaded, which may take minutes."""

    def __init__(
        self, run: Run, connect: Callable[[], AbstractContextManager[Connection]], load: Callable[[Model], Embedder],
        load_reranker: Callable[[Model], Reranker],
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
        found: dict[str, Mark] = {name: (retired, fingerprint) for name, retired, fingerprint in rows}
        for name, mark in list(self._marks.items()):
            if found.get(name) != mark:
                log.warning("the registry has changed: model dropped", model=name)
                del self._marks[name]
                self.embedders.forget(name)
                self.rerankers.forget(name)

    def _embedder(self, name: str) -> Embedder:
        with self._connect() as connection:
            embedder = self._load(self._model(connection, name))
        let_in(embedder, self.embedders.priority_lock.give_way)
        return embedder

    def _reranker(self, name: str) -> Reranker:
        with self._connect() as connection:
            model = self._model(connection, name)
        return self._load_reranker(model)

    def _model(self, connection: Connection, name: str) -> Model:
        """The model as the registry has it; raises ModelError if it is not to be served."""
        mark = connection.execute(sql.query("maintenance/model_marks"), {"names": [name]}).fetchone()
        found = targets.model(connection, name)
        if found is None or mark is None:
            raise ModelNotFound(f"there is no model {name!r} in this database", hint="pgmeaning model list")
        _, retired, fingerprint = mark
        self._marks[name] = (retired, fingerprint)
        if retired:
            raise ModelUnavailable(
                f"model {name!r} is retired and no longer served",
                hint="pgmeaning status names its replacement and how to move to it; pgmeaning model support serves it",
            )
        return located(found, self._run.settings.location)
