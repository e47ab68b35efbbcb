"""The process beside the database: claim -> read -> prepare -> embed -> write -> finish, and the query lane.

Each step is a thread that takes a value from the one before and hands a value to the next, so the database's work hides
behind the model's; only the ends touch the database, and no transaction is open while a model runs. See `upkeep` for
what it does besides.

    Feeder --Work--> embed --Output--> Writer (x n)        QueryLane    Upkeep    Indexer
        '---Work--> fetch --^      rows with images or videos
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from uuid import UUID, uuid4

import numpy as np
import psycopg
import structlog
from psycopg.rows import dict_row

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, connect
from pgmeaning.errors import EndpointDown, ModelNotFound
from pgmeaning.indexes.build import AS_ANYBODY, Indexer
from pgmeaning.models.base import Embedder, Reranker, load_embedder, load_reranker
from pgmeaning.models.loaded import Shelf
from pgmeaning.models.registry import located
from pgmeaning.settings import Settings
from pgmeaning.sidecar import batches, store
from pgmeaning.sidecar.bounded_queue import Channel
from pgmeaning.sidecar.claim import STOP_POLL, Feeder, Work
from pgmeaning.sidecar.fetch import Fetcher
from pgmeaning.sidecar.maintenance import Upkeep
from pgmeaning.sidecar.queue import Queue
from pgmeaning.sidecar.requests import Lane, QueryLane, RerankLane
from pgmeaning.sidecar.row_vectors import Assembly
from pgmeaning.sidecar.write import Output, Writer
from pgmeaning.types import Claim, Document, Model, Row, Target

log = structlog.get_logger()

# Neither side stalls the other: who waits longer than this for a lock lets the collection be for a while. A writer has
# vectors to lose, and waits longer. synchronous_commit: a crash loses vector and end of the queue row alike, so the row
# is owed again.
PATIENCE = {"lock_timeout": "300ms", "synchronous_commit": "off"}
WRITER_PATIENCE = {"lock_timeout": "2s", "synchronous_commit": "off"}
PINNED = {"writer": WRITER_PATIENCE, "index": AS_ANYBODY}
POSTPONED_SECONDS = 5.0
# Unexpected errors in a row after which draining gives up; a sidecar that stays goes on trying.
DRAIN_ERRORS = 5
# After the grace, what is embedded already may still be written for so long.
FLUSH_SECONDS = 1.0


class Held:
    """The claims that this process works on; shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[tuple[int, str, str, int], Claim] = {}

    def add(self, claims: Iterable[Claim]) -> None:
        with self._lock:
            self._claims.update((_identity(claim), claim) for claim in claims)

    def drop(self, claims: Iterable[Claim]) -> None:
        with self._lock:
            for claim in claims:
                self._claims.pop(_identity(claim), None)

    def all(self) -> list[Claim]:
        with self._lock:
            return list(self._claims.values())

    def strangers(self, claims: Iterable[Claim]) -> list[Claim]:
        """Those of the claims that are not held: lost on the way, with a connection."""
        with self._lock:
            return [claim for claim in claims if _identity(claim) not in self._claims]

    def __len__(self) -> int:
        with self._lock:
            return len(self._claims)


def _identity(claim: Claim) -> tuple[int, str, str, int]:
    return claim.collection_id, claim.model, claim.key, claim.generation


