"""The process beside the database: claim -> read -> prepare -> embed -> write -> finish, and the query lane.

Each step is a thread that takes a value from the one before and hands a value to the next, so the database's work hides
behind the model's; only the ends touch the database, and no transaction is open while a model runs. See `upkeep` for what
it does besides.

    Feeder --Work--> Embed --Output--> Writer (x n)        QueryLane        Upkeep
"""

from __future__ import annotations

import queue as handoff
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

import numpy as np
import psycopg
import structlog
from psycopg.rows import dict_row

from pgmeaning import batching, sql, store
from pgmeaning.connection import Connection, connect
from pgmeaning.errors import ModelNotFound
from pgmeaning.feeder import Feeder, Work
from pgmeaning.models.base import Embedder, Vectors, load_embedder
from pgmeaning.queue import Queue
from pgmeaning.querylane import QueryLane
from pgmeaning.settings import Settings
from pgmeaning.shelf import Shelf
from pgmeaning.types import Claim, Model, Row, Target
from pgmeaning.upkeep import Upkeep

log = structlog.get_logger()

# Rows that one transaction of a writer takes together, when they wait for it.
WRITE_ROWS = 256


@dataclass(frozen=True, slots=True)
class Output:
    """Rows whose fate is known: vectors (float32 [n, d]) of those that need one, in order; or errors."""

    target: Target
    rows: tuple[Row, ...]
    vectors: Vectors
    errors: tuple[tuple[Claim, str], ...] = ()
    tokens: int = 0
    seconds: float = 0.0


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
    ) -> None:  # fmt: skip
        self.id: UUID = uuid4()
        self.dsn = dsn
        self.settings = settings or Settings()
        self.models = list(models) if models is not None else None
        self.held = Held()
        self.rows_done = 0
        self.stopping = threading.Event()
        self.exit_status = 0
        self._load = load
        self.shelf = Shelf(self._load_by_name)
        self._work: handoff.Queue[Work | None] = handoff.Queue(maxsize=2)
        self._output: handoff.Queue[Output | None] = handoff.Queue(maxsize=4)

    def run(self, *, drain: bool = False) -> int:
        """Work until stopped; returns 0, or 1 when draining left failed rows or a model cannot run here."""
        log.info("sidecar starts", sidecar=str(self.id), drain=drain)
        connect(self.dsn, "sidecar").close()  # a wrong DSN is an error now, not a loop of them
        feeder = Feeder(self, self._work, drain=drain)
        upkeep = Upkeep(self)
        upkeep.start_up()
        threads = [
            self._thread("feeder", lambda: self._with_connection("feeder", feeder.run)),
            self._thread("embed", self._embed_all),
            *(self._thread(f"writer {i}", lambda: self._with_connection("writer", self._write_all)) for i in range(self.settings.writers)),
            self._thread("queries", lambda: self._with_connection("queries", self._answer_queries)),
            self._thread("upkeep", lambda: self._with_connection("upkeep", upkeep.run)),
        ]
        self.stopping.wait()
        self._shut_down(threads)
        log.info("sidecar stopped", sidecar=str(self.id), rows=self.rows_done)
        return self.exit_status

    def stop(self, exit_status: int = 0) -> None:
        """Finish the running batch, hand everything else back, and return from `run`; callable from a signal handler."""
        self.exit_status = self.exit_status or exit_status
        self.stopping.set()

    def _thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"pgmeaning {name}", daemon=True)
        thread.start()
        return thread

    def _shut_down(self, threads: Sequence[threading.Thread]) -> None:
        """Writers flush what is embedded; claims whose embedding did not end in time are handed back."""
        deadline = time.monotonic() + self.settings.grace
        self._put(self._work, None, deadline)
        for thread in threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        try:
            with connect(self.dsn, "sidecar") as connection:
                Queue(connection, self.id, self.settings).release(self.held.all())
                connection.execute(sql.query("goodbye"), {"id": self.id})
        except psycopg.Error as error:
            log.warning("claims not handed back: they lapse with their lease", error=str(error).strip())

    def _with_connection(self, name: str, body: Callable[[Connection], None]) -> None:
        """Run a thread's body; connect again when the connection or the server went away."""
        pause = 0.1
        while not self.stopping.is_set() or name == "writer":
            try:
                with connect(self.dsn, name) as connection:
                    pause = 0.1
                    return body(connection)
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                log.warning("connection lost", thread=name, error=str(error).strip().split("\n")[0], retry_in=pause)
            except Exception:
                log.exception("unexpected error", thread=name)
            if self.stopping.wait(pause) and name != "writer":
                return None
            pause = min(pause * 2, 5)
            if self.stopping.is_set() and pause > 1:
                return None
        return None

    def _load_by_name(self, name: str) -> Embedder:
        with connect(self.dsn, "models") as connection, connection.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(sql.query("model"), {"name": name}).fetchone()
        if row is None:
            raise ModelNotFound(f"there is no model {name!r} in this database", hint="pgmeaning model list")
        row["modalities"] = tuple(row["modalities"])
        return self._load(Model(**row))

    # Embed

    def _embed_all(self) -> None:
        while (work := self._work.get()) is not None:
            if not self.stopping.is_set():
                try:
                    self._embed(work)
                except Exception:
                    log.exception("unexpected error", thread="embed")  # its claims lapse with their lease
        for _ in range(self.settings.writers):
            self._output.put(None)

    def _embed(self, work: Work) -> None:
        wanting = [row for row in work.rows if store.needs_vector(row)]
        others = tuple(row for row in work.rows if not store.needs_vector(row))
        if others:
            self._output.put(Output(work.target, others, np.empty((0, work.embedder.dimensions), np.float32)))
        distinct, places = batching.unique([row.document for row in wanting if row.document is not None])
        rows_of: list[list[Row]] = [[] for _ in distinct]
        for row, place in zip(wanting, places, strict=True):
            rows_of[place].append(row)
        lengths = work.embedder.count_tokens(distinct)
        for batch in batching.batches(lengths, self.settings.batch_tokens, self.settings.batch_rows):
            if self.stopping.is_set():
                return
            started = time.monotonic()
            with self.shelf.turn.bulk():
                embedded = batching.embed(work.embedder, [distinct[place] for place in batch.places])
            seconds = time.monotonic() - started
            work.pace.record(len(batch.places), seconds)
            self._output.put(_output(work.target, [rows_of[place] for place in batch.places], embedded, batch.tokens, seconds))

    # Write

    def _write_all(self, connection: Connection) -> None:
        queue = Queue(connection, self.id, self.settings)
        pending: list[Output] = []
        while True:
            if not pending:
                output = self._output.get()
                if output is None:
                    return
                pending = [output]
            ended = self._gather(pending)
            try:
                for group in _by_target(pending):
                    self._write(connection, queue, group)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                for output in pending:
                    self._requeue(output)
                if ended:
                    self._put(self._output, None, time.monotonic() + 1)
                raise
            pending = []
            if ended:
                return

    def _gather(self, pending: list[Output]) -> bool:
        """Add what else waits, up to a transaction's worth; returns whether the end was among it."""
        while sum(len(output.rows) for output in pending) < WRITE_ROWS:
            try:
                output = self._output.get_nowait()
            except handoff.Empty:
                return False
            if output is None:
                return True
            pending.append(output)
        return False

    def _requeue(self, output: Output) -> None:
        """Written again over a new connection: claims that ended already are no longer there to end twice."""
        self._put(self._output, output, time.monotonic() + 1)

    def _write(self, connection: Connection, queue: Queue, outputs: Sequence[Output]) -> None:
        target = outputs[0].target
        rows = [row for output in outputs for row in output.rows]
        vectors = np.concatenate([output.vectors for output in outputs]) if len(outputs) > 1 else outputs[0].vectors
        errors = [error for output in outputs for error in output.errors]
        started = time.monotonic()
        written = self._write_rows(connection, queue, target, rows, vectors)
        if errors:
            queue.fail([claim for claim, _ in errors], [error for _, error in errors])
            log.warning("rows failed", collection=target.collection, model=target.model, rows=len(errors), error=errors[0][1])
        self.held.drop([row.claim for row in rows])
        self.held.drop([claim for claim, _ in errors])
        self.rows_done += written
        log.info(
            "batch", collection=target.collection, model=target.model, rows=len(rows), written=written,
            tokens=sum(output.tokens for output in outputs), embed_seconds=round(sum(output.seconds for output in outputs), 4),
            write_seconds=round(time.monotonic() - started, 4),
        )  # fmt: skip

    def _write_rows(self, connection: Connection, queue: Queue, target: Target, rows: Sequence[Row], vectors: Vectors) -> int:
        """Write, halving what the database refuses until the refused row stands alone."""
        try:
            return store.write(connection, queue, target, rows, vectors) if rows else 0
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            log.info("collection changed or detached meanwhile", collection=target.collection)
            queue.release([row.claim for row in rows])
            return 0
        except (psycopg.OperationalError, psycopg.InterfaceError):
            raise
        except psycopg.Error as error:
            if len(rows) == 1:
                queue.fail([rows[0].claim], [f"the vector cannot be written: {error}"])
                return 0
            middle = len(rows) // 2
            split = sum(1 for row in rows[:middle] if store.needs_vector(row))
            return self._write_rows(connection, queue, target, rows[:middle], vectors[:split]) + self._write_rows(
                connection, queue, target, rows[middle:], vectors[split:]
            )

    # Queries

    def _answer_queries(self, connection: Connection) -> None:
        lane = QueryLane(connection, self.id, self.shelf, self.models)
        while not self.stopping.is_set():
            if not lane.answer():
                lane.wait(min(self.settings.poll, 0.5))

    def _put(self, channel: handoff.Queue[Output | None] | handoff.Queue[Work | None], item: object, deadline: float) -> None:
        try:
            channel.put(item, timeout=max(0.0, deadline - time.monotonic()))  # type: ignore[arg-type]
        except handoff.Full:
            log.warning("a step does not take its work: claims lapse with their lease")


def _by_target(outputs: Sequence[Output]) -> list[list[Output]]:
    groups: dict[tuple[int, str], list[Output]] = {}
    for output in outputs:
        groups.setdefault((output.target.collection_id, output.target.model), []).append(output)
    return list(groups.values())


def _output(target: Target, rows_of: Sequence[Sequence[Row]], embedded: batching.Embedded, tokens: int, seconds: float) -> Output:
    """Spread the vectors of distinct documents over the rows that have them."""
    rows = tuple(row for place in embedded.places for row in rows_of[place])
    spread = [index for index, place in enumerate(embedded.places) for _ in rows_of[place]]
    vectors = embedded.vectors if len(spread) == len(embedded.places) else embedded.vectors[spread]
    errors = tuple((row.claim, error) for place, error in embedded.errors.items() for row in rows_of[place])
    return Output(target, rows, vectors, errors, tokens, seconds)


