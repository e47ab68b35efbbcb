"""Collections in Alembic's migrations: op.attach_collection, op.detach_collection, op.alter_collection, autogenerate.

In env.py:

    from pgmeaning.integrations import alembic as pgmeaning_alembic
    context.configure(..., include_object=pgmeaning_alembic.include_object)

and beside the tables, what is embedded of them:

    class Product(Base):
        __table_args__ = {"info": {"pgmeaning": Collection(columns=["title"])}}

attach and detach join the migration's transaction: they only mark, a sidecar embeds afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pgvector.sqlalchemy  # noqa: F401  then the types of vector tables are known to who reads them
import sqlalchemy
from alembic.autogenerate import comparators, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import CreateTableOp, DropTableOp, UpgradeOps
from alembic.util import langhelpers
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from pgmeaning.database import sql_files as sql
from pgmeaning.errors import ArgumentError
from pgmeaning.integrations.literals import altering, call, literal

OURS = frozenset({"pgmeaning", "pgmeaning_data", "pgmeaning_dblink"})
# Tables are compared before collections: by order of registration, since 1.18 by priority.
LAST: dict[str, Any] = (
    {"priority": langhelpers.DispatchPriority.LAST} if hasattr(langhelpers, "DispatchPriority") else {}
)
# What a swap may change; each is compared only where the declaration says something of it.
CHANGED = ("columns", "template", "image", "video", "chunking", "language", "model", "dimensions", "vector_type")
# Of these, nothing said means none; an empty text takes away what there was.
TAKEN_AWAY: Mapping[str, Any] = {"template": "", "image": "", "video": "", "chunking": {}, "language": ""}


@dataclass(frozen=True)
class Collection:
    """What is embedded of a table, as attach() takes it; in Table.info["pgmeaning"], alone or several in a list.

    `name` is the table's own, if it is left out. A model, dimensions or a vector_type that is left out is whatever the
    database has.
    """

    columns: Sequence[str] | None = None
    template: str | None = None
    name: str | None = None
    image: str | None = None
    video: str | None = None
    model: str | None = None
    dimensions: int | None = None
    vector_type: str | None = None
    chunking: Mapping[str, Any] | None = None
    language: str | None = None
    grant_to: Sequence[str] | None = None
    always: bool = False

    def arguments(self) -> dict[str, Any]:
        """What attach() is told, besides the table; without what is left out."""
        told = {("collection" if key == "name" else key): value for key, value in asdict(self).items()}
        return {key: value for key, value in told.items() if value not in (None, False)}


def include_object(object: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Whether autogenerate may look at an object: not at pgmeaning's own tables, which `pgmeaning migrate` makes."""
    table = object if type_ == "table" else getattr(object, "table", None)
    return getattr(table, "schema", None) not in OURS


def include_name(name: str | None, type_: str, parent_names: Any) -> bool:
    """The same by name, which saves reading them: for context.configure(include_name=...)."""
    return name not in OURS if type_ == "schema" else parent_names.get("schema_name") not in OURS


# ---------------------------------------------------------------- The operations


def _run(operations: Operations, call: str) -> None:
    operations.execute(sqlalchemy.text(f"SELECT {call}".replace(":", r"\:")))


def _table_name(table: str, schema: str | None) -> str:
    preparer = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]
    return literal(preparer.format_table(sqlalchemy.table(table, schema=schema)), "regclass")


