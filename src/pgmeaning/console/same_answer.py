"""The SQL and the Python that give a column's rows: what the page shows is what its reader can run."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.sql import Literal

from pgmeaning.console.asked import Asked


def arguments(kind: str, wanted: Asked) -> dict[str, Any]:
    """What search() is told besides collection and query, by this kind of search."""
    told: dict[str, Any] = {"k": wanted.k}
    if wanted.filter is not None:
        told["filter"] = wanted.filter
    if kind in ("words", "hybrid"):
        told["mode"] = "hybrid"
    if kind == "words":
        told["weights"] = (0, 1)
    if kind == "reranked":
        told["rerank"] = wanted.rerank
    return told


def as_sql(kind: str, wanted: Asked, connection: psycopg.Connection[Any]) -> str | None:
    """A statement, with its values quoted; None where there is none, as for an image."""
    if wanted.image is not None and kind != "words":
        return None

    def quoted(value: Any) -> str:
        return Literal(value).as_string(connection)

    told = arguments(kind, wanted)
    if "weights" in told:
        told["weights"] = "{0,1}"
    options = "".join(f",\n    {name} => {quoted(value)}" for name, value in told.items())
    only = "\nWHERE text_rank IS NOT NULL" if kind == "words" else ""
    found = f"{quoted(wanted.collection)}, {quoted(wanted.query)}{options}"
    return f"SELECT key, chunk, score, distance\nFROM pgmeaning.search({found}){only};"


def as_python(kind: str, wanted: Asked) -> str:
    """A program that prints keys and scores; its reader names the database, and the image's file."""
    told = arguments(kind, wanted)
    options = "".join(f",\n    {name}={value!r}" for name, value in told.items())
    image = ",\n    image='image.png'" if wanted.image is not None and kind != "words" else ""
    query = f", {wanted.query!r}" if wanted.query else ""
    only = "if hit.text_rank is not None:\n        " if kind == "words" else ""
    return (
        "import pgmeaning\n\n"
        "client = pgmeaning.connect()\n"
        f"for hit in client.search({wanted.collection!r}{query}{image}{options}):\n"
        f"    {only}print(hit.key, hit.score)\n"
    )
