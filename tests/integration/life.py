"""What must be true of a table's collections once a sidecar has caught up; and what at any time."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from psycopg import sql

from pgmeaning import load_embedder
from pgmeaning.models.vectors import Vectors
from tests.types import Connection, Rows

MODEL = "synthetic-384"

# The ways in which a collection may be attached, with the columns that each embeds.
KINDS = {
    "plain": "columns => '{title,body}'",
    "template": "template => '{title}: {body}'",
    "half": "columns => '{body}', vector_type => 'halfvec'",
    "chunks": """columns => '{body}', chunking => '{"method": "sentences", "size": 16}'""",
    "always": "columns => '{title}', always => true",
    "words": "columns => '{title,body}', language => 'simple'",
}


def document(kind: str, title: str | None, body: str | None) -> str | None:
    """What is embedded of a row; None: it has no content."""
    columns = [body] if kind in ("half", "chunks") else [title] if kind == "always" else [title, body]
    if not any((column or "").strip() for column in columns):
        return None
    if kind == "template":
        return f"{title or ''}: {body or ''}"
    return "\n\n".join(column for column in columns if column is not None)


@cache
def vector(text: str) -> Vectors:
    """float32 [384], unit length."""
    right: Vectors = load_embedder(MODEL).embed_documents([text])[0]
    return right


def vectors_differ(db: Connection, name: str, kind: str, table: str) -> list[str]:
    """How the vectors of a collection differ from those of the rows that there are."""
    wanted = {
        key: text
        for key, title, body in _query(db, "SELECT id, title, body FROM {}", table)
        if (text := document(kind, title, body)) is not None
    }
    stored: dict[Any, Rows] = {}
    for key, *chunk in _stored(db, name):
        stored.setdefault(key, []).append(tuple(chunk))
    found = [f"{name}: no vector of {key}" for key in wanted.keys() - stored.keys()]
    if wanted or not _awaits_rows(db, name):
        found += [f"{name}: vectors without a row, {key}" for key in stored.keys() - wanted.keys()]
    for key in wanted.keys() & stored.keys():
        found += [f"{name}: {key} {problem}" for problem in _chunks_differ(wanted[key], stored[key])]
    return found


def vector_table(db: Connection, name: str) -> str:
    query = "SELECT t.vectors::text FROM pgmeaning.target AS t JOIN pgmeaning.collection AS c ON c.id = t.collection_id"
    return str(db.execute(query.encode() + b" WHERE c.name = %s", (name,)).fetchall()[0][0])


def _stored(db: Connection, name: str) -> Rows:
    query = "SELECT id, chunk, chunk_text, embedding::vector::real[] FROM {} ORDER BY id, chunk"
    return db.execute(query.format(vector_table(db, name)).encode(), binary=True).fetchall()


def _awaits_rows(db: Connection, name: str) -> bool:
    """Whether vectors are kept for rows that an empty table, made anew, may still get."""
    return db.execute("SELECT FROM pgmeaning.collection WHERE name = %s AND awaits_rows", (name,)).rowcount == 1


def _chunks_differ(text: str, chunks: Rows) -> list[str]:
    found = []
    if [number for number, *_ in chunks] != list(range(len(chunks))):
        found.append("has chunks of wrong numbers")
    texts = [text if chunk_text is None else chunk_text for _, chunk_text, _ in chunks]
    if " ".join(texts).split() != text.split():
        found.append(f"has chunks that are not its text: {len(chunks)}")
    near = [float(np.dot(vector(t), np.array(v))) for t, (*_, v) in zip(texts, chunks, strict=True)]
    if min(near) < 0.999:
        found.append(f"has the vector of another text than {text[:40]!r}")
    return found


def not_ready(db: Connection, name: str) -> list[str]:
    """What status says of a collection that has caught up, if it is not what it should say."""
    row = db.execute(
        "SELECT state, owed, failed, problem, warning FROM pgmeaning.status WHERE collection = %s", (name,)
    ).fetchone()
    return [] if row == ("ready", 0, 0, None, None) else [f"status of {name}: {row}"]


def misses(db: Connection, name: str, kind: str, table: str) -> list[str]:
    """Rows that their own text does not find."""
    rows = _query(db, "SELECT id, title, body FROM {} ORDER BY id LIMIT 12", table)
    found = []
    for key, title, body in rows:
        text = document(kind, title, body)
        if text is None or len(text) > 4000:  # such a text may be cut
            continue
        nearest = _nearest(db, name, text, 20)
        same = [hit for hit, distance in nearest if distance < 1e-3]
        if key not in same and len(same) < 20:
            found.append(f"{name}: {key} is not found: {nearest[:3]}")
    return found


def ghosts(db: Connection, name: str, table: str) -> list[str]:
    """Rows that a search finds although they are gone: at no time may there be one."""
    present = {key for (key,) in _query(db, "SELECT id FROM {}", table)}
    hits = {key for key, _ in _nearest(db, name, "text 1", 1000)}
    return [f"{name}: {key} is found, but gone" for key in hits - present]


def _nearest(db: Connection, name: str, text: str, k: int) -> Rows:
    query = "SELECT (key ->> 'id')::bigint, distance FROM pgmeaning.nearest(%s, %s::vector, k => %s)"
    return db.execute(query, (name, str(vector(text).tolist()), k)).fetchall()


def left_over(db: Connection) -> list[str]:
    """What is left of work that is done."""
    tables = "queue", "inbox", "bulk_inbox"
    counts = [(table, db.execute(f"SELECT FROM pgmeaning.{table}".encode()).rowcount) for table in tables]
    return [f"{count} rows in pgmeaning.{table}" for table, count in counts if count]


def _query(db: Connection, query: str, table: str) -> Rows:
    return db.execute(sql.SQL(query).format(sql.Identifier(table))).fetchall()
