"""Brings a database to this package's schema: Alembic for the migrations, then the repeatable functions.

All in one transaction that locks Alembic's table, so two at once are safe and a failure leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql as compose
from psycopg.rows import dict_row

from pgmeaning.database import sql_files as sql
from pgmeaning.database.dsn import checked
from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.database.vector_version import vector_advice
from pgmeaning.errors import DatabaseError, SchemaOutdated
from pgmeaning.models.registry import builtin_models, fingerprint, releases
from pgmeaning.version import __version__

if TYPE_CHECKING:
    import sqlalchemy
    from alembic.config import Config

# What a migration meets when another one makes the same objects: it waits, and the server's unique indexes refuse it.
MADE_MEANWHILE = ("23505", "42P06", "42P07", "42710")
MIGRATION_TRIES = 4
# The role that an installation with roles of its own belongs to.
ADMIN = "pgmeaning_admin"


@dataclass(frozen=True, slots=True)
class State:
    """A database's schema: its Alembic revision (None: no schema), and whether its functions are this package's."""

    revision: str | None
    head: str
    functions_current: bool
    unreleased: bool = False  # made by a version of this package that was never released
    missing: tuple[str, ...] = ()  # what the last migration left and is no longer there as it was
    vector_advice: str | None = None  # what to do about an old pgvector
    loopback_problem: str | None = None  # after `upgrade`: why embed() cannot ask a sidecar
    for_others: tuple[str, ...] = ()  # after `upgrade` with roles: statements that this role may not run

    @property
    def due(self) -> bool:
        """Whether `upgrade` would change anything."""
        return self.revision != self.head or not self.functions_current or bool(self.missing)


def check(dsn: str) -> State:
    """Compare a database with this package; changes nothing.

    Raises DatabaseError if it cannot connect, or if `upgrade` would refuse the database.
    """
    with connected(dsn) as connection:
        return replace(known_state(connection), vector_advice=vector_advice(connection))


def upgrade(dsn: str, loopback_hosts: str = "", *, roles: bool = False, owner: str | None = None) -> State:
    """Bring an empty database, or one of any earlier version, to the newest; returns the state before that.

    `loopback_hosts` is the setting of that name. `roles`: the installation belongs to pgmeaning_admin from now on, and
    the roles are made. `owner`: another role than one's own to which the installation belongs, if it may.

    Raises DatabaseError, with a hint, if pgvector or a privilege is missing, if only parts of an earlier
    installation are left, or if the schema belongs to a role that was not named; SchemaOutdated if the schema is newer
    than this package, or was never released.
    """
    with connected(dsn) as connection:
        refuse_standby(connection)
    for_others = make_roles(dsn) if roles else ()
    before = _first_or_again(lambda: _upgrade_alone(dsn, owner, roles=roles, roles_made=not for_others))
    with connected(dsn) as connection:
        problem = ensure_loopback(connection, loopback_hosts)
        if roles and not for_others:
            for_others = _refused_ones(connection, "migrate/needed_grants")
        advice = vector_advice(connection)
    return replace(before, loopback_problem=problem, for_others=for_others, vector_advice=advice)


def _upgrade_alone(dsn: str, owner: str | None, *, roles: bool, roles_made: bool) -> State:
    with _transaction(dsn) as (alchemy, connection):
        _refuse_strangers(connection, ADMIN if roles else owner)
        connection.execute(sql.query("migration_lock"))
        before = known_state(connection)
        if before.due or (roles and _owner(connection) != ADMIN):
            _upgrade(alchemy, connection, before, roles=roles and roles_made)
    return before


def _first_or_again(work: Callable[[], State]) -> State:
    """Run a migration, again if another one made the schema meanwhile: until then, there is nothing to lock."""
    for _ in range(MIGRATION_TRIES - 1):
        try:
            return work()
        except DatabaseError as error:
            if error.sqlstate not in MADE_MEANWHILE:
                raise
    return work()


def make_roles(dsn: str) -> tuple[str, ...]:
    """Make pgmeaning's roles; returns the statements that somebody must run who may.

    Raises DatabaseError if a role of such a name has rights that ours do not have.
    """
    with connected(dsn) as connection:
        strange = connection.execute(sql.query("migrate/strange_roles")).fetchone()
        if strange:
            raise DatabaseError(
                f"role {strange[0]} has rights that the role which pgmeaning makes under that name has not",
                hint="somebody else made it: drop or rename it, then run pgmeaning migrate --roles again",
            )
        return _refused_ones(connection, "migrate/make_roles")


def _refused_ones(connection: psycopg.Connection[Any], name: str) -> tuple[str, ...]:
    """Run the statements that a query composes; returns those that this role may not run."""
    refused = []
    for (statement,) in connection.execute(sql.query(name)).fetchall():
        try:
            connection.execute(compose.SQL(statement))  # composed by the database
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject):
            refused.append(statement)
    return tuple(refused)


def remove_unreleased(dsn: str, collections: Sequence[str]) -> bool:
    """Drop the schemas of a version that was never released, if they hold only these collections.

    Returns whether it did. The source tables stay; the vectors are dropped.
    """
    with connected(dsn) as connection, connection.transaction():
        connection.execute(sql.query("migration_lock"))
        connection.execute(sql.query("stay_on_node"))
        if not state(connection).unreleased:
            return False
        (others,) = connection.execute(sql.query("migrate/other_collections"), (list(collections),)).fetchone() or (
            True,
        )
        if not others:
            connection.execute(sql.query("migrate/drop_unreleased"))
        return not others


def downgrade(dsn: str) -> None:
    """Remove pgmeaning from the database, with all vectors. Source tables stay untouched."""
    with _transaction(dsn) as (alchemy, connection):
        connection.execute(sql.query("migration_lock"))
        known_state(connection)
        _run_alembic(alchemy, "downgrade", "base")
        connection.execute(sql.query("migrate/drop_schema"))


def connected(dsn: str, *, autocommit: bool = True) -> psycopg.Connection[Any]:
    """A connection for what changes the schema; raises DatabaseError where there is none."""
    try:
        connection = psycopg.connect(
            checked(dsn), autocommit=autocommit, application_name="pgmeaning migrate", client_encoding="UTF8"
        )
    except psycopg.OperationalError as error:
        hint = "give --dsn or --dsn-file, or set PGMEANING_DSN or PGMEANING_DSN_FILE"
        raise DatabaseError(f"cannot connect to the database: {error}", hint=hint) from error
    # Whatever the role's default: after waiting for another migration, we must see what it did.
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.read_only = False
    return connection


@contextmanager
def _transaction(dsn: str) -> Iterator[tuple[sqlalchemy.Connection, psycopg.Connection[Any]]]:
    """One transaction, for both Alembic and psycopg: all of a migration or nothing."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: connected(dsn, autocommit=False), poolclass=sqlalchemy.NullPool
    )
    try:
        with engine.begin() as alchemy:
            driver: Any = alchemy.connection.driver_connection
            driver.execute(sql.query("no_timeouts"))
            driver.execute(sql.query("stay_on_node"))
            yield alchemy, driver
    except psycopg.Error as error:
        raise as_database_error(error) from error
    except sqlalchemy.exc.DBAPIError as error:
        raise as_database_error(error.orig) from error  # type: ignore[arg-type]


