"""The stored probes of a model: read by whoever runs it, written once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
from psycopg.types.json import Jsonb

from pgmeaning.database import sql_files as sql
from pgmeaning.models.probes import Maker, Probe, Probed


def stored_probes(connection: psycopg.Connection[Any], model: str) -> list[Probed]:
    """The probes of a model and their vectors, float32 [d]; none if it has never run here."""
    rows = connection.execute(sql.query("registry/probes"), {"model": model}).fetchall()
    return [
        Probed(Probe(number, given, as_query), _vector(embedding), Maker(backend, dtype, device, libraries))
        for number, given, as_query, embedding, backend, dtype, device, libraries in rows
    ]


def begin_serving(
    connection: psycopg.Connection[Any], sidecar: UUID, model: str, fingerprint: str, probes: Sequence[Probed] = ()
) -> bool:
    """Say that a sidecar serves a model from now on; returns whether these are its first probes, which are kept then.

    Raises psycopg.DatabaseError if the model is not what it was when it was loaded.
    """
    kept = Jsonb([as_row(probed) for probed in probes]) if probes else None
    arguments = {"sidecar": sidecar, "model": model, "fingerprint": fingerprint, "probes": kept}
    row = connection.execute(sql.query("registry/begin_serving"), arguments).fetchone()
    return bool(row and row[0])


def as_row(probed: Probed) -> Mapping[str, Any]:
    """As a row of model_probe in JSON."""
    return {
        "number": probed.probe.number, "input": dict(probed.probe.input), "as_query": probed.probe.as_query,
        "embedding": json.dumps(probed.vector.astype(np.float64).tolist()), "backend": probed.maker.backend,
        "dtype": probed.maker.dtype, "device": probed.maker.device, "libraries": dict(probed.maker.libraries),
    }  # fmt: skip


def _vector(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(json.loads(text), np.float64).astype(np.float32)
