"""What `migrate` would run, as a script for psql: for those who may not, or want to read it first."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql as compose

from pgmeaning.database import migrate
from pgmeaning.database import sql_files as sql
from pgmeaning.database.migrate import State
from pgmeaning.version import __version__

HEAD = """-- pgmeaning {version}: from {before} to revision {head}, for psql -X, as the role that shall own pgmeaning.
-- Afterwards `pgmeaning migrate` has nothing to change, but makes the dblink loopback, by which embed() asks a sidecar.
\\set ON_ERROR_STOP on"""


def script(dsn: str) -> str:
    """The statements that `upgrade` would run in this database, in one transaction; nothing is changed.

    Empty but for a comment if none are due. Raises DatabaseError and SchemaOutdated as `migrate.check` does.
    """
    before = migrate.check(dsn)
    if not before.due:
        return "-- up to date\n"
    found = "no schema" if before.revision is None else f"revision {before.revision}"
    head = HEAD.format(version=__version__, before=found, head=before.head)
    return "\n".join([head, "BEGIN;", *(f"{text.strip().rstrip(';')};" for text in _statements(before)), "COMMIT;", ""])


def _statements(before: State) -> Iterator[str]:
    for name in ("no_timeouts", "migration_lock", "stay_on_node", "migrate/prepare_schema"):
        yield sql.query(name)
    yield from (text for revision, text in sql.up_migrations() if revision > (before.revision or ""))
    yield _filled("migrate/script_version", before.head)
    yield sql.query("migrate/migration_path")
    if before.revision == before.head:
        yield sql.query("migrate/heal_tables")
    yield from (text for _, text in sql.functions())
    yield sql.query("migrate/heal_vectors")
    yield _filled("register_models", migrate.models_json())
    yield _filled("register_releases", migrate.releases_json())
    hashes = (migrate.contents_hash(), __version__, sql.migrations_hash(before.head))
    yield _filled("migrate/record_installation", *hashes)
    yield sql.query("migrate/hand_over")
    yield sql.query("plain_path")
    yield sql.composed("migrate/record_catalog", {"catalog": sql.query("migrate/catalog")}, parameters=False).as_string(
        None
    )


def _filled(name: str, *values: str) -> str:
    """A statement with its parameters written in."""
    first, *others = sql.query(name).split("%s")
    return first + "".join(compose.Literal(v).as_string(None) + text for v, text in zip(values, others, strict=True))