def state(connection: psycopg.Connection[Any]) -> State:
    with connection.cursor(row_factory=dict_row) as cursor:
        tables = cursor.execute(sql.query("migrate/installed_tables")).fetchone() or {}
        revision, installed = None, {}
        if tables["versions"]:
            revision = (cursor.execute(sql.query("migrate/installed_revision")).fetchone() or {}).get("version_num")
        if tables["installation"]:
            installed = cursor.execute(sql.query("migrate/installed_hashes")).fetchone() or {}
    missing = _missing(connection) if installed else []
    return State(
        revision, _head(), installed.get("functions_hash") == contents_hash(),
        unreleased=revision is not None and _is_unreleased(revision, installed.get("migrations_hash")),
        missing=tuple(f"{kind} {name}" for kind, name, _ in missing),
    )  # fmt: skip


def _missing(connection: psycopg.Connection[Any]) -> list[tuple[str, str, str | None]]:
    """(kind, name, how to make it again) of what the last migration left and is no longer there as it was."""
    with connection.transaction():
        connection.execute(sql.query("plain_path"))
        return connection.execute(_of_catalog("migrate/missing")).fetchall()


def _of_catalog(name: str) -> compose.Composed:
    return sql.composed(name, {"catalog": sql.query("migrate/catalog")}, parameters=False)


