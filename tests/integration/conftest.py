"""What the tests on a database share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.docs import Docs, cache
from tests.integration.roles import Role, logged_in
from tests.types import Connection, Drain


@pytest.fixture
def docs(request: pytest.FixtureRequest, db: Connection, drain: Drain) -> Connection:
    """The table `docs`, as the module's DOCS describes it; returns the connection."""
    described: Docs = request.module.DOCS
    described.make(db)
    if described.embedded:
        assert drain() == 0
    for text, like in described.cached.items():
        cache(db, text, like=like)
    return db


@pytest.fixture
def role(db: Connection, dsn: str) -> Iterator[Role]:
    """A log-in role without rights, and a connection as it."""
    with logged_in(db, dsn) as made:
        yield made
