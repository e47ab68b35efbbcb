"""What do many collections cost while nothing happens?

    python -m benchmarks.collections [--collections 2000] [--seconds 20]

With one collection and with many: the processor time of an idle sidecar and of its server processes, its transactions,
how long status takes, and how long a row waits for its vector.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from functools import partial
from multiprocessing import Process
from pathlib import Path

import psycopg

from benchmarks import bench

INSERTS = 40
Connection = bench.Connection


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--collections", type=int, default=2000)
    arguments.add_argument("--seconds", type=float, default=20)
    options = arguments.parse_args()
    rows = [measured(count, options.seconds) for count in (1, options.collections)]
    columns = ["collections", "scanned, s", "sidecar, cores", "server, cores", "transactions/s", "status, s"]
    bench.print_table("An idle sidecar", [*columns, "insert to vector p50, ms", "p95, ms"], rows)


def measured(count: int, seconds: float) -> list[float]:
    """One row of the table."""
    with bench.database(max_locks_per_transaction="512") as dsn, psycopg.connect(dsn, autocommit=True) as db:
        for number in range(count):
            db.execute(f"CREATE TABLE t{number} (id int PRIMARY KEY, body text)".encode())
            db.execute(f"SELECT pgmeaning.attach('t{number}', ARRAY['body'], model => 'synthetic-384')".encode())
        started = time.monotonic()
        with bench.sidecar(dsn) as process:
            bench.wait_until(
                lambda: db.execute("SELECT FROM pgmeaning.target WHERE scanning").fetchone() is None, seconds=1200
            )
            scanned = time.monotonic() - started
            time.sleep(5)  # what the scans left to do
            return [count, scanned, *idle(db, process, seconds), status(db), *latency(db)]


def idle(db: Connection, process: Process, seconds: float) -> tuple[float, float, float]:
    """(the sidecar's cores, its server processes' cores, transactions a second)."""
    before, started = (cores(process), server(db), transactions(db)), time.monotonic()
    time.sleep(seconds)
    after, passed = (cores(process), server(db), transactions(db)), time.monotonic() - started
    own, others, done = ((new - old) / passed for new, old in zip(after, before, strict=True))
    return own, others, done


def _seconds(pid: int) -> float:
    """The processor time of a process so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cores(process: Process) -> float:
    """The sidecar's processor time."""
    return _seconds(process.pid or 0)


def server(db: Connection) -> float:
    """The processor time of the server processes that serve the sidecar."""
    found = db.execute("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgmeaning %'").fetchall()
    return sum(_seconds(pid) for (pid,) in found)


def transactions(db: Connection) -> float:
    """So far, in this database."""
    row = db.execute(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone()
    return float(row[0]) if row else 0.0


def status(db: Connection) -> float:
    """Seconds."""
    started = time.perf_counter()
    db.execute("SELECT * FROM pgmeaning.status").fetchall()
    return time.perf_counter() - started


def _has_vector(db: Connection, key: int) -> bool:
    return db.execute("SELECT FROM t0_embedding WHERE id = %s", (key,)).fetchone() is not None


def latency(db: Connection) -> tuple[float, float]:
    """(median, 95th percentile) of the milliseconds from an insert to its vector."""
    times = []
    for number in range(INSERTS):
        started = time.perf_counter()
        db.execute("INSERT INTO t0 VALUES (%s, 'a text')", (number,))
        bench.wait_until(partial(_has_vector, db, number))
        times.append((time.perf_counter() - started) * 1000)
        time.sleep(0.2)
    return statistics.median(times), statistics.quantiles(times, n=20)[-1]


if __name__ == "__main__":
    main()
