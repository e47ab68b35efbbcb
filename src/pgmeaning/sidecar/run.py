"""What stays the same for as long as a sidecar runs; every step is given it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from pgmeaning.settings import Settings
from pgmeaning.types import Target

# A thread that sleeps on a connection notices within this time that the sidecar stops.
STOP_POLL = 0.1


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a sidecar. `models`: those that it serves, or None for all; `stopping` is set to end it."""

    dsn: str
    settings: Settings
    models: tuple[str, ...] | None = None
    id: UUID = field(default_factory=uuid4)
    stopping: threading.Event = field(default_factory=threading.Event)

    def serves(self, target: Target) -> bool:
        """Whether the target's model is one of those that this sidecar runs."""
        return self.models is None or target.model in self.models
