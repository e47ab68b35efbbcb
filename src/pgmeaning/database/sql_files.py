"""Finds and loads `sql/`: inside the package in a wheel, at the top of the tree in an editable install."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import sql as compose

from pgmeaning.errors import PgmeaningError

if TYPE_CHECKING:
    from sqlalchemy import Connection

BLOCK_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
RULED_LINE = re.compile(r"^-- -{9,}", re.MULTILINE)


def folder(name: str) -> Path:
    """The folder `sql` or `alembic`, wherever this installation keeps it."""
    packaged = Path(str(files("pgmeaning"))) / f"_{name}"
    found = packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / name
    if not found.is_dir():
        raise PgmeaningError(f"this installation of pgmeaning lacks its folder {name}/", hint="reinstall the package")
    return found


@cache
def query(name: str) -> str:
    """The text of `sql/queries/<name>.sql`, such as "queue/claim"; without a folder, that block of `calls.sql`."""
    return (folder("sql") / "queries" / f"{name}.sql").read_text() if "/" in name else _calls()[name]


@cache
def _calls() -> dict[str, str]:
    """The blocks of `calls.sql` by name. Each begins after its name and ends at the next name or ruled line."""
    _, *blocks = BLOCK_NAME.split((folder("sql") / "queries" / "calls.sql").read_text())
    return {name: RULED_LINE.split(text)[0].strip() for name, text in zip(blocks[::2], blocks[1::2], strict=True)}


def composed(name: str, parts: Mapping[str, str], *, parameters: bool = True) -> compose.Composed:
    """A query with its {parts} filled in, which are SQL that the database composed and quoted (see sql/functions).

    `parameters`: whether it will be executed with parameters, so that a percent sign in an identifier must be doubled.
    """
    template = compose.SQL(query(name))  # our own file, not a user's text
    values = {key: value.replace("%", "%%") if parameters else value for key, value in parts.items()}
    return template.format(**{key: compose.SQL(value) for key, value in values.items()})


def migration(name: str) -> str:
    """The text of `sql/migrations/<name>.sql`."""
    return (folder("sql") / "migrations" / f"{name}.sql").read_text()


def migrations() -> list[str]:
    """The numbers of the migrations, which are also their revisions."""
    return sorted(path.name.split("_")[0] for path in (folder("sql") / "migrations").glob("*.up.sql"))


def up_migrations() -> list[tuple[str, str]]:
    """(number, text) of the migrations, in their order."""
    paths = sorted((folder("sql") / "migrations").glob("*.up.sql"))
    return [(path.name.split("_")[0], path.read_text()) for path in paths]


def newest_migration() -> str:
    """The number of the newest migration."""
    return migrations()[-1]


def migrations_hash(revision: str) -> str:
    """A hash of the migrations that make a schema of this revision."""
    digest = hashlib.sha256()
    for path in sorted((folder("sql") / "migrations").glob("*.up.sql")):
        if path.name.split("_")[0] <= revision:
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def functions() -> list[tuple[str, str]]:
    """(file name, text) of the repeatable files, in the order they run."""
    return [(path.name, path.read_text()) for path in sorted((folder("sql") / "functions").glob("*.sql"))]


def functions_hash() -> str:
    """A hash of this package's repeatable files, to compare with the one that the database has."""
    digest = hashlib.sha256()
    for name, text in functions():
        digest.update(name.encode() + b"\0" + text.encode() + b"\0")
    return digest.hexdigest()


def run_migration(alchemy: Connection, name: str) -> None:
    """Run a migration as it is: many statements and no parameters, so a percent sign stands for itself."""
    driver = alchemy.connection.driver_connection
    if driver is None:
        raise PgmeaningError("the migration has no open connection")
    driver.execute(migration(name))