class Sidecar:
    """One sidecar process. `run` blocks until `stop` is called or, with `drain`, until nothing is owed."""

    def __init__(
        self, dsn: str, settings: Settings | None = None, models: Sequence[str] | None = None,
        load: Callable[[Model], Embedder] = load_embedder,
        load_judge: Callable[[Model], Reranker] = load_reranker,
    ) -> None:  # fmt: skip
        self.id: UUID = uuid4()
        self.dsn = dsn
        self.settings = settings or Settings()
        self.models = list(models) if models is not None else None
        self.held = Held()
        self.rows_done = 0
        self.stopping = threading.Event()
        self.looked_at_sources = threading.Event()  # once: what was mended before we came is not broken
        self.exit_status = 0
        self.shelf = Shelf(lambda name: load(self._model(name)))
        self.judges = Shelf(lambda name: load_judge(self._model(name)), self.shelf.turn)
        self.indexer = Indexer(self.settings, self.stopping)
        self._drain = False  # set by run()
        self._counting = threading.Lock()
        self._postponed: dict[tuple[int, str], float] = {}
        self._work: Channel[Work] = Channel(2)
        self._media: Channel[Work] = Channel(1)
        self._output: Channel[Output] = Channel(4)
        self._over = threading.Event()

    def run(self, *, drain: bool = False) -> int:
        """Work until stopped; returns 0, or 1 when draining left failed rows or a model cannot run here."""
        log.info("sidecar starts", sidecar=str(self.id), drain=drain)
        self._drain = drain
        upkeep = Upkeep(self)
        upkeep.start_up()  # a wrong DSN is an error now, not a loop of them
        threads = self._start(upkeep)
        self.stopping.wait()
        self._shut_down(*threads)
        log.info("sidecar stopped", sidecar=str(self.id), rows=self.rows_done)
        return self.exit_status

    def stop(self, exit_status: int | None = None) -> None:
        """Finish the running batch, hand all else back, and return from `run`; callable from a signal handler.

        Without a status it is an interruption, which leaves a drain undone: its exit status is 1 then.
        """
        if exit_status is None:
            exit_status = int(self._drain and not self.stopping.is_set())
        self.exit_status = self.exit_status or exit_status
        self.stopping.set()

    def postpone(self, target: Target, seconds: float = POSTPONED_SECONDS) -> None:
        """Leave a target alone for a while: a lock that somebody holds on it must not hold up the others."""
        log.warning("collection postponed", collection=target.collection, model=target.model, seconds=seconds)
        self._postponed[target.collection_id, target.model] = time.monotonic() + seconds

    def is_postponed(self, target: Target) -> bool:
        """Whether it is to be left alone for now."""
        return time.monotonic() < self._postponed.get((target.collection_id, target.model), 0)

    def count_rows(self, written: int) -> None:
        """Add rows that a writer has ended."""
        with self._counting:
            self.rows_done += written

    # Threads

    def _start(self, upkeep: Upkeep) -> tuple[list[threading.Thread], list[threading.Thread]]:
        """All threads: those that make work or vectors, and the writers."""
        feeder = Feeder(self, self._work, self._media, drain=self._drain)
        writers = [Writer(self, self._output) for _ in range(self.settings.writers)]
        makers = [
            self._thread("feeder", lambda: self._keep("feeder", feeder.run, self.stopping)),
            self._thread("fetch", self._fetch_all),
            self._thread("embed", self._embed_all),
            self._thread("queries", lambda: self._keep("queries", self._answer_queries, self.stopping)),
            self._thread("rerank", lambda: self._keep("rerank", self._rerank, self.stopping)),
            self._thread("upkeep", lambda: self._keep("upkeep", upkeep.run, self.stopping)),
        ]
        if not self._drain:  # it ends once nothing is owed, and does not wait for an index
            makers.append(self._thread("index", lambda: self._keep("index", self.indexer.run, self.stopping)))
        return makers, [
            self._thread("writer", partial(self._keep, "writer", writer.run, self._over)) for writer in writers
        ]

    def _thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"pgmeaning {name}", daemon=True)
        thread.start()
        return thread

    def _keep(self, name: str, body: Callable[[Connection], None], end: threading.Event) -> None:
        """Run a thread's body until it returns; connect again when the connection or the server went away."""
        errors = 0
        while not end.is_set():
            started = time.monotonic()
            try:
                with connect(self.dsn, name, **PINNED.get(name, PATIENCE)) as connection:
                    return body(connection)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                errors = 1 if time.monotonic() - started > 5 else errors + 1
                log.warning("connection lost", thread=name, error=str(error).strip().split("\n")[0])
            except Exception:
                errors = 1 if time.monotonic() - started > 5 else errors + 1
                log.exception("unexpected error", thread=name)
                if self._drain and errors >= DRAIN_ERRORS:
                    return self.stop(exit_status=1)
            end.wait(min(0.05 * 2**errors, 5))
        return None

    def _shut_down(self, makers: Sequence[threading.Thread], writers: Sequence[threading.Thread]) -> None:
        """Writers flush what is embedded; claims whose embedding did not end in time are handed back."""
        deadline = time.monotonic() + self.settings.grace
        self._media.close()
        self._work.close()
        self.indexer.cancel()
        _join(makers, deadline)
        self._output.end()
        _join(writers, max(deadline, time.monotonic() + FLUSH_SECONDS))
        self._over.set()
        self._output.close()
        try:
            with connect(self.dsn, "sidecar", **PATIENCE) as connection:
                Queue(connection, self.id, self.settings).release_all()
                connection.execute(sql.query("maintenance/goodbye"), {"id": self.id})
        except psycopg.Error as error:
            log.warning("claims not handed back: they lapse with their lease", error=str(error).strip())

    def _model(self, name: str) -> Model:
        with connect(self.dsn, "models") as connection, connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(sql.query("client/model"), {"name": name}).fetchone()
        if row is None:
            raise ModelNotFound(f"there is no model {name!r} in this database", hint="pgmeaning model list")
        row["modalities"] = tuple(row["modalities"])
        return located(Model(**row), self.settings.location)

    # Fetch

    def _fetch_all(self) -> None:
        fetcher = Fetcher(self.settings.media, self.settings.media_threads, self.stopping)
        while (work := self._media.get()) is not None:
            try:
                rows, errors = fetcher.fetch(work.rows)
            except Exception as error:
                log.exception("unexpected error", thread="fetch")
                rows, errors = [], [(row, batches.describe(error)) for row in work.rows]
            if errors:
                self._output.put(_output(work.target, [], errors))
            if rows:
                self._work.put(replace(work, rows=tuple(rows)))

    # Embed

    def _embed_all(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                self._embed(work)
            except Exception as error:
                log.exception("unexpected error", thread="embed")
                self._output.put(_output(work.target, [], [(row, batches.describe(error)) for row in work.rows]))
        self._output.end()

    def _embed(self, work: Work) -> None:
        wanting = [row for row in work.rows if store.vector_count(row)]
        others = [row for row in work.rows if not store.vector_count(row)]
        if others:
            self._output.put(_output(work.target, others, []))
        assembly = Assembly(wanting, work.target.dimensions)
        lengths = batches.lengths(work.embedder, assembly.documents)
        for batch in batches.batches(lengths, self.settings.batch_tokens, self.settings.batch_rows):
            if self.stopping.is_set():
                return
            if self.shelf.is_suspended(work.target.model) or not self._embed_batch(work, assembly, batch):
                untried = tuple(row.claim for row in assembly.waiting)
                self._output.put(replace(_output(work.target, [], []), handed_back=untried))
                return

    def _embed_batch(self, work: Work, assembly: Assembly, batch: batches.Batch) -> bool:
        """Embed a batch of texts and hand on the rows that have all of theirs now; False: nobody answers."""
        places = assembly.needed(batch.places)
        if not places:
            return True
        started = time.monotonic()
        try:
            with self.shelf.turn.bulk():
                documents = [assembly.documents[place] for place in places]
                embedded = batches.embed(work.embedder, documents, work.target.dimensions)
        except EndpointDown as error:
            self.shelf.suspend(work.target.model, error)
            return False
        seconds = time.monotonic() - started
        done = assembly.take(places, embedded)
        work.pace.record(len(places) * assembly.rows_each, seconds)
        errors = tuple((row.claim, error) for row, error in done.errors)
        if done.rows or errors:
            self._output.put(Output(work.target, _light(done.rows), done.vectors, errors, batch.tokens, seconds))
        return True

    # Queries

    def _answer_queries(self, connection: Connection) -> None:
        self._answer(QueryLane(connection, self.id, self.shelf, self.models, self.settings))

    def _rerank(self, connection: Connection) -> None:
        self._answer(RerankLane(connection, self.id, self.judges, self.models))

    def _answer(self, lane: Lane) -> None:
        while not self.stopping.is_set():
            if not lane.answer():
                end = time.monotonic() + min(self.settings.poll, 0.5)
                while time.monotonic() < end and not self.stopping.is_set():
                    if lane.wait(STOP_POLL) or lane.is_ready():
                        break


def _join(threads: Sequence[threading.Thread], deadline: float) -> None:
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _output(target: Target, rows: Sequence[Row], errors: Sequence[tuple[Row, str]]) -> Output:
    """Rows that need no vector, and rows that get none."""
    empty = np.empty((0, target.dimensions), np.float32)
    return Output(target, _light(rows), empty, tuple((row.claim, error) for row, error in errors))


def _light(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows as they wait to be written: without their images, which would fill the memory."""
    return tuple(
        replace(row, document=Document())
        if row.document is not None and (row.document.images or row.document.videos)
        else row
        for row in rows
    )
