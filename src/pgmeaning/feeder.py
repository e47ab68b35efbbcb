"""The first steps of the sidecar's pipeline: fold, scan, claim, read, prepare; and when to sleep."""

from __future__ import annotations

import queue as handoff
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import structlog

from pgmeaning import sql, store
from pgmeaning.connection import Connection
from pgmeaning.errors import ModelError
from pgmeaning.models.base import Embedder
from pgmeaning.queue import Queue
from pgmeaning.reconcile import PAGE_MAX, scan_page
from pgmeaning.types import Claim, Row, Target

if TYPE_CHECKING:
    from pgmeaning.sidecar import Sidecar

log = structlog.get_logger()

# An awake feeder looks this often; after so long without work it sleeps until it is woken.
AWAKE_POLL = 0.005
AWAKE_FOR = 0.05
# The source no longer has the shape, or grants the rights, that attach() found.
BROKEN = (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege)
# The registry is read again after so long, or as soon as something points to a change of it.
REGISTRY_AGE = 0.25


class Pace:
    """How fast a model embeds, to claim about as much as settings.claim_seconds hold."""

    def __init__(self) -> None:
        self.rows_per_second: float | None = None

    def record(self, rows: int, seconds: float) -> None:
        """After a batch; a moving average."""
        rate = rows / max(seconds, 1e-6)
        self.rows_per_second = rate if self.rows_per_second is None else 0.8 * self.rows_per_second + 0.2 * rate

    def rows_in(self, seconds: float, first: int, most: int) -> int:
        """How many rows about so long takes; `first` while nothing is known."""
        if self.rows_per_second is None:
            return min(first, most)
        return max(1, min(most, int(self.rows_per_second * seconds)))


@dataclass(frozen=True, slots=True)
class Work:
    """Rows of one target, read and prepared, and the model that will embed them."""

    target: Target
    rows: tuple[Row, ...]
    embedder: Embedder
    pace: Pace


