"""A log-in role that may connect, and nothing else: what it can reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.types import Connection

PASSWORD = "of-this-test"


class Stranger:
    """Opens connections as the role."""

    def __init__(self, dsn: str, name: str) -> None:
        self.name = name
        self._dsn = make_conninfo(dsn, user=name, password=PASSWORD)
        self.opened: list[Connection] = []
        self.connection = self.connect()

    def connect(self) -> Connection:
        self.opened.append(psycopg.connect(self._dsn, autocommit=True))
        return self.opened[-1]

    def refusal(self, statement: str) -> str | None:
        """The SQLSTATE of a statement that must fail."""
        with pytest.raises(psycopg.Error) as caught:
            self.connection.execute(statement.encode())
        return caught.value.sqlstate


@contextmanager
def stranger_of(db: Connection, dsn: str) -> Iterator[Stranger]:
    """A new role, dropped at the end."""
    name = f"stranger_{uuid4().hex[:12]}"
    db.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    stranger = Stranger(dsn, name)
    try:
        yield stranger
    finally:
        for connection in stranger.opened:
            connection.close()
        db.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        db.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
