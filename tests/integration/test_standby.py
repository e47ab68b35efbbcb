"""A streaming standby, made by pg_basebackup: it answers every search, and asks a sidecar at the primary."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgmeaning.database import migrate
from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.embedded_server.install import find_install
from pgmeaning.embedded_server.server import EmbeddedServer, any_free_port
from pgmeaning.errors import DatabaseError
from pgmeaning.settings import Settings, host_list
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.types import Connection

SERVER = {"fsync": "off", "full_page_writes": "off", "hot_standby_feedback": "on", "max_standby_streaming_delay": "-1"}


class Judge:
    """A reranker that scores a document by its length."""

    def score(self, query: Any, documents: Any, instruction: str | None = None) -> Any:
        return np.array([len(document.text or "") / 100 for document in documents], np.float32)


@dataclass
class Pair:
    """A primary that pgmeaning is installed on, and its standby."""

    primary: EmbeddedServer
    standby: EmbeddedServer

    @property
    def hosts(self) -> str:
        """The standby first, as in a list that has not changed since a failover."""
        return ",".join(f"127.0.0.1:{conninfo_to_dict(server.dsn)['port']}" for server in (self.standby, self.primary))

    def set_hosts(self, hosts: str) -> str | None:
        """As a sidecar or migrate with that setting does; the standby knows when this returns."""
        with connected(self.primary.dsn) as primary:
            problem = ensure_loopback(primary, hosts)
            self.catch_up(primary)
        return problem

    def catch_up(self, primary: Connection) -> None:
        """Wait until the standby has everything that was committed."""
        (position,) = primary.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone() or ("",)
        with connected(self.standby.dsn) as standby:
            caught_up = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            wait_until(lambda: standby.execute(caught_up, (position,)).fetchone() == (True,))


@contextmanager
def connected(dsn: str) -> Iterator[Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@contextmanager
def replicated() -> Iterator[Pair]:
    folder = Path(tempfile.mkdtemp(prefix="pgmeaning-standby-"))
    folder.chmod(0o755)  # as root the servers run as another account, which must get through
    try:
        with EmbeddedServer(folder / "primary", any_free_port(), settings=SERVER) as primary:
            set_up(primary.dsn)
            copy(primary, folder / "standby")
            with EmbeddedServer(folder / "standby", any_free_port(), settings=SERVER) as standby:
                yield Pair(primary, standby)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def set_up(dsn: str) -> None:
    migrate.upgrade(dsn)
    with connected(dsn) as db:
        db.execute("SELECT pgmeaning.set_default_model('synthetic-384')")
        db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        db.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 20) AS i")
        db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'])")
    assert Sidecar(dsn, Settings()).run(drain=True) == 0


def copy(primary: EmbeddedServer, folder: Path) -> None:
    """A base backup that will follow the primary, owned by whoever runs servers here."""
    program = str(find_install().program("pg_basebackup"))
    command = [program, "-d", primary.dsn, "-D", str(folder), "-R", "-c", "fast", "-N"]
    subprocess.run(command, check=True, capture_output=True)
    owner = primary.data_dir.stat()
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with replicated() as both:
        yield both


@pytest.fixture
def asking(pair: Pair) -> Iterator[Pair]:
    """The pair, with a sidecar at the primary that was told the hosts."""
    sidecar = Sidecar(pair.primary.dsn, Settings(loopback_hosts=pair.hosts), load_reranker=lambda _: Judge())
    with running(sidecar):
        with connected(pair.primary.dsn) as primary:
            pair.catch_up(primary)
        yield pair
    pair.set_hosts("local")


@pytest.fixture
def standby(pair: Pair) -> Iterator[Connection]:
    with connected(pair.standby.dsn) as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
        yield connection


def nearest(connection: Connection, query: str) -> int:
    statement = "SELECT (hit).id FROM pgmeaning.search(NULL::docs, %s, k => 1)"
    (key,) = connection.execute(statement, (query,)).fetchone() or (0,)
    return int(key)


def place(db: Connection) -> tuple[str, str, bool]:
    """The loopback's host and port, and whether it leads to a primary only."""
    options = dict(
        db.execute(
            "SELECT o.* FROM pg_foreign_server AS s CROSS JOIN pg_options_to_table(s.srvoptions) AS o "
            "WHERE s.srvname = 'pgmeaning_loopback'"
        ).fetchall()
    )
    return options["host"], options["port"], options.get("target_session_attrs") == "read-write"


# Asking


def test_a_standby_embeds_searches_and_reranks_what_is_not_cached(asking: Pair, standby: Connection) -> None:
    assert standby.execute("SELECT vector_dims(pgmeaning.embed('on a standby'))").fetchone() == (384,)
    assert nearest(standby, "text 7") == 7
    ranked = standby.execute("SELECT index FROM pgmeaning.rerank('q', ARRAY['a', 'aaa', 'aa'])").fetchall()
    assert ranked == [(2,), (3,), (1,)]
    found = standby.execute("SELECT key FROM pgmeaning.search('docs', 'text 1', k => 1, rerank => 20)").fetchall()
    assert len(found) == 1


