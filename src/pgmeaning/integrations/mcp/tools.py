"""The tools: what an agent may ask, and what it is told; each runs in a thread, with a connection of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from psycopg.rows import dict_row
from psycopg.sql import Literal
from psycopg.types.json import Jsonb

from pgmeaning import json_values
from pgmeaning.client.client import Client
from pgmeaning.database import sql_files as sql
from pgmeaning.errors import ArgumentError, CollectionError, DatabaseError, TimedOut
from pgmeaning.integrations.mcp.database import Database
from pgmeaning.integrations.mcp.filters import Condition, Filter, compiled
from pgmeaning.integrations.mcp.messages import (
    MOST_NEAR,
    Collection,
    Collections,
    ExpectedRow,
    ExplainArguments,
    Explanation,
    Found,
    Hits,
    HowSearched,
    Judged,
    NoArguments,
    Ranking,
    RerankArguments,
    SearchArguments,
    SimilarArguments,
)
from pgmeaning.integrations.mcp.shown import Budget, hits
from pgmeaning.types import Hit

NO_LOOPBACK = "PM009"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Known:
    """A collection that this role may search."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]


class Tools:
    """What the tools do, over one database; `only`: the collections that agents may know of."""

    def __init__(self, database: Database, only: Sequence[str] | None = None) -> None:
        self._database = database
        self._settings = database.settings
        self._only = list(only) if only else None

    def collections(self, _: NoArguments) -> Collections:
        """The collections that can be searched here, with their columns and state. Call this first."""
        return Collections(collections=self._described(None))

    def search(self, asked: SearchArguments) -> Hits:
        """Rows of a collection that are nearest in meaning to a text, the best first."""
        self._check_count(asked.k, asked.rerank or 1)
        known = self._known(asked.collection)
        wanted = self._filter(known, asked.filters)
        several = max(asked.k, asked.rerank or 0)
        found = self._found(asked, known, wanted, several)
        if asked.rerank is not None:
            scores = self._scores(asked.query, [hit.text or "" for hit in found])
            found = [hit for hit, _ in _best(found, scores, asked.k)]
            shown = self._answer(known, found)
            best = sorted(scores, reverse=True)
            for document, score in zip(shown.hits, best, strict=False):
                document.score = round(score, 4)
            return shown
        return self._answer(known, found)

    def similar(self, asked: SimilarArguments) -> Hits:
        """Rows that are nearest in meaning to a row of the same collection: more like this."""
        self._check_count(asked.k)
        known = self._known(asked.collection)
        wanted = self._filter(known, asked.filters)
        columns = self._columns(known, asked.columns)
        return self._answer(known, self._database.read(lambda client: client.similar(
            known.name, asked.key, asked.k, filter=wanted.condition, filter_params=wanted.parameters, columns=columns,
        )))  # fmt: skip

    def rerank(self, asked: RerankArguments) -> Ranking:
        """Texts from anywhere, judged by how well they answer a query."""
        scores = self._scores(asked.query, asked.documents)
        places = sorted(range(len(scores)), key=lambda place: -scores[place])[: asked.k]
        return Ranking(ranking=[Judged(index=place, score=round(scores[place], 4)) for place in places])

    def explain(self, asked: ExplainArguments) -> Explanation:
        """How a search is answered, how fresh the collection is, and why an expected row is found or not."""
        self._check_count(asked.k)
        known = self._known(asked.collection)
        wanted = self._filter(known, asked.filters)
        [described] = self._described(known.name)
        began = time.monotonic()
        found = self._found(SearchArguments(collection=known.name, query=asked.query), known, wanted, asked.k)
        milliseconds = (time.monotonic() - began) * 1000
        how, statement = self._database.read(lambda client: (
            HowSearched(**_first(client, "mcp/plan", {"collection": known.name, "k": asked.k, **_named(wanted)})),
            _statement(client, asked, wanted),
        ))  # fmt: skip
        row = None if asked.key is None else self._expected(asked, known, wanted)
        return Explanation(
            collection=known.name, model=described.model, state=described.state, owed=described.owed,
            failed=described.failed, how=how, milliseconds=round(milliseconds, 1), found=len(found), sql=statement,
            row=row, notes=_notes(described, row),
        )  # fmt: skip

    def _expected(self, asked: ExplainArguments, known: Known, wanted: Filter) -> ExpectedRow:
        """What is to be said of a row: whether it is there, has a vector, passes, and how near it is."""
        key = Jsonb(asked.key, dumps=json_values.dumps)
        arguments = {"collection": known.name, "key": key, "columns": self._readable_key(known)}
        found = self._database.read(lambda client: _rows(client, "mcp/row", arguments))
        if not found:
            return ExpectedRow(exists=False, embedded=False, passes_filters=False)
        values = asked.key if isinstance(asked.key, dict) else {known.key[0]: asked.key}
        this = [Condition(column=name, operator="=", value=values[name]) for name in known.key if name in values]
        question = SearchArguments(collection=known.name, query=asked.query)
        alone = self._found(question, known, self._filter(known, this), 1)
        passing = self._found(question, known, self._filter(known, [*this, *asked.filters]), 1)
        near = self._found(question, known, wanted, MOST_NEAR) if passing else []
        rank = next((place for place, hit in enumerate(near, 1) if alone and hit.key == alone[0].key), None)
        text = found[0]["embedded_text"]
        return ExpectedRow(
            exists=True, embedded=bool(alone), passes_filters=bool(passing) or (not alone and not asked.filters),
            distance=round(alone[0].distance, 4) if alone else None, rank=rank,
            text=None if text is None else Budget(self._settings).text(text),
        )  # fmt: skip

    def _readable_key(self, known: Known) -> list[str]:
        return [name for name in known.key if name in known.columns] or list(known.columns[:1])

    def _found(self, asked: SearchArguments, known: Known, wanted: Filter, k: int) -> list[Hit]:
        columns = self._columns(known, asked.columns) if k <= self._settings.mcp_rows else self._readable_key(known)

        def work(client: Client) -> list[Hit]:
            return client.search(
                known.name, asked.query, k, filter=wanted.condition, filter_params=wanted.parameters, columns=columns,
                mode="hybrid" if asked.words else None, timeout=self._database.patience,
            )  # fmt: skip

        try:
            return self._database.read(work)
        except DatabaseError as error:
            if error.sqlstate != NO_LOOPBACK:
                raise
        # Without a loopback a sidecar is asked outside a transaction; what is written is our own question.
        with self._database.client() as client:
            client.prepare(asked.query, known.name, timeout=self._database.patience)
        return self._database.read(work)

    def _scores(self, query: str, documents: Sequence[str]) -> list[float]:
        """What the database's default reranker, in a sidecar, gives each document."""
        arguments = {
            "query": query, "documents": [document[:100_000] for document in documents], "reranker": None,
            "timeout": timedelta(seconds=self._database.patience),
        }  # fmt: skip
        if not documents:
            return []
        try:
            found = self._database.read(lambda client: _rows(client, "rerank", arguments))
        except DatabaseError as error:
            if error.sqlstate != NO_LOOPBACK:
                raise
        else:
            scores = {row["index"]: row["score"] for row in found}
            return [scores[place] for place in range(1, len(documents) + 1)]
        with self._database.client() as client:
            reply = next(iter(_first(client, "ask_scores", arguments).values()))
        if reply is None:
            raise TimedOut("no sidecar answered", hint="start one: pgmeaning sidecar")
        return [float(score) for score in reply[0][1:-1].split(",")]

    def _answer(self, known: Known, found: Sequence[Hit]) -> Hits:
        shown, left_out = hits(found, Budget(self._settings))
        notes = [f"{left_out} rows were left out: name the columns that you need, or ask for fewer"] if left_out else []
        if not found:
            notes.append("nothing was found: see the filters, and the collection's state in `collections`")
        documents = [Found.model_validate(each) for each in shown]
        return Hits(collection=known.name, hits=documents, left_out=left_out, notes=notes)

    def _filter(self, known: Known, conditions: Sequence[Condition]) -> Filter:
        return compiled(conditions, known.columns, known.name)

    def _columns(self, known: Known, wanted: Sequence[str] | None) -> list[str]:
        """Those that are to be shown: what this role may not read is not there, rather than an error."""
        unknown = [name for name in wanted or () if name not in known.columns]
        if unknown:
            raise ArgumentError(
                f"collection {known.name!r} has no column {unknown[0]!r}", hint=f"it has: {', '.join(known.columns)}"
            )
        return list(wanted or known.columns)

    def _check_count(self, *counts: int) -> None:
        most = self._settings.mcp_rows
        if max(counts) > most:
            raise ArgumentError(f"{max(counts)} rows are too many", hint=f"ask for at most {most}")

    def _known(self, collection: str) -> Known:
        """Raises CollectionError with the names that there are: one that may not be seen is not there."""
        found = self._database.read(lambda client: _rows(client, "mcp/names", {"only": self._only}))
        for row in found:
            if row["name"] == collection:
                return Known(row["name"], tuple(row["columns"]), tuple(row["key"]))
        names = ", ".join(row["name"] for row in found) or "none that this role may search"
        raise CollectionError(f"there is no collection {collection!r}", hint=f"collections: {names}")

    def _described(self, collection: str | None) -> list[Collection]:
        arguments = {"only": self._only, "collection": collection}
        found = self._database.read(lambda client: _rows(client, "mcp/searchable", arguments))
        return [
            Collection(**{**row, "hybrid": row["language"] is not None, "passages": row["chunked"]}) for row in found
        ]


