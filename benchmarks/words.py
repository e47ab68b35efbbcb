"""What do words cost beside vectors? BM25 by posting lists, and ts_rank over a GIN index as before, in one run.

    python -m benchmarks.words [--rows 200000] [--words 40] [--repeats 15]

Rows have about 40 words, drawn from 50,000 by Zipf's law, and vectors of 384 dimensions in clusters of fifty, with an
index. Each query is asked several times in turn by each way; the table has medians, and the ratio to the vector search
for 10 rows. Words are searched for the best 100, as hybrid search takes them; those of some queries are in few rows,
of others in all.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import Vector
from pgvector.psycopg import register_vector

from benchmarks import bench
from benchmarks.search import build
from pgmeaning.models.vectors import Vectors, unit_length

MODEL = "synthetic-384"
VOCABULARY = 50_000
COPIED = 10_000
QUERIES = (
    "w40000", "w5000 w20000", "w500", "w50 w900", "w9", "w0", "w0 w1", "w3 w30 w300", "w0 w7 w77 w777 w7777",
    "w0 w1 w2 w3 w10 w30 w100 w300 w1000 w5000",
)  # fmt: skip
WAYS = {
    "vectors": "SELECT count(*) FROM pgmeaning.search('docs', %(query)s)",
    "hybrid": "SELECT count(*) FROM pgmeaning.search('docs', %(query)s, mode => 'hybrid')",
    "BM25": "SELECT cardinality(pgmeaning._by_words(c, t, %(query)s, %(vector)s, "
    "pgmeaning._search_options(c, 100, NULL, NULL, NULL, NULL, NULL, true, NULL))) "
    "FROM pgmeaning.collection AS c, pgmeaning.target AS t",
    "ts_rank": "SELECT count(*) FROM (SELECT v.id, v.embedding <=> %(vector)s FROM (SELECT v.ctid AS at, "
    "ts_rank(v.words, %(any)s::tsquery, 1) AS rank FROM {vectors} AS v JOIN docs AS s ON s.id = v.id "
    "WHERE v.words @@ %(any)s::tsquery ORDER BY rank DESC, v.id LIMIT 100) AS w "
    "JOIN {vectors} AS v ON v.ctid = w.at) AS r",
}


class Result(NamedTuple):
    """Of one query: how many rows have any of its words, and the milliseconds of each way."""

    query: str
    matches: int
    milliseconds: dict[str, float]


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=200_000)
    arguments.add_argument("--words", type=int, default=40)
    arguments.add_argument("--repeats", type=int, default=15)
    options = arguments.parse_args()
    with bench.database(shared_buffers="4GB") as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        register_vector(connection)
        vectors = fill(connection, options.rows, options.words)
        build(dsn)
        seconds = index_words(connection)
        connection.execute("VACUUM ANALYZE")
        size = connection.execute("SELECT rows, bytes FROM pgmeaning.word_report").fetchone() or (0, 0)
        print(f"posting lists: {size[0]:,} rows, {seconds:.0f} s, {size[1] / 2**20:,.0f} MB", flush=True)
        # What ts_rank went by; only it can use the index.
        connection.execute(f"CREATE INDEX ON {vectors} USING gin (words)")
        connection.execute(f"ANALYZE {vectors}")
        show(options.rows, [measure(connection, vectors, query, options.repeats) for query in QUERIES])


def fill(connection: bench.Connection, rows: int, length: int) -> str:
    """Make a collection of rows with vectors and words, without a sidecar; returns its vector table."""
    connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text)")
    connection.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(0, %s) AS i", (rows - 1,))
    connection.execute(
        "SELECT pgmeaning.attach('docs', '{body}', model => %s, dimensions => 384, language => 'simple')", (MODEL,)
    )
    connection.execute("UPDATE pgmeaning.target SET scanning = false")
    (table,) = connection.execute("SELECT pgmeaning._relation_name(vectors) FROM pgmeaning.target").fetchone() or ("",)
    with connection.cursor().copy(f"COPY {table} (id, model, embedding, words) FROM STDIN") as copy:
        for key, (vector, words) in enumerate(zip(_vectors(rows), _texts(rows, length), strict=True)):
            copy.write_row((key, MODEL, "[" + ",".join(map(str, vector.round(4))) + "]", words))
    for query in QUERIES:
        cached = (MODEL, query, Vector(next(_vectors(1))))
        connection.execute("INSERT INTO pgmeaning.query_cache VALUES (%s, true, pgmeaning._input_hash(%s), %s)", cached)
    return str(table)


def _vectors(count: int) -> Iterator[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    centres = random.standard_normal((count // 50 + 1, 384), dtype=np.float32)
    for start in range(0, count, COPIED):
        size = min(COPIED, count - start)
        noise = random.standard_normal((size, 384), dtype=np.float32)
        made: Vectors = unit_length(centres[random.integers(len(centres), size=size)] + np.float32(0.7) * noise)
        yield from made


def _texts(count: int, length: int) -> Iterator[str]:
    """The words of each row, as a tsvector is written: with their positions."""
    random = np.random.default_rng(1)
    shares = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    for _ in range(count):
        size = int(random.integers(length // 2, length * 3 // 2 + 1))
        places: dict[int, list[int]] = {}
        for position, word in enumerate(np.searchsorted(shares, random.random(size) * shares[-1]), 1):
            places.setdefault(int(word), []).append(position)
        yield " ".join(f"w{word}:{','.join(map(str, at))}" for word, at in places.items())


def index_words(connection: bench.Connection) -> float:
    """Make the posting lists as a sidecar does; returns the seconds that it took."""
    started = time.perf_counter()
    while connection.execute("SELECT pgmeaning._index_words(id, 1) FROM pgmeaning.collection").fetchone() != (0,):
        pass
    return time.perf_counter() - started


def measure(connection: bench.Connection, vectors: str, query: str, repeats: int) -> Result:
    """Each way in turn."""
    arguments = {"query": query, "any": query.replace(" ", " | "), "vector": Vector(next(_vectors(1)))}
    found = connection.execute(f"SELECT count(*) FROM {vectors} WHERE words @@ %(any)s::tsquery", arguments)
    (matches,) = found.fetchone() or (0,)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats + 1):
        for way, statement in WAYS.items():
            started = time.perf_counter()
            connection.execute(statement.format(vectors=vectors), arguments).fetchall()
            times[way].append((time.perf_counter() - started) * 1000)
    return Result(query, matches, {way: statistics.median(taken[1:]) for way, taken in times.items()})


def show(rows: int, results: list[Result]) -> None:
    """Print the table."""
    ways = Counter(way for result in results for way in result.milliseconds)
    bench.print_table(
        f"{rows:,} rows: milliseconds",
        ["query", "matches", *ways, "BM25 / vectors", "ts_rank / vectors"],
        [
            [r.query, f"{r.matches:,}", *(f"{r.milliseconds[way]:.1f}" for way in ways),
             f"{r.milliseconds['BM25'] / r.milliseconds['vectors']:.1f}",
             f"{r.milliseconds['ts_rank'] / r.milliseconds['vectors']:.1f}"]
            for r in results
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
