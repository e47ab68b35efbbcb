"""Releases of a database: described, compared, and taken from a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from pgmeaning.database import sql_files as sql
from pgmeaning.database import targets
from pgmeaning.database.probes import as_row, stored_probes
from pgmeaning.database.values import translated_errors
from pgmeaning.errors import DatabaseError, ModelNotFound
from pgmeaning.json_values import plain
from pgmeaning.releases.agreement import Agreement, Entry
from pgmeaning.releases.check import DIFFERENT, Finding, check

Connection = psycopg.Connection[Any]


def describe(connection: Connection, name: str | None = None, *, in_use: bool = False) -> Agreement:
    """A release (None: the current one) with its models; with those that collections use, too, if `in_use`.

    Raises ModelNotFound if there is no such release.
    """
    with translated_errors():
        release = _release(connection, name)
        if release is None:
            raise ModelNotFound(f"there is no release {name!r}", hint="see: pgmeaning release list")
        used = [row[0] for row in connection.execute(sql.query("registry/used_models"))] if in_use else []
        names = dict.fromkeys([release["reranker"], release["embedder"], *used])
        return Agreement(release, _entries(connection, names))


def findings(connection: Connection, wanted: Agreement, tolerance: float | None = None) -> list[Finding]:
    """What this database has of an agreement's models, and of the release if it has one of that name."""
    with translated_errors():
        every = [row[0] for row in connection.execute(sql.query("registry/model_names"))]
        # All fingerprints, to find a model under another name; the probes of those that are compared.
        entries = _entries(connection, every, probed=set(wanted.entries))
        here = Agreement(_release(connection, wanted.release["name"]) or {}, entries)
    return check(wanted, here, tolerance)


def use(connection: Connection, wanted: Agreement, tolerance: float | None = None) -> None:
    """Register an agreement's models and probes, and follow its release, all or nothing.

    Raises DatabaseError if this database has another model, or another release, of the same name.
    """
    conflicts = [found for found in findings(connection, wanted, tolerance) if found.verdict == DIFFERENT]
    if conflicts:
        raise DatabaseError(
            f"this database means something else by {conflicts[0].subject}",
            detail="; ".join(f"{found.subject}: {found.why}" for found in conflicts),
            hint="nothing was changed; have it named otherwise there. See: pgmeaning release check",
        )
    models = [{**asdict(e.model), "fingerprint": e.fingerprint} for e in wanted.entries.values()]
    probes = {name: [as_row(probed) for probed in entry.probes] for name, entry in wanted.entries.items()}
    arguments = {"release": Jsonb(dict(wanted.release)), "models": Jsonb(models), "probes": Jsonb(probes)}
    with translated_errors():
        connection.execute(sql.query("registry/import_release"), arguments)


def _release(connection: Connection, name: str | None) -> dict[str, Any] | None:
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(sql.query("registry/release"), {"name": name}).fetchone()
    return None if row is None else {key: plain(value) for key, value in row.items()}


def _entries(connection: Connection, names: Iterable[str | None], probed: set[str] | None = None) -> dict[str, Entry]:
    """The models of these names; with their probes, or with those of some."""
    marks = dict(connection.execute(sql.query("registry/fingerprints")).fetchall())
    models = [targets.model(connection, name) for name in names if name is not None]
    return {
        model.name: Entry(
            model, marks[model.name],
            stored_probes(connection, model.name) if probed is None or model.name in probed else (),
        )
        for model in models if model is not None
    }  # fmt: skip
