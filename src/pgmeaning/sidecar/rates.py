"""How fast this process finishes the rows of each collection, for its heartbeat."""

from __future__ import annotations

import math
import threading
import time

# A rate forgets what is this many seconds old, about; a slower one than the least is none.
MEMORY_SECONDS = 20.0
LEAST = 0.01


class Rates:
    """Rows a second by collection, as moving averages. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[int, int] = {}
        self._rates: dict[int, float] = {}
        self._since = time.monotonic()

    def add(self, collection_id: int, rows: int) -> None:
        """Note rows that were finished."""
        with self._lock:
            self._rows[collection_id] = self._rows.get(collection_id, 0) + rows

    def now(self, at: float | None = None) -> dict[str, float]:
        """The rates as of now, by the collection's number."""
        with self._lock:
            at = time.monotonic() if at is None else at
            elapsed, self._since = max(at - self._since, 1e-3), at
            rows, self._rows = self._rows, {}
            weight = 1 - math.exp(-elapsed / MEMORY_SECONDS)
            found = {number: self._next(number, rows.get(number, 0) / elapsed, weight) for number in self._rates | rows}
            self._rates = {number: rate for number, rate in found.items() if rate >= LEAST}
            return {str(number): round(rate, 2) for number, rate in self._rates.items()}

    def _next(self, number: int, rate: float, weight: float) -> float:
        known = self._rates.get(number)
        return rate if known is None else known + weight * (rate - known)
