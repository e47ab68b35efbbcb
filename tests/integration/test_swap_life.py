"""Swaps under each installation, on every kind of table, across crashes, dumps and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.installation import INSTALLATIONS
from tests.integration.dumps import dump, restore
from tests.integration.test_cli import output, run
from tests.integration.test_rerank import Judge
from tests.types import Connection, Drain

TABLES = {
    "a composite key": ("CREATE TABLE docs (a int, b text, body text, PRIMARY KEY (b, a))",
                        "INSERT INTO docs SELECT i, 'k' || i, 'body ' || i FROM generate_series(1, 20) AS i"),
    "partitions": ("CREATE TABLE docs (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);"
                   "CREATE TABLE low PARTITION OF docs FOR VALUES FROM (1) TO (10);"
                   "CREATE TABLE high PARTITION OF docs DEFAULT",
                   "INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 20) AS i"),
    "a key named as ours": ('CREATE TABLE docs (chunk uuid PRIMARY KEY DEFAULT gen_random_uuid(), body text)',
                            "INSERT INTO docs (body) SELECT 'body ' || i FROM generate_series(1, 20) AS i"),
}  # fmt: skip


def one(db: Connection, query: str) -> Any:
    row = db.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def docs(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 20) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    assert drain() == 0


def served(db: Connection) -> list[tuple[str, int]]:
    return [tuple(row) for row in db.execute("SELECT model, count(*) FROM docs_embedding GROUP BY 1").fetchall()]


@pytest.mark.parametrize("installation", INSTALLATIONS, indirect=True)
def test_a_swap_goes_there_and_back_and_to_its_end(docs: None, db: Connection, drain: Drain) -> None:
    db.execute("SELECT pgmeaning.swap_start('docs', model => 'synthetic-4096')")
    assert drain() == 0
    db.execute("SELECT pgmeaning.swap_activate('docs')")
    assert served(db) == [("synthetic-4096", 20)]
    db.execute("UPDATE docs SET body = 'changed' WHERE id = 3")
    assert drain() == 0
    db.execute("SELECT pgmeaning.swap_rollback('docs')")
    assert served(db) == [("synthetic-384", 20)]
    db.execute("SELECT pgmeaning.swap_activate('docs')")
    db.execute("SELECT pgmeaning.swap_finish('docs')")
    assert one(db, "SELECT count(*) FROM pgmeaning.collection") == 1


@pytest.mark.parametrize("installation", INSTALLATIONS[1:], indirect=True)
def test_with_roles_what_a_sidecar_compared_counts(docs: None, db: Connection, drain: Drain, dsn: str) -> None:
    db.execute("SELECT pgmeaning.swap_start('docs', model => 'synthetic-4096')")
    assert drain() == 0
    db.execute("REVOKE SELECT ON docs FROM CURRENT_USER")  # the owner of the installation reads no source
    db.execute("INSERT INTO docs VALUES (99, 'owed')")
    with pytest.raises(psycopg.Error) as caught:
        db.execute("SELECT pgmeaning.swap_activate('docs')")
    assert caught.value.sqlstate == "PM023"
    assert drain() == 0
    db.execute("SELECT pgmeaning.swap_activate('docs')")


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_can_be_swapped(db: Connection, drain: Drain, kind: str) -> None:
    make, fill = TABLES[kind]
    db.execute(make.encode())
    db.execute(fill.encode())
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    db.execute("SELECT pgmeaning.swap_start('docs', model => 'synthetic-4096')")
    db.execute("UPDATE docs SET body = 'changed ' || body WHERE body LIKE '%1'")
    assert drain() == 0
    db.execute("SELECT pgmeaning.swap_activate('docs')")
    assert served(db) == [("synthetic-4096", 20)]
    db.execute("DELETE FROM docs")
    assert drain() == 0
    db.execute("SELECT pgmeaning.swap_rollback('docs')")
    assert served(db) == []


def test_a_name_that_needs_quotes_can_be_swapped(db: Connection, drain: Drain) -> None:
    db.execute('CREATE TABLE "My ""Docs"" \'x\' %s" (id int PRIMARY KEY, body text)')
    db.execute('INSERT INTO "My ""Docs"" \'x\' %s" VALUES (1, \'one\')')
    name = one(db, "SELECT pgmeaning.attach('\"My \"\"Docs\"\" ''x'' %s\"', '{body}')")
    drain()
    db.execute("SELECT pgmeaning.swap_start(%s, dimensions => 64)", (name,))
    drain()
    db.execute("SELECT pgmeaning.swap_activate(%s)", (name,))
    db.execute("SELECT pgmeaning.swap_finish(%s)", (name,))
    assert one(db, "SELECT dimensions FROM pgmeaning.status") == 64


@pytest.mark.parametrize("when", ["filling", "activated"])
def test_a_database_restored_in_the_middle_of_a_swap_goes_on(
    docs: None, db: Connection, dsn: str, empty_dsn: str, drain: Drain, when: str
) -> None:
    db.execute("SELECT pgmeaning.swap_start('docs', model => 'synthetic-4096', until => 0.5)")
    drain()
    if when == "activated":
        db.execute("SELECT pgmeaning.swap_adjust('docs')")
        drain()
        db.execute("SELECT pgmeaning.swap_activate('docs')")
    db.execute("UPDATE docs SET body = 'changed' WHERE id = 2")
    restore(db, dump(db, dsn), empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as copy:
        copy.execute("INSERT INTO docs VALUES (99, 'there'); DELETE FROM docs WHERE id = 1")
        if when == "filling":
            copy.execute("SELECT pgmeaning.swap_adjust('docs')")
        assert Sidecar(empty_dsn, Settings()).run(drain=True) == 0
        calls = ["swap_rollback"] if when == "activated" else []
        for call in (*calls, "swap_activate", "swap_rollback", "swap_activate", "swap_finish"):
            copy.execute(f"SELECT pgmeaning.{call}('docs')".encode())
        assert served(copy) == [("synthetic-4096", 20)]


def test_a_swap_goes_on_after_its_sidecar_was_killed(docs: None, db: Connection, dsn: str, drain: Drain) -> None:
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(21, 3000) AS i")
    db.execute("SELECT pgmeaning.swap_start('docs', model => 'synthetic-4096', rows_per_second => 1000)")
    command = [sys.executable, "-m", "pgmeaning", "sidecar", "--dsn", dsn]
    environment = os.environ | {"PGMEANING_LEASE": "2", "PGMEANING_ALLOW_SUPERUSER": "1"}
    killed = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    wait_until(lambda: one(db, 'SELECT count(*) FROM pgmeaning_data."docs@2__synthetic-4096"') > 100)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    db.execute("SELECT pgmeaning.swap_adjust('docs')")
    db.execute("DELETE FROM pgmeaning.sidecar")
    assert drain(lease=2.0) == 0
    db.execute("SELECT pgmeaning.swap_activate('docs')")
    assert served(db) == [("synthetic-4096", 3000)]


def test_the_index_is_built_and_measured_before_a_generation_serves(
    docs: None, db: Connection, dsn: str, drain: Drain
) -> None:
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(21, 300) AS i")
    db.execute("SELECT pgmeaning.swap_start('docs', model => 'synthetic-4096')")
    db.execute("SELECT pgmeaning.want_index('docs@2', 'signature')")
    assert drain() == 0
    with pytest.raises(psycopg.Error, match="index") as caught:
        db.execute("SELECT pgmeaning.swap_activate('docs')")
    assert "CREATE INDEX" in str(caught.value.diag.message_detail)
    settings = Settings(maintenance=0.1, index_rows=10, recall_goal=0.5)
    with running(Sidecar(dsn, settings, load_reranker=lambda _: Judge())):
        wait_until(lambda: one(db, "SELECT count(recall) FROM pgmeaning.index_report WHERE collection = 'docs@2'") == 1)
    db.execute("SELECT pgmeaning.swap_activate('docs')")
    assert one(db, "SELECT index FROM pgmeaning.index_report WHERE collection = 'docs'") == "signature"


def test_the_command_line_swaps_as_sql_does(docs: None, db: Connection, dsn: str, drain: Drain) -> None:
    explained = json.loads(output("--dsn", dsn, "swap", "explain", "docs", "--model", "synthetic-4096", "--json"))
    assert {row["item"] for row in explained} >= {"rows", "tokens", "disk", "hours", "cost", "locks"}
    assert output("--dsn", dsn, "swap", "start", "docs", "--model", "synthetic-4096") == "docs@2\n"
    assert "next: pgmeaning sidecar" in output("--dsn", dsn, "swap", "status", "docs")
    refused = run("--dsn", dsn, "swap", "activate", "docs")
    assert refused.returncode == 1
    assert "filled" in refused.stderr
    drain()
    output("--dsn", dsn, "swap", "activate", "docs")
    (status,) = json.loads(output("--dsn", dsn, "swap", "status", "--json"))
    assert (status["state"], status["new_model"]) == ("activated", "synthetic-4096")
    output("--dsn", dsn, "swap", "rollback", "docs")
    output("--dsn", dsn, "swap", "activate", "docs")
    output("--dsn", dsn, "swap", "finish", "docs")
    assert run("--dsn", dsn, "swap", "cancel", "docs").returncode == 1
