"""What the stores of LangChain, LlamaIndex and Haystack have in common: texts with metadata in an ordinary table.

The table is attached like any other, so SQL and the framework see the same rows. A store makes one (`id`, `content`,
`metadata`, `extra`), or takes a table that there is, with columns of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from uuid import uuid4

from psycopg.sql import Identifier

import pgmeaning
from pgmeaning import Client, Condition, Hit
from pgmeaning.client.arguments import AnyVector, Filter
from pgmeaning.client.conditions import Operand
from pgmeaning.client.vectors import Embedding
from pgmeaning.database import sql_files as sql
from pgmeaning.errors import ArgumentError, CollectionError, DatabaseError, TimedOut

OnConflict = Literal["update", "skip", "fail"]
DUPLICATE = "23505"
# A table, a collection or a row of the catalog that another process makes at the same time; or its lock.
MADE_MEANWHILE = frozenset({DUPLICATE, "42P07", "PM002"})
LOCKED, PATIENCE = "PM015", 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Text:
    """One document. `extra` is what a framework keeps of it besides text and metadata; `score` a search's, if any."""

    id: str | None
    content: str | None
    metadata: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] | None = None
    score: float | None = None
    hit: Hit | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a table are what. `content` None: what is embedded; `metadata` None: there is no such column.

    `fields` are further columns that are metadata.
    """

    id: str = "id"
    content: str | None = "content"
    metadata: str | None = "metadata"
    extra: str | None = "extra"
    fields: tuple[str, ...] = ()

    @property
    def shown(self) -> list[str]:
        """The columns that make a text."""
        return [column for column in (self.id, self.content, self.metadata, self.extra) if column] + list(self.fields)


class TextStore:
    """Texts in a table that a collection embeds. Threads may share it, as they may a Client.

    `connection` is a Client or what `pgmeaning.connect` takes. A table that does not exist is made, with `id`,
    `content`, `metadata` and `extra`; one that no collection embeds is attached, with the arguments of `attach` in
    `options`. `collection` chooses among several of a table. `layout` None: by the names and kinds of its columns.

    Texts that were added are found as soon as `add` returns: it waits, up to `wait` seconds, until a sidecar has
    embedded them; with `local`, this process embeds them, and queries too, so that no sidecar need run.
    """

    def __init__(
        self, connection: Client | str | None = None, table: str = "documents", *, collection: str | None = None,
        layout: Layout | None = None, local: bool = False, wait: float = 30, **options: Any,
    ) -> None:  # fmt: skip
        self.client = connection if isinstance(connection, Client) else pgmeaning.connect(connection)
        self._owns_client = not isinstance(connection, Client)
        self.local, self.wait = local, wait
        try:
            self.collection = collection or _attached(self.client, table, options)
            self._source = self.client._statements.dicts("row_source", {"collection": self.collection})[0]
            self.layout = layout or _guessed(self.client, self.collection, self._source)
            _check_layout(self.layout, self._source)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection, if the store opened it."""
        if self._owns_client:
            self.client.close()

    # ------------------------------------------------------------ writing

    def add(self, given: Sequence[Text], *, on_conflict: OnConflict = "update") -> list[str]:
        """`write`, of which only the ids are returned."""
        return self.write(given, on_conflict=on_conflict)[0]

    def write(self, given: Sequence[Text], *, on_conflict: OnConflict = "update") -> tuple[list[str], int]:
        """Write texts, and see to it that they are embedded; returns their ids, in order, and how many it wrote.

        One without an id gets one. Raises TimedOut if nobody embedded them: they are stored, and will be found later;
        DatabaseError with the SQLSTATE DUPLICATE where one is there already, and then nothing was written.
        """
        named = [self._named(text) for text in given]
        ids = [text.id for text in named]
        with self.client.transaction():
            keys = self._upsert([text for text in named if text.id is not None], on_conflict)
            made = self._upsert([text for text in named if text.id is None], on_conflict)
        self._see_embedded(keys + made)
        fresh = iter(made)
        names = [str(next(fresh)[self.layout.id]) if id is None else id for id in ids]
        return names, len(keys) + len(made)

    def _named(self, text: Text) -> Text:
        """With an id, unless the table numbers its rows itself."""
        is_text = self._source["key_types"] == ["text"] or self._source["key_types"][0].startswith("character varying")
        makes_id = text.id is None and (is_text or self._source["key_types"] == ["uuid"])
        return replace(text, id=str(uuid4())) if makes_id else text

    def _upsert(self, texts: Sequence[Text], on_conflict: OnConflict) -> list[dict[str, Any]]:
        rows = [self._row(text) for text in texts]
        return self.client.upsert_rows(self.collection, rows, on_conflict=on_conflict) if rows else []

    def _row(self, text: Text) -> dict[str, Any]:
        """All columns in each row: what is replaced leaves nothing of its predecessor."""
        layout, source = self.layout, self._source["source"]
        if layout.content is None:
            raise ArgumentError(
                f"no text can be added to {source}: no column of it is the text", hint="name it: content=..."
            )
        others = {name: value for name, value in text.metadata.items() if name not in layout.fields}
        if others and layout.metadata is None:
            raise ArgumentError(
                f"{source} has no column for the metadata {', '.join(map(repr, others))}",
                hint=f"leave it out, or add a column: metadata jsonb; there is: {', '.join(layout.fields) or 'none'}",
            )
        if text.extra and layout.extra is None:
            raise ArgumentError(
                f"{source} has no column for what is kept beside text and metadata", hint="add one: extra jsonb"
            )
        row: dict[str, Any] = {} if text.id is None else {layout.id: text.id}
        row[layout.content] = text.content
        row |= {name: text.metadata.get(name) for name in layout.fields if name in text.metadata or text.id is not None}
        if layout.metadata is not None:
            row[layout.metadata] = others
        if layout.extra is not None:
            row[layout.extra] = text.extra
        return row

    def _see_embedded(self, keys: Sequence[Mapping[str, Any]]) -> None:
        if self.local:
            # Not before the rows are committed: no transaction is open while the model runs.
            self.client.embed_rows(self.collection, keys)
            return
        try:
            self.client.wait_for_rows(self.collection, keys, self.wait)
        except TimedOut as error:
            raise TimedOut(
                f"the texts are in {self._source['source']}, but no sidecar has embedded all of them in {self.wait} s",
                hint="start one: pgmeaning sidecar; or let this process embed: local=True", sqlstate=error.sqlstate,
            ) from error  # fmt: skip

    def delete(self, ids: Sequence[str]) -> int:
        """Delete texts by id; returns how many there were."""
        return self.client.delete_rows(self.collection, self._keys(ids))

    def delete_where(self, condition: Condition | None) -> int:
        """Delete the texts that a condition lets through; None: all. Returns how many there were."""
        with self.client.transaction():
            return self.client.delete_rows(self.collection, self.client.find_keys(self.collection, condition))

    def update_where(self, condition: Condition | None, metadata: Mapping[str, Any]) -> int:
        """Add to the metadata of the texts that a condition lets through, or replace it; returns how many there are."""
        if self.layout.metadata is None or set(metadata) & set(self.layout.fields):
            raise ArgumentError(
                f"{self._source['source']} keeps this metadata in columns of its own", hint="change it by SQL's UPDATE"
            )
        with self.client.transaction():
            keys = self.client.find_keys(self.collection, condition)
            return self.client.merge_rows(self.collection, keys, self.layout.metadata, metadata)

    # ------------------------------------------------------------ reading

    def get(self, ids: Sequence[str]) -> list[Text]:
        """The texts with these ids, in their order, without those that there are not."""
        return self._read(self._keys(ids))

    def find(self, condition: Condition | None = None, limit: int | None = None) -> list[Text]:
        """The texts that a condition lets through; None: all."""
        keys = self.client.find_keys(self.collection, condition, limit=limit)
        return [text for start in range(0, len(keys), 1000) for text in self._read(keys[start : start + 1000])]

    def count(self, condition: Condition | None = None) -> int:
        """How many texts a condition lets through; None: all."""
        return self.client.count_rows(self.collection, condition)

    def _read(self, keys: Sequence[Any]) -> list[Text]:
        rows = self.client.get_rows(self.collection, keys, columns=self.layout.shown)
        texts = [None] * len(keys) if self.layout.content else self.client.embedded_texts(self.collection, keys)
        return [self._text(row, text) for row, text in zip(rows, texts, strict=True) if row is not None]

    def _text(self, row: Mapping[str, Any], embedded: str | None, hit: Hit | None = None) -> Text:
        layout = self.layout
        metadata = dict(row.get(layout.metadata or "") or {})
        metadata |= {name: row[name] for name in layout.fields if row[name] is not None}
        # Of a document in chunks it is the chunk that was found.
        content = row[layout.content] if layout.content and not (hit and hit.chunk_text) else embedded
        extra = row[layout.extra] if layout.extra else None
        return Text(str(row[layout.id]), content, metadata, extra, hit.score if hit else None, hit)

    def _keys(self, ids: Sequence[str]) -> list[dict[str, str]]:
        return [{self.layout.id: id} for id in ids]

    # ------------------------------------------------------------ searching

    def search(
        self, query: str | AnyVector, k: int, condition: Filter = None, *, mode: str | None = None,
        filter_params: Sequence[object] | None = None, rerank: int | None = None, reranker: Any = None,
        timeout: float = 10,
    ) -> list[Text]:  # fmt: skip
        """The k texts nearest to a text or a vector, the best first. `mode` "hybrid" searches for the words, too."""
        if k < 1:
            return []
        options: dict[str, Any] = {
            "filter": condition, "filter_params": filter_params, "mode": mode, "columns": self.layout.shown
        }  # fmt: skip
        asks_sidecar = isinstance(query, str) and (rerank is not None or not self.local)
        if asks_sidecar:
            hits = self.client.search(
                self.collection, str(query), k, rerank=rerank, reranker=reranker, timeout=timeout, **options
            )
        elif mode == "hybrid":
            raise ArgumentError("a hybrid search takes a text and a sidecar", hint="leave out mode, or local")
        else:
            hits = self.client.nearest(self.collection, self._vector(query), k, **options)
        return self._found(hits)

    def diverse(
        self, query: str | AnyVector, k: int, candidates: int, balance: float, condition: Condition | None = None
    ) -> list[Text]:
        """k of the nearest texts that differ from each other; `balance` 1 counts nearness alone."""
        if k < 1:
            return []
        hits = self.client.diverse(
            self.collection, query, k, candidates=candidates, balance=balance, filter=condition,
            columns=self.layout.shown, local=self.local,
        )  # fmt: skip
        return self._found(hits)

    def _vector(self, query: str | AnyVector) -> AnyVector:
        if not isinstance(query, str):
            return query
        [made] = self.client.embed_many([query], collection=self.collection, local=True)
        return made

    def _found(self, hits: Sequence[Hit]) -> list[Text]:
        return [self._text(hit.row, hit.chunk_text or hit.text, hit) for hit in hits]

    def vectors(self, texts: Sequence[Text]) -> list[Embedding | None]:
        """The stored vectors of texts that were found."""
        return self.client.stored_vectors(self.collection, self._keys([str(text.id) for text in texts]))

    def values(self, operand: Operand, condition: Condition | None = None) -> list[Any]:
        """The different values of a column or of metadata, of the texts that a condition lets through."""
        return [value for value, _ in self.client.distinct_values(self.collection, operand, condition)]

    def metadata_kinds(self) -> dict[str, str]:
        """The keys of the metadata, each with the kind that most of its values are of, by JSON's names, and real."""
        kinds: dict[str, str] = {}
        if self.layout.metadata is not None:
            arguments = {"collection": self.collection, "column": self.layout.metadata}
            for key, kind in self.client._statements.execute("metadata_kinds", arguments).fetchall():
                kinds.setdefault(key, kind)
        return kinds

    # ------------------------------------------------------------ filters

    def metadata_operand(self, *path: str) -> Operand:
        """Where a value of metadata is: in a column of its own, or in the jsonb column."""
        if path[0] in self.layout.fields:
            return path[0]
        if self.layout.metadata is None:
            raise ArgumentError(
                f"there is no metadata {path[0]!r} in {self._source['source']}",
                hint=f"there is: {', '.join(self.layout.fields) or 'none'}",
            )
        return (self.layout.metadata, *path)


