"""What the benchmarks share: a server, a sidecar process, the raw limit, and tables of results."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from psycopg.conninfo import make_conninfo

from pgmeaning.database import migrate
from pgmeaning.models.base import Embedder, load_embedder
from pgmeaning.models.vectors import Vectors, unit_length
from pgmeaning.sidecar.copy_binary import COPY_HEADER, COPY_TRAILER
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Document

Connection = psycopg.Connection[Any]
BATCH = 128


@contextmanager
def database(**settings: str) -> Iterator[str]:
    """The DSN of a migrated database: on the server of PGMEANING_BENCH_DSN, or else on an embedded one."""
    given = os.environ.get("PGMEANING_BENCH_DSN")
    with _server(settings) if given is None else _given(given) as server:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS pgmeaning_bench WITH (FORCE)")
            connection.execute("CREATE DATABASE pgmeaning_bench")
        dsn = make_conninfo(server, dbname="pgmeaning_bench")
        migrate.upgrade(dsn)
        yield dsn


@contextmanager
def _given(dsn: str) -> Iterator[str]:
    yield dsn


@contextmanager
def _server(settings: dict[str, str]) -> Iterator[str]:
    from pgmeaning.embedded_server.server import EmbeddedServer

    folder = Path(tempfile.mkdtemp(prefix="pgmeaning-bench-"))
    folder.chmod(0o755)
    try:
        with EmbeddedServer(
            folder / "data", settings={"max_wal_size": "16GB", "checkpoint_timeout": "1h", **settings}
        ) as server:
            yield server.dsn
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def sidecar(dsn: str, *, slow: bool = False) -> Iterator[multiprocessing.Process]:
    """A sidecar in its own process, ready when the body begins; `slow`: its model takes 50 ms per batch."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=_run_sidecar, args=(dsn, stop, slow), daemon=True)
    process.start()
    with psycopg.connect(dsn, autocommit=True) as connection:
        wait_until(lambda: connection.execute("SELECT 1 FROM pgmeaning.sidecars WHERE alive").fetchone() is not None)
    try:
        yield process  # type: ignore[misc]
    finally:
        stop.set()
        process.join(30)


class Slow:
    """An embedder that takes time but not the processor, like one on a GPU or behind HTTP."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.dimensions = embedder.dimensions
        self.embed_queries = embedder.embed_queries
        self.count_tokens = embedder.count_tokens

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        """The wrapped embedder's vectors, 50 ms later."""
        time.sleep(0.05)
        return self._embedder.embed_documents(documents)


def _run_sidecar(dsn: str, stop: Event, slow: bool) -> None:
    import logging
    import threading

    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    running = Sidecar(dsn, load=(lambda model: Slow(load_embedder(model))) if slow else load_embedder)
    threading.Thread(target=_stop_when, args=(stop, running), daemon=True).start()
    running.run()


def _stop_when(stop: Event, running: Sidecar) -> None:
    stop.wait()
    running.stop()


def peak_memory(pid: int) -> float:
    """The peak memory of a process, in MB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not come true")
        time.sleep(0.0005)


def wal(connection: Connection) -> int:
    """Bytes of WAL written so far."""
    row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    return int(row[0]) if row else 0


def copy_raw(connection: Connection, table: str, vectors: Vectors) -> float:
    """Seconds for the raw limit: COPY BINARY of (id, vector) over one connection, with a commit per batch."""
    dimensions = vectors.shape[1]
    started = time.perf_counter()
    for start in range(0, len(vectors), BATCH):
        part = vectors[start : start + BATCH]
        raw = memoryview(part.astype(">f4").tobytes())
        width = dimensions * 4
        stream: list[bytes | memoryview] = [COPY_HEADER]
        for place in range(len(part)):
            head = struct.pack("!hiqihh", 2, 8, start + place, width + 4, dimensions, 0)
            stream += (head, raw[place * width : (place + 1) * width])
        stream.append(COPY_TRAILER)
        with connection.cursor().copy(f"COPY {table} (id, embedding) FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(b"".join(stream))
    return time.perf_counter() - started


def unit_vectors(count: int, dimensions: int) -> Vectors:
    """Random unit vectors, float32 [count, dimensions]."""
    vectors = np.random.default_rng(0).standard_normal((count, dimensions), dtype=np.float32)
    return unit_length(vectors)


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a plain table: columns aligned, numbers to the right."""
    cells = [[f"{value:,.3g}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(heads), *cells]) for i in range(len(heads))]
    print(f"\n{title}")
    for row in [list(heads), ["-" * width for width in widths], *cells]:
        print(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )
