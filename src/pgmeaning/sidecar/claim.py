"""The first steps of the sidecar's pipeline: fold, scan, claim, read, prepare; and when to sleep."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import psycopg
import structlog

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection, is_passing
from pgmeaning.documents import chunking
from pgmeaning.documents.chunking import Cutter, Limits
from pgmeaning.errors import ModelError
from pgmeaning.models.base import Embedder
from pgmeaning.sidecar import store
from pgmeaning.sidecar.bounded_queue import Channel
from pgmeaning.sidecar.queue import FOLD_LIMIT, Folded, Queue
from pgmeaning.sidecar.scan import PAGE_MAX, scan_page
from pgmeaning.types import Chunking, Claim, Row, Target

if TYPE_CHECKING:
    from pgmeaning.sidecar.process import Sidecar

log = structlog.get_logger()
T = TypeVar("T")

# An awake feeder looks this often; after so long without work it sleeps until it is woken.
AWAKE_POLL = 0.005
AWAKE_FOR = 0.05
# While the queue holds more than this sidecar claims, changes are taken out of the inbox so often, and so many for each
# row of a claim: enough to let a fresh change pass a backfill. All else would cost the writers now what it can later.
FOLD_SECONDS = 0.5
FOLD_CLAIMS = 2
# The source no longer has the shape, or grants the rights, that attach() found.
BROKEN = (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege)
# The registry is read again after so long, or as soon as something points to a change of it.
REGISTRY_AGE = 0.25
# Rows that will be cut are read and embedded together up to so many bytes of text and so many chunks, or one alone.
BYTES_TOGETHER = 1 << 20
CHUNKS_TOGETHER = 4096
# Who sleeps on a connection notices this soon that the sidecar stops.
STOP_POLL = 0.1


class Pace:
    """How fast a model embeds, to claim about as much as settings.claim_seconds hold."""

    def __init__(self) -> None:
        self.rows_per_second: float | None = None

    def record(self, rows: float, seconds: float) -> None:
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

    def __init__(self, sidecar: Sidecar, work: Channel[Work], media: Channel[Work], *, drain: bool) -> None:
        self._sidecar = sidecar
        self._settings = sidecar.settings
        self._work = work
        self._media = media
        self._drain = drain
        self._paces: dict[tuple[str, bool], Pace] = defaultdict(Pace)  # an image is not a text
        self._pages: dict[tuple[int, str], int] = {}
        self._targets: list[Target] = []
        self._targets_read = 0.0
        self._awake = False
        self._woke_others = 0.0
        self._folded_at = 0.0
        self._plenty: dict[tuple[str, bool], bool] = {}  # by lane: whether its last claim was as large as it may be
        self._cutters: dict[tuple[str, Chunking], Cutter] = {}
        self._quarantine = False  # a suspect is in the pipeline: alone, so that it takes no others with it

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
            elif self._drain and not self._sidecar.held and self._drained(connection, queue):
                return
            else:
                self._rest(connection, queue, last_work)

    def _take_back_lost(self, connection: Connection, queue: Queue) -> None:
        """Claims that a broken connection lost between the database and the pipeline."""
        rows = connection.execute(sql.query("queue/claimed"), {"sidecar": self._sidecar.id}).fetchall()
        queue.release(self._sidecar.held.strangers(Claim(*row) for row in rows))

    def _feed(self, connection: Connection, queue: Queue) -> bool:
        """One round over the inbox and all models; returns whether there was anything to do."""
        if not self._awake:
            self._awake = queue.stay_awake()
        folded = self._fold(queue)
        later = folded is None  # then there is another round to come
        if folded is not None:
            self._read_registry(connection, now=folded.notes > 0)
            later = folded.taken > 0
        self._quarantine = self._quarantine and len(self._sidecar.held) > 0
        if self._quarantine:
            return later
        lanes = self._lanes()
        self._plenty = {lane: plenty for lane, plenty in self._plenty.items() if lane in lanes}
        fed = [self._feed_model(connection, queue, model, media) for model, media in lanes]
        return later or any(fed)

    def _fold(self, queue: Queue) -> Folded | None:
        """A portion of the inbox into the queue; None, and nothing done, while that holds plenty for every lane."""
        lanes = self._lanes()
        plenty = bool(lanes) and all(self._plenty.get(lane) for lane in lanes)
        if plenty and time.monotonic() - self._folded_at < FOLD_SECONDS:
            return None
        self._folded_at = time.monotonic()
        return queue.fold(FOLD_CLAIMS * self._settings.claim_rows if plenty else FOLD_LIMIT)

    def _read_registry(self, connection: Connection, *, now: bool = False) -> None:
        if now or time.monotonic() - self._targets_read > REGISTRY_AGE:
            self._targets = store.targets(connection)
            self._targets_read = time.monotonic()

    def _is_mine(self, target: Target) -> bool:
        return self._sidecar.models is None or target.model in self._sidecar.models

    def _lanes(self) -> list[tuple[str, bool]]:
        """(model, whether its rows have images or videos): slow files and URLs hold up no texts."""
        lanes = sorted({(t.model, t.has_media) for t in self._targets if t.workable and self._is_mine(t)})
        return [(model, media) for model, media in lanes if not (media and self._media.full)]

    def _feed_model(self, connection: Connection, queue: Queue, model: str, media: bool) -> bool:
        embedder = self._embedder(model)
        if embedder is None:
            return False
        targets = self._ready(model, media)
        most = min(self._settings.claim_rows, self._settings.media_rows) if media else self._settings.claim_rows
        limit = self._paces[model, media].rows_in(self._settings.claim_seconds, self._settings.batch_rows, most)
        claims = self._claim(queue, model, list(targets), limit)
        self._plenty[model, media] = len(claims) == limit
        for collection_id, group in _by_collection(claims).items():
            self._hand_on(connection, queue, targets[collection_id], group, embedder)
        if len(claims) == limit and self._awake:
            self._wake_others(queue)
        busy = bool(claims)
        if len(claims) < limit and not self._quarantine:
            for target in targets.values():
                busy |= target.scanning and self._scan(connection, queue, target, limit, embedder)
        return busy

    def _embedder(self, model: str) -> Embedder | None:
        try:
            return self._sidecar.shelf.get(model)
        except ModelError:
            return None  # the shelf has logged it, the heartbeat shows it

    def _ready(self, model: str, media: bool) -> dict[int, Target]:
        """Targets of the lane that may be worked on just now, by collection."""
        return {
            t.collection_id: t
            for t in self._targets
            if t.model == model and t.has_media == media and t.workable and not self._sidecar.is_postponed(t)
        }

    def _claim(self, queue: Queue, model: str, collections: Sequence[int], limit: int) -> list[Claim]:
        """Suspects come last, and only into an empty pipeline."""
        claims = queue.claim(model, collections, limit)
        if not claims and not self._sidecar.held:
            claims = queue.claim_suspect(model, collections)
            self._quarantine = bool(claims)
        return claims

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
            page = scan_page(
                connection, target, rows=rows, claims=limit, sidecar=self._sidecar.id, lease=self._settings.lease
            )
        except psycopg.Error as error:
            self._cannot_read(connection, queue, target, (), error)
            return False
        if page is None:
            return False
        self._pages[place] = limit if page.queued * 4 > page.seen else min(rows * 2, PAGE_MAX)
        if page.claims:
            self._hand_on(connection, queue, target, page.claims, embedder)
        if page.ended:
            self._pages.pop(place, None)
            self._read_registry(connection, now=True)
            log.info("scan ended", collection=target.collection, model=target.model)
        return True

    def _hand_on(
        self, connection: Connection, queue: Queue, target: Target, claims: Sequence[Claim], embedder: Embedder
    ) -> None:
        """Read and prepare; what cannot be read fails alone."""
        self._sidecar.held.add(claims)
        left = list(claims)
        try:
            for some, rows in self._prepared(connection, queue, target, claims, embedder):
                if rows:
                    self._put(target, rows, embedder)
                left = left[len(some) :]
        except BaseException:
            self._sidecar.held.drop(left)  # so that they count as lost, and are handed back over the next connection
            raise

    def _put(self, target: Target, rows: Sequence[Row], embedder: Embedder) -> None:
        pace = self._paces[target.model, target.has_media]
        for some in (
            portions(rows, [len(row.chunks) or 1 for row in rows], CHUNKS_TOGETHER) if target.chunking else [rows]
        ):
            (self._media if target.has_media else self._work).put(Work(target, tuple(some), embedder, pace))

    def _prepared(
        self, connection: Connection, queue: Queue, target: Target, claims: Sequence[Claim], embedder: Embedder
    ) -> Iterator[tuple[Sequence[Claim], list[Row]]]:
        """(claims, their rows): all at once, or as many as are read together where documents are cut into chunks."""
        if target.chunking is None:
            yield claims, self._read(connection, queue, target, claims, characters_for(embedder))
            return
        cutter = self._cutter(target.model, target.chunking, embedder)
        for some in portions(claims, self._sizes(connection, target, claims), BYTES_TOGETHER):
            rows = self._read(connection, queue, target, some, self._settings.document_characters + 1)
            yield some, self._cut(connection, queue, target, rows, cutter)

    def _sizes(self, connection: Connection, target: Target, claims: Sequence[Claim]) -> list[int]:
        """The bytes of each row; where one cannot be told, each is read alone."""
        try:
            return store.sizes(connection, target, claims)
        except psycopg.Error as error:
            if connection.closed or is_passing(error):
                raise
            return [BYTES_TOGETHER] * len(claims)

    def _cut(
        self, connection: Connection, queue: Queue, target: Target, rows: Sequence[Row], cutter: Cutter
    ) -> list[Row]:
        """The rows with their chunks, and with what those may keep; what cannot be cut fails."""
        cut, errors = cutter.cut(rows)
        if errors:
            log.warning("rows failed", collection=target.collection, rows=len(errors), error=errors[0][1])
            claims = [row.claim for row, _ in errors]
            queue.fail(claims, [error for _, error in errors])
            self._sidecar.held.drop(claims)
        known = store.known_chunks(connection, target, cut)
        return chunking.with_known(cut, known, first_too=not target.has_media)

    def _cutter(self, model: str, wanted: Chunking, embedder: Embedder) -> Cutter:
        """Kept, since it remembers the tokens of words."""
        if (model, wanted) not in self._cutters:
            limits = Limits(self._settings.document_characters, self._settings.document_chunks)
            self._cutters[model, wanted] = Cutter(embedder, wanted, limits)
        return self._cutters[model, wanted]

    def _read(
        self, connection: Connection, queue: Queue, target: Target, claims: Sequence[Claim], characters: int
    ) -> list[Row]:
        try:
            return store.read_rows(connection, target, claims, characters, self._settings.media_max_bytes)
        except psycopg.Error as error:
            if self._cannot_read(connection, queue, target, claims, error):
                return []
            if len(claims) == 1:
                queue.fail(claims, [f"the row cannot be read: {error}"])
                self._sidecar.held.drop(claims)
                return []
        middle = len(claims) // 2
        halves = claims[:middle], claims[middle:]
        return [row for half in halves for row in self._read(connection, queue, target, half, characters)]

    def _cannot_read(
        self, connection: Connection, queue: Queue, target: Target, claims: Sequence[Claim], error: psycopg.Error
    ) -> bool:
        """Deal with an error that is the whole collection's, or raise the connection's; False: it is one row's."""
        if isinstance(error, BROKEN):
            self._mark_broken(connection, target, error)
        elif isinstance(error, psycopg.errors.LockNotAvailable):
            self._sidecar.postpone(target)
        elif connection.closed or is_passing(error):
            raise error
        elif claims:
            return False
        else:  # a scan meets a row that cannot be hashed: all other collections go on
            log.error("cannot scan", collection=target.collection, error=str(error).strip())
            self._sidecar.postpone(target, seconds=60)
        queue.release(claims)
        self._sidecar.held.drop(claims)
        return True

    def _mark_broken(self, connection: Connection, target: Target, error: psycopg.Error) -> None:
        """The collection waits until `upkeep` finds it whole again."""
        problem = error.diag.message_primary or str(error)
        log.warning("collection is broken", collection=target.collection, problem=problem)
        connection.execute(
            sql.query("maintenance/set_problem"), {"collection_id": target.collection_id, "problem": problem}
        )
        self._read_registry(connection, now=True)

    def _drained(self, connection: Connection, queue: Queue) -> bool:
        """Whether nothing is owed that can be embedded here; then the sidecar stops, with 1 if something is left."""
        if not self._sidecar.looked_at_sources.is_set():
            return False  # what it is about to find whole again is in the registry as broken
        self._read_registry(connection, now=True)
        problems = self._sidecar.shelf.problems
        mine = [t for t in self._targets if t.source_exists and not t.paused and self._is_mine(t)]
        able = [t for t in mine if t.workable and t.model not in problems]
        owed, failed = _backlog(queue, able)
        if owed:
            return False
        paused = [t for t in self._targets if t.paused and self._is_mine(t)]
        if paused and any(_backlog(queue, paused)):
            log.warning("paused collections still owe rows", collections=sorted({t.collection for t in paused}))
        left = sum(_backlog(queue, [t for t in mine if t not in able]))
        if left:
            log.error(
                "not drained", models=problems, broken={t.collection: t.problem for t in mine if t.problem}, left=left
            )
        self._sidecar.stop(exit_status=1 if failed or left else 0)
        return True

    def _rest(self, connection: Connection, queue: Queue, last_work: float) -> None:
        """Stay awake for a moment, or while the pipeline works; then sleep until woken."""
        if self._awake and (self._sidecar.held or time.monotonic() - last_work < AWAKE_FOR):
            self._sidecar.stopping.wait(AWAKE_POLL)
            return
        if self._awake:
            queue.fall_asleep()
            self._awake = False
            # A trigger may have seen the lock held just before: look once more.
            folded = queue.fold()
            if folded.taken:
                self._read_registry(connection, now=folded.notes > 0)
                return
        prepared = _uses_prepared_transactions(connection)
        self._sleep(queue, 0.1 if self._drain or prepared else self._settings.poll)

    def _sleep(self, queue: Queue, seconds: float) -> None:
        """Until woken, stopped, or time is up."""
        end = time.monotonic() + seconds
        while not self._sidecar.stopping.is_set() and (left := end - time.monotonic()) > 0:
            if queue.wait(min(left, STOP_POLL)):
                return


def _by_collection(claims: Sequence[Claim]) -> dict[int, list[Claim]]:
    groups: dict[int, list[Claim]] = defaultdict(list)
    for claim in claims:
        groups[claim.collection_id].append(claim)
    return groups


def portions(items: Sequence[T], sizes: Sequence[int], most: int) -> Iterator[Sequence[T]]:
    """The items in their order, as many together as are no larger than that; a larger one alone."""
    start = total = 0
    for place, size in enumerate(sizes):
        if place > start and total + size > most:
            yield items[start:place]
            start, total = place, 0
        total += size
    if items:
        yield items[start:]


def _backlog(queue: Queue, targets: Sequence[Target]) -> tuple[int, int]:
    return queue.backlog([t.collection_id for t in targets], [t.model for t in targets])


def characters_for(embedder: Embedder) -> int:
    """How much of a column can matter to the model: far more than its longest input, in characters."""
    tokens = getattr(embedder, "max_tokens", None) or 8192
    return min(131_072, max(8192, 32 * int(tokens)))


def _uses_prepared_transactions(connection: Connection) -> bool:
    """Then triggers send no NOTIFY, and a sleeping sidecar has to look more often."""
    return connection.execute(sql.query("prepared_transactions")).fetchone() != ("0",)
