"""Whether this process is alive and ready, for those who watch it from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

# Its main loop turns about every second; a process whose loop has not turned for so long is stuck.
STUCK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Probes:
    """Why the process is not alive, and why it is not ready; empty: it is."""

    ailments: list[str]
    obstacles: list[str]


@dataclass(slots=True)
class Health:
    """What the threads of a sidecar note of themselves. Each field has one writer, and a look needs no lock."""

    started: bool = False  # it has introduced itself to the database
    stopping: bool = False
    away: str | None = "not reached yet"  # why the database is not reached; None: it is
    wanted: frozenset[str] | None = None  # the models of the rows that it is to embed; None: not known yet
    turned_at: float = field(default_factory=time.monotonic)

    def turn(self) -> None:
        """The main loop goes round."""
        self.turned_at = time.monotonic()

    def reached(self) -> None:
        """The database has answered."""
        self.away = None

    def lost(self, error: str) -> None:
        """A connection was lost, or cannot be made."""
        self.away = error

    def ailments(self) -> list[str]:
        """Why it had better be started again. Not because of what a new process could not mend."""
        if self.stopping or time.monotonic() - self.turned_at < STUCK_SECONDS:
            return []
        return [f"the main loop has stood still for {time.monotonic() - self.turned_at:.0f} s"]

    def obstacles(self, is_at_hand: Callable[[str], bool], problems: Mapping[str, str]) -> list[str]:
        """Why it is not ready: it does not embed and answer what it could."""
        if self.stopping:
            return ["it is stopping"]
        if not self.started:
            return ["it is starting"]
        if self.away is not None:
            return [f"the database is away: {self.away}"]
        if self.wanted is None:
            return ["it is starting: the collections have not been looked at"]
        missing = [name for name in sorted(self.wanted) if name in problems or not is_at_hand(name)]
        return [f"model {name}: {problems.get(name, 'it is being loaded')}" for name in missing]
