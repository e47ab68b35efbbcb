"""What must be true once everybody has stopped and the sidecars have caught up."""

from __future__ import annotations

import numpy as np
import psycopg

from pgmeaning import load_embedder
from pgmeaning.models.vectors import prefix
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Document
from tests.chaos.workload import Connection, served_by

SOURCES = {"plain": ("plain", ["id"]), "parts": ("parts", ["id"]), "odd": ('"odd Names"', ['"the key"', "at"])}


def catch_up(dsn: str) -> list[str]:
    """Let a healthy sidecar embed what is owed; returns what keeps it from doing so."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("SELECT pgmeaning.retry(collection) FROM pgmeaning.status")
        db.execute("DELETE FROM pgmeaning.sidecar")  # those that were killed
        db.execute("SELECT pgmeaning.swap_adjust(collection) FROM pgmeaning.swap WHERE state = 'filling'")
    status = Sidecar(dsn, Settings(lease=2, maintenance=0.2)).run(drain=True)
    return [] if status == 0 else [f"the last drain ended with {status}"]


def broken(dsn: str) -> list[str]:
    """What is not as it must be."""
    with psycopg.connect(dsn, autocommit=True) as db:
        found = [problem for collection in _collections(db) for problem in _vectors(db, collection)]
        found += _chunks(db)
        for table in ("queue", "inbox", "bulk_inbox"):
            left = db.execute(f"SELECT count(*) FROM pgmeaning.{table}".encode()).fetchone()
            if left != (0,):
                found.append(f"{left} rows are left in pgmeaning.{table}")
        states = db.execute("SELECT collection, state, owed, failed, problem FROM pgmeaning.status").fetchall()
        found += [f"status: {row}" for row in states if row[1:4] != ("ready", 0, 0)]
        missing = db.execute(
            "SELECT c.name, e FROM pgmeaning.collection AS c "
            "CROSS JOIN unnest(ARRAY['insert', 'update', 'delete', 'truncate']) AS e "
            "WHERE NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.source AND tgenabled <> 'D' "
            "AND tgname = format('pgmeaning_%s_%s', c.id, e))"
        ).fetchall()
        found += [f"no trigger: {row}" for row in missing]
    return found


def _collections(db: Connection) -> list[str]:
    """Their names, those of generations that do not serve, too."""
    names = [name for (name,) in db.execute("SELECT name FROM pgmeaning.collection ORDER BY id").fetchall()]
    return [name for name in names if name.split("@")[0] in SOURCES]


def swapped(dsn: str) -> list[str]:
    """Whatever a swap went through, it ends: the other generation can serve, and back, and forward again."""
    with psycopg.connect(dsn, autocommit=True) as db:
        row = db.execute(
            "SELECT collection, state FROM pgmeaning.swap WHERE state IN ('filling', 'activated')"
        ).fetchone()
        if row is None:
            return []
        calls = ["swap_activate", "swap_rollback", "swap_activate", "swap_finish"]
        for call in calls if row[1] == "filling" else ["swap_rollback", *calls]:
            try:
                # A drain builds no index, nor measures one that it found.
                more = ", overrule => 'no sidecar measures'" if call != "swap_finish" else ""
                db.execute(f"SELECT pgmeaning.{call}(%s{more})".encode(), (row[0],))
            except psycopg.Error as error:
                return [f"{call} after a {row[1]} swap: {error} {error.diag.message_detail}"]
    return []


def _vectors(db: Connection, collection: str) -> list[str]:
    """Each row with content has exactly the vector of its content, and nothing else is there."""
    source, key = SOURCES[collection.split("@")[0]]
    model, length = served_by(db, collection)
    columns = ", ".join(key)
    # The view may be dropped and not yet be back: read the table itself.
    vectors = db.execute("SELECT vectors::text FROM pgmeaning.target WHERE collection_id = "
                         "(SELECT id FROM pgmeaning.collection WHERE name = %s)", (collection,)).fetchone()  # fmt: skip
    assert vectors is not None
    rows = {tuple(row[:-1]): row[-1] for row in db.execute(f"SELECT {columns}, body FROM {source}".encode()).fetchall()}
    stored = db.execute(f"SELECT {columns}, embedding::text FROM {vectors[0]}".encode()).fetchall()
    found = {tuple(row[:-1]): np.fromstring(row[-1][1:-1], sep=",") for row in stored}
    wanted = {key: body for key, body in rows.items() if body is not None and body.strip()}
    problems = [f"{collection} {key}: no vector" for key in wanted.keys() - found.keys()]
    problems += [f"{collection} {key}: a vector without a row" for key in found.keys() - wanted.keys()]
    both = sorted(wanted.keys() & found.keys(), key=str)
    if both:
        right = prefix(load_embedder(model).embed_documents([Document(text=wanted[key]) for key in both]), length)
        near = (right * np.stack([found[key] for key in both])).sum(axis=1)
        problems += [f"{collection} {key}: the vector of another text" for key, dot in zip(both, near, strict=True)
                     if dot < 0.9999]  # fmt: skip
    if len(stored) != len(found):
        problems.append(f"{collection}: two vectors for one row")
    return problems


def _chunks(db: Connection) -> list[str]:
    """The texts of a row's chunks, together, are its words."""
    texts: dict[int, list[str]] = {}
    for key, text in db.execute(
        "SELECT v.id, coalesce(v.chunk_text, l.body) FROM long_embedding AS v LEFT JOIN long AS l USING (id) "
        "ORDER BY v.id, v.chunk"
    ):
        texts.setdefault(key, []).append(text or "")
    found = {key: " ".join(parts).split() for key, parts in texts.items()}
    wanted = {key: body.split() for key, body in db.execute("SELECT id, body FROM long")}
    return [
        f"long {key}: chunks are not its text"
        for key in found.keys() | wanted.keys()
        if found.get(key) != wanted.get(key)
    ]