@Operations.register_operation("attach_collection")
class AttachCollection(MigrateOperation):
    """Embed columns of a table from now on."""

    def __init__(self, table: str, schema: str | None, arguments: Mapping[str, Any]) -> None:
        self.table = table
        self.schema = schema
        self.told = arguments

    @classmethod
    def attach_collection(
        cls, operations: Operations, table: str, columns: Sequence[str] | None = None, *, schema: str | None = None,
        **arguments: Any,
    ) -> None:  # fmt: skip
        """Embed columns of a table from now on; `arguments` are those of attach(), such as `collection` and `model`."""
        told = {"columns": list(columns), **arguments} if columns is not None else arguments
        operations.invoke(cls(table, schema, told))

    @property
    def collection(self) -> str:
        """Its name."""
        return str(self.told.get("collection") or self.table)

    def reverse(self) -> DetachCollection:
        """What takes it back."""
        return DetachCollection(self.collection, attached=self)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For `alembic check`."""
        return ("attach_collection", self.schema, self.table, self.told)


@Operations.register_operation("detach_collection")
class DetachCollection(MigrateOperation):
    """Stop embedding, and drop the vectors."""

    def __init__(
        self, collection: str, *, keep_vectors: bool = False, attached: AttachCollection | None = None
    ) -> None:
        self.collection = collection
        self.keep_vectors = keep_vectors
        self.attached = attached

    @classmethod
    def detach_collection(cls, operations: Operations, collection: str, *, keep_vectors: bool = False) -> None:
        """Stop embedding, and drop the vectors; with `keep_vectors`, attaching takes them up again."""
        operations.invoke(cls(collection, keep_vectors=keep_vectors))

    def reverse(self) -> AttachCollection:
        """What takes it back."""
        if self.attached is None:
            raise ArgumentError(f"nothing says how {self.collection!r} was attached", hint="write op.attach_collection")
        return self.attached

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For `alembic check`."""
        return ("detach_collection", self.collection)


@Operations.register_operation("alter_collection")
class AlterCollection(MigrateOperation):
    """Start a swap to another definition; a sidecar fills it, and `pgmeaning swap activate` lets it serve."""

    def __init__(
        self, collection: str, changes: Mapping[str, Any], before: Mapping[str, Any], *, undo: bool = False
    ) -> None:
        self.collection = collection
        self.changes = changes
        self.before = before
        self.undo = undo

    @classmethod
    def alter_collection(cls, operations: Operations, collection: str, *, undo: bool = False, **changes: Any) -> None:
        """Start a swap; `changes` are those of swap_start(), such as `model` and `columns`.

        `undo`, in a downgrade: gives up the swap if it is not finished, even if it serves already; else starts another
        one, to `changes`.
        """
        operations.invoke(cls(collection, changes, {}, undo=undo))

    def reverse(self) -> AlterCollection:
        """What takes it back."""
        return AlterCollection(self.collection, self.before, self.changes, undo=not self.undo)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """For `alembic check`."""
        return ("alter_collection", self.collection, self.changes)


@Operations.implementation_for(AttachCollection)
def _attach(operations: Operations, operation: AttachCollection) -> None:
    _run(operations, call("attach", _table_name(operation.table, operation.schema), operation.told))


@Operations.implementation_for(DetachCollection)
def _detach(operations: Operations, operation: DetachCollection) -> None:
    keep = {"keep_vectors": True} if operation.keep_vectors else {}
    _run(operations, call("detach", literal(operation.collection), keep))


@Operations.implementation_for(AlterCollection)
def _alter(operations: Operations, operation: AlterCollection) -> None:
    _run(operations, altering(operation.collection, operation.changes, undo=operation.undo))


# ---------------------------------------------------------------- Autogenerate


@comparators.dispatch_for("schema", **LAST)
def _compare(context: AutogenContext, operations: UpgradeOps, schemas: Any) -> None:
    """Propose what leads from the database's collections to the declared ones."""
    declared = list(_declared(context))
    for operation in operations.ops:
        if isinstance(operation, CreateTableOp) and operation.info:
            operation.info.pop("pgmeaning", None)  # or the migration would have it, too, by a name that it lacks
    if not any("pgmeaning" in table.info for table in _tables(context)):
        return  # a project that declares none manages them otherwise
    present = {found["name"]: found for found in _present(context)}
    wanted = {collection.name or table.name: (table, collection) for table, collection in declared}
    for name, (table, collection) in wanted.items():
        if name not in present:
            operations.ops.append(AttachCollection(table.name, table.schema, collection.arguments()))
        elif changes := _changes(collection, present[name]):
            before = {key: _before(key, present[name]) for key in changes}
            operations.ops.append(AlterCollection(name, changes, before))
    gone = [found for name, found in present.items() if name not in wanted and _is_managed(context, operations, found)]
    operations.ops[:0] = [_detaching(found) for found in gone]  # before its table is dropped


def _tables(context: AutogenContext) -> list[Table]:
    given = context.metadata
    several = given if isinstance(given, Sequence) else [given]
    return [table for metadata in several if metadata is not None for table in metadata.sorted_tables]


