"""A shop's tables as SQLAlchemy's models, and a database with them, attached and embedded: for tests of frameworks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import psycopg
from psycopg.conninfo import make_conninfo

from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import _create, _drop
from tests.integration.docs import cache

_numbers = count(1)

TABLES = """
CREATE TABLE maker (id int PRIMARY KEY, name text);
CREATE TABLE product (id int PRIMARY KEY, title text, price numeric, in_stock bool,
    maker_id int REFERENCES maker, added date);
CREATE SCHEMA shop;
CREATE TABLE shop."Odd %% one" ("Of" uuid, "No." int, body text, PRIMARY KEY ("Of", "No."));
INSERT INTO maker VALUES (1, 'Acme'), (2, 'Bell');
INSERT INTO product SELECT i, 'title ' || i, i, i % 2 = 0, 1 + i % 2, '2026-01-01'::date + i
    FROM generate_series(1, 20) AS i;
INSERT INTO shop."Odd %% one" SELECT gen_random_uuid(), i, 'body ' || i FROM generate_series(1, 5) AS i;
SELECT pgmeaning.attach('product', columns => '{title}', language => 'simple');
SELECT pgmeaning.attach('shop."Odd %% one"', columns => '{body}', collection => 'odd', vector_type => 'halfvec')
""".replace("%%", "%")


@contextmanager
def database(server_dsn: str, template: str) -> Iterator[str]:
    """A migrated database of a module's own, empty."""
    name = f"pgmeaning_shop_{os.getpid()}_{next(_numbers)}"
    _create(server_dsn, name, template)
    dsn = make_conninfo(server_dsn, dbname=name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        ensure_loopback(connection)
    try:
        yield dsn
    finally:
        _drop(server_dsn, name)


@contextmanager
def shop(server_dsn: str, template: str) -> Iterator[str]:
    """The same with the shop's tables, embedded; the query "seven" has the vector of title 7, "body" of body 3."""
    with database(server_dsn, template) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(TABLES.encode())
            assert Sidecar(dsn, Settings()).run(drain=True) == 0
            for text, like in {"seven": "title 7", "body": "body 3"}.items():
                cache(connection, text, like=like)
        yield dsn
