"""How fast is a search, and what is its recall, compared with exact search and with hand-written pgvector queries?

    python -m benchmarks.search [--rows 10000 50000 200000] [--data clustered real spectrum docstrings]
                                [--vector-type vector halfvec] [--dimensions 4096] [--queries 100]

There are four kinds of vectors. `clustered`: clusters of fifty in 4096 dimensions, or in those of `--dimensions`.
`real`: MiniLM's vectors of the docstrings of the packages installed here, rotated into 4096 dimensions, which keeps
every distance between them. `spectrum`: 4096 dimensions whose variances fall off like a model's, in a rotated basis and
off the origin, without clusters, which is harder than texts are. `docstrings`: MiniLM's 384 dimensions as they are.
Queries are of the same kind, and not stored. Each table comes from one run. The filtered column has an index. There are
some 90,000 docstrings; of the other kinds a million are made as they are needed, never all at once (`--rows 1000000`).

The last lines tell what was foretold of the index and what came: seconds, bytes, memory.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psycopg
from pgvector import Vector
from pgvector.psycopg import register_vector

from benchmarks import bench
from pgmeaning import load_embedder
from pgmeaning.indexes import build as indexing
from pgmeaning.indexes import recall, trial
from pgmeaning.indexes.resources import Resources, cores, resources
from pgmeaning.models.vectors import Vectors, unit_length
from pgmeaning.settings import Settings
from pgmeaning.sidecar.copy_binary import COPY_HEADER, COPY_TRAILER, NUMBERS
from pgmeaning.types import Document

K = 10
DIMENSIONS = 4096
MODELS = {
    "clustered": "synthetic-4096",
    "real": "synthetic-4096",
    "spectrum": "synthetic-4096",
    "docstrings": "all-MiniLM-L6-v2",
}
BLOCK = 10_000
# Exact searches take long, and their times differ little.
EXACT_QUERIES = 10
FILTERS = {"0.1 %": 1, "1 %": 10, "50 %": 500}


class Result(NamedTuple):
    """One way to search; its build time, and the bytes per row that it reads or adds, if known."""

    way: str
    recall: float
    p50: float
    p95: float
    build: float | None = None
    size: float | None = None


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, nargs="+", default=[10_000, 50_000])
    arguments.add_argument("--data", nargs="+", choices=list(MODELS), default=["clustered", "real", "docstrings"])
    arguments.add_argument("--vector-type", nargs="+", choices=["vector", "halfvec"], default=["vector"])
    arguments.add_argument("--dimensions", type=int, choices=[384, 4096], default=4096, help="of clustered vectors")
    arguments.add_argument("--queries", type=int, default=100)
    arguments.add_argument("--index-only", action="store_true", help="without the scans, which take long")
    options = arguments.parse_args()
    for data in options.data:
        grown: dict[str, dict[int, list[Result]]] = {vector_type: {} for vector_type in options.vector_type}
        for rows in options.rows:
            made = make(data, rows, options.queries, options.dimensions)
            for vector_type in options.vector_type:
                with bench.database(shared_buffers="4GB") as dsn, psycopg.connect(dsn, autocommit=True) as connection:
                    register_vector(connection)
                    grown[vector_type][rows] = compare(
                        dsn, connection, data, vector_type, made, scans=not options.index_only
                    )
        for vector_type, results in grown.items():
            if len(results) > 1:
                show_growth(f"{data}, {vector_type}", results)


# Vectors


class Made(NamedTuple):
    """Unit vectors to store, a block at a time since a million of 4096 dimensions are 16 GB, and others as queries."""

    rows: int
    blocks: Callable[[], Iterator[Vectors]]
    queries: Vectors

    @property
    def dimensions(self) -> int:
        """Of each vector."""
        return int(self.queries.shape[1])


def make(data: str, rows: int, queries: int, dimensions: int = DIMENSIONS) -> Made:
    """Vectors of this kind."""
    if data in ("clustered", "spectrum"):
        some = _clustered(rows, dimensions) if data == "clustered" else _spectrum()
        return Made(rows, lambda: _blocks(rows, some), some(np.random.default_rng([0, 1]), queries))
    whole = (_real if data == "real" else _docstrings)(rows + queries)
    return Made(rows, lambda: (whole[i : min(i + BLOCK, rows)] for i in range(0, rows, BLOCK)), whole[rows:])


Some = Callable[[np.random.Generator, int], Vectors]


def _blocks(rows: int, some: Some) -> Iterator[Vectors]:
    """The same ones each time."""
    for start in range(0, rows, BLOCK):
        yield some(np.random.default_rng([1, start]), min(BLOCK, rows - start))


def _clustered(rows: int, dimensions: int) -> Some:
    centres = np.random.default_rng(0).standard_normal((rows // 50 + 1, dimensions), dtype=np.float32)

    def some(random: np.random.Generator, size: int) -> Vectors:
        noise = random.standard_normal((size, dimensions), dtype=np.float32)
        return unit_length(centres[random.integers(len(centres), size=size)] + np.float32(0.7) * noise)

    return some


def _spectrum() -> Some:
    once = np.random.default_rng(0)
    spread = np.arange(1, DIMENSIONS + 1, dtype=np.float32) ** -0.5
    signs = once.choice(np.array([-1, 1], np.float32), DIMENSIONS)
    away = np.float32(0.02) * once.standard_normal(DIMENSIONS, dtype=np.float32)

    def some(random: np.random.Generator, size: int) -> Vectors:
        vectors = random.standard_normal((size, DIMENSIONS), dtype=np.float32) * (spread * signs)
        return unit_length(_turned(vectors) + away)

    return some


def _turned(vectors: Vectors) -> Vectors:
    """Another basis (Hadamard's), so that no component stands out."""
    width = 1
    while width < vectors.shape[1]:
        pairs = vectors.reshape(len(vectors), -1, 2, width)
        first, second = pairs[:, :, 0].copy(), pairs[:, :, 1].copy()
        pairs[:, :, 0], pairs[:, :, 1] = first + second, first - second
        width *= 2
    vectors *= np.float32(DIMENSIONS**-0.5)
    return vectors


def _real(count: int) -> Vectors:
    small = _docstrings(count)
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((DIMENSIONS, small.shape[1])))
    turned: Vectors = unit_length(small @ basis.T.astype(np.float32))
    return turned