class Feeder:
    """Keeps the pipeline fed, until there is nothing left."""

    def __init__(self, sidecar: Sidecar, work: handoff.Queue[Work | None], *, drain: bool) -> None:
        self._sidecar = sidecar
        self._settings = sidecar.settings
        self._work = work
        self._drain = drain
        self._paces: dict[str, Pace] = defaultdict(Pace)
        self._pages: dict[tuple[int, str], int] = {}
        self._targets: list[Target] = []
        self._targets_read = 0.0
        self._awake = False
        self._woke_others = 0.0

    def run(self, connection: Connection) -> None:
        """Until the sidecar stops, or with drain until nothing is owed."""
        queue = Queue(connection, self._sidecar.id, self._settings)
        connection.execute(sql.query("listen"))
        self._awake = False
        self._take_back_lost(connection, queue)
        last_work = time.monotonic()
        while not self._sidecar.stopping.is_set():
            if self._feed(connection, queue):
                last_work = time.monotonic()
            elif self._drain and not self._sidecar.held and self._drained(queue):
                return
            else:
                self._rest(connection, queue, last_work)

    def _take_back_lost(self, connection: Connection, queue: Queue) -> None:
        """Claims that a broken connection lost between the database and the pipeline."""
        rows = connection.execute(sql.query("claimed"), {"sidecar": self._sidecar.id}).fetchall()
        queue.release(self._sidecar.held.strangers(Claim(*row) for row in rows))

    def _feed(self, connection: Connection, queue: Queue) -> bool:
        """One round over the inbox and all models; returns whether there was anything to do."""
        if not self._awake:
            self._awake = queue.stay_awake()
        folded = queue.fold()
        self._read_registry(connection, now=bool(folded.notes))
        busy = folded.taken > 0
        for model in self._models():
            busy |= self._feed_model(connection, queue, model)
        return busy

    def _read_registry(self, connection: Connection, *, now: bool = False) -> None:
        if now or time.monotonic() - self._targets_read > REGISTRY_AGE:
            self._targets = store.targets(connection)
            self._targets_read = time.monotonic()

    def _models(self) -> list[str]:
        allowed = self._sidecar.models
        return sorted({t.model for t in self._targets if t.workable and (allowed is None or t.model in allowed)})

    def _feed_model(self, connection: Connection, queue: Queue, model: str) -> bool:
        try:
            embedder = self._sidecar.shelf.get(model)
        except ModelError as error:
            if self._drain:
                log.error("cannot drain", model=model, error=str(error))
                self._sidecar.stop(exit_status=1)
            return False
        targets = {t.collection_id: t for t in self._targets if t.model == model and t.workable}
        limit = self._paces[model].rows_in(self._settings.claim_seconds, self._settings.batch_rows, self._settings.claim_rows)
        claims = queue.claim(model, list(targets), limit)
        self._sidecar.held.add(claims)
        groups: dict[int, list[Claim]] = defaultdict(list)
        for claim in claims:
            groups[claim.collection_id].append(claim)
        for collection_id, group in groups.items():
            self._hand_on(connection, queue, targets[collection_id], group, embedder)
        if len(claims) == limit and self._awake:
            self._wake_others(queue)
        busy = bool(claims)
        if len(claims) < limit:
            for target in targets.values():
                busy |= target.scanning and self._scan(connection, queue, target, limit, embedder)
        return busy

    def _wake_others(self, queue: Queue) -> None:
        """At most once a second: there is work for more than one."""
        if time.monotonic() - self._woke_others > 1:
            self._woke_others = time.monotonic()
            queue.wake_others()

    def _scan(self, connection: Connection, queue: Queue, target: Target, limit: int, embedder: Embedder) -> bool:
        """The next page of a scan; pages grow while nothing in them is owed."""
        place = target.collection_id, target.model
        rows = max(self._pages.get(place, limit), limit)
        try:
            page = scan_page(connection, target, rows=rows, claims=limit, sidecar=self._sidecar.id, lease=self._settings.lease)
        except BROKEN as error:
            self._mark_broken(connection, queue, target, (), error)
            return False
        if page is None:
            return False
        self._sidecar.held.add(page.claims)
        self._pages[place] = limit if page.queued * 4 > page.seen else min(rows * 2, PAGE_MAX)
        if page.claims:
            self._hand_on(connection, queue, target, page.claims, embedder)
        if page.ended:
            self._pages.pop(place, None)
            self._read_registry(connection, now=True)
            log.info("scan ended", collection=target.collection, model=target.model)
        return True

    def _hand_on(self, connection: Connection, queue: Queue, target: Target, claims: Sequence[Claim], embedder: Embedder) -> None:
        """Read and prepare; what cannot be read fails alone."""
        rows = self._read(connection, queue, target, claims, characters_for(embedder))
        if rows:
            self._put(Work(target, tuple(rows), embedder, self._paces[target.model]))

    def _put(self, work: Work) -> None:
        while not self._sidecar.stopping.is_set():
            try:
                return self._work.put(work, timeout=0.2)
            except handoff.Full:
                continue
        return None

    def _read(self, connection: Connection, queue: Queue, target: Target, claims: Sequence[Claim], characters: int) -> list[Row]:
        try:
            return store.read_rows(connection, target, claims, characters)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            raise
        except BROKEN as error:
            self._mark_broken(connection, queue, target, claims, error)
            return []
        except psycopg.Error as error:
            if len(claims) == 1:
                queue.fail(claims, [f"the row cannot be read: {error}"])
                self._sidecar.held.drop(claims)
                return []
            middle = len(claims) // 2
            halves = claims[:middle], claims[middle:]
            return [row for half in halves for row in self._read(connection, queue, target, half, characters)]

    def _mark_broken(
        self, connection: Connection, queue: Queue, target: Target, claims: Sequence[Claim], error: psycopg.Error
    ) -> None:
        """The collection waits until `upkeep` finds it whole again; its claims go back."""
        problem = error.diag.message_primary or str(error)
        log.warning("collection is broken", collection=target.collection, problem=problem)
        connection.execute(sql.query("set_problem"), {"collection_id": target.collection_id, "problem": problem})
        queue.release(claims)
        self._sidecar.held.drop(claims)
        self._read_registry(connection, now=True)

    def _drained(self, queue: Queue) -> bool:
        """Whether nothing is owed; then the sidecar stops, with 1 where rows failed."""
        targets = [t for t in self._targets if t.workable and t.model in self._models()]
        owed, failed = queue.backlog([t.collection_id for t in targets], [t.model for t in targets])
        if owed == 0:
            self._sidecar.stop(exit_status=1 if failed else 0)
        return owed == 0

    def _rest(self, connection: Connection, queue: Queue, last_work: float) -> None:
        """Stay awake for a moment, or while the pipeline works; then sleep until woken."""
        if self._awake and (self._sidecar.held or time.monotonic() - last_work < AWAKE_FOR):
            self._sidecar.stopping.wait(AWAKE_POLL)
            return
        if self._awake:
            queue.fall_asleep()
            self._awake = False
            # A trigger may have seen the lock held just before: look once more.
            if queue.fold().taken:
                return
        prepared = _uses_prepared_transactions(connection)
        queue.wait(0.1 if self._drain or prepared else self._settings.poll)


def characters_for(embedder: Embedder) -> int:
    """How much of a column can matter to the model: far more than its longest input, in characters."""
    tokens = getattr(embedder, "max_tokens", None) or 8192
    return max(4096, 16 * int(tokens))


def _uses_prepared_transactions(connection: Connection) -> bool:
    """Then triggers send no NOTIFY, and a sleeping sidecar has to look more often."""
    return connection.execute(sql.query("prepared_transactions")).fetchone() != ("0",)
