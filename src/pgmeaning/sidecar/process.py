"""The process beside the database. A row passes through claim -> read -> fetch -> embed -> write.

Each step takes a value from the one before and hands a value to the next, over bounded queues between threads, so that
the database works while the model does. Only the ends touch the database; no transaction is open while a model runs.

    claim, read --Work--> embed --Output--> write (x n)        requests (queries, rerank)    maintenance    index
          '--Work--> fetch --^     rows with images or videos
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import structlog

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, connect
from pgmeaning.documents.chunking import Cutters, Limits
from pgmeaning.errors import SettingsError
from pgmeaning.indexes.build import AS_ANYBODY, Indexer
from pgmeaning.models.base import Embedder, Reranker, load_embedder, load_reranker
from pgmeaning.settings import Settings
from pgmeaning.sidecar.bounded_queue import BoundedQueue
from pgmeaning.sidecar.claim import Claimer
from pgmeaning.sidecar.drain import Drain
from pgmeaning.sidecar.embed import EmbedStep
from pgmeaning.sidecar.fetch import Fetcher
from pgmeaning.sidecar.health import Probes
from pgmeaning.sidecar.in_flight import InFlight
from pgmeaning.sidecar.maintenance import Maintenance
from pgmeaning.sidecar.pace import Paces
from pgmeaning.sidecar.queue import Queue
from pgmeaning.sidecar.read import Reader
from pgmeaning.sidecar.recorder import Recorder
from pgmeaning.sidecar.requests import QueryRequests, RerankRequests
from pgmeaning.sidecar.row_vectors import measured
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.serving import Serving
from pgmeaning.sidecar.session import session
from pgmeaning.sidecar.source import Source, reading
from pgmeaning.sidecar.watch import Call
from pgmeaning.sidecar.work import Output, Work
from pgmeaning.sidecar.write import Writer
from pgmeaning.types import Model

if TYPE_CHECKING:
    from pgmeaning.sidecar.metrics import Metrics

log = structlog.get_logger()

# Neither side stalls the other: a thread that waits longer than this for a lock skips the collection for a while. A
# writer has vectors to lose, and waits longer. synchronous_commit: a server crash loses the vector together with the
# deletion of the queue row, so the row is owed again.
PATIENCE = {"lock_timeout": "300ms", "synchronous_commit": "off"}
WRITER_PATIENCE = {"lock_timeout": "2s", "synchronous_commit": "off"}
PINNED = {"write": WRITER_PATIENCE, "index": AS_ANYBODY}
# Draining gives up after this many unexpected errors in a row; without draining, a sidecar keeps trying.
DRAIN_ERRORS = 5
# After the grace period, vectors that are ready may still be written for this long.
FLUSH_SECONDS = 1.0
# How often calls that do not return are looked for. Besides, a wait without end may sleep through a signal that came
# while the process was stopped.
WATCH_SECONDS = 1.0


class Sidecar:
    """One sidecar process. `run` blocks until `stop` is called or, with `drain`, until nothing is owed."""

    def __init__(
        self, dsn: str, settings: Settings | None = None, models: Sequence[str] | None = None,
        load: Callable[[Model], Embedder] = load_embedder,
        load_reranker: Callable[[Model], Reranker] = load_reranker, beat: Callable[[], object] = bool,
    ) -> None:  # fmt: skip
        """`beat` is called about every second while `run` goes on."""
        self.dsn = dsn
        chosen = settings or Settings()
        self._metrics = None if chosen.metrics_port is None else _metrics()
        self._run = Run(
            dsn, chosen, None if models is None else tuple(models), recorder=self._metrics or Recorder()
        )  # fmt: skip
        self.id = self._run.id
        self.metrics_address = ""  # where they are served, once they are
        self.in_flight = InFlight()
        self.exit_status = 0
        serving = Serving(self._run, partial(self._connect, "models", lock_timeout="5s"), load, load_reranker)
        self.embedders, self.rerankers = serving.embedders, serving.rerankers
        self._drain = False  # set by run()
        self._beat = beat
        self._paces = Paces()
        self._cutters = Cutters(Limits(self._run.settings.document_characters, self._run.settings.document_chunks))
        self._indexer = Indexer(self._run.settings, self._run.stopping, self._run.recorder.indexed)
        self._maintenance = Maintenance(self._run, self.in_flight, serving, self._indexer, self._outdated)
        self._is_outdated = threading.Event()
        self._work: BoundedQueue[Work] = BoundedQueue(2)
        self._media: BoundedQueue[Work] = BoundedQueue(1)
        self._outputs: BoundedQueue[Output] = BoundedQueue(4)
        self._over = threading.Event()

    def run(self, *, drain: bool = False) -> int:
        """Work until stopped; returns 0, or 1 if draining left failed rows or a model cannot run here."""
        log.info("sidecar starts", sidecar=str(self.id), drain=drain)
        self._drain = drain
        with self._watched_from_outside():
            self._maintenance.start_up()  # a wrong DSN is an error now, not a loop of them
            self._run.health.reached()
            self._run.health.started = True
            self._turn()
            makers, writers = self._start_makers(), self._start_writers()
            while not self._run.stopping.wait(WATCH_SECONDS):
                self._give_up(self._run.watch.overdue())
                self._turn()
            self._run.health.stopping = True
            self._shut_down(makers, writers)
        log.info("sidecar stopped", sidecar=str(self.id), rows=self.in_flight.rows_done)
        return self.exit_status

    def _turn(self) -> None:
        self._run.health.turn()
        self._beat()

    @contextmanager
    def _watched_from_outside(self) -> Iterator[None]:
        """Serve metrics and health meanwhile, if that is wanted: from the beginning to the end."""
        if self._metrics is None:
            yield
            return
        settings = self._run.settings
        with self._metrics.served(settings.metrics_address, settings.metrics_port or 0, self._probe) as address:
            log.info("metrics", address=address)
            self.metrics_address = address
            yield

    def _probe(self) -> Probes:
        """What /healthz and /readyz answer."""
        health = self._run.health
        return Probes(health.ailments(), health.obstacles(self.embedders.is_at_hand, self.embedders.problems))

    def stop(self, exit_status: int | None = None) -> None:
        """Finish the running batch, hand back all other claims, and return from `run`. Safe in a signal handler.

        Without a status it is an interruption: a drain is then incomplete, and its exit status is 1.
        """
        if exit_status is None:
            exit_status = int(self._drain and not self._run.stopping.is_set())
        self.exit_status = self.exit_status or exit_status
        self._run.health.stopping = True
        self._run.stopping.set()

    def _give_up(self, overdue: Sequence[Call]) -> None:
        """End the process if a thread hangs in a call, since nothing can stop it; first hand back what it holds."""
        if not overdue:
            return
        self._run.recorder.failed("hung", len(overdue))
        log.critical("a call does not return: the sidecar stops", errors=sorted({call.error for call in overdue}))
        self.stop(exit_status=1)
        try:
            with self._connect("sidecar", **PATIENCE) as connection:
                for call in overdue:
                    call.give_up(connection, call.error)
        except psycopg.Error as error:
            log.warning("claims not handed back: they expire with their lease", error=str(error).strip())

    # The steps, in the order of the data

    def _claim_and_read(self, connection: Connection) -> None:
        with closing(reading(self._run.reader_dsn, f"reader {self.id}", **PATIENCE)) as source:
            self._claim_and_read_from(source, connection)

    def _claim_and_read_from(self, source: Source, connection: Connection) -> None:
        shared = session(self._run, self.in_flight, connection, source)
        reader = Reader(self._run, shared, self.in_flight, self._cutters)
        claimer = Claimer(self._run, shared, self.in_flight, self.embedders, self._paces, self._place, self._drained())
        for claimed in claimer.claims():
            for work in reader.work(claimed):
                ready = work if work.target.has_media else measured(self._run, work)
                self._place(work.target.has_media).put(ready, urgent=work.urgent)

    def _place(self, media: bool) -> BoundedQueue[Work]:
        """Where work goes next, with images or videos and without."""
        return self._media if media else self._work

    def _fetch(self) -> None:
        Fetcher(self._run, self._media, self._work, self._outputs).run()

    def _embed(self) -> None:
        EmbedStep(self._run, self.embedders, self._paces, self._work, self._outputs).run()

    def _writer(self) -> Callable[[Connection], None]:
        """A writer that survives lost connections, since it holds vectors that are not written yet."""
        return Writer(self._run, self.in_flight, self._outputs).run

    # Beside them

    def _answer_queries(self, connection: Connection) -> None:
        QueryRequests(self._run, connection, self.embedders).run()

    def _answer_reranks(self, connection: Connection) -> None:
        RerankRequests(self._run, connection, self.rerankers).run()

    def _drained(self) -> Drain | None:
        looked = self._maintenance.looked_at_sources
        return Drain(self._run, lambda: self.embedders.problems, looked, self.stop) if self._drain else None

    # Threads

    def _start_makers(self) -> list[threading.Thread]:
        """Start the threads that make work or vectors."""
        connected = {
            "claim": self._claim_and_read, "queries": self._answer_queries, "rerank": self._answer_reranks,
            "maintenance": self._maintenance.run,
        }  # fmt: skip
        if not self._drain:  # a drain ends once nothing is owed, without waiting for an index
            connected["index"] = self._indexer.run
        if self._metrics is not None:
            connected["metrics"] = partial(
                self._metrics.watch, stopping=self._run.stopping, reached=self._run.health.reached
            )
        threads = [self._thread("fetch", self._fetch), self._thread("embed", self._embed)]
        return threads + [
            self._thread(name, partial(self._keep, name, body, self._run.stopping)) for name, body in connected.items()
        ]

    def _start_writers(self) -> list[threading.Thread]:
        bodies = [self._writer() for _ in range(self._run.settings.writers)]
        return [self._thread("write", partial(self._keep, "write", body, self._over)) for body in bodies]

    def _thread(self, name: str, body: Callable[[], None]) -> threading.Thread:
        """Start a thread; if it dies, the process ends, since its claims would be held and nobody work on them."""

        def guarded() -> None:
            try:
                body()
            except BaseException:
                log.critical("a thread died: the sidecar stops", thread=name, exc_info=True)
                self.stop(exit_status=1)

        thread = threading.Thread(target=guarded, name=f"pgmeaning {name}", daemon=True)
        thread.start()
        return thread

    def _connect(self, name: str, **pinned: str) -> Connection:
        """By the id in their names, another sidecar finds our sessions once we give no sign of life."""
        return connect(self._run.dsn, f"{name} {self.id}", **pinned)

    def _keep(self, name: str, body: Callable[[Connection], None], end: threading.Event) -> None:
        """Run a thread's body until it returns; reconnect when the connection or the server goes away."""
        errors = 0
        while not end.is_set():
            started = time.monotonic()
            try:
                with self._connect(name, **PINNED.get(name, PATIENCE)) as connection:
                    self._run.health.reached()
                    return body(connection)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                errors = 1 if time.monotonic() - started > 5 else errors + 1
                self._run.health.lost(str(error).strip().split("\n")[0])
                self._run.recorder.failed("connection")
                log.warning("connection lost", thread=name, error=str(error).strip().split("\n")[0])
            except Exception:
                if self._is_outdated.is_set() or self._looks_outdated():
                    return None
                errors = 1 if time.monotonic() - started > 5 else errors + 1
                log.exception("unexpected error", thread=name)
                if self._drain and errors >= DRAIN_ERRORS:
                    return self.stop(exit_status=1)
            end.wait(min(0.05 * 2**errors, 5))
        return None

    def _looks_outdated(self) -> bool:
        """After an unexpected error: whether the schema is not ours any more. Then the sidecar is told to stop."""
        try:
            with connect(self._run.dsn, "sidecar", **PATIENCE) as connection:
                problem = self._maintenance.schema_problem(connection)
        except psycopg.Error:
            return False
        if problem is not None:
            self._outdated(problem)
        return problem is not None

    def _outdated(self, problem: str) -> None:
        """Take no more work: this sidecar and the schema do not fit each other."""
        if not self._is_outdated.is_set():
            self._is_outdated.set()
            log.error("sidecar stops", problem=problem)
        self.stop(exit_status=1)

    def _shut_down(self, makers: Sequence[threading.Thread], writers: Sequence[threading.Thread]) -> None:
        """Let the writers flush what is embedded, and hand back claims whose embedding did not end in time."""
        deadline = time.monotonic() + self._run.settings.grace
        self._media.close()
        self._work.close()
        self._indexer.cancel()
        _join(makers, deadline)
        self._outputs.end()
        _join(writers, max(deadline, time.monotonic() + FLUSH_SECONDS))
        self._over.set()
        self._outputs.close()
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        try:
            with self._connect("sidecar", **PATIENCE) as connection:
                Queue(connection, self.id, self._run.settings).release_all()
                connection.execute(sql.query("maintenance/goodbye"), {"id": self.id})
        except psycopg.Error as error:
            if self._is_outdated.is_set():
                return  # it has said why
            log.warning("claims not handed back: they expire with their lease", error=str(error).strip())


def _metrics() -> Metrics:
    try:
        from pgmeaning.sidecar.metrics import Metrics
    except ImportError as error:
        raise SettingsError(
            "PGMEANING_METRICS_PORT is set, and prometheus-client is not installed",
            hint="pip install 'pgmeaning[metrics]'",
        ) from error
    return Metrics()


def _join(threads: Sequence[threading.Thread], deadline: float) -> None:
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