def _is_unreleased(revision: str, migrations_hash: str | None) -> bool:
    """Whether migrations other than the released ones made it; a newer package's migrations are not known here."""
    if revision not in sql.migrations():
        return migrations_hash is None
    return migrations_hash != sql.migrations_hash(revision)


def known_state(connection: psycopg.Connection[Any]) -> State:
    """The database's state, if this package can upgrade it."""
    found = state(connection)
    if found.unreleased:
        raise SchemaOutdated(
            f"the database's pgmeaning schema, {found.revision}, was made by a version that was never released",
            hint="it cannot be upgraded. Drop it, with all vectors: DROP SCHEMA pgmeaning, pgmeaning_data CASCADE, "
            "then run: pgmeaning migrate, and attach the tables again",
        )
    if found.revision is not None and found.revision not in sql.migrations():
        raise SchemaOutdated(
            f"the database's pgmeaning schema, {found.revision}, is newer than this package, which knows {found.head}",
            hint="upgrade the package pgmeaning",
        )
    if found.revision is None:
        _refuse_leftovers(connection)
    return found


def refuse_standby(connection: psycopg.Connection[Any]) -> None:
    """Raise DatabaseError where nothing can be written."""
    if connection.execute(sql.query("is_standby")).fetchone() == (True,):
        raise DatabaseError(
            "this server is a standby, to which nothing can be written",
            hint="connect to the primary; of several hosts, target_session_attrs=read-write in the DSN finds it",
        )


def _owner(connection: psycopg.Connection[Any]) -> str | None:
    """The role that the schema belongs to, if there is one."""
    owners = {schema: owner for schema, owner, *_ in connection.execute(sql.query("migrate/schema_owners")).fetchall()}
    return owners.get("pgmeaning")


def _refuse_strangers(connection: psycopg.Connection[Any], named: str | None) -> None:
    """Only the owner may replace the functions, so refuse anybody else before they fail halfway.

    And what was made in advance by somebody else is not to be filled: whoever owns a schema, or a table in it, could
    have code of theirs run by this role, and would own what it makes. A role that was `named` is trusted.
    """
    for schema, owner, may, own in connection.execute(sql.query("migrate/schema_owners")).fetchall():
        if may and not own and owner not in (named, ADMIN):
            raise DatabaseError(
                f"schema {schema} belongs to role {owner}",
                hint=f"if that is whom pgmeaning shall belong to: pgmeaning migrate --owner {owner}. Else drop the "
                "schema: what this role makes in it would be that role's",
            )
    found = connection.execute(sql.query("migrate/installation_owner")).fetchone()
    if found is None:
        return
    owner, role, allowed = found
    if not allowed:
        raise DatabaseError(
            f"pgmeaning in this database belongs to role {owner}, whose privileges role {role} does not have",
            hint=f"run pgmeaning migrate as role {owner}, or as a superuser",
        )


