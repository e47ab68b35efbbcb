"""Searching by meaning in SQLAlchemy's statements, with psycopg or asyncpg, in sessions and async sessions.

    hit = search(Product, "red bike", k=10, filter=Product.in_stock)
    session.execute(select(Product, hit.score).join(hit, hit.on).order_by(hit.rank))

`embeddings(Product)` is the view of the vectors as an entity, with pgvector's operators; `embed(...)` a query's vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pgvector.sqlalchemy import BIT, HALFVEC, VECTOR
from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    Double,
    Engine,
    ForeignKeyConstraint,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    ScalarSelect,
    Select,
    SQLColumnExpression,
    Subquery,
    Table,
    Text,
    and_,
    cast,
    column,
    event,
    func,
    inspect,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapped, registry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.visitors import InternalTraversal, replacement_traverse
from sqlalchemy.types import BigInteger, Boolean, TypeEngine

from pgmeaning.client.arguments import filtered
from pgmeaning.database.values import translated
from pgmeaning.errors import ArgumentError, PgmeaningError
from pgmeaning.types import Hit

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

# An SQL condition, equalities, or a condition on the entity's columns.
Filter = str | Mapping[str, object] | SQLColumnExpression[bool] | None
Query = str | SQLColumnExpression[str]
NAMES = ("key", "chunk", "chunk_text", "distance", "score", "model", "vector_rank", "text_rank")


class Hits(Subquery):
    """What a search finds, to be selected from and joined: a subquery whose rows are the hits.

    It has the columns of SQL's search() (`key`, `chunk`, `chunk_text`, `distance`, `score`, `model`, `vector_rank`,
    `text_rank`), `rank` (from 1, the best first) and the columns of the key as `key_<name>`.
    """

    inherit_cache = True
    _sources: tuple[tuple[str, ColumnElement[Any]], ...]

    @property
    def on(self) -> ColumnElement[bool]:
        """The condition that joins a hit with its row: select(Product).join(hit, hit.on)."""
        return and_(*(self.c[name] == source for name, source in self._sources))

    def of(self, entity: Any) -> ColumnElement[bool]:
        """The same for another entity of the table, such as an alias."""
        keys = _keys(entity)
        return and_(*(self.c[f"key_{name}"] == source for name, _, source in keys))

    @property
    def rank(self) -> ColumnElement[int]:
        """1 for the best hit: the order of the hits, which a join does not keep."""
        return self.c.rank

    @property
    def score(self) -> ColumnElement[float]:
        """The higher the better: cosine similarity, or what fusing or a reranker gave."""
        return self.c.score

    @property
    def distance(self) -> ColumnElement[float]:
        """The cosine distance, 0 to 2."""
        return self.c.distance

    @property
    def chunk_text(self) -> ColumnElement[str | None]:
        """The part of a long row that was found; null where rows are embedded whole."""
        return self.c.chunk_text

    @property
    def chunk(self) -> ColumnElement[int]:
        """Its number, from 0."""
        return self.c.chunk

    @property
    def hit_key(self) -> ColumnElement[Any]:
        """The row's key as jsonb, as `after` takes it."""
        return self.c.key


def search(
    entity: Any, query: Query, k: int = 10, *, collection: str | None = None, filter: Filter = None,
    filter_params: Sequence[object] | None = None, mode: str | None = None, candidates: int | None = None,
    rerank: int | None = None, reranker: str | None = None, grouped: bool = True, timeout: float | None = None,
    weights: Sequence[float] | None = None, after: Hit | tuple[float, object] | None = None, name: str | None = None,
) -> Hits:  # fmt: skip
    """The k rows of an attached table that are nearest in meaning to a text, to be joined with the table.

    `entity` is a mapped class, an alias of one, or a Table; `collection` is needed only where its table has several.
    `filter` is applied before the k nearest are counted, as opposed to the statement's own where(): a condition on
    the entity's columns, SQL with $1, $2, ... for `filter_params`, or a mapping of columns to what they must equal.
    `timeout` is in seconds. The other arguments are those of SQL's search().

    The statement raises SQLAlchemy's DBAPIError, or with `translate_errors` pgmeaning's errors.
    """
    wanted = cast(literal(collection, Text), Text) if collection is not None else CollectionOf(_table(entity))
    arguments = {"k": (k, BigInteger), "mode": (mode, Text), "candidates": (candidates, BigInteger),
        "rerank": (rerank, BigInteger), "reranker": (reranker, Text), "grouped": (None if grouped else False, Boolean),
        "timeout": (None if timeout is None else timedelta(seconds=timeout), Interval),
        "weights": (None if weights is None else [float(each) for each in weights], ARRAY(Double)),
        **_condition(entity, filter, filter_params),
    }  # fmt: skip
    named = [Named(each, cast(value, type)) for each, (value, type) in arguments.items() if value is not None]
    found = func.pgmeaning.search(wanted, cast(query, Text), *named, *_page(after))
    hit = found.table_valued(*_columns(), with_ordinality="rank", name="hit").render_derived()
    keys = _keys(entity)
    key = func.jsonb_to_record(hit.c.key).table_valued(*(column(each, type) for each, type, _ in keys), name="k")
    record = key.render_derived(with_types=True)
    columns = [record.c[each].label(f"key_{each}") for each, _, _ in keys]
    made = select(*hit.c, *columns).select_from(hit).join(record, literal_column("true"))
    return _hits(made, name, keys)