def _rows(client: Client, name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    with client.connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.query(name), arguments).fetchall()


def _first(client: Client, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return _rows(client, name, arguments)[0]


def _named(wanted: Filter) -> dict[str, Any]:
    return {"filter": wanted.condition, "filter_params": wanted.parameters}


def _best(items: Sequence[T], scores: Sequence[float], k: int) -> list[tuple[T, float]]:
    return sorted(zip(items, scores, strict=True), key=lambda pair: -pair[1])[:k]


def _statement(client: Client, asked: ExplainArguments, wanted: Filter) -> str:
    """The search as a person would write it in psql."""

    def literal(value: object) -> str:
        return Literal(value).as_string(client.connection)

    parts = [literal(asked.collection), literal(asked.query), f"k => {asked.k}"]
    if wanted.condition is not None:
        parts.append(f"filter => {literal(wanted.condition)}")
    if wanted.parameters is not None:
        parts.append(f"filter_params => ARRAY[{', '.join(map(literal, wanted.parameters))}]")
    return f"SELECT * FROM pgmeaning.search({', '.join(parts)});"


def _notes(described: Collection, row: ExpectedRow | None) -> list[str]:
    notes = [text for text in (described.problem, described.warning) if text]
    if described.owed:
        notes.append(f"{described.owed} rows have no vector of their present content yet: they may be missing")
    if described.failed:
        notes.append(f"{described.failed} rows could not be embedded: pgmeaning failures {described.collection}")
    if row is not None:
        notes.append(_verdict(row))
    return notes


def _verdict(row: ExpectedRow) -> str:
    if not row.exists:
        return "there is no row of this key, or this role may not see it"
    if not row.embedded:
        return "the row has no vector: it has no content, is owed one, or could not be embedded"
    if not row.passes_filters:
        return "the filters exclude the row"
    if row.rank is None:
        return f"the row is not among the nearest {MOST_NEAR}"
    return f"the row is number {row.rank}: ask for k >= {row.rank}"
