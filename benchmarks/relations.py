"""What does relating rows cost beside a hand-written loop of one search a row, and does it find as much?

    python -m benchmarks.relations [--rows 2000 10000] [--data docstrings real clustered]

A collection is matched with itself (k = 5), without an index and with the one that `pgmeaning index` would build, by
matches(); by similar() for each key, which is a loop that anybody could write, on a share of the rows; and by numpy, at
once and in memory, which is what is exact. Then duplicates and clusters. Each table comes from one run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import psycopg

import pgmeaning
from benchmarks import bench
from benchmarks.search import MODELS, make
from pgmeaning.models.vectors import Vectors
from pgmeaning.sidecar.copy_binary import copy_payload
from pgmeaning.types import Claim, Row

K = 5
LOOP = 300
T = TypeVar("T")
Pairs = dict[int, list[int]]


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, nargs="+", default=[2000, 10_000])
    arguments.add_argument("--data", nargs="+", choices=list(MODELS), default=["docstrings", "clustered"])
    options = arguments.parse_args()
    for data in options.data:
        for rows in options.rows:
            with bench.database(shared_buffers="2GB") as dsn:
                compare(dsn, data, np.concatenate([*make(data, rows, 1).blocks()]))


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """(seconds, what it returned)."""
    started = time.perf_counter()
    answer = call()
    return time.perf_counter() - started, answer


def compare(dsn: str, data: str, vectors: Vectors) -> None:
    """One table: the ways to match all rows."""
    print(f"\n{data}, {len(vectors):,} rows of {vectors.shape[1]} dimensions, each with its {K} nearest others\n")
    print(f"{'way':<34} {'rows/s':>8} {'recall':>7}")
    with psycopg.connect(dsn, autocommit=True) as connection, pgmeaning.connect(dsn) as client:
        fill(connection, dsn, MODELS[data], vectors)
        seconds, exact = timed(lambda: by_numpy(vectors))
        show("numpy, all in memory", len(vectors) / seconds, 1)
        ways = {"no index": "", "index": index_of(vectors.shape[1], MODELS[data])}
        for name, statement in ways.items():
            if statement:
                seconds, _ = timed(lambda made=statement: connection.execute(made.encode()))  # type: ignore[misc]
                print(f"(built in {seconds:.1f} s)")
            keys = np.random.default_rng(0).permutation(len(vectors))[:LOOP] + 1
            seconds, found = timed(lambda chosen=keys: by_loop(connection, chosen))  # type: ignore[misc]
            looped = LOOP / seconds
            show(f"{name}: a loop of similar()", looped, recall(found, exact))
            seconds, found = timed(lambda: by_sql(connection))
            show(f"{name}: matches()", len(vectors) / seconds, recall(found, exact), looped)
            seconds, found = timed(lambda: by_client(client))
            show(f"{name}: client.matches()", len(vectors) / seconds, recall(found, exact), looped)
        seconds, pairs = timed(lambda: client.duplicates("docs", 0.05))
        away = 1 - vectors @ vectors.T
        true = int(np.triu(away <= 0.05, 1).sum())
        print(f"duplicates(0.05): {seconds:.1f} s, {len(pairs):,} pairs of {true:,}")
        for name, call in (
            ("clusters(20)", lambda: connection.execute("SELECT FROM pgmeaning.clusters('docs', 20)").fetchall()),
            ("client.clusters(20)", lambda: client.clusters("docs", 20)),
        ):
            seconds, _ = timed(call)
            print(f"{name}: {seconds:.1f} s")


def show(way: str, speed: float, found: float, looped: float | None = None) -> None:
    """A line of the table."""
    ratio = "" if looped is None else f"   {speed / looped:.1f} x the loop"
    print(f"{way:<34} {speed:>8.0f} {found:>7.3f}{ratio}")


def fill(connection: psycopg.Connection[Any], dsn: str, model: str, vectors: Vectors) -> None:
    """A collection whose vectors are these, which owes nothing."""
    connection.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    connection.execute("SELECT pgmeaning.attach('docs', '{body}', model => %s)", (model,))
    connection.execute("INSERT INTO docs SELECT i, 'row ' || i FROM generate_series(1, %s) AS i", (len(vectors),))
    connection.execute("TRUNCATE pgmeaning.inbox, pgmeaning.bulk_inbox")
    with pgmeaning.connect(dsn) as client:
        target = client._statements.target("docs")
    rows = [Row(Claim(0, model, "", 0, 0), key_bytes=((i + 1).to_bytes(4, "big"),)) for i in range(len(vectors))]
    with connection.cursor().copy(
        f'COPY pgmeaning_data."docs__{model}" (id, chunk, chunk_text, model, embedding, content_hash) '
        "FROM STDIN (FORMAT BINARY)".encode()
    ) as copy:
        copy.write(copy_payload(target, rows, vectors))
    connection.execute("VACUUM ANALYZE")


def index_of(dimensions: int, model: str) -> str:
    """The index that would be planned."""
    column = "signature bit_hamming_ops" if dimensions > 2000 else "embedding vector_cosine_ops"
    return f'CREATE INDEX ON pgmeaning_data."docs__{model}" USING hnsw ({column})'


def by_numpy(vectors: Vectors) -> Pairs:
    """The exact answer, a block at a time."""
    found: Pairs = {}
    for start in range(0, len(vectors), 1000):
        cosines = vectors[start : start + 1000] @ vectors.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -2
        best = np.argpartition(-cosines, K, axis=1)[:, :K]
        found |= {start + place + 1: [int(i) + 1 for i in row] for place, row in enumerate(best)}
    return found


def by_loop(connection: psycopg.Connection[Any], keys: Sequence[int]) -> Pairs:
    """What anybody can write: a search for each row."""
    query = "SELECT key FROM pgmeaning.similar('docs', %s::text::jsonb, %s)"
    return {
        int(key): [hit["id"] for (hit,) in connection.execute(query, (str(key), K)).fetchall()] for key in keys
    }  # fmt: skip


def by_sql(connection: psycopg.Connection[Any]) -> Pairs:
    """One statement for all rows."""
    rows = connection.execute("SELECT key, other_key FROM pgmeaning.matches('docs', 'docs', %s)", (K,)).fetchall()
    return _paired([(key["id"], other["id"]) for key, other in rows])


def by_client(client: pgmeaning.Client) -> Pairs:
    """Page by page."""
    return _paired([(match.key["id"], match.other_key["id"]) for match in client.matches("docs", "docs", K)])


def _paired(pairs: Sequence[tuple[int, int]]) -> Pairs:
    found: Pairs = {}
    for key, other in pairs:
        found.setdefault(key, []).append(other)
    return found


def recall(found: Pairs, exact: Pairs) -> float:
    """The share of the true neighbours, of the rows that were looked at."""
    return sum(len(set(ids) & set(exact[key])) for key, ids in found.items()) / (K * len(found))


if __name__ == "__main__":
    main()
