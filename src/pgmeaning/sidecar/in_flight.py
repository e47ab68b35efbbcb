"""Work in progress in this process, shared by its threads: the claims it holds, the collections it has postponed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import structlog

from pgmeaning.sidecar.rates import Rates
from pgmeaning.types import Claim, Target

log = structlog.get_logger()

POSTPONED_SECONDS = 5.0


class InFlight:
    """Claims from the moment they are taken until they are finished or given up, and how many rows are done."""

    def __init__(self) -> None:
        self.rows_done = 0
        self.rates = Rates()
        self._lock = threading.Lock()
        self._claims: dict[tuple[int, str, str, int], Claim] = {}
        self._suspect = False
        self._postponed: dict[tuple[int, str], float] = {}

    def add(self, claims: Iterable[Claim], *, suspect: bool = False) -> None:
        """Hold these claims: their leases are extended until they are dropped."""
        with self._lock:
            self._claims.update((_identity(claim), claim) for claim in claims)
            self._suspect = self._suspect or suspect

    @property
    def has_suspect(self) -> bool:
        """Whether a row that may have crashed its sidecars is held: alone, so that it takes no others with it."""
        with self._lock:
            self._suspect = self._suspect and bool(self._claims)
            return self._suspect

    def drop(self, claims: Iterable[Claim]) -> None:
        """Let these claims go: they are finished, or another sidecar may take them once their leases expire."""
        with self._lock:
            for claim in claims:
                self._claims.pop(_identity(claim), None)

    def all(self) -> list[Claim]:
        """Every claim that is held."""
        with self._lock:
            return list(self._claims.values())

    def holds(self, target: Target) -> bool:
        """Whether rows of a target are held."""
        with self._lock:
            return any(place[:2] == (target.collection_id, target.model) for place in self._claims)

    def lost(self, claims: Iterable[Claim]) -> list[Claim]:
        """The claims among these that are not held: they were lost with a connection."""
        with self._lock:
            return [claim for claim in claims if _identity(claim) not in self._claims]

    def __len__(self) -> int:
        with self._lock:
            return len(self._claims)

    def count_rows(self, target: Target, written: int) -> None:
        """Add rows that a writer has finished."""
        with self._lock:
            self.rows_done += written
        self.rates.add(target.collection_id, written)

    def postpone(self, target: Target, seconds: float = POSTPONED_SECONDS) -> None:
        """Skip a target for a while, so that a lock held on it does not hold up the others."""
        log.warning("collection postponed", collection=target.collection, model=target.model, seconds=seconds)
        self._postponed[target.collection_id, target.model] = time.monotonic() + seconds

    def is_postponed(self, target: Target) -> bool:
        """Whether it is to be skipped for now."""
        return time.monotonic() < self._postponed.get((target.collection_id, target.model), 0)


def _identity(claim: Claim) -> tuple[int, str, str, int]:
    return claim.collection_id, claim.model, claim.key, claim.generation
