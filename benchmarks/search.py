"""How fast is a search, and what is its recall, compared with exact search and with hand-written pgvector queries?

    python -m benchmarks.search [--rows 10000 50000 200000] [--data clustered real spectrum docstrings]
                                [--vector-type vector halfvec] [--queries 100]

There are four kinds of vectors. `clustered`: clusters of fifty in 4096 dimensions. `real`: MiniLM's vectors of the
docstrings of the packages installed here, rotated into 4096 dimensions, which keeps every distance between them.
`spectrum`: 4096 dimensions whose variances fall off like a model's, in a rotated basis and off the origin, without
clusters, which is harder than texts are. `docstrings`: MiniLM's 384 dimensions as they are. Queries are of the same
kind, and not stored. Each table comes from one run. The filtered column has an index. There are some 90,000 docstrings.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import Vector
from pgvector.psycopg import register_vector

from benchmarks import bench
from pgmeaning import load_embedder
from pgmeaning.indexes import build as indexing
from pgmeaning.indexes import recall
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
    arguments.add_argument("--queries", type=int, default=100)
    options = arguments.parse_args()
    for data in options.data:
        grown: dict[str, dict[int, list[Result]]] = {vector_type: {} for vector_type in options.vector_type}
        for rows in options.rows:
            vectors, queries = make(data, rows, options.queries)
            for vector_type in options.vector_type:
                with bench.database(shared_buffers="4GB") as dsn, psycopg.connect(dsn, autocommit=True) as connection:
                    register_vector(connection)
                    grown[vector_type][rows] = compare(dsn, connection, data, vector_type, vectors, queries)
        for vector_type, results in grown.items():
            if len(results) > 1:
                show_growth(f"{data}, {vector_type}", results)


# Vectors


def make(data: str, rows: int, queries: int) -> tuple[Vectors, Vectors]:
    """Unit vectors to store, and others as queries."""
    makers = {"clustered": _clustered, "real": _real, "spectrum": _spectrum, "docstrings": _docstrings}
    made = makers[data](rows + queries)
    return made[:rows], made[rows:]


def _clustered(count: int) -> Vectors:
    random = np.random.default_rng(0)
    centres = random.standard_normal((count // 50 + 1, DIMENSIONS), dtype=np.float32)

    def some(size: int) -> Vectors:
        noise = random.standard_normal((size, DIMENSIONS), dtype=np.float32)
        return unit_length(centres[random.integers(len(centres), size=size)] + np.float32(0.7) * noise)

    return _in_blocks(count, some)


def _spectrum(count: int) -> Vectors:
    random = np.random.default_rng(0)
    spread = np.arange(1, DIMENSIONS + 1, dtype=np.float32) ** -0.5
    signs = random.choice(np.array([-1, 1], np.float32), DIMENSIONS)
    away = np.float32(0.02) * random.standard_normal(DIMENSIONS, dtype=np.float32)

    def some(size: int) -> Vectors:
        vectors = random.standard_normal((size, DIMENSIONS), dtype=np.float32) * (spread * signs)
        return unit_length(_turned(vectors) + away)

    return _in_blocks(count, some)


def _in_blocks(count: int, some: Callable[[int], Vectors]) -> Vectors:
    """That many vectors, a block at a time: 200,000 of them are 3 GB."""
    vectors = np.empty((count, DIMENSIONS), np.float32)
    for start in range(0, count, BLOCK):
        vectors[start : start + BLOCK] = some(min(BLOCK, count - start))
    return vectors


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


def fill(connection: bench.Connection, model: str, vectors: Vectors, vector_type: str = "vector") -> str:
    """Make a collection with these vectors, without a sidecar; returns its vector table."""
    connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text, thousandth int)")
    connection.execute(
        "INSERT INTO docs SELECT i, 'text ' || i, mod(i * 7919, 1000) FROM generate_series(0, %s) AS i",
        (len(vectors) - 1,),
    )
    connection.execute("CREATE INDEX ON docs (thousandth)")
    connection.execute(
        """SELECT pgmeaning.attach('docs', '{body}', model => %s, vector_type => %s)""", (model, vector_type)
    )
    connection.execute("UPDATE pgmeaning.target SET scanning = false")
    (table,) = connection.execute("SELECT pgmeaning._relation_name(vectors) FROM pgmeaning.target").fetchone() or ("",)
    _copy(connection, table, model, vectors, NUMBERS[vector_type])
    connection.execute("VACUUM ANALYZE")
    return str(table)


def _copy(connection: bench.Connection, table: str, model: str, vectors: Vectors, number: str) -> None:
    name, width = model.encode(), vectors.shape[1] * np.dtype(number).itemsize
    head = (3).to_bytes(2, "big")
    kind = len(name).to_bytes(4, "big") + name
    size = (width + 4).to_bytes(4, "big") + vectors.shape[1].to_bytes(2, "big") + b"\0\0"
    with connection.cursor().copy(f"COPY {table} (id, model, embedding) FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(COPY_HEADER)
        for key, vector in enumerate(vectors):
            number_bytes = vector.astype(number).tobytes()
            copy.write(head + (8).to_bytes(4, "big") + key.to_bytes(8, "big") + kind + size + number_bytes)
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
    dsn: str, connection: bench.Connection, data: str, vector_type: str, vectors: Vectors, queries: Vectors
) -> list[Result]:
    """Measure all ways to search on one table, one after the other."""
    table = fill(connection, MODELS[data], vectors, vector_type)
    remember(connection, MODELS[data], queries)
    answers = nearest(vectors, queries)
    exactly = f"SELECT id FROM {table} ORDER BY embedding <=> %s::{vector_type} LIMIT {K}"
    results = [
        measure("pgvector, exact", by_hand(connection, exactly, queries), answers[:EXACT_QUERIES]),
        measure("search, exact", searching(connection, mode="exact"), answers[:EXACT_QUERIES]),
        measure("search, scan of signatures", searching(connection, mode="signature"), answers),
    ]
    plan, report = build(dsn)
    (index_size, table_size, seconds) = connection.execute(
        "SELECT r.index_bytes, pg_total_relation_size(t.vectors) - r.index_bytes, r.build_seconds "
        "FROM pgmeaning.index_report AS r, pgmeaning.target AS t"
    ).fetchone() or (0, 0, 0.0)
    results[:2] = [result._replace(size=table_size / len(vectors)) for result in results[:2]]
    index = measure(f"search, index ({report.kind})", searching(connection), answers)
    results.append(index._replace(build=seconds, size=index_size / len(vectors)))
    two_phases = hand_written(table, vector_type, report.kind, vectors.shape[1], report.candidates or 100)
    connection.execute(f"SET hnsw.ef_search = {min(report.candidates or 100, 1000)}")
    results.append(measure("pgvector by hand, that index", by_hand(connection, two_phases, queries), answers))
    connection.execute("RESET hnsw.ef_search")
    for share, bound in FILTERS.items():
        among = nearest(vectors, queries, np.arange(len(vectors)) * 7919 % 1000 < bound)
        way = searching(connection, condition=f"thousandth < {bound}")
        results.append(measure(f"search, index, {share} match", way, among))
    title = f"{data}: {len(vectors):,} vectors of {vectors.shape[1]} dimensions"
    show(title if vector_type == "vector" else f"{title}, {vector_type}", results)
    print(
        f"index {report.kind}: {report.candidates} candidates, measured recall {report.recall:.4f}; foretold: "
        f"{plan.build_seconds or 0:.0f} s to build, {(plan.bytes or 0) / len(vectors):,.0f} bytes a row"
    )
    return results


def nearest(vectors: Vectors, queries: Vectors, mask: NDArray[np.bool_] | None = None) -> list[set[int]]:
    """The exact answers."""
    places = np.arange(len(vectors)) if mask is None else np.flatnonzero(mask)
    similar = queries @ vectors[places].T
    return [set(places[np.argsort(-row)[:K]].tolist()) for row in similar]


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


def build(dsn: str) -> tuple[indexing.Plan, recall.Report]:
    """Build and measure the index as a sidecar would; the plan holds the estimates."""
    settings = Settings(index_rows=1)
    with indexing.connected(dsn) as connection:
        (plan,) = indexing.plans(connection, settings, "docs")
        indexing.build(connection, plan, settings)
        return plan, indexing.measure(connection, plan, settings)


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