def _docstrings(count: int) -> Vectors:
    kept = Path(tempfile.gettempdir()) / f"pgmeaning-docstrings-{count}.npy"
    if not kept.exists():
        texts = _texts(count)
        embedder = load_embedder(MODELS["docstrings"])
        np.save(kept, embedder.embed_documents([Document(text=text) for text in texts]))
    vectors: Vectors = np.load(kept)
    return vectors[np.random.default_rng(1).permutation(count)]


def _texts(count: int) -> list[str]:
    """Distinct docstrings of the packages on the path, cut to the length of a snippet."""
    found: dict[str, None] = {}
    for text in _all_docstrings():
        found.setdefault(text[:300])
        if len(found) == count:
            return list(found)
    raise SystemExit(f"only {len(found):,} docstrings are installed here: ask for fewer rows")


def _all_docstrings() -> Iterator[str]:
    kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    for folder in sys.path:
        for path in sorted(Path(folder).rglob("*.py")) if folder else ():
            try:
                tree = ast.parse(path.read_text(errors="replace"))
            except (SyntaxError, ValueError, RecursionError, OSError):
                continue
            for node in ast.walk(tree):
                text = ast.get_docstring(node) if isinstance(node, kinds) else None
                if text and len(text) > 40:
                    yield f"{node.name}: {text}"  # type: ignore[attr-defined]


# The database


def fill(connection: bench.Connection, model: str, made: Made, vector_type: str = "vector") -> str:
    """Make a collection with these vectors, without a sidecar; returns its vector table."""
    connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text, thousandth int)")
    connection.execute(
        "INSERT INTO docs SELECT i, 'text ' || i, mod(i * 7919, 1000) FROM generate_series(0, %s::bigint) AS i",
        (made.rows - 1,),
    )
    connection.execute("CREATE INDEX ON docs (thousandth)")
    connection.execute(
        """SELECT pgmeaning.attach('docs', '{body}', model => %s, vector_type => %s)""", (model, vector_type)
    )
    connection.execute("UPDATE pgmeaning.target SET scanning = false")
    (table,) = connection.execute("SELECT pgmeaning._relation_name(vectors) FROM pgmeaning.target").fetchone() or ("",)
    _copy(connection, table, model, made, NUMBERS[vector_type])
    connection.execute("VACUUM ANALYZE")
    return str(table)


