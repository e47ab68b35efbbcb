"""Searching by meaning in Django's querysets, and collections in its migrations.

    class Product(models.Model):
        objects = SearchManager()

    Product.objects.search("red bike", k=10, filter="in_stock").filter(maker__name="Acme")

Each row has `distance`, `score` and `rank`, in whose order it comes. A migration attaches the table:

    operations = [AttachCollection("shop.Product", columns=["title"])]

Attaching only marks, within the migration's transaction; a search sees what `atomic()` sees, but a row that was written
in it has a vector only after the commit, once a sidecar has embedded it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Self, TypeVar, cast

from django.core.exceptions import FieldError
from django.db import NotSupportedError, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.db.models.expressions import Col
from django.db.models.sql.query import Query
from django.db.utils import Error as DjangoError

from pgmeaning.client.arguments import Filter, filtered, pair_or_none, whole, whole_or_none
from pgmeaning.database import sql_files as sql
from pgmeaning.database.values import translated
from pgmeaning.errors import ArgumentError
from pgmeaning.integrations.literals import altering, call, literal

M = TypeVar("M", bound=models.Model)
ALIAS = "pgmeaning_hit"
FOUND: Mapping[str, type[models.Field[Any, Any]]] = {
    "distance": models.FloatField, "score": models.FloatField, "rank": models.BigIntegerField,
}  # fmt: skip
HINT = "give a Q() of the model's own fields, SQL with $1, $2, ..., or a mapping of columns"


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise what pgmeaning's functions refuse as pgmeaning.errors; other errors stay Django's.

    A searched queryset does so by itself when it is fetched; this is for count() and the like.
    """
    try:
        yield
    except DjangoError as error:
        cause = error.__cause__
        if cause is None or not str(getattr(cause, "sqlstate", None) or "").startswith("PM"):
            raise
        raise translated(cause) from error


class SearchQuerySet(models.QuerySet[M]):
    """A queryset that searches."""

    def search(
        self, query: str, k: int = 10, *, collection: str | None = None, filter: Filter | models.Q = None,
        filter_params: Sequence[object] | None = None, mode: str | None = None, candidates: int | None = None,
        rerank: int | None = None, reranker: str | None = None, timeout: float | None = None,
        weights: Sequence[float] | None = None, prefix: str = "",
    ) -> Self:  # fmt: skip
        """The k rows nearest in meaning to a text, the best first, each with `distance`, `score` and `rank`.

        `filter` is applied before the k nearest are counted, as opposed to the queryset's own filter(): a Q() of the
        model's own fields, SQL with $1, $2, ... for `filter_params`, or a mapping. `prefix` stands before the names of
        the annotations, where the model has fields of those names. `collection` is needed only where the table has
        several. The other arguments are those of SQL's search(); `timeout` is in seconds.
        """
        told: dict[str, Any] = {
            "k": whole("k", k), "mode": mode, "candidates": whole_or_none("candidates", candidates),
            "rerank": whole_or_none("rerank", rerank), "reranker": reranker,
            "timeout": None if timeout is None else timedelta(seconds=timeout),
            "weights": pair_or_none("weights", weights),
        }  # fmt: skip
        found: Self = self.all()
        if ALIAS in found.query.alias_map:
            raise ArgumentError("this queryset is searched already", hint="search once, with all that is wanted")
        join = HitJoin(
            self.model, query, collection, told, (filter, filter_params), str(found.query.get_initial_alias())
        )
        join.enter(found.query)
        searched: Self = found.annotate(**join.columns(prefix)).order_by(f"{prefix}rank")
        return searched

    def _fetch_all(self) -> None:
        with translated_errors():
            super()._fetch_all()


class SearchManager(models.Manager[M]):
    """A manager whose querysets search."""

    def get_queryset(self) -> SearchQuerySet[M]:
        """Searchable rows."""
        return SearchQuerySet(self.model, using=self._db)

    def search(self, query: str, k: int = 10, **arguments: Any) -> SearchQuerySet[M]:
        """As SearchQuerySet.search."""
        return self.get_queryset().search(query, k, **arguments)


