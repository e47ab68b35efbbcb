"""How fast are rows embedded, compared with just writing the same vectors? And how soon is a new row's vector visible?

    python -m benchmarks.ingest [--rows 20000] [--rounds 3]

The model costs almost nothing, so this measures pgmeaning. The raw limit is COPY BINARY of the same vectors over one
connection into a bare table with a primary key, with a commit every 128 rows. Each round measures both, in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import psycopg

from benchmarks import bench
from pgmeaning.models.vectors import Vectors

MODEL = "synthetic-4096"


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=20_000)
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    with bench.database() as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text)")
        connection.execute(
            "INSERT INTO docs SELECT i, 'title ' || i, repeat('body ' || i || ' ', 9) FROM generate_series(1, %s) i",
            (options.rows,),
        )
        throughput(dsn, connection, options.rows, options.rounds)
        latency(dsn, connection)


def throughput(dsn: str, connection: bench.Connection, count: int, rounds: int) -> None:
    """Rows per second and WAL per row: raw, raw with a signature column, attach and drain."""
    vectors = bench.unit_vectors(count, 4096)
    raw: list[tuple[float, float]] = []
    signed: list[tuple[float, float]] = []
    ours: list[tuple[float, float]] = []
    memory: list[tuple[int, float]] = []
    with bench.sidecar(dsn) as process:
        for _ in range(rounds):
            raw.append(_raw(connection, vectors, ""))
            signed.append(
                _raw(
                    connection, vectors, ", signature bit(4096) GENERATED ALWAYS AS (binary_quantize(embedding)) STORED"
                )
            )
            ours.append(_drain(connection, count))
            memory.append((count, bench.peak_memory(process.pid or 0)))
    raw_rate, signed_rate, our_rate = (count / statistics.median(s for s, _ in runs) for runs in (raw, signed, ours))
    raw_wal, signed_wal, our_wal = (statistics.median(w for _, w in runs) / count for runs in (raw, signed, ours))
    bench.print_table(
        f"{count:,} rows, 4096 dimensions, medians of {rounds} rounds",
        ["", "rows/s", "of raw", "WAL bytes/row", "of raw"],
        [
            ["raw limit: COPY BINARY", raw_rate, 1.0, round(raw_wal), 1.0],
            [
                "the same, with a signature column",
                signed_rate,
                signed_rate / raw_rate,
                round(signed_wal),
                signed_wal / raw_wal,
            ],
            ["attach and drain", our_rate, our_rate / raw_rate, round(our_wal), our_wal / raw_wal],
            [
                "  without the signature's share",
                "",
                "",
                round(our_wal - signed_wal + raw_wal),
                f"{(our_wal - signed_wal + raw_wal) / raw_wal:.4f}",
            ],
        ],
    )
    bench.print_table(
        "Sidecar, peak memory without a model",
        ["rows drained so far", "MB"],
        [[(i + 1) * n, mb] for i, (n, mb) in enumerate(memory)],
    )


def _raw(connection: bench.Connection, vectors: Vectors, more: str) -> tuple[float, float]:
    connection.execute("DROP TABLE IF EXISTS raw")
    connection.execute(f"CREATE TABLE raw (id bigint PRIMARY KEY, embedding vector(4096) NOT NULL{more})")
    connection.execute("CHECKPOINT")
    before = bench.wal(connection)
    seconds = bench.copy_raw(connection, "raw", vectors)
    return seconds, bench.wal(connection) - before


def _drain(connection: bench.Connection, count: int) -> tuple[float, float]:
    connection.execute("CHECKPOINT")
    before = bench.wal(connection)
    started = time.perf_counter()
    connection.execute("SELECT pgmeaning.attach('docs', ARRAY['title', 'body'], model => %s)", (MODEL,))
    connection.execute("CALL pgmeaning.wait_for('docs', timeout => '10 minutes')")
    result = time.perf_counter() - started, float(bench.wal(connection) - before)
    assert connection.execute("SELECT count(*) FROM docs_embedding").fetchone() == (count,)
    connection.execute("SELECT pgmeaning.detach('docs')")
    return result


def _visible(connection: bench.Connection, key: int) -> bool:
    return connection.execute("SELECT 1 FROM docs_embedding WHERE id = %s", (key,)).fetchone() is not None


def latency(dsn: str, connection: bench.Connection, tries: int = 200) -> None:
    """The time from the INSERT's commit until the vector is visible, with a sidecar that was asleep."""
    connection.execute("SELECT pgmeaning.attach('docs', ARRAY['title', 'body'], model => %s)", (MODEL,))
    times: list[float] = []
    with bench.sidecar(dsn):
        connection.execute("CALL pgmeaning.wait_for('docs', timeout => '10 minutes')")
        for i in range(tries):
            time.sleep(0.1)  # longer than a sidecar stays awake
            key = 1_000_000 + i
            connection.execute("INSERT INTO docs VALUES (%s, 'new', %s)", (key, str(key)))
            started = time.perf_counter()
            bench.wait_until(partial(_visible, connection, key))
            times.append((time.perf_counter() - started) * 1000)
    times.sort()
    bench.print_table(
        f"INSERT commit to vector visible, idle sidecar, {tries} inserts",
        ["", "ms"],
        [["p50", times[len(times) // 2]], ["p95", times[int(len(times) * 0.95)]], ["max", times[-1]]],
    )


if __name__ == "__main__":
    main()
