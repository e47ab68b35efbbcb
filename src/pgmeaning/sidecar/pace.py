"""Measures how fast models embed, so that a claim holds about as much work as the settings say."""

from __future__ import annotations

from collections import defaultdict


class Pace:
    """Rows per second, as a moving average."""

    def __init__(self) -> None:
        self.rows_per_second: float | None = None

    def record(self, rows: float, seconds: float) -> None:
        """Record a batch."""
        rate = rows / max(seconds, 1e-6)
        self.rows_per_second = rate if self.rows_per_second is None else 0.8 * self.rows_per_second + 0.2 * rate

    def rows_in(self, seconds: float, first: int, most: int) -> int:
        """About how many rows fit into that time, at most `most`; `first` while nothing is known."""
        if self.rows_per_second is None:
            return min(first, most)
        return max(1, min(most, int(self.rows_per_second * seconds)))


class Paces(defaultdict[tuple[str, bool], Pace]):
    """One pace per (model, whether its rows have media), since images take longer. Embed records, claim asks."""

    def __init__(self) -> None:
        super().__init__(Pace)
