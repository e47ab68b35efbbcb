"""What stays the same for as long as a sidecar runs; every step is given it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4

from pgmeaning.database.connection import Connection, connect, current_role
from pgmeaning.models.pipeline import Budget, budget_of
from pgmeaning.settings import Settings
from pgmeaning.sidecar.health import Health
from pgmeaning.sidecar.queue import Queue
from pgmeaning.sidecar.recorder import Recorder
from pgmeaning.sidecar.usage import Usage
from pgmeaning.sidecar.watch import Watch
from pgmeaning.types import Claim, Target

# A thread that sleeps on a connection notices within this time that the sidecar stops.
STOP_POLL = 0.1
# settings.model_timeout is the time for so many.
TOKENS = 1024
# What one call of a model holds that does not say what fits its device.
ANY_DEVICE = Budget(tokens=1024, rows=128, claim_rows=512, padded=True)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a sidecar. `models`: those that it serves, or None for all; `stopping` is set to end it."""

    dsn: str = field(repr=False)  # it may hold a password
    settings: Settings
    models: tuple[str, ...] | None = None
    id: UUID = field(default_factory=uuid4)
    stopping: threading.Event = field(default_factory=threading.Event)
    watch: Watch = field(default_factory=Watch)
    usage: Usage = field(default_factory=Usage)
    recorder: Recorder = field(default_factory=Recorder)
    health: Health = field(default_factory=Health)

    def budget(self, embedder: object) -> Budget:
        """What one call of a model holds: what the settings say, else what fits its device."""
        fitting, settings = budget_of(embedder) or ANY_DEVICE, self.settings
        return replace(
            fitting,
            tokens=settings.batch_tokens or fitting.tokens,
            rows=settings.batch_rows or fitting.rows,
            claim_rows=settings.claim_rows or fitting.claim_rows,
        )

    def model_call(
        self, claims: Callable[[], Sequence[Claim]], tokens: int = 0, what: str = "the model"
    ) -> AbstractContextManager[None]:
        """Watch a call: if it does not return in time, its claims are handed back, and the process ends.

        `claims` is asked for only then.
        """

        def give_up(connection: Connection, error: str) -> None:
            Queue(connection, self.id, self.settings).give_up(claims(), error)

        return self.watch.call(what, self.settings.model_timeout * max(1, tokens / TOKENS), give_up)

    @property
    def reader_dsn(self) -> str:
        """By which the source tables are read."""
        return self.settings.reader_dsn or self.dsn

    def reader(self) -> str:
        """The role that reads the source tables."""
        with connect(self.reader_dsn, "reader") as connection:
            return current_role(connection)

    def serves(self, target: Target) -> bool:
        """Whether the target's model is one of those that this sidecar runs."""
        return self.models is None or target.model in self.models
