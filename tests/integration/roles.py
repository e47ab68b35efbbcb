"""Roles that log in, to see what each is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.types import Connection, Rows

PASSWORD = "of-this-test"


class Role:
    """A log-in role without rights, and a connection as it."""

    def __init__(self, name: str, connection: Connection) -> None:
        self.name = name
        self.connection = connection

    def rows(self, statement: str) -> Rows:
        return self.connection.execute(statement).fetchall()

    def ids(self, statement: str) -> list[int]:
        return sorted(row[0] for row in self.rows(statement))

    def refusal(self, statement: str) -> psycopg.Error:
        with pytest.raises(psycopg.Error) as caught:
            self.connection.execute(statement)
        return caught.value


@contextmanager
def logged_in(db: Connection, dsn: str, called: str = "reader") -> Iterator[Role]:
    """A new role; dropped at the end, with what it owns in the test's database."""
    name = f"{called}_{uuid4().hex[:12]}"
    db.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    try:
        with psycopg.connect(make_conninfo(dsn, user=name, password=PASSWORD), autocommit=True) as connection:
            yield Role(name, connection)
    finally:
        db.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(name)))
        db.execute(f"DROP ROLE {name}")
