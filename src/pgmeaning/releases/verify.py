"""Whether a model that is loaded in this process gives the vectors of a database's probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from pgmeaning.database.probes import stored_probes
from pgmeaning.errors import ModelNotFound, ModelUnavailable
from pgmeaning.models.base import load_embedder
from pgmeaning.models.probes import Comparison, Maker, compared, maker_of
from pgmeaning.models.registry import located
from pgmeaning.settings import Settings
from pgmeaning.types import Model


@dataclass(frozen=True, slots=True)
class Verification:
    """What became of each probe; `then` and `now`: what made the vectors."""

    results: Sequence[Comparison]
    then: Maker
    now: Maker

    @property
    def passed(self) -> bool:
        """Whether the model may serve the database."""
        return all(result.passed for result in self.results)


def verify(connection: psycopg.Connection[Any], model: Model, **options: Any) -> Verification:
    """Load the model here, by its backend's `options` such as location, and embed the database's probes.

    Raises ModelUnavailable if it cannot run here, ModelNotFound if the database has no probes of it.
    """
    if model.kind != "embedder":
        raise ModelUnavailable(f"model {model.name!r} is a reranker, which has no probes")
    stored = stored_probes(connection, model.name)
    if not stored:
        raise ModelNotFound(
            f"model {model.name!r} has no probes in this database: it has not run here",
            hint="the first sidecar that runs it keeps them; or take them from elsewhere: pgmeaning release use FILE",
        )
    settings = Settings()
    embedder = load_embedder(located(model, settings.location), **options)
    results = compared(stored, model, embedder, settings.probe_tolerance)
    return Verification(results, stored[0].maker, maker_of(model, embedder))