def _copy(connection: bench.Connection, table: str, model: str, made: Made, number: str) -> None:
    name, width = model.encode(), made.dimensions * np.dtype(number).itemsize
    head = (3).to_bytes(2, "big")
    kind = len(name).to_bytes(4, "big") + name
    size = (width + 4).to_bytes(4, "big") + made.dimensions.to_bytes(2, "big") + b"\0\0"
    with connection.cursor().copy(f"COPY {table} (id, model, embedding) FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(COPY_HEADER)
        for key, vector in enumerate(vector for block in made.blocks() for vector in block.astype(number)):
            copy.write(head + (8).to_bytes(4, "big") + key.to_bytes(8, "big") + kind + size + vector.tobytes())
        copy.write(COPY_TRAILER)


def remember(connection: bench.Connection, model: str, queries: Vectors) -> None:
    """Put the queries' vectors into the cache, so that only the search is measured."""
    for number, query in enumerate(queries):
        connection.execute(
            "INSERT INTO pgmeaning.query_cache VALUES (%s, true, pgmeaning._input_hash(%s), %s)",
            (model, f"query {number}", Vector(query)),
        )


# The comparison


def compare(
    dsn: str, connection: bench.Connection, data: str, vector_type: str, made: Made, *, scans: bool
) -> list[Result]:
    """Measure all ways to search on one table, one after the other."""
    model = MODELS[data] if made.dimensions == DIMENSIONS or data != "clustered" else f"synthetic-{made.dimensions}"
    table = fill(connection, model, made, vector_type)
    remember(connection, model, made.queries)
    answers, *among = nearest(made, [1000, *FILTERS.values()])
    exactly = f"SELECT id FROM {table} ORDER BY embedding <=> %s::{vector_type} LIMIT {K}"
    results = [measure("pgvector, exact", by_hand(connection, exactly, made.queries), answers[:EXACT_QUERIES])]
    if scans:
        results += [
            measure("search, exact", searching(connection, mode="exact"), answers[:EXACT_QUERIES]),
            measure("search, scan of signatures", searching(connection, mode="signature"), answers),
        ]
    built = build(dsn)
    (index_size, table_size) = connection.execute(
        "SELECT r.index_bytes, pg_total_relation_size(t.vectors) - r.index_bytes "
        "FROM pgmeaning.index_report AS r, pgmeaning.target AS t"
    ).fetchone() or (0, 0)
    results[0] = results[0]._replace(size=table_size / made.rows)
    kind, candidates = built.report.kind, built.report.candidates or 100
    index = measure(f"search, index ({kind})", searching(connection), answers)
    results.append(index._replace(build=built.seconds, size=index_size / made.rows))
    two_phases = hand_written(table, vector_type, kind, made.dimensions, candidates)
    connection.execute(f"SET hnsw.ef_search = {min(candidates, 1000)}")
    results.append(measure("pgvector by hand, that index", by_hand(connection, two_phases, made.queries), answers))
    connection.execute("RESET hnsw.ef_search")
    for (share, bound), expected in zip(FILTERS.items(), among, strict=True):
        way = searching(connection, condition=f"thousandth < {bound}")
        results.append(measure(f"search, index, {share} match", way, expected))
    title = f"{data}: {made.rows:,} vectors of {made.dimensions} dimensions"
    show(title if vector_type == "vector" else f"{title}, {vector_type}", results)
    tell(built, index_size)
    return results


def nearest(made: Made, bounds: Sequence[int]) -> list[list[set[int]]]:
    """The exact answers, for each bound among the rows whose `thousandth` is below it."""
    best = [[(np.empty(0, np.float32), np.empty(0, np.int64))] * len(made.queries) for _ in bounds]
    start = 0
    for block in made.blocks():
        places = np.arange(start, start + len(block))
        start += len(block)
        similar = made.queries @ block.T
        for bound, found in zip(bounds, best, strict=True):
            chosen = places * 7919 % 1000 < bound
            for query, (so_far, where) in enumerate(found):
                values = np.concatenate([so_far, similar[query, chosen]])
                rows = np.concatenate([where, places[chosen]])
                first = np.argsort(-values, kind="stable")[:K]
                found[query] = values[first], rows[first]
    return [[set(where.tolist()) for _, where in found] for found in best]


def by_hand(connection: bench.Connection, statement: str, queries: Vectors) -> Callable[[int], list[int]]:
    """A hand-written search, by the number of the query."""
    return lambda i: ids(connection, statement, Vector(queries[i]))


def searching(
    connection: bench.Connection, mode: str | None = None, condition: str | None = None
) -> Callable[[int], list[int]]:
    """pgmeaning.search, by the number of the query."""
    statement = (
        "SELECT (key->>'id')::bigint FROM pgmeaning.search('docs'::text, %s::text, %s, mode => %s, filter => %s)"
    )
    return lambda i: ids(connection, statement, f"query {i}", K, mode, condition)


def ids(connection: bench.Connection, statement: str, *arguments: object) -> list[int]:
    """The first column."""
    return [row[0] for row in connection.execute(statement, arguments, prepare=True).fetchall()]


def hand_written(table: str, vector_type: str, kind: str, size: int, candidates: int) -> str:
    """The statement that a user of pgvector would write for the same index."""
    if kind == "direct":
        return f"SELECT id FROM {table} ORDER BY embedding <=> %s::{vector_type} LIMIT {K}"
    return (
        f"WITH q AS MATERIALIZED (SELECT %s::vector AS v) SELECT n.id FROM (SELECT id, embedding FROM {table} "
        f"ORDER BY signature <~> binary_quantize((SELECT v FROM q))::bit({size}) LIMIT {candidates}) AS n "
        f"ORDER BY n.embedding <=> (SELECT v FROM q)::{vector_type} LIMIT {K}"
    )


def measure(way: str, search: Callable[[int], list[int]], answers: Sequence[set[int]]) -> Result:
    """Recall and milliseconds, with a warm cache."""
    for i in range(min(3, len(answers))):
        search(i)
    shares, milliseconds = [], []
    for i, expected in enumerate(answers):
        started = time.perf_counter()
        found = search(i)
        milliseconds.append((time.perf_counter() - started) * 1000)
        shares.append(len(expected & {*found}) / len(expected))
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return Result(way, float(np.mean(shares)), float(p50), float(p95))


class Built(NamedTuple):
    """An index as it was foretold, and how long it took."""

    plan: indexing.Plan
    tried: float  # seconds foretold by a trial
    means: Resources
    seconds: float
    report: recall.Report
    load: float  # processes that wanted a core meanwhile, on average over the last five minutes


def build(dsn: str) -> Built:
    """Build and measure the index as a sidecar would; the plan holds the estimates."""
    settings = Settings(index_rows=1)
    with indexing.connected(dsn) as connection:
        (plan,) = indexing.plans(connection, settings, "docs")
        tried = trial.foretold(connection, plan) or 0
        started = time.perf_counter()
        indexing.build(connection, plan, settings)
        seconds, load = time.perf_counter() - started, os.getloadavg()[1]
        means = resources(connection, settings)
        return Built(plan, tried, means, seconds, indexing.measure(connection, plan, settings), load)


def tell(built: Built, index_size: int) -> None:
    """Print what was foretold, and what came."""
    plan, report = built.plan, built.report
    print(f"index {report.kind}: {report.candidates} candidates, measured recall {report.recall:.4f}")
    print(f"{built.means.workers} workers besides the builder, {built.load:.1f} processes wanted a core of {cores()}")
    lines = [
        ("seconds to build", plan.build_seconds or 0, built.seconds),
        ("seconds to build, after a trial", built.tried, built.seconds),
        ("bytes of the index", plan.bytes or 0, index_size),
    ]
    for name, foretold, came in lines:
        print(f"{name}: foretold {foretold:,.0f}, came {came:,.0f}, ratio {came / max(foretold, 1e-9):.2f}")
    print(f"memory of the graph: {(plan.memory or 0) / 2**20:,.0f} MB foretold, {built.means.memory:,} MB allowed")


def show(title: str, results: Sequence[Result]) -> None:
    """Print the table of one size."""
    exact = results[0].p50
    bench.print_table(
        title,
        ("way", "recall@10", "p50 ms", "p95 ms", "exact / it", "build s", "bytes a row"),
        [
            (
                r.way, f"{r.recall:.4f}", f"{r.p50:.2f}", f"{r.p95:.2f}", f"{exact / r.p50:.1f}",
                "" if r.build is None else f"{r.build:.0f}", "" if r.size is None else f"{r.size:,.0f}",
            )
            for r in results
        ],
    )  # fmt: skip


def show_growth(title: str, grown: dict[int, list[Result]]) -> None:
    """Print the cost of more rows: milliseconds of each way by the number of rows, and the ratio of last to first."""
    ways = [result.way for result in next(iter(grown.values()))]
    sizes = list(zip(*grown.values(), strict=True))
    times = [[result.p50 for result in way] for way in sizes]
    builds = [[result.build or 0 for result in way] for way in sizes]
    lines = [
        (way, *(f"{ms:.2f}" for ms in row), f"{row[-1] / row[0]:.1f}") for way, row in zip(ways, times, strict=True)
    ]
    lines += [("seconds to build the index", *(f"{s:.0f}" for s in b), f"{b[-1] / b[0]:.1f}") for b in builds if b[0]]
    bench.print_table(
        f"{title}: p50 ms as it grows", ("way", *(f"{rows:,} rows" for rows in grown), "last / first"), lines
    )


if __name__ == "__main__":
    main()
