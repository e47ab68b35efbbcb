"""Collections whose vectors are put in by hand, and what numpy says of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from tests.types import Connection

Array = NDArray[np.float32]
SIZE = 384


def unit(vectors: NDArray[np.floating]) -> Array:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def random_vectors(count: int, seed: int = 0, dimensions: int = SIZE) -> Array:
    return unit(np.random.default_rng(seed).standard_normal((count, dimensions)))


def clustered(count: int, clusters: int, noise: float = 0.5, seed: int = 0) -> tuple[Array, NDArray[np.intp]]:
    """Vectors around some centres, and the number of each one's centre."""
    random = np.random.default_rng(seed)
    members = random.integers(clusters, size=count)
    away = unit(random.standard_normal((count, SIZE)))
    return unit(random_vectors(clusters, seed + 1)[members] + noise * away), members


def as_text(vector: Array) -> str:
    return "[" + ",".join(f"{number:.8f}" for number in vector) + "]"


def content_hash(*texts: str) -> bytes:
    """What stands beside a vector that was made of these columns."""
    return hashlib.sha256(json.dumps(list(texts), ensure_ascii=False).encode()).digest()


def filled(
    db: Connection, name: str, vectors: Array, texts: Sequence[str] | None = None, more: str = "",
    model: str = "synthetic-384",
) -> None:  # fmt: skip
    """A collection with ids from 1, each with its vector; no sidecar has anything to do with it."""
    table, vector_table = sql.Identifier(name), sql.Identifier("pgmeaning_data", f"{name}__{model}")
    bodies = list(texts) if texts is not None else [f"body {number}" for number in range(1, len(vectors) + 1)]
    db.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, body text)").format(table))
    db.execute(
        f"SELECT pgmeaning.attach(%s::regclass, ARRAY['body'], model => %s{more})".encode(), (f'"{name}"', model)
    )
    put(db, name, list(range(1, len(vectors) + 1)), bodies, model)
    with db.cursor() as cursor:
        cursor.executemany(
            sql.SQL(
                "INSERT INTO {} (id, chunk, model, embedding, content_hash) VALUES (%s, 0, %s, %s, %s)"
            ).format(vector_table),
            [
                (key, model, as_text(vector), content_hash(body))
                for key, (vector, body) in enumerate(zip(vectors, bodies, strict=True), start=1)
            ],
        )  # fmt: skip
    db.execute("ANALYZE")


def put(db: Connection, name: str, keys: Sequence[int], bodies: Sequence[str], model: str) -> None:
    """Rows that owe nothing."""
    insert = sql.SQL("INSERT INTO {} SELECT * FROM unnest(%s::int[], %s::text[])").format(sql.Identifier(name))
    db.execute(insert, (list(keys), list(bodies)))
    db.execute("TRUNCATE pgmeaning.inbox, pgmeaning.bulk_inbox")
    db.execute("UPDATE pgmeaning.target SET scanning = false, scan_finished_at = now()")


def distances(a: Array, b: Array) -> NDArray[np.float64]:
    return np.asarray(1 - a.astype(np.float64) @ b.astype(np.float64).T)


def nearest(a: Array, b: Array, k: int, *, itself: bool = False) -> list[list[int]]:
    """For each vector the ids (from 1) of the k nearest others, by brute force."""
    away = distances(a, b)
    if itself:
        np.fill_diagonal(away, np.inf)
    return [[int(place) + 1 for place in row[:k]] for row in np.argsort(away, axis=1, kind="stable")]
