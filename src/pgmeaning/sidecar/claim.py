"""The first step: folds changes from the inbox into the queue, and claims rows from the queue and from scans.

It ends once rows are claimed; `read` reads them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace

from pgmeaning.database import sql_files as sql
from pgmeaning.errors import ModelError
from pgmeaning.models.base import Embedder
from pgmeaning.models.loaded import LoadedModels
from pgmeaning.models.pipeline import Budget
from pgmeaning.sidecar.bounded_queue import BoundedQueue
from pgmeaning.sidecar.drain import Drain
from pgmeaning.sidecar.in_flight import InFlight
from pgmeaning.sidecar.pace import Paces
from pgmeaning.sidecar.queue import FOLD_LIMIT, URGENT, Folded
from pgmeaning.sidecar.run import ANY_DEVICE, Run
from pgmeaning.sidecar.scan import Scans
from pgmeaning.sidecar.session import Session
from pgmeaning.sidecar.wake import AWAKE_FOR, Wakefulness
from pgmeaning.sidecar.work import Claimed, Work
from pgmeaning.types import Claim, Target

# While the queue holds more than this sidecar claims, the inbox is folded this often, and this many changes for each
# row of a claim: enough to let a fresh change overtake a backfill. More would cost the writers now; it can wait.
FOLD_SECONDS = 0.5
FOLD_CLAIMS = 2

# While the pipeline is full, urgent rows are looked for this often.
URGENT_POLL = 0.05
# Suspects come last. While there is other work, they wait this long for a turn, and then go on for about so long.
SUSPECTS_WAIT = 5.0
SUSPECTS_TURN = 1.0

# While changes keep a lane busy, its scans take a page this often, lest they never end.
SCAN_SECONDS = 1.0

# A model, and whether its rows have images or videos: slow files and URLs hold up no texts.
Lane = tuple[str, bool]


class Claimer:
    """Claims the rows that are owed, lane by lane, over one connection.

    `place`: the queue for work with images or videos, or for work without. `drain`: if given, claiming ends once the
    drain is over.
    """

    def __init__(
        self, run: Run, session: Session, in_flight: InFlight, embedders: LoadedModels[Embedder], paces: Paces,
        place: Callable[[bool], BoundedQueue[Work]], drain: Drain | None,
    ) -> None:  # fmt: skip
        self._run = run
        self._settings = run.settings
        self._session = session
        self._in_flight = in_flight
        self._embedders = embedders
        self._paces = paces
        self._place = place
        self._drain = drain
        self._scans = Scans(run, session, in_flight)
        self._wakefulness = Wakefulness(run, session.connection, session.queue, drain=drain is not None)
        self._folded_at = 0.0
        self._plenty: dict[Lane, bool] = {}  # whether a lane's last claim was as large as it may be
        self._suspect: Claimed | None = None  # waits until the pipeline is empty
        self._suspects_from = time.monotonic() + SUSPECTS_WAIT
        self._scanned_at: dict[Lane, float] = {}
        self._limited_since: dict[tuple[int, str], float] = {}

    def claims(self) -> Iterator[Claimed]:
        """Claim until the sidecar stops or is drained. Claims that are yielded are held until they are dropped."""
        self._take_back_lost()
        try:
            yield from self._rounds()
        finally:
            self._wakefulness.leave()
            if self._suspect is not None:
                self._in_flight.drop(self._suspect.claims)  # so that it counts as lost

    def _rounds(self) -> Iterator[Claimed]:
        last_work = time.monotonic()
        while not self._run.stopping.is_set():
            busy = yield from self._round()
            if busy:
                last_work = time.monotonic()
            elif self._drain and not self._in_flight and self._drain.is_over(self._session):
                return
            else:
                self._rest(last_work)

    def _take_back_lost(self) -> None:
        """Recover claims that a broken connection lost between the database and the pipeline."""
        arguments = {"sidecar": self._run.id}
        rows = self._session.connection.execute(sql.query("queue/claimed"), arguments).fetchall()
        self._session.queue.release(self._in_flight.lost(Claim(*row) for row in rows))

    def _round(self) -> Generator[Claimed, None, bool]:
        """One pass over the inbox and all lanes; returns whether there was anything to do."""
        self._wakefulness.stay_awake()
        busy = self._fold()
        if self._suspect is None and self._in_flight.has_suspect:
            return busy
        lanes = self._lanes()
        if self._suspect is None and time.monotonic() > self._suspects_from:
            self._take_suspect(lanes)
        if self._suspect is None:
            found = yield from self._claim_lanes(lanes)
            busy = busy or found
            if not self._in_flight:
                self._take_suspect(lanes)
        if self._suspect is not None and len(self._in_flight) == 1:
            yield self._suspect
            self._suspect = None
            return True
        return busy

    def _claim_lanes(self, lanes: Sequence[Lane]) -> Generator[Claimed, None, bool]:
        busy = False
        self._plenty = {lane: plenty for lane, plenty in self._plenty.items() if lane in lanes}
        for lane in lanes:
            found = yield from self._claim_lane(lane)
            busy = busy or found
        return busy

    def _fold(self) -> bool:
        """Move a portion of the inbox into the queue; returns whether to come back at once."""
        lanes = self._lanes()
        plenty = bool(lanes) and all(self._plenty.get(lane) for lane in lanes)
        if plenty and time.monotonic() - self._folded_at < FOLD_SECONDS:
            return False  # nothing is folded while the queue holds plenty for every lane
        self._folded_at = time.monotonic()
        few = FOLD_CLAIMS * (self._settings.claim_rows or ANY_DEVICE.claim_rows)
        folded = self._session.queue.fold(few if plenty else FOLD_LIMIT)
        self._refresh(folded)
        return folded.taken > 0

    def _refresh(self, folded: Folded) -> None:
        """Read the registry again; at once if a note in the inbox says that it changed."""
        self._session.registry.refresh(self._session.connection, now=folded.notes > 0)

    def _lanes(self) -> list[Lane]:
        targets = [target for target in self._session.registry.targets if target.workable and self._run.serves(target)]
        lanes = sorted({(target.model, target.has_media) for target in targets})
        self._run.health.wanted = frozenset(model for model, _ in lanes)
        return lanes

    def _claim_lane(self, lane: Lane) -> Generator[Claimed, None, bool]:
        """Claim for a lane: what is urgent, then as much as there is room for; returns whether there was anything."""
        embedder = self._embedder(lane[0])
        if embedder is None:
            self._plenty[lane] = False  # nothing that we could work on
            return False
        targets, limit = self._ready(lane), self._limit(lane, self._run.budget(embedder))
        scanned = urgent = other = False
        place = self._place(lane[1])
        if (
            not place.is_full()
            and time.monotonic() > self._scanned_at.setdefault(lane, time.monotonic()) + SCAN_SECONDS
        ):
            scanned = yield from self._scan_lane(lane, targets, limit, embedder)
        if not place.is_full(urgent=True):
            claims = self._session.queue.claim(lane[0], list(targets), limit, URGENT)
            urgent = yield from self._held_by_collection(targets, claims, embedder, urgent=True)
        if not place.is_full():
            other = yield from self._claim_other(lane, targets, limit, embedder)
        return scanned or urgent or other

    def _claim_other(
        self, lane: Lane, targets: Mapping[int, Target], limit: int, embedder: Embedder
    ) -> Generator[Claimed, None, bool]:
        """Claim from the queue, then the next page of each scan."""
        claims = self._session.queue.claim(lane[0], list(targets), limit)
        self._plenty[lane] = len(claims) == limit
        found = yield from self._held_by_collection(targets, claims, embedder)
        if self._plenty[lane]:
            self._wakefulness.wake_others()
            return True
        scanned = yield from self._scan_lane(lane, targets, limit, embedder)
        return found or scanned

    def _scan_lane(
        self, lane: Lane, targets: Mapping[int, Target], limit: int, embedder: Embedder
    ) -> Generator[Claimed, None, bool]:
        self._scanned_at[lane] = time.monotonic()
        return (yield from self._scan([t for t in targets.values() if t.scanning], limit, embedder))

    def _held_by_collection(
        self, targets: Mapping[int, Target], claims: Sequence[Claim], embedder: Embedder, *, urgent: bool = False
    ) -> Generator[Claimed, None, bool]:
        for collection_id, group in _by_collection(claims).items():
            yield replace(self._held(targets[collection_id], group, embedder), urgent=urgent)
        return bool(claims)

    def _embedder(self, model: str) -> Embedder | None:
        try:
            return self._embedders.get(model)
        except ModelError:
            return None  # it is logged already, and the heartbeat shows it

    def _ready(self, lane: Lane) -> dict[int, Target]:
        """The lane's targets that may be worked on right now, by collection."""
        return {
            target.collection_id: target
            for target in self._session.registry.targets
            if (target.model, target.has_media) == lane and target.workable and not self._in_flight.is_postponed(target)
        }

    def _limit(self, lane: Lane, budget: Budget) -> int:
        """How many rows a claim may hold."""
        most = min(budget.claim_rows, self._settings.media_rows) if lane[1] else budget.claim_rows
        return self._paces[lane].rows_in(self._settings.claim_seconds, budget.rows, most)

    def _take_suspect(self, lanes: Sequence[Lane]) -> None:
        """Claim a suspect. It is handed on once nothing else is in flight, and meanwhile nothing else is claimed."""
        now = time.monotonic()
        self._suspect = next(filter(None, map(self._claim_suspect, lanes)), None)
        if self._suspect is None or now > self._suspects_from + SUSPECTS_TURN:
            self._suspects_from = now + SUSPECTS_WAIT

    def _claim_suspect(self, lane: Lane) -> Claimed | None:
        embedder, targets = self._embedder(lane[0]), self._ready(lane)
        claims = self._session.queue.claim_suspect(lane[0], list(targets)) if embedder else []
        if not embedder or not claims:
            return None
        return self._held(targets[claims[0].collection_id], claims, embedder, suspect=True)

    def _held(self, target: Target, claims: Sequence[Claim], embedder: Embedder, *, suspect: bool = False) -> Claimed:
        self._in_flight.add(claims, suspect=suspect)
        return Claimed(target, tuple(claims), embedder, origin=self._run.recorder.claimed(target, len(claims)))

    def _scan(self, targets: Sequence[Target], limit: int, embedder: Embedder) -> Generator[Claimed, None, bool]:
        """The next page of each scan; returns whether there was one."""
        busy = False
        for target in targets:
            if not self._may_scan(target):
                continue
            page = self._scans.next_page(target, limit)
            if page is None:
                continue
            busy = True
            if page.claims:
                yield self._held(target, page.claims, embedder)
            if page.ended:
                self._session.registry.end_scan(target)
        return busy

    def _may_scan(self, target: Target) -> bool:
        """Whether a scan that is to spend no more than so much may go on: only once it is known what it has spent."""
        if not target.is_limited:
            return True
        if self._in_flight.holds(target):
            return False
        self._run.usage.flush(self._session.connection)
        began = self._limited_since.setdefault((target.collection_id, target.model), time.monotonic())
        share = 1.0 if target.scan_share is None else target.scan_share
        return self._run.usage.seconds(target) <= share * (time.monotonic() - began)

    def _rest(self, last_work: float) -> None:
        """Wait for room in the pipeline; stay awake for a moment, or while it works; then sleep until woken."""
        full = next((place for place in map(self._place, (False, True)) if place.is_full()), None)
        if full is not None:
            with self._run.recorder.waits("claim"):
                return full.wait_for_room(URGENT_POLL)
        if self._in_flight.has_suspect:
            return self._wakefulness.pause()
        if self._wakefulness.awake and (self._in_flight or time.monotonic() - last_work < AWAKE_FOR):
            return self._wakefulness.pause()
        if self._wakefulness.awake:
            self._wakefulness.fall_asleep()
            folded = self._session.queue.fold()
            if folded.taken:
                return self._refresh(folded)
        return self._wakefulness.sleep()


def _by_collection(claims: Sequence[Claim]) -> dict[int, list[Claim]]:
    groups: dict[int, list[Claim]] = defaultdict(list)
    for claim in claims:
        groups[claim.collection_id].append(claim)
    return groups