TYPES = {
    "k": "bigint", "filter": "text", "filter_params": "text[]", "mode": "text", "candidates": "bigint",
    "rerank": "bigint", "reranker": "text", "timeout": "interval", "weights": "float8[]",
}  # fmt: skip


class HitJoin:
    """What was found, in a statement's FROM: what Django's compiler asks of a join."""

    join_type = "INNER JOIN"
    table_name = ALIAS
    filtered_relation = None
    nullable = False
    join_field: Any = None
    join_cols: tuple[Any, ...] = ()

    def __init__(
        self, model: type[models.Model], query: str, collection: str | None, told: Mapping[str, Any],
        filter: tuple[Any, Sequence[object] | None], parent_alias: str,
    ) -> None:  # fmt: skip
        self.model = model
        self.query = query
        self.collection = collection
        self.told = told
        self.filter = filter
        self.parent_alias = parent_alias
        self.table_alias = ALIAS

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes two joins one."""
        return self.__class__, id(self)

    def equals(self, other: object) -> bool:
        """Whether another join may stand for this one."""
        return self is other

    def relabeled_clone(self, changes: Mapping[str, str]) -> HitJoin:
        """The same in a query whose tables have other names."""
        parent = changes.get(self.parent_alias, self.parent_alias)
        clone = HitJoin(self.model, self.query, self.collection, self.told, self.filter, parent)
        clone.table_alias = changes.get(self.table_alias, self.table_alias)
        return clone

    def promote(self) -> HitJoin:
        """An outer join would find more than was found."""
        return self

    demote = promote

    def enter(self, query: Any) -> None:
        """Become one of a query's joins."""
        query.alias_map[self.table_alias] = self
        query.alias_refcount[self.table_alias] = 1
        query.table_map.setdefault(self.table_name, []).append(self.table_alias)

    def columns(self, prefix: str) -> dict[str, Any]:
        """The annotations."""
        made = {}
        for name, kind in FOUND.items():
            field = kind()
            field.set_attributes_from_name(name)
            field.model = self.model
            made[prefix + name] = Col(self.table_alias, field)
        return made

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        """INNER JOIN (...) pgmeaning_hit ON (...)."""
        if connection.vendor != "postgresql":
            raise NotSupportedError("searching by meaning takes PostgreSQL")
        quote = getattr(compiler, "quote_name", None) or compiler.quote_name_unless_alias  # until Django 6
        fields = [(quote(field.column), field.rel_db_type(connection)) for field in _key_fields(self.model)]
        arguments, params = self._arguments(connection)
        found = sql.query("integrations/hits").format(
            key=", ".join(f"k.{name}" for name, _ in fields), arguments=arguments,
            record=", ".join(f"{name} {type}" for name, type in fields),
        )  # fmt: skip
        alias, parent = quote(self.table_alias), quote(self.parent_alias)
        on = " AND ".join(f"{parent}.{name} = {alias}.{name}" for name, _ in fields)
        return f"{self.join_type} ({found}) {alias} ON ({on})", params

    def _arguments(self, connection: Any) -> tuple[str, list[Any]]:
        table = connection.ops.quote_name(self.model._meta.db_table)
        first = "%s::text" if self.collection is not None else f"({sql.query('integrations/collection_of')})"
        told = {**self.told, **self._filter(connection)}
        named = {name: value for name, value in told.items() if value is not None}
        parts = [first, "%s::text", *(f"{name} => %s::{TYPES[name]}" for name in named)]
        return ", ".join(parts), [
            self.collection if self.collection is not None else table,
            self.query,
            *named.values(),
        ]

    def _filter(self, connection: Any) -> dict[str, Any]:
        condition, params = self.filter
        if isinstance(condition, models.Q):
            condition, params = _as_text(self.model, condition, connection)
        return filtered(condition, params)


def _key_fields(model: type[models.Model]) -> Sequence[Any]:
    """The fields of the primary key, several since Django 5.2."""
    fields: Sequence[Any] = cast(Any, model._meta).pk_fields
    return fields


