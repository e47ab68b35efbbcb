"""What a sidecar tells Prometheus, and whoever asks whether it is alive and ready.

Counters and histograms are this process's; gauges of collections are the database's, the same from each sidecar.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from socketserver import TCPServer
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from psycopg.rows import dict_row

from pgmeaning import tracing
from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection
from pgmeaning.errors import SettingsError
from pgmeaning.sidecar.health import Probes
from pgmeaning.sidecar.recorder import Recorder
from pgmeaning.types import Target

# The database is asked this often, and may be kept busy by that for this share of the time.
LOOK_SECONDS = 5.0
LOOK_SHARE = 0.02

KINDS = {
    "read": "the row cannot be read",
    "cut": "its text cannot be cut into chunks",
    "fetch": "an image or video that it names cannot be had",
    "embed": "the model refuses it",
    "write": "the database refuses its vector",
    "endpoint": "an endpoint is down; no row is to blame",
    "drift": "a model gives other vectors than its probes had; it is not used",
    "query": "a query cannot be answered",
    "rerank": "documents cannot be judged",
    "connection": "a connection to the database was lost",
    "hung": "a call did not return; the process ends",
}

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LONG = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
SHARES = tuple(step / 10 for step in range(1, 11))

# Gauges by collection and model: name, column of metrics/collections.sql, help.
OF_COLLECTIONS = (
    ("owed_rows", "owed", "Rows that owe a vector; of a table that is being scanned, also those not seen yet."),
    ("oldest_owed_seconds", "oldest", "Age of the change that has waited longest for its vector."),
    ("failed_rows", "failed", "Rows that are tried no more, until retry()."),
    ("vectors", "vectors", "Vectors stored; of large tables an estimate."),
    ("scanned_ratio", "scanned", "How much of the table the scan under way has seen; 1: there is none."),
    ("broken", "broken", "1: the collection is broken or orphaned; pgmeaning status says why."),
    ("paused", "paused", "1: the collection is paused."),
    ("spent_tokens", "tokens", "Tokens that the model has read for it, whichever sidecar ran it."),
    ("token_cap", "token_cap", "How many it may spend, where swap_start(max_tokens => ...) says so."),
    ("index_recall_ratio", "recall", "Recall of its index, as last measured."),
)
OF_THE_DATABASE = (
    ("sidecars_alive", "sidecars", "Sidecars that have given a sign of life within 15 seconds."),
    ("waiting_queries", "waiting", "Queries that no sidecar has taken yet."),
    ("cached_queries", "cached", "Vectors in the query cache."),
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the database said, and when."""

    collections: list[dict[str, Any]]
    database: dict[str, Any]
    at: float


