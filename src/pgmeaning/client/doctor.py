"""Looks at a vector column that nobody manages: is it of this model, of another, stale, or a mixture?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from psycopg import sql as compose

from pgmeaning.client.query_vectors import embed_documents_here
from pgmeaning.client.statements import Statements
from pgmeaning.database import sql_files as sql
from pgmeaning.documents.template import filled
from pgmeaning.errors import ArgumentError
from pgmeaning.models.registry import located
from pgmeaning.models.vectors import Vectors, prefix
from pgmeaning.settings import Settings
from pgmeaning.types import Model

# The cosine of a row's vector and the one made now: of another backend or precision it is still above the first; of
# another text by the same model it is above the second; two models' vectors have nothing to do with each other.
SAME, RELATED = 0.999, 0.3
# Rows whose vectors are taken up together.
PAGE = 512
# So many of the sample must be the model's.
ENOUGH = 0.99


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What became of a sample. `same` of it are the model's vectors of their rows, `stale` of other texts, `foreign`
    of another model; others cannot be the model's: of another length, zeros or not finite. Rows `without_text` get no
    vector from attach(), and do not count. `lacking`: rows of the
    whole table without a vector. `not_unit`: vectors that are not of length 1, whatever else they are."""

    column: str
    model: str
    rows: int
    lacking: int
    sample: int
    same: int = 0
    stale: int = 0
    foreign: int = 0
    wrong_length: int = 0
    unusable: int = 0
    without_text: int = 0
    not_unit: int = 0
    vector: str = ""  # the column, without its table

    @property
    def passed(self) -> bool:
        """Whether the column is of the model."""
        counted = self.sample - self.without_text
        return counted > 0 and self.same >= ENOUGH * counted

    @property
    def verdict(self) -> str:
        """In one line."""
        if self.sample == self.without_text:
            return "it holds no vector" + (" of a text" if self.sample else "")
        if self.passed:
            return f"it is of {self.model}"
        if not self.same:
            return f"it is not of {self.model}, or not of these texts"
        if self.foreign > self.stale:
            return f"it is mixed: {self.foreign} of {self.sample} are of another model, or of other texts"
        return f"{self.sample - self.same} of {self.sample} are not of {self.model} and the present text"

    @property
    def next_step(self) -> str:
        """What to do."""
        if self.passed:
            return f"attach(..., adopt={self.vector!r}) takes its vectors up, and they follow the rows"
        return f"attach() the table with model {self.model!r}: it embeds all rows, and the column can be dropped"


def examine(
    statements: Statements, column: str, model: Model, texts: Sequence[str], template: str | None, sample: int
) -> Diagnosis:
    """Embed a sample of a column's rows again, in this process, and compare."""
    table, name = _found(statements, column)
    parts = _parts(statements, template)
    columns = list(dict.fromkeys([*texts, *(column for _, column in parts or () if column)]))
    if not columns:
        raise ArgumentError("nothing was said of the texts", hint="name the columns that were embedded, or a template")
    rows, vectors = _count(statements, table, name)
    drawn = _drawn(statements, table, name, columns, sample)
    kinds = _judged(located(model, Settings().location), columns, parts, drawn)
    return Diagnosis(column, model.name, rows, rows - vectors, len(drawn), vector=name, **kinds)


def _found(statements: Statements, column: str) -> tuple[str, str]:
    """The column's table, quoted, and its name."""
    found = statements.execute("client/doctor_column", {"column": column}).fetchone()
    if found is None:
        raise ArgumentError(f"{column!r} names no column", hint="write table.column, such as docs.embedding")
    table, name, type = found
    if type not in ("vector", "halfvec"):
        raise ArgumentError(f"column {column} is of type {type}", hint="name a column of type vector or halfvec")
    return table, name


def _parts(statements: Statements, template: str | None) -> list[tuple[str, str | None]] | None:
    if template is None:
        return None
    return [(literal, column) for literal, column in statements.value("template_parts", {"template": template})]


def _count(statements: Statements, table: str, vector: str) -> tuple[int, int]:
    statement = _composed(statements, "client/doctor_count", table, vector)
    [(rows, vectors)] = statements.composed(statement, {})
    return rows, vectors


def _drawn(
    statements: Statements, table: str, vector: str, columns: Sequence[str], sample: int
) -> list[tuple[list[str | None], Vectors]]:
    statement = _composed(statements, "client/doctor_sample", table, vector, columns)
    found = statements.composed(statement, {"sample": sample})
    return [(texts, np.array(json.loads(numbers), np.float32)) for texts, numbers in found]


def _composed(
    statements: Statements, name: str, table: str, vector: str, columns: Sequence[str] = ()
) -> compose.Composed:  # fmt: skip
    """A statement about a table, whose name the database has quoted."""
    with statements.using() as connection:
        quoted = [compose.Identifier(each).as_string(connection) for each in (vector, *columns)]
    texts = ", ".join(f"s.{each}::text" for each in quoted[1:])
    parts = {"table": table, "vector": quoted[0], "texts": texts, "columns": ", ".join(dict.fromkeys(quoted))}
    return sql.composed(name, parts)


def _judged(
    model: Model, columns: Sequence[str], parts: Sequence[tuple[str, str | None]] | None,
    drawn: Sequence[tuple[list[str | None], Vectors]],
) -> dict[str, int]:  # fmt: skip
    texts = [filled(parts, columns, each) if any(text and text.strip() for text in each) else None for each, _ in drawn]
    made = iter(embed_documents_here(model, [text for text in texts if text]))
    kinds = Counter(
        _kind(model, vector, next(made) if text else None) for text, (_, vector) in zip(texts, drawn, strict=True)
    )
    lengths = [float(np.linalg.norm(vector)) for _, vector in drawn]
    return {**kinds, "not_unit": sum(abs(length - 1) > 1e-2 for length in lengths)}


def _kind(model: Model, stored: Vectors, made: Vectors | None) -> str:
    if made is None:
        return "without_text"
    if not (model.min_dimensions or model.dimensions) <= len(stored) <= model.dimensions:
        return "wrong_length"
    length = float(np.linalg.norm(stored))
    if not np.isfinite(length) or length == 0:
        return "unusable"
    cosine = float(prefix(made[None], len(stored))[0] @ stored / length)
    return "same" if cosine >= SAME else "stale" if cosine >= RELATED else "foreign"


def adopt(statements: Statements, collection: str, column: str) -> int:
    """Take up the vectors of a column of the collection's table, which `examine` found to be its model's.

    Returns how many rows have theirs now; the others are owed as ever.
    """
    taken, after = 0, None
    while True:
        arguments = {"collection": collection, "adopted": column, "after": after, "page": PAGE}
        last, seen, more = statements.execute("adopt_page", arguments).fetchone() or (None, 0, 0)
        taken += more
        if seen < PAGE:
            return taken
        after = last