def _as_text(model: type[models.Model], condition: models.Q, connection: Any) -> tuple[str, list[object] | None]:
    """A condition as SQL with $1, $2, ...; and the values. As Django makes those of check constraints."""
    query = Query(model, alias_cols=False)
    try:
        where = query.build_where(condition)
    except FieldError as error:
        raise ArgumentError(f"the filter cannot be applied within the search: {error}", hint=HINT) from error
    compiler = query.get_compiler(connection=connection)
    text, params = cast(tuple[str, list[object]], where.as_sql(compiler, connection))
    pieces = text.split("%s")
    numbered = "".join(f"{piece}${number}" for number, piece in enumerate(pieces[:-1], start=1)) + pieces[-1]
    return numbered.replace("%%", "%"), list(params) or None


# ---------------------------------------------------------------- Migrations


class _Collections(Operation):
    """What the operations share."""

    reduces_to_sql = True
    reversible = True

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """Django's models stay as they are."""

    def _run(self, editor: BaseDatabaseSchemaEditor, statement: str) -> None:
        if editor.connection.vendor == "postgresql":
            editor.execute(f"SELECT {statement}", params=None)


class AttachCollection(_Collections):
    """Embed fields of a model's table from now on; reversible. `arguments` are those of SQL's attach()."""

    def __init__(self, model: str, columns: Sequence[str] | None = None, **arguments: Any) -> None:
        self.model = model
        self.columns = columns
        self.arguments = arguments

    def describe(self) -> str:
        """For `manage.py migrate --plan`."""
        return f"Embed rows of {self.model}"

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        """Attach."""
        model = self._model(app_label, schema_editor, to_state)
        if model is not None:
            columns = {} if self.columns is None else {"columns": [_column(model, name) for name in self.columns]}
            table = literal(schema_editor.quote_name(model._meta.db_table), "regclass")
            self._run(schema_editor, call("attach", table, {**columns, **self.arguments}))

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        """Detach."""
        model = self._model(app_label, schema_editor, from_state)
        if model is not None:
            name = self.arguments.get("collection") or model._meta.db_table
            self._run(schema_editor, call("detach", literal(name), {}))

    def _model(self, app_label: str, editor: BaseDatabaseSchemaEditor, state: ProjectState) -> Any:
        """The model, if it is of this database."""
        label, _, name = self.model.rpartition(".")
        model = state.apps.get_model(label or app_label, name)
        return model if self.allow_migrate_model(editor.connection.alias, model) else None


def _column(model: Any, name: str) -> str:
    """The column of a field; or a column's own name."""
    for field in model._meta.concrete_fields:
        if name in (field.name, field.column):
            return str(field.column)
    raise ArgumentError(f"{model.__name__} has no field {name!r}", hint="name fields that are columns of its table")


class DetachCollection(_Collections):
    """Stop embedding, and drop the vectors; reversible if `attached` says how it was attached."""

    def __init__(
        self, collection: str, *, keep_vectors: bool = False, attached: AttachCollection | None = None
    ) -> None:
        self.collection = collection
        self.keep_vectors = keep_vectors
        self.attached = attached

    @property
    def reversible(self) -> bool:  # type: ignore[override]
        """Whether a downgrade knows what to attach."""
        return self.attached is not None

    def describe(self) -> str:
        """For `manage.py migrate --plan`."""
        return f"Stop embedding collection {self.collection}"

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        """Detach."""
        keep = {"keep_vectors": True} if self.keep_vectors else {}
        self._run(schema_editor, call("detach", literal(self.collection), keep))

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        """Attach."""
        if self.attached is not None:
            self.attached.database_forwards(app_label, schema_editor, from_state, to_state)


class AlterCollection(_Collections):
    """Start a swap to another definition: `changes` are those of SQL's swap_start(), such as `model`.

    Reversed, a swap that is not finished is given up, even if it serves already; one that is finished is followed by
    another, to `before`.
    """

    def __init__(self, collection: str, *, before: Mapping[str, Any], **changes: Any) -> None:
        self.collection = collection
        self.before = before
        self.changes = changes

    def describe(self) -> str:
        """For `manage.py migrate --plan`."""
        return f"Start a swap of collection {self.collection}"

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        """Start it."""
        self._run(schema_editor, altering(self.collection, self.changes, undo=False))

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        """Give it up, or start another one back."""
        self._run(schema_editor, altering(self.collection, self.before, undo=True))