class Metrics(Recorder):
    """Counts what the steps report, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._snapshot: Snapshot | None = None
        self._probe: Callable[[], Probes] = lambda: Probes([], ["it is starting"])
        row = ("collection", "model")
        self._claimed = self._counter("claimed_rows", "Rows claimed.", row)
        self._written = self._counter("rows", "Rows finished: embedded, removed, or without content.", row)
        self._reused = self._counter("reused_rows", "Rows that took vectors over that were there.", row)
        self._documents = self._counter("documents", "Texts, chunks and images that a model has read.", row)
        self._tokens = self._counter("tokens", "Tokens that a model has read, padding included.", row)
        self._failures = self._counter("failures", f"Attempts that failed. {_kinds()}", ("kind", "collection"))
        self._lost = self._counter("lost_leases", "Claims that lapsed before they were finished.")
        self._outrun = self._counter("outrun_rows", "Rows that changed while they were embedded, and are owed anew.")
        self._builds = self._counter("index_builds", "Index builds, by outcome.", ("collection", "outcome"))
        self._fill = self._histogram("batch_fill_ratio", "How full batches are.", SHARES, ("model",))
        self._padding = self._histogram("batch_padding_ratio", "Padding's share of tokens.", SHARES, ("model",))
        self._waits = self._histogram("wait_seconds", "What steps waited for work, room or a model.", SHORT, ("step",))
        self._model = self._histogram("model_seconds", "A batch in the model.", SHORT, ("model",))
        self._read = self._histogram("read_seconds", "Reading the rows of a claim.", SHORT)
        self._fetch = self._histogram("fetch_seconds", "Fetching the images and videos of a claim.", SHORT)
        self._write = self._histogram("write_seconds", "A transaction that writes vectors.", SHORT)
        self._queries = self._histogram(
            "query_seconds",
            "From a question to its answer.",
            SHORT,
            ("kind", "model"),
        )
        self._building = self._histogram("index_build_seconds", "Index builds that ended well.", LONG)
        for step in ("claim", "fetch", "embed", "model", "write", "query"):
            self._waits.labels(step)
        for collector in (ProcessCollector, PlatformCollector):
            collector(registry=self.registry)
        self.registry.register(_Gauges(self))

    def _counter(self, name: str, help: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(f"pgmeaning_{name}", help, labels, registry=self.registry)

    def _histogram(self, name: str, help: str, buckets: Iterable[float], labels: Iterable[str] = ()) -> Histogram:
        return Histogram(f"pgmeaning_{name}", help, labels, buckets=tuple(buckets), registry=self.registry)

    # What the steps report

    def waited(self, step: str, seconds: float) -> None:
        """See Recorder."""
        self._waits.labels(step).observe(seconds)

    def claimed(self, target: Target, rows: int) -> tracing.Origin:
        """See Recorder."""
        self._claimed.labels(target.collection, target.model).inc(rows)
        return super().claimed(target, rows)

    def read(self, target: Target, rows: int, seconds: float, origin: tracing.Origin = None) -> None:
        """See Recorder."""
        self._read.observe(seconds)
        super().read(target, rows, seconds, origin)

    def fetched(self, target: Target, rows: int, seconds: float, origin: tracing.Origin = None) -> None:
        """See Recorder."""
        self._fetch.observe(seconds)
        super().fetched(target, rows, seconds, origin)

    def embedded(
        self, target: Target, documents: int, tokens: int, seconds: float, *, padding: float, fill: float,
        origin: tracing.Origin = None,
    ) -> None:  # fmt: skip
        """See Recorder."""
        self._documents.labels(target.collection, target.model).inc(documents)
        self._tokens.labels(target.collection, target.model).inc(tokens)
        self._fill.labels(target.model).observe(fill)
        self._padding.labels(target.model).observe(padding)
        self._model.labels(target.model).observe(seconds)
        super().embedded(target, documents, tokens, seconds, padding=padding, fill=fill, origin=origin)

    def reused(self, target: Target, rows: int) -> None:
        """See Recorder."""
        self._reused.labels(target.collection, target.model).inc(rows)

    def written(self, target: Target, rows: int, seconds: float, origin: tracing.Origin = None) -> None:
        """See Recorder."""
        self._written.labels(target.collection, target.model).inc(rows)
        self._write.observe(seconds)
        super().written(target, rows, seconds, origin)

    def failed(self, kind: str, number: int = 1, target: Target | None = None) -> None:
        """See Recorder."""
        if number:
            self._failures.labels(kind, "" if target is None else target.collection).inc(number)

    def lost(self, leases: int) -> None:
        """See Recorder."""
        self._lost.inc(leases)

    def outrun(self, rows: int) -> None:
        """See Recorder."""
        self._outrun.inc(rows)

    def answered(self, kind: str, model: str, age: float, seconds: float) -> None:
        """See Recorder."""
        self._queries.labels(kind, model).observe(age)
        super().answered(kind, model, age, seconds)

    def indexed(self, collection: str, seconds: float, outcome: str) -> None:
        """See Recorder."""
        self._builds.labels(collection, outcome).inc()
        if outcome == "built":
            self._building.observe(seconds)
        super().indexed(collection, seconds, outcome)

    # What the database says

    def watch(self, connection: Connection, stopping: threading.Event, reached: Callable[[], object] = bool) -> None:
        """Ask the database now and then, until the sidecar stops; while it is away, its gauges are left out."""
        try:
            while True:
                started = time.monotonic()
                self._snapshot = look(connection)
                reached()
                seconds = time.monotonic() - started
                if stopping.wait(max(LOOK_SECONDS, seconds / LOOK_SHARE)):
                    return
        finally:
            self._snapshot = None

    # What is served

    @contextmanager
    def served(self, address: str, port: int, probe: Callable[[], Probes]) -> Iterator[str]:
        """Serve /metrics, /healthz and /readyz; yields `host:port`. Raises SettingsError where it cannot listen."""
        self._probe = probe
        try:
            server = _server(address)(address=(address, port), metrics=self)
        except OSError as error:
            raise SettingsError(
                f"the sidecar cannot listen on {address} port {port}: {error.strerror or error}",
                hint="PGMEANING_METRICS_PORT and PGMEANING_METRICS_ADDRESS say where; 0 takes any port that is free",
            ) from error
        thread = threading.Thread(target=server.serve_forever, args=[0.05], name="pgmeaning metrics", daemon=True)
        thread.start()
        try:
            yield f"{address if ':' not in address else f'[{address}]'}:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()

    def page(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """The answer to GET: status, content type, body."""
        if path == "/metrics":
            encode, kind = choose_encoder(accept)
            return 200, kind, encode(self.registry)
        probes = self._probe()
        wrong = {"/healthz": probes.ailments, "/readyz": probes.obstacles}.get(path)
        if wrong is None:
            return 404, PLAIN, b"there are /metrics, /healthz and /readyz\n"
        return (503 if wrong else 200), PLAIN, ("\n".join(wrong or ["ok"]) + "\n").encode()

    def gauges(self) -> Iterator[Metric]:
        """What is not counted but looked at: the database, by its last answer, and this process."""
        found, ready = self._snapshot, not self._probe().obstacles
        yield GaugeMetricFamily("pgmeaning_ready", "1: models are loaded and the database is reached.", ready)
        yield GaugeMetricFamily("pgmeaning_database_reached", "1: the database answers.", found is not None)
        if found is None:
            return
        for name, column, help in OF_COLLECTIONS:
            family = GaugeMetricFamily(f"pgmeaning_{name}", help, labels=("collection", "model"))
            for row in found.collections:
                if row[column] is not None:
                    family.add_metric([row["collection"], row["model"]], float(row[column]))
            yield family
        for name, column, help in OF_THE_DATABASE:
            yield GaugeMetricFamily(f"pgmeaning_{name}", help, found.database[column])
        yield CounterMetricFamily(
            "pgmeaning_cache_reads",
            "Vectors read from the query cache, by the server's statistics; less pgmeaning_query_seconds_count: hits.",
            found.database["cache_reads"],
        )


PLAIN = "text/plain; charset=utf-8"


class _Gauges:
    """A collector for the registry."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[Metric]:
        """Nothing, so that the registry does not ask for values when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The gauges as they are now."""
        return self._metrics.gauges()


def look(connection: Connection) -> Snapshot:
    """Ask the database what its collections owe."""
    with connection.cursor(row_factory=dict_row) as cursor:
        collections = cursor.execute(sql.query("metrics/collections"), {"collection": None}).fetchall()
        database = cursor.execute(sql.query("metrics/database")).fetchone() or {}
    return Snapshot(collections, database, time.monotonic())


def _kinds() -> str:
    return "; ".join(f"{kind}: {meaning}" for kind, meaning in KINDS.items())


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], metrics: Metrics) -> None:
        self.metrics = metrics
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without asking for the host's name, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Server6(_Server):
    address_family = AF_INET6


def _server(address: str) -> type[_Server]:
    return _Server6 if ":" in address else _Server


class _Handler(BaseHTTPRequestHandler):
    timeout = 10  # a client that says nothing holds no thread for longer

    def do_GET(self) -> None:
        server: Any = self.server
        status, kind, body = server.metrics.page(urlsplit(self.path).path, self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        """Probes come every few seconds: nothing is logged."""
