"""The table that most tests write to and search, and queries whose vectors are at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgmeaning import load_embedder
from tests.types import Connection


@dataclass(frozen=True)
class Docs:
    """What a module's tests find in their fixture `docs`."""

    columns: str
    rows: str = ""  # a SELECT, or VALUES
    attach: str = ""  # arguments of attach() behind the name
    embedded: bool = False
    cached: Mapping[str, str] = field(default_factory=dict)  # queries, each with the text whose vector it has

    def make(self, db: Connection) -> None:
        """Make the table, attached or not; its rows are owed."""
        db.execute(f"CREATE TABLE docs ({self.columns})".encode())
        if self.rows:
            db.execute(f"INSERT INTO docs {self.rows}".encode())
        if self.attach:
            db.execute(f"SELECT pgmeaning.attach('docs', {self.attach})".encode())


def cache(db: Connection, text: str, model: str = "synthetic-384", like: str | None = None) -> None:
    """Put a query's vector into the cache, so that no sidecar is needed; `like`: that of another text.

    Here alone it shows how the cache is keyed: a sidecar that fills it would cost each of hundreds of tests a second.
    """
    vector = load_embedder(model).embed_queries([like or text])[0]
    db.execute(
        "INSERT INTO pgmeaning.query_cache (model, as_query, input_hash, embedding) "
        "VALUES (%s, true, pgmeaning._input_hash(%s), %s::vector)",
        (model, text, str(vector.tolist())),
    )