def _hits(made: Select[Any], name: str | None, keys: Sequence[tuple[str, Any, ColumnElement[Any]]]) -> Hits:
    hits: Hits = Hits._construct(made, name=name)
    hits._sources = tuple((f"key_{each}", source) for each, _, source in keys)
    return hits


def _columns() -> list[Any]:
    types: dict[str, Any] = dict.fromkeys(("distance", "score"), Double())
    types |= dict.fromkeys(("chunk", "vector_rank", "text_rank"), Integer()) | {"key": JSONB()}
    return [column(name, types.get(name, Text())) for name in NAMES]


class Named(ColumnElement[Any]):
    """An argument by its name: k => 10."""

    inherit_cache = True
    _traverse_internals = [  # noqa: RUF012  as SQLAlchemy has it
        ("name", InternalTraversal.dp_string),
        ("value", InternalTraversal.dp_clauseelement),
    ]

    def __init__(self, name: str, value: ColumnElement[Any]) -> None:
        self.name = name
        self.value = value
        self.type = value.type


@compiles(Named)
def _as_named(element: Named, compiler: SQLCompiler, **options: Any) -> str:
    return f"{element.name} => {compiler.process(element.value, **options)}"


def _page(after: Hit | tuple[float, object] | None) -> list[ColumnElement[Any]]:
    """Where a page begins: behind a hit, or its distance and key."""
    if after is None:
        return []
    distance, key = (after.distance, after.key) if isinstance(after, Hit) else after
    row = func.row(cast(distance, Double), cast(literal(key, JSONB), JSONB))
    return [Named("after", row.op("::")(literal_column("pgmeaning.search_cursor")))]


# ---------------------------------------------------------------- The entity: its table, its key, its conditions


def _table(entity: Any) -> Table:
    """The table of an entity; raises ArgumentError for anything else."""
    found = inspect(entity, raiseerr=False)
    mapper = getattr(found, "mapper", None)
    table = mapper.local_table if mapper is not None else getattr(found, "element", found)
    if not isinstance(table, Table):
        raise ArgumentError(f"{entity!r} has no table", hint="give a mapped class, an alias of one, or a Table")
    return table


def _keys(entity: Any) -> list[tuple[str, TypeEngine[Any], ColumnElement[Any]]]:
    """(name, type, column of the entity) of each column of the table's key."""
    table = _table(entity)
    mapper = getattr(inspect(entity), "mapper", None)

    def source(own: Column[Any]) -> ColumnElement[Any]:
        if mapper is None:
            found: ColumnElement[Any] = entity.c[own.key]
            return found
        attribute: ColumnElement[Any] = getattr(entity, mapper.get_property_by_column(own).key)
        return attribute

    keys = [(own.name, own.type, source(own)) for own in table.primary_key.columns]
    if not keys:
        raise ArgumentError(f"table {table.name} has no primary key in its metadata", hint="mark its columns")
    return keys


def _condition(entity: Any, filter: Filter, params: Sequence[object] | None) -> dict[str, tuple[Any, Any]]:
    if isinstance(filter, SQLColumnExpression):
        if params is not None:
            raise ArgumentError("filter_params are for a filter that is a text", hint="write the values into it")
        filter, params = _as_text(_table(entity), filter)
    given = filtered(filter, params)
    return {"filter": (given["filter"], Text), "filter_params": (given["filter_params"], ARRAY(Text))}


def _as_text(table: Table, condition: SQLColumnExpression[bool]) -> tuple[str, list[object] | None]:
    """A condition as SQL with $1, $2, ..., whose columns stand without the table's name; and the values."""

    def bare(element: Any, **_: Any) -> Any:
        own = getattr(element, "table", None)
        if not isinstance(element, ColumnElement) or own is None:
            return None
        if getattr(own, "element", own) is not table:
            raise ArgumentError(f"the filter has a column of another table than {table.name}",
                                hint="put that condition into where()")  # fmt: skip
        return column(element.name, element.type)

    dialect: Any = postgresql.psycopg.dialect
    plain: Any = getattr(condition, "__clause_element__", lambda: condition)()
    compiled: Any = replacement_traverse(plain, {}, bare).compile(
        dialect=dialect(paramstyle="numeric_dollar"), compile_kwargs={"render_postcompile": True}
    )
    given, makers = compiled.construct_params(escape_names=False), compiled._bind_processors
    names = compiled.positiontup or []
    values = [makers[name](given[name]) if name in makers else given[name] for name in names]
    return str(compiled), values or None