@pytest.mark.parametrize("mode", ["READ ONLY", "ISOLATION LEVEL REPEATABLE READ"])
def test_a_standby_asks_in_any_transaction(asking: Pair, standby: Connection, mode: str) -> None:
    with standby.transaction():
        standby.execute(f"SET TRANSACTION {mode}".encode())
        assert nearest(standby, f"text 9, {mode}") in range(1, 21)
        assert nearest(standby, "text 11") == 11


def test_the_primary_asks_through_the_same_list(asking: Pair) -> None:
    with connected(asking.primary.dsn) as primary:
        assert place(primary)[2]
        assert nearest(primary, "text 12") == 12


def test_what_a_standby_prepares_is_cached_at_the_primary(asking: Pair, standby: Connection) -> None:
    standby.execute("CALL pgmeaning.prepare('prepared on a standby')")
    with connected(asking.primary.dsn) as primary:
        cached = "SELECT FROM pgmeaning.query_cache WHERE input_hash = pgmeaning._input_hash('prepared on a standby')"
        assert primary.execute(cached).rowcount == 1


# Refused


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pgmeaning.embed('never asked')",
        "SELECT * FROM pgmeaning.search('docs', 'never asked')",
        "SELECT * FROM pgmeaning.rerank('q', ARRAY['a'])",
        "CALL pgmeaning.prepare('never asked')",
    ],
)
def test_a_standby_that_knows_no_primary_says_which_setting_tells_it(standby: Connection, statement: str) -> None:
    with pytest.raises(psycopg.Error, match="this standby cannot ask the primary") as caught:
        standby.execute(statement.encode())
    assert caught.value.sqlstate == "PM013"
    assert "PGMEANING_LOOPBACK_HOSTS" in (caught.value.diag.message_hint or "")
    assert "not told" in (caught.value.diag.message_detail or "")


def move(port: int | str) -> bytes:
    return f"ALTER SERVER pgmeaning_loopback OPTIONS (SET host '127.0.0.1', SET port '{port}')".encode()


@contextmanager
def moved(pair: Pair, port: int | str) -> Iterator[None]:
    """The primary has moved since the list was made."""
    assert pair.set_hosts(pair.hosts) is None
    with connected(pair.primary.dsn) as primary:
        primary.execute(move(port))
        pair.catch_up(primary)
    try:
        yield
    finally:
        pair.set_hosts("local")


def refusal(standby: Connection) -> str:
    """The detail of the error."""
    with pytest.raises(psycopg.Error, match="this standby cannot ask the primary") as caught:
        standby.execute("SELECT pgmeaning.embed('never asked')")
    assert caught.value.sqlstate == "PM013"
    return caught.value.diag.message_detail or ""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer for a full backlog")
def test_a_host_that_is_down_is_an_error_that_says_so(pair: Pair, standby: Connection) -> None:
    with socket.socket() as down, ExitStack() as queued:
        down.bind(("127.0.0.1", 0))
        down.listen(0)
        for _ in range(3):  # with a full backlog, packets are dropped, as where no machine is
            waiting = queued.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(down.getsockname())
        with moved(pair, down.getsockname()[1]):
            assert "timed out" in refusal(standby)


