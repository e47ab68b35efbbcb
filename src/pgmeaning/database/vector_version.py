"""Which faults of pgvector a server may have."""

from __future__ import annotations

import re
from typing import Any

import psycopg

from pgmeaning.database import sql_files as sql

SOUND = (0, 8, 3)
# CVE-2026-3172: parallel builds of an HNSW index write behind a buffer.
PARALLEL_BUILDS = (0, 8, 2)


def vector_advice(connection: psycopg.Connection[Any]) -> str | None:
    """One line on what to do about an old pgvector; None for a sound one, or none at all."""
    found = connection.execute(sql.query("migrate/vector_version")).fetchone()
    return None if found is None else advice(*found)


def advice(version: str, on_server: str | None) -> str | None:
    """What to do about this version of the extension, where the server's files are of that version."""
    if _numbers(version) >= SOUND:
        return None
    if _numbers(on_server or "") >= SOUND:
        return f"the extension vector is still {version} in this database: run ALTER EXTENSION vector UPDATE"
    faults = "VACUUM may corrupt HNSW indexes"
    if _numbers(on_server or version) < PARALLEL_BUILDS:
        faults += ", and parallel builds of them overflow a buffer (CVE-2026-3172: leave PGMEANING_INDEX_WORKERS unset)"
    return (
        f"pgvector {on_server or version} has faults that 0.8.3 mends: {faults}. "
        "Install a newer one on the server, run ALTER EXTENSION vector UPDATE, and REINDEX"
    )


def sound_in_parallel(version: str) -> bool:
    """Whether pgvector of this version may build an index in parallel."""
    return _numbers(version) >= PARALLEL_BUILDS


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