class CollectionOf(ColumnElement[str]):
    """The name of a table's collection; of several, the default one. The database looks it up."""

    inherit_cache = True
    type = Text()
    _traverse_internals = [("table", InternalTraversal.dp_clauseelement)]  # noqa: RUF012  as SQLAlchemy has it

    def __init__(self, table: Table) -> None:
        self.table = table


@compiles(CollectionOf)
def _collection_of(element: CollectionOf, compiler: SQLCompiler, **_: Any) -> str:
    quoted = compiler.preparer.format_table(element.table).replace("'", "''")
    return (
        "(SELECT (pgmeaning._collection_of(r.reltype::regtype)).name FROM pg_catalog.pg_class AS r "
        f"WHERE r.oid = '{quoted}'::regclass)"
    )


# ---------------------------------------------------------------- Vectors


def embed(
    text: Query, *, collection: str | None = None, model: str | None = None, as_query: bool = True,
    timeout: float | None = None,
) -> ScalarSelect[Any]:  # fmt: skip
    """The vector of a text, made once for the statement, not once a row. `timeout` is in seconds."""
    arguments: dict[str, tuple[Any, Any]] = {
        "collection": (collection, Text), "model": (model, Text), "as_query": (None if as_query else False, Boolean),
        "timeout": (None if timeout is None else timedelta(seconds=timeout), Interval),
    }  # fmt: skip
    named = [Named(name, cast(value, type)) for name, (value, type) in arguments.items() if value is not None]
    return select(func.pgmeaning.embed(cast(text, Text), *named, type_=VECTOR())).scalar_subquery()


class Embedded:
    """A row of the view <collection>_embedding: the key's columns, by their names, and these."""

    chunk: Mapped[int]
    chunk_text: Mapped[str | None]
    model: Mapped[str]
    embedding: Mapped[Any]  # with pgvector's cosine_distance(), l2_distance(), ...
    signature: Mapped[str]
    content_hash: Mapped[bytes]
    embedded_at: Mapped[Any]


def embeddings(
    entity: Any, collection: str | None = None, *, dimensions: int | None = None, vector_type: str = "vector"
) -> type[Embedded]:
    """The vectors of a collection as an entity that joins the table's: select(Product).join(embeddings(Product)).

    `collection` is its name where it is not the table's; `vector_type` is 'halfvec' where it was attached so. The
    entity has a MetaData of its own, so create_all() and Alembic do not take it for a table.
    """
    source = _table(entity)
    mapper = getattr(inspect(entity), "mapper", None)
    name = collection or source.name
    kept: Any = {"vector": VECTOR, "halfvec": HALFVEC}[vector_type]
    own = list(source.primary_key.columns)
    keys = [Column(each.name, each.type, primary_key=True) for each in own]
    view = Table(
        f"{name}_embedding", MetaData(), *keys, Column("chunk", Integer, primary_key=True), Column("chunk_text", Text),
        Column("model", Text), Column("embedding", kept(dimensions)), Column("signature", BIT(dimensions)),
        Column("content_hash", LargeBinary), Column("embedded_at", DateTime(timezone=True)),
        ForeignKeyConstraint([each.name for each in keys], own),
        schema=source.schema,
    )  # fmt: skip
    made = type(f"{mapper.class_.__name__ if mapper else source.name.title()}Embedding", (Embedded,), {})
    registry().map_imperatively(made, view)
    return made


# ---------------------------------------------------------------- Errors


def translate_errors(engine: Engine | AsyncEngine) -> None:
    """Let what pgmeaning's functions refuse be raised as pgmeaning.errors, instead of wrapped in DBAPIError.

    Only SQLSTATEs of class PM; what else the database raises stays SQLAlchemy's.
    """
    target = getattr(engine, "sync_engine", engine)
    if not event.contains(target, "handle_error", _raise_ours):
        event.listen(target, "handle_error", _raise_ours)


def _raise_ours(context: Any) -> None:
    ours = as_pgmeaning_error(context.original_exception)
    if ours is not None:
        raise ours from context.original_exception


def as_pgmeaning_error(error: BaseException) -> PgmeaningError | None:
    """pgmeaning's error for one of SQLAlchemy's or of the driver's; None if it is not of pgmeaning's functions."""
    driver = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    for each in (driver, driver.__cause__):  # asyncpg's own stands behind the adapter's
        if str(getattr(each, "sqlstate", None) or "").startswith("PM") and hasattr(each, "hint") | hasattr(
            each, "diag"
        ):
            return translated(each)  # type: ignore[arg-type]
    return None