# ---------------------------------------------------------------- tables


def _attached(client: Client, table: str, options: Mapping[str, Any]) -> str:
    """The collection of a table, which is made and attached where that is not so.

    No lock keeps another process from making it meanwhile, since anybody could hold one: then it is looked for again.
    """
    again, ends = 2, time.monotonic() + PATIENCE
    while True:
        try:
            return _found_or_made(client, table, options)
        except (DatabaseError, CollectionError) as error:
            if error.sqlstate == LOCKED and time.monotonic() < ends:
                time.sleep(0.05)
            elif error.sqlstate in MADE_MEANWHILE and again:
                again -= 1
            else:
                raise


def _found_or_made(client: Client, table: str, options: Mapping[str, Any]) -> str:
    with client.transaction() as connection:
        exists, collection = client._statements.execute("documents/find", {"table": table}).fetchone() or (False, None)
        if collection is not None:
            return str(collection)
        if not exists:
            parts = client._statements.value("documents/parts", {"table": table})
            quoted = Identifier(*parts).as_string(connection)
            for name in ("documents/create", "documents/index"):
                connection.execute(sql.composed(name, {"table": quoted}))
        columns = {} if exists else {"columns": ["content"]}
        return client.attach(table, **{**columns, **options})


def _guessed(client: Client, collection: str, source: Mapping[str, Any]) -> Layout:
    """By the names of the columns, and by what is embedded."""
    columns, key = source["columns"], source["key_columns"]
    target = client._statements.target(collection)
    one = target.columns[0] if len(target.columns) == 1 and target.template_parts is None else None
    metadata = "metadata" if "metadata" in source["jsonb_columns"] else None
    extra = "extra" if "extra" in source["jsonb_columns"] else None
    used = (key[0], one, metadata, extra)
    # A generated column cannot be written, and a vector is no metadata.
    fields = tuple(column for column in source["plain_columns"] if column not in used and column in columns)
    return Layout(key[0], one, metadata, extra, fields)


def _check_layout(layout: Layout, source: Mapping[str, Any]) -> None:
    if source["key_columns"] != [layout.id]:
        key = ", ".join(source["key_columns"])
        raise ArgumentError(f"the key of {source['source']} is {key}, not {layout.id}", hint="a text has one id")
    unknown = [column for column in layout.shown if column not in source["columns"]]
    if unknown:
        there = ", ".join(source["columns"])
        raise ArgumentError(f"{source['source']} has no column {unknown[0]!r}", hint=f"it has: {there}")