def _refuse_leftovers(connection: psycopg.Connection[Any]) -> None:
    """Refuse a partial installation: without its version, there is no telling how to upgrade it."""
    (schemas,) = connection.execute(sql.query("migrate/leftovers")).fetchone() or (None,)
    if schemas:
        raise DatabaseError(
            f"the database has schemas of an earlier installation, without a version: {schemas}",
            hint="restore them with their rows; or drop them, with all vectors: "
            "DROP SCHEMA IF EXISTS pgmeaning, pgmeaning_data CASCADE, then run: pgmeaning migrate",
        )


def contents_hash() -> str:
    """A hash of the functions and the built-in models; if either changes, `upgrade` is due."""
    return sql.functions_hash()[:32] + ":" + fingerprint_of_registry()[:32]


def fingerprint_of_registry() -> str:
    """A hash that changes when a built-in model or release does."""
    return hashlib.sha256((models_json() + releases_json()).encode()).hexdigest()


def _upgrade(
    alchemy: sqlalchemy.Connection, connection: psycopg.Connection[Any], before: State, *, roles: bool
) -> None:
    connection.execute(sql.query("migrate/prepare_schema"))
    _run_alembic(alchemy, "upgrade", "head")
    if roles:
        connection.execute(sql.query("migrate/take_roles"))
    connection.execute(sql.query("migrate/migration_path"))
    if before.revision == before.head:
        _heal(connection)
    for _, text in sql.functions():
        connection.execute(text)  # our own files
    connection.execute(sql.query("migrate/heal_vectors"))
    connection.execute(sql.query("register_models"), (models_json(),))
    connection.execute(sql.query("register_releases"), (releases_json(),))
    connection.execute(
        sql.query("migrate/record_installation"), (contents_hash(), __version__, sql.migrations_hash(_head()))
    )
    connection.execute(sql.query("migrate/hand_over"))
    connection.execute(sql.query("plain_path"))
    connection.execute(_of_catalog("migrate/record_catalog"))


def _heal(connection: psycopg.Connection[Any]) -> None:
    """Make again what was dropped of the tables; raises DatabaseError, naming what cannot be made from nothing."""
    connection.execute(sql.query("migrate/heal_tables"))
    for _, _, ddl in _missing(connection):
        if ddl is not None:
            connection.execute(compose.SQL(ddl))  # composed by the database
    connection.execute(sql.query("migrate/migration_path"))
    lost = [name for kind, name, _ in _missing(connection) if kind in ("column", "column of a type", "sequence")]
    connection.execute(sql.query("migrate/migration_path"))
    if lost:
        raise DatabaseError(
            f"columns of pgmeaning's tables were dropped or altered: {', '.join(lost[:5])}",
            hint="restore the schema pgmeaning from a backup; or drop it, with all vectors: "
            "DROP SCHEMA pgmeaning, pgmeaning_data CASCADE, then run: pgmeaning migrate, and attach the tables again",
        )


def as_database_error(error: psycopg.Error) -> DatabaseError:
    """The server's error with its SQLSTATE, detail and hint."""
    diagnostic = error.diag
    return DatabaseError(
        diagnostic.message_primary or str(error) or type(error).__name__,
        sqlstate=error.sqlstate,
        detail=diagnostic.message_detail,
        hint=diagnostic.message_hint,
    )


def models_json() -> str:
    """The built-in models, as the registry takes them."""
    rows = [{**asdict(model), "fingerprint": fingerprint(model)} for model in builtin_models().values()]
    return json.dumps(rows, sort_keys=True)


def releases_json() -> str:
    """The built-in releases, as the registry takes them."""
    return json.dumps([asdict(release) for release in releases().values()], sort_keys=True)


def _head() -> str:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(sql.folder("alembic")).replace("%", "%%"))
    return config


def _run_alembic(alchemy: sqlalchemy.Connection, direction: str, target: str) -> None:
    """Run Alembic inside the open transaction."""
    from alembic import command

    config = _config()
    config.attributes["connection"] = alchemy
    getattr(command, direction)(config, target)