def _declared(context: AutogenContext) -> Iterator[tuple[Table, Collection]]:
    for table in _tables(context):
        given = table.info.get("pgmeaning") or []
        for collection in [given] if isinstance(given, Collection) else given:
            if not isinstance(collection, Collection):
                raise ArgumentError(f"Table.info['pgmeaning'] of {table.name} has {collection!r}",
                                    hint="give pgmeaning.integrations.alembic.Collection(...)")  # fmt: skip
            yield table, collection


def _present(context: AutogenContext) -> list[Any]:
    """The database's collections; none where pgmeaning was not installed yet."""
    connection = context.connection
    assert connection is not None
    if not sqlalchemy.inspect(connection).has_table("collection", schema="pgmeaning"):
        return []
    text = sqlalchemy.text(sql.query("integrations/collections").replace(":", r"\:"))
    return list(connection.execute(text).mappings())


def _is_managed(context: AutogenContext, operations: UpgradeOps, found: Any) -> bool:
    """Whether its table is one of the project's, or is about to be dropped."""
    dropped = [(each.schema, each.table_name) for each in operations.ops if isinstance(each, DropTableOp)]
    known = [(table.schema, table.name) for table in _tables(context)]
    places = [(found["schema"], found["table"])] + ([(None, found["table"])] if found["is_default"] else [])
    return any(place in known + dropped for place in places)


def _detaching(found: Any) -> DetachCollection:
    told = {key: _given(found[key]) for key in CHANGED if found[key] is not None and key != "columns"}
    if found["embedded"] and found["template"] is None:
        told["columns"] = list(found["embedded"])
    name = {} if found["name"] == found["table"] else {"collection": found["name"]}
    schema = None if found["is_default"] else found["schema"]
    return DetachCollection(found["name"], attached=AttachCollection(found["table"], schema, {**told, **name}))


def _given(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _changes(collection: Collection, found: Any) -> dict[str, Any]:
    """What a swap must be told; what the declaration leaves to the database is not compared."""
    changes: dict[str, Any] = {}
    for key in CHANGED:
        wanted, has = getattr(collection, key), found["embedded" if key == "columns" else key]
        if key == "columns" and (wanted is None or collection.template is not None):
            continue  # the template's columns
        if wanted is None and (key not in TAKEN_AWAY or has in (None, "", {})):
            continue
        wanted = _given(TAKEN_AWAY[key] if wanted is None else wanted)
        if not _is_same(key, wanted, _given(has)):
            changes[key] = wanted
    return changes


def _is_same(key: str, wanted: Any, has: Any) -> bool:
    if key == "language" and has:  # the database has it with its schema
        return wanted in (has, str(has).rpartition(".")[2])
    if key == "chunking" and has and wanted:  # and with what was left out
        return bool(dict(wanted).items() <= dict(has).items())
    return bool(wanted == has)


def _before(key: str, found: Any) -> Any:
    has = found["embedded" if key == "columns" else key]
    return TAKEN_AWAY.get(key) if has is None else _given(has)


def _rendered(call: str, first: Sequence[Any], arguments: Mapping[str, Any]) -> str:
    parts = [repr(each) for each in first] + [f"{key}={value!r}" for key, value in arguments.items()]
    return f"op.{call}({', '.join(parts)})"


def _rendering(type: Any) -> Callable[[Callable[[Any], str]], None]:
    def register(render: Callable[[Any], str]) -> None:
        renderers.dispatch_for(type)(lambda _, operation: render(operation))

    return register


@_rendering(AttachCollection)
def _render_attach(operation: AttachCollection) -> str:
    schema = {} if operation.schema is None else {"schema": operation.schema}
    return _rendered("attach_collection", [operation.table], {**operation.told, **schema})


@_rendering(DetachCollection)
def _render_detach(operation: DetachCollection) -> str:
    keep = {"keep_vectors": True} if operation.keep_vectors else {}
    return _rendered("detach_collection", [operation.collection], keep)


@_rendering(AlterCollection)
def _render_alter(operation: AlterCollection) -> str:
    undo = {"undo": True} if operation.undo else {}
    return _rendered("alter_collection", [operation.collection], {**undo, **operation.changes})
