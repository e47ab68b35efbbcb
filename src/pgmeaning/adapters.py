"""Vectors as Python values on a connection, wherever the database has pgvector and whatever the search_path."""

from __future__ import annotations

from typing import Any

import psycopg
from pgvector.psycopg.bit import register_bit_info
from pgvector.psycopg.halfvec import register_halfvec_info
from pgvector.psycopg.sparsevec import register_sparsevec_info
from pgvector.psycopg.vector import register_vector_info
from psycopg.types import TypeInfo

from pgmeaning import sql
from pgmeaning.errors import DatabaseError

REGISTER = {
    "vector": register_vector_info,
    "bit": register_bit_info,
    "halfvec": register_halfvec_info,
    "sparsevec": register_sparsevec_info,
}


def register_vectors(connection: psycopg.Connection[Any]) -> None:
    """As pgvector's own register_vector, which looks on the search_path alone."""
    found = {name: TypeInfo(name, *oids) for name, *oids in connection.execute(sql.query("vector_types")).fetchall()}
    if "vector" not in found:
        raise DatabaseError(
            "the database has no extension vector, which pgmeaning needs",
            hint="if it was dropped, the vectors went with it: restore a backup, or "
            "DROP SCHEMA IF EXISTS pgmeaning, pgmeaning_data CASCADE, then run: pgmeaning migrate",
        )
    for name, register in REGISTER.items():
        if name in found:
            register(connection, found[name])
