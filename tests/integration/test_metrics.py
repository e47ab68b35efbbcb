"""What a sidecar tells Prometheus, OpenTelemetry and whoever asks whether it is alive and ready."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.errors import DatabaseError, InputError, SettingsError
from pgmeaning.indexes import build
from pgmeaning.models.base import Embedder, load_embedder
from pgmeaning.settings import Settings
from pgmeaning.sidecar import metrics
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Document, Model
from tests.conftest import _create, _drop, running, wait_until
from tests.needs import needs_package
from tests.types import Connection

needs_package("prometheus_client", "metrics")
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

ROWS = 50
DATABASE = "pgmeaning_test_metrics"
ATTACHED = "CREATE TABLE docs (id int PRIMARY KEY, title text); SELECT pgmeaning.attach('docs', '{title}')"
WRITTEN = f"INSERT INTO docs SELECT i, repeat('word ', 20 * i) FROM generate_series(1, {ROWS}) AS i".encode()
INBOXES = "SELECT FROM pgmeaning.inbox UNION ALL SELECT FROM pgmeaning.bulk_inbox"


class Picky:
    """The synthetic model, which counts words, refuses one text and waits at another until it is let go."""

    def __init__(self, inner: Embedder, gate: threading.Event) -> None:
        self._inner = inner
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        return [1 + len((document.text or "").split()) for document in documents]

    def embed_documents(self, documents: Sequence[Document]) -> Any:
        texts = [document.text or "" for document in documents]
        if any("refused" in text for text in texts):
            raise InputError("this text is refused")
        if any("slow" in text for text in texts):
            self._gate.wait(30)
        return self._inner.embed_documents(documents)


class Served:
    """A sidecar, its database and what it says."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.db: Connection = psycopg.connect(dsn, autocommit=True)
        self.gate, self.may_load = threading.Event(), threading.Event()
        settings = Settings(
            metrics_port=0, maintenance=0.1, attempts=1, index_rows=10, recall_sample=5, allow_superuser=True
        )
        self.sidecar = Sidecar(dsn, settings, load=self._load)

    def _load(self, model: Model) -> Any:
        assert self.may_load.wait(30)
        return Picky(load_embedder(model), self.gate)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(f"http://{self.sidecar.metrics_address}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def value(self, name: str, **labels: str) -> float | None:
        """A sample's value; the sum over the labels that are not given; None: there is none."""
        found = [
            sample.value
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None


@pytest.fixture(scope="module", autouse=True)
def often() -> Iterator[None]:
    """So that no test waits for the next look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "LOOK_SECONDS", 0.2)
        patch.setattr(metrics, "LOOK_SHARE", 0.2)
        patch.setattr(build, "LOOK_SHARE", 0.5)
        yield


@pytest.fixture(scope="module")
def served(server_dsn: str, template: str) -> Iterator[Served]:
    """One sidecar for all tests: fifty rows embedded, one refused, three searches for the same text."""
    _create(server_dsn, DATABASE, template)
    made = Served(make_conninfo(server_dsn, dbname=DATABASE))
    try:
        ensure_loopback(made.db)
        made.db.execute(ATTACHED)
        with running(made.sidecar):
            assert made.get("/readyz")[0] == 503  # its model is being loaded
            assert made.get("/healthz") == (200, "ok\n")
            made.may_load.set()
            made.db.execute(WRITTEN)
            wait_until(lambda: made.db.execute("SELECT FROM docs_embedding").rowcount == ROWS)
            made.db.execute("INSERT INTO docs VALUES (1000, 'refused')")
            for _ in range(4):
                made.db.execute("SELECT * FROM pgmeaning.search('docs', 'a word')")
            yield made
            made.gate.set()
    finally:
        made.db.close()
        _drop(server_dsn, DATABASE)


def test_a_sidecar_is_ready_once_its_model_is_loaded(served: Served) -> None:
    wait_until(lambda: served.get("/readyz") == (200, "ok\n"))


def test_rows_texts_and_tokens_are_counted(served: Served) -> None:
    of_docs = {"collection": "docs", "model": "synthetic-384"}
    wait_until(lambda: (served.value("pgmeaning_rows_total", **of_docs) or 0) >= ROWS)
    assert (served.value("pgmeaning_documents_total", **of_docs) or 0) >= ROWS
    assert (served.value("pgmeaning_tokens_total", **of_docs) or 0) > ROWS
    assert (served.value("pgmeaning_claimed_rows_total", **of_docs) or 0) >= ROWS


def test_batches_say_how_full_and_how_padded_they_are(served: Served) -> None:
    batches = served.value("pgmeaning_batch_fill_ratio_count", model="synthetic-384") or 0
    assert batches > 0
    assert 0 < (served.value("pgmeaning_batch_fill_ratio_sum") or 0) <= batches
    assert 0 < (served.value("pgmeaning_batch_padding_ratio_sum") or 0) < batches


def test_each_step_says_what_it_took_and_waited(served: Served) -> None:
    for name in ("model", "write", "read"):
        assert (served.value(f"pgmeaning_{name}_seconds_count") or 0) > 0, name
    for step in ("embed", "model", "write", "query"):
        wait_until(partial(served.value, "pgmeaning_wait_seconds_count", step=step))


def test_a_query_is_timed_once_and_later_ones_come_from_the_cache(served: Served) -> None:
    assert served.value("pgmeaning_query_seconds_count", kind="query", model="synthetic-384") == 1
    # The first search's was read by another session, whose statistics come later.
    served.db.execute("SELECT pg_stat_force_next_flush()")
    wait_until(lambda: (served.value("pgmeaning_cache_reads_total") or 0) >= 3)
    assert served.value("pgmeaning_cached_queries") == 1


def test_failures_have_a_kind_and_failed_rows_are_shown(served: Served) -> None:
    wait_until(lambda: served.value("pgmeaning_failed_rows", collection="docs") == 1)
    assert (served.value("pgmeaning_failures_total", kind="embed", collection="docs") or 0) >= 1


def test_a_row_that_a_model_is_busy_with_is_owed_and_ages(served: Served) -> None:
    served.db.execute("INSERT INTO docs VALUES (1001, 'slow')")
    try:
        wait_until(lambda: served.value("pgmeaning_owed_rows", collection="docs") == 1)
        wait_until(lambda: (served.value("pgmeaning_oldest_owed_seconds", collection="docs") or 0) > 0.01)
        # Changed and given up meanwhile: what the model makes of it is thrown away.
        served.db.execute("UPDATE docs SET title = 'quick' WHERE id = 1001")
        wait_until(lambda: served.db.execute(INBOXES).rowcount == 0)
    finally:
        served.gate.set()
    wait_until(lambda: served.value("pgmeaning_owed_rows", collection="docs") == 0)
    assert served.value("pgmeaning_outrun_rows_total") == 1


def test_a_lease_that_lapsed_under_the_model_is_counted(served: Served) -> None:
    served.gate.clear()
    served.db.execute("INSERT INTO docs VALUES (1002, 'slow again')")
    try:
        wait_until(lambda: served.db.execute("SELECT FROM pgmeaning.queue WHERE claimed_by IS NOT NULL").rowcount == 1)
        served.db.execute("UPDATE pgmeaning.queue SET claimed_by = gen_random_uuid() WHERE claimed_by IS NOT NULL")
    finally:
        served.gate.set()
    wait_until(lambda: served.value("pgmeaning_lost_leases_total") == 1)
    served.db.execute("DELETE FROM pgmeaning.queue WHERE claimed_by IS NOT NULL; DELETE FROM docs WHERE id = 1002")


def test_index_builds_are_counted_and_their_recall_is_shown(served: Served) -> None:
    wait_until(lambda: served.value("pgmeaning_index_builds_total", collection="docs", outcome="built") == 1)
    wait_until(lambda: served.value("pgmeaning_index_recall_ratio", collection="docs") is not None)


def test_what_a_swap_has_spent_stands_beside_what_it_may_spend(served: Served) -> None:
    served.db.execute("SELECT pgmeaning.swap_start('docs', dimensions => 64, max_tokens => 100000)")
    try:
        wait_until(lambda: served.value("pgmeaning_token_cap", collection="docs@2") == 100_000)
        wait_until(lambda: served.value("pgmeaning_reused_rows_total", collection="docs@2") is not None)
        assert served.value("pgmeaning_spent_tokens", collection="docs@2") is not None
    finally:
        served.db.execute("SELECT pgmeaning.swap_cancel('docs')")


def test_while_the_database_is_away_it_is_alive_and_not_ready(served: Served) -> None:
    with psycopg.connect(served.dsn, dbname="postgres", autocommit=True) as server, _closed(server):
        wait_until(lambda: served.get("/readyz")[0] == 503)
        assert "the database is away" in served.get("/readyz")[1]
        assert served.get("/healthz") == (200, "ok\n")
        wait_until(lambda: served.value("pgmeaning_database_reached") == 0)
        assert served.value("pgmeaning_owed_rows") is None  # rather than what was true before
        assert (served.value("pgmeaning_failures_total", kind="connection") or 0) > 0
    wait_until(lambda: served.get("/readyz") == (200, "ok\n"))
    served.db.close()
    served.db = psycopg.connect(served.dsn, autocommit=True)


@contextmanager
def _closed(server: Connection) -> Iterator[None]:
    """The database has another name, so that no session comes back: a superuser's could not be refused otherwise."""
    wait_until(lambda: _renamed(server))
    try:
        yield
    finally:
        server.execute(f"ALTER DATABASE {DATABASE}_away RENAME TO {DATABASE}".encode())


def _renamed(server: Connection) -> bool:
    """End all sessions, and rename the database, unless one was faster."""
    try:
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (DATABASE,))
        server.execute(f"ALTER DATABASE {DATABASE} RENAME TO {DATABASE}_away".encode())
    except psycopg.errors.ObjectInUse:
        return False
    return True


def test_another_path_says_what_there_is(served: Served) -> None:
    status, body = served.get("/")
    assert (status, "/readyz" in body) == (404, True)


def test_a_port_that_is_taken_is_an_error_that_names_the_setting(served: Served) -> None:
    port = int(served.sidecar.metrics_address.rpartition(":")[2])
    other = Sidecar(served.dsn, Settings(metrics_port=port, allow_superuser=True))
    with pytest.raises(SettingsError, match="PGMEANING_METRICS_PORT"):
        other.run()


def test_without_the_setting_nothing_listens(dsn: str) -> None:
    with running(Sidecar(dsn, Settings())) as quiet:
        assert quiet.metrics_address == ""


def test_while_it_stops_it_is_alive_and_not_ready(dsn: str, db: Connection) -> None:
    gate, busy = threading.Event(), threading.Event()
    db.execute(ATTACHED)

    class Slow(Picky):
        def embed_documents(self, documents: Sequence[Document]) -> Any:
            if any(document.text == "slow" for document in documents):
                busy.set()
            return super().embed_documents(documents)

    made = Served(dsn)
    made.sidecar = Sidecar(dsn, Settings(metrics_port=0, grace=30), load=lambda model: Slow(load_embedder(model), gate))
    with running(made.sidecar):
        db.execute("INSERT INTO docs VALUES (1, 'slow')")
        assert busy.wait(30)
        made.sidecar.stop()
        assert made.get("/readyz") == (503, "it is stopping\n")
        assert made.get("/healthz") == (200, "ok\n")
        gate.set()
    made.db.close()
    assert db.execute("SELECT FROM docs_embedding").rowcount == 1


def test_a_wrong_address_is_one_error_and_nothing_goes_on_listening() -> None:
    started = Sidecar("host=127.0.0.1 port=1 connect_timeout=1", Settings(metrics_port=0))
    with pytest.raises((DatabaseError, psycopg.OperationalError)):
        started.run()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://{started.metrics_address}/healthz", timeout=5)


def test_a_claim_is_one_trace_from_the_claim_to_the_write(dsn: str, db: Connection) -> None:
    spans = needs_package("opentelemetry.sdk.trace.export.in_memory_span_exporter", "dev").InMemorySpanExporter()
    with exporting(spans):
        db.execute(ATTACHED)
        db.execute("INSERT INTO docs VALUES (1, 'one')")
        assert Sidecar(dsn, Settings()).run(drain=True) == 0
        finished = spans.get_finished_spans()
    [embed] = [span for span in finished if span.name == "pgmeaning.embed"]
    steps = [span.name for span in finished if span.context.trace_id == embed.context.trace_id]
    assert steps == [f"pgmeaning.{name}" for name in ("claim", "read", "embed", "write")]
    assert embed.attributes["pgmeaning.collection"] == "docs"
    assert embed.attributes["pgmeaning.documents"] == 1


@contextmanager
def exporting(exporter: Any) -> Iterator[None]:
    """Spans go to this exporter. A provider can be set once in a process, so that it is put in place by hand."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", provider)
        yield