def test_a_host_that_hangs_is_waited_for_until_the_statements_time_is_up(pair: Pair, standby: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging, moved(pair, hanging.getsockname()[1]):
        standby.execute("SET statement_timeout = '200ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            standby.execute("SELECT pgmeaning.embed('never asked')")


def test_a_host_that_refuses_is_an_error_that_says_so(pair: Pair, standby: Connection) -> None:
    with moved(pair, 1):
        assert "refused" in refusal(standby)


def test_a_list_without_a_primary_is_an_error_that_says_so(pair: Pair, standby: Connection) -> None:
    with moved(pair, pair.hosts.split(",")[0].rpartition(":")[2]):
        assert "read-only" in refusal(standby)


def test_neither_a_sidecar_nor_a_migration_starts_at_a_standby(pair: Pair) -> None:
    for start in (lambda: Sidecar(pair.standby.dsn, Settings()).run(), lambda: migrate.upgrade(pair.standby.dsn)):
        with pytest.raises(DatabaseError, match="is a standby") as caught:
            start()
        assert "target_session_attrs" in (caught.value.hint or "")


# The setting


def test_the_list_stays_until_somebody_sets_another_one(pair: Pair) -> None:
    with connected(pair.primary.dsn) as primary:
        local = place(primary)
        assert pair.set_hosts(pair.hosts) is None
        listed = place(primary)
        assert listed == ("127.0.0.1,127.0.0.1", ",".join(h.rpartition(":")[2] for h in pair.hosts.split(",")), True)
        assert migrate.upgrade(pair.primary.dsn).loopback_problem is None  # without the setting
        assert Sidecar(pair.primary.dsn, Settings()).run(drain=True) == 0
        assert place(primary) == listed
        assert pair.set_hosts("local") is None
        assert place(primary) == local


def test_a_list_that_does_not_lead_to_the_primary_is_refused_and_the_former_one_stays(pair: Pair) -> None:
    with connected(pair.primary.dsn) as primary:
        before = place(primary)
        for wrong in ("127.0.0.1:1", pair.hosts.split(",")[0]):
            problem = pair.set_hosts(wrong) or ""
            assert f"{wrong} is not used" in problem
            assert place(primary) == before
        assert pair.set_hosts(pair.hosts) is None
        listed = place(primary)
        assert pair.set_hosts("127.0.0.1:1")
        assert place(primary) == listed
    pair.set_hosts("local")


def test_a_host_without_a_port_has_the_servers_own(pair: Pair) -> None:
    with connected(pair.primary.dsn) as primary:
        assert pair.set_hosts("127.0.0.1") is None
        assert place(primary)[1] == conninfo_to_dict(pair.primary.dsn)["port"]
    pair.set_hosts("local")


def test_a_list_of_another_cluster_as_a_dump_brings_it_is_not_followed(pair: Pair) -> None:
    pair.set_hosts(pair.hosts)
    with connected(pair.primary.dsn) as primary:
        primary.execute("ALTER SERVER pgmeaning_loopback VERSION 'another cluster/1'")
        with pytest.raises(psycopg.Error, match="no dblink loopback") as caught:
            primary.execute("SELECT pgmeaning.embed('never asked')")
        assert caught.value.sqlstate == "PM009"
        assert pair.set_hosts("") is None
        assert not place(primary)[2]


def test_a_clone_lets_go_of_the_list_that_leads_to_the_original(pair: Pair, dsn: str) -> None:
    """As where a base backup of production is promoted for a test: its cluster is the same."""
    pair.set_hosts(pair.hosts)
    with connected(pair.primary.dsn) as primary, connected(dsn) as clone:
        host, ports, _ = place(primary)
        user, password = clone.execute("SELECT login, password FROM pgmeaning.loopback").fetchone() or ("", "")
        primary.execute(f"CREATE DATABASE {clone.info.dbname}")
        primary.execute(f"CREATE ROLE \"{user}\" LOGIN PASSWORD '{password}'")
        try:
            pair.catch_up(primary)
            clone.execute("SELECT pgmeaning._make_loopback(%s, %s)", (host, ports))
            with pytest.raises(psycopg.Error, match="no dblink loopback") as caught:
                clone.execute("SELECT pgmeaning.embed('never asked')")
            assert "leads to another server" in str(caught.value.diag.message_detail)
            assert clone.execute("SELECT problem FROM pgmeaning._test_loopback()").fetchone() == (
                "it leads to another server",
            )
            assert ensure_loopback(clone) is None
            assert not place(clone)[2]
        finally:
            primary.execute(f"DROP DATABASE {clone.info.dbname} WITH (FORCE)")
            primary.execute(f'DROP ROLE "{user}"')
    pair.set_hosts("local")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", None),
        ("local", None),
        ("db1", ("db1", "")),
        ("db1, db2:5433", ("db1,db2", ",5433")),
        ("[::1]:5432,10.0.0.1", ("::1,10.0.0.1", "5432,")),
        ("/run/postgresql:5433", ("/run/postgresql", "5433")),
    ],
)
def test_a_list_of_hosts_is_read_as_hosts_and_ports(value: str, expected: tuple[str, str] | None) -> None:
    assert host_list(value) == expected


@pytest.mark.parametrize("value", ["postgresql://db1/x", "db1:port", "::1", "host=db1", "db1 db2"])
def test_what_is_no_list_of_hosts_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        Settings(loopback_hosts=value)


# Promotion


def test_after_a_promotion_everybody_asks_the_new_primary() -> None:
    with replicated() as pair:
        pair.set_hosts(pair.hosts)
        with connected(pair.standby.dsn) as session:
            with running(Sidecar(pair.primary.dsn, Settings())):
                assert nearest(session, "text 3") == 3
            pair.primary.stop()
            session.execute("SELECT pg_promote()")
            assert session.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
            with running(Sidecar(pair.standby.dsn, Settings())):
                assert nearest(session, "text 4") == 4  # the session that had a loopback to the old primary
                with connected(pair.standby.dsn) as fresh:
                    assert place(fresh)[2]
                    assert nearest(fresh, "text 5") == 5
