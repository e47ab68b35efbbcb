"""A DSN with a typing error: no word of it is shown, whatever libpq would quote of it."""

from __future__ import annotations

import traceback

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import pgmeaning
from pgmeaning.cli.gpu import _large_default
from pgmeaning.database import migrate
from pgmeaning.database.connection import check_direct, connect
from pgmeaning.database.dsn import checked
from pgmeaning.errors import DatabaseError
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.sidecar.run import Run

SECRET = "Hunter2"

# Of each, libpq, or the server that it leads to, would show the password or a part of it.
WRONG = [
    f"postgresql://me:{SECRET}/db",
    f"postgresql://me:1/{SECRET}@127.0.0.1:1/db",
    f"postgresql://me:p@{SECRET}@127.0.0.1:1/db",
    f"postgresql://me:p/{SECRET}@127.0.0.1:1/db",
    f"postgresql://me:%{SECRET}@127.0.0.1:1/db",
    f"postgresql://me:p?{SECRET}/@127.0.0.1:1/db?x",
    f"postgresql://me:p@127.0.0.1:{SECRET}/db",
    f"postgresql://me:p@127.0.0.1:1/db?{SECRET}=1",
    f"postgresql://me:p@127.0.0.1:1/db?{SECRET}",
    f"postgresql://me:p@127.0.0.1:1/db?connect_timeout={SECRET}",
    f"postgresql://me:p@127.0.0.1:1/db&password={SECRET}",
    f"postgresql://me:p@127.0.0.1:1/db password={SECRET}",
    f"postgresql://me;{SECRET}@127.0.0.1:1/db",
    f"postgresql://me {SECRET}@127.0.0.1:1/db",
    f"postgresql://me:[{SECRET}@[::1/db",
    f"Postgresql://me:{SECRET}@127.0.0.1:1/db",
    f"postgres:/me:{SECRET}@127.0.0.1:1/db",
    f"postgresql+psycopg://me:{SECRET}/db",
    f"postgresql+asyncpg://me:p@127.0.0.1:1/db?{SECRET}",
    f"postgresql+asyncpg://me:p@127.0.0.1:1/db?x={SECRET}\ud800",
    f"me:{SECRET}@127.0.0.1:1/db",
    SECRET,
    f"host=127.0.0.1 port=1 password=my {SECRET}",
    f"host=127.0.0.1 port=1 password='{SECRET}",
    f"host=127.0.0.1 port=1 password='my'{SECRET}'s",
    f"host=127.0.0.1 port=1 passwort={SECRET}",
    f"host=127.0.0.1 port=1 {SECRET}=password",
    f"host=127.0.0.1 port=1 password=it's {SECRET}",
    f"host=127.0.0.1,password={SECRET} port=1",
    f"host=127.0.0.1;Password={SECRET};Port=1",
    f"host=127.0.0.1 port={SECRET}",
    f"host=127.0.0.1 port=1 dbname=db;pwd={SECRET}",
    f"Host=127.0.0.1;Password={SECRET}",
    f"host=127.0.0.1\0password={SECRET}",
    f"host=127.0.0.1 port=1 password={SECRET}\ud800",
]

WELL_FORMED = [
    "",
    "dbname=db",
    "host=/var/run/postgresql user=me",
    "host=a,b port=5432,5433 target_session_attrs=read-write",
    r"host=127.0.0.1 password='it\'s = @ / spaces'",
    "host=127.0.0.1 password=p@ss/w:ord connect_timeout=5 options='-c search_path=x'",
    "postgresql:///db",
    "postgresql://host/db",
    "postgres://me@host:5432/db",
    "postgresql://me:p%40ss%2Fword@host:5432/db?sslmode=require&connect_timeout=5",
    "postgresql://me:p:w;=&!?#@host/db",
    "postgresql://me:pass@[::1]:5432/db",
    "postgresql://me:pass@a:1,b:2/db",
    "postgresql://me:pass@/db?host=/tmp",
    "postgresql://me%40cloud@host/db",
    "postgresql://host/db?user=me&password=p@ss",
    "postgresql://me:password=1@host/db",
    "service=mine",
]


@pytest.mark.parametrize("dsn", WRONG)
def test_a_dsn_that_is_none_is_refused_without_a_word_of_it(dsn: str) -> None:
    with pytest.raises(DatabaseError, match="the DSN is not one: ") as refused:
        checked(dsn)
    assert SECRET not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("dsn", WELL_FORMED)
def test_a_dsn_that_is_one_is_left_as_it_is(dsn: str) -> None:
    assert checked(dsn) == dsn


@pytest.mark.parametrize(
    ("url", "dsn"),
    [
        ("postgresql+psycopg://me:p%40ss@host:5432/db", "postgresql://me:p%40ss@host:5432/db"),
        ("postgres+psycopg2://host/db?sslmode=require", "postgres://host/db?sslmode=require"),
        ("postgresql+asyncpg://host/db?ssl=require&command_timeout=5", "postgresql://host/db?sslmode=require"),
        ("postgresql+asyncpg:///db?host=/tmp&timeout=5", "postgresql:///db?host=%2Ftmp&connect_timeout=5"),
        ("postgresql+psycopg://me@/db?host=a:1&host=b:2", "postgresql://me@/db?host=a%2Cb&port=1%2C2"),
        ("postgresql+psycopg://me:a b@host/db", "postgresql://me:a%20b@host/db"),
    ],
)
def test_a_url_with_a_drivers_name_becomes_one_that_libpq_reads(url: str, dsn: str) -> None:
    found = checked(url)
    assert conninfo_to_dict(found) == conninfo_to_dict(dsn)


@pytest.mark.parametrize("dsn", WRONG[:4] + WRONG[20:24])
@pytest.mark.parametrize(
    "enter",
    [
        pgmeaning.connect,
        migrate.check,
        migrate.upgrade,
        migrate.downgrade,
        check_direct,
        _large_default,
        lambda dsn: connect(dsn, "test"),
        lambda dsn: Sidecar(dsn, Settings()).run(drain=True),
    ],
    ids=["connect", "check", "upgrade", "downgrade", "check_direct", "gpu", "sidecar's", "sidecar"],
)
def test_no_entry_shows_a_word_of_it(enter: object, dsn: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DatabaseError) as refused:
        enter(dsn)  # type: ignore[operator]
    shown = "".join(traceback.format_exception(refused.value)) + "".join(capfd.readouterr())
    assert SECRET not in shown


def test_what_keeps_a_dsn_does_not_show_it() -> None:
    dsn = f"host=127.0.0.1 password={SECRET}"
    assert SECRET not in repr(Run(dsn, Settings(dsn=dsn))) + repr(Settings(dsn=dsn))


@pytest.mark.parametrize("dsn", [f"postgresql://me:{SECRET}@127.0.0.1:1", f"host=127.0.0.1 port=1 password={SECRET}"])
def test_a_server_that_does_not_answer_is_named_without_the_password(dsn: str) -> None:
    with pytest.raises(DatabaseError, match=r"127\.0\.0\.1") as refused:
        pgmeaning.connect(dsn)
    with pytest.raises(psycopg.OperationalError) as lost:
        connect(dsn, "test")
    assert SECRET not in "".join(traceback.format_exception(refused.value) + traceback.format_exception(lost.value))
