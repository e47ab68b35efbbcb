"""Decides when a drain is over: when nothing is owed that this sidecar can embed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import structlog

from pgmeaning.sidecar.queue import Queue
from pgmeaning.sidecar.run import Run
from pgmeaning.sidecar.session import Session
from pgmeaning.types import Target

log = structlog.get_logger()


class Drain:
    """Stops the sidecar once nothing is owed; exit status 1 if rows failed, or some left cannot be embedded here.

    `looked_at_sources`: set once maintenance has done so; before, the registry may show as broken what it will mend.
    `problems`: the models that cannot run here, and why.
    """

    def __init__(
        self, run: Run, problems: Callable[[], Mapping[str, str]], looked_at_sources: threading.Event,
        stop: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._run = run
        self._problems = problems
        self._looked_at_sources = looked_at_sources
        self._stop = stop

    def is_over(self, session: Session) -> bool:
        """Whether the drain is over; if so, the sidecar has been told to stop."""
        if not self._looked_at_sources.is_set():
            return False
        session.registry.refresh(session.connection, now=True)
        targets = [t for t in session.registry.targets if self._run.serves(t)]
        problems = self._problems()
        mine = [t for t in targets if t.source_exists and not t.paused]
        able = [t for t in mine if t.workable and t.model not in problems]
        owed, failed = _backlog(session.queue, able)
        if owed:
            return False
        _tell_paused(session.queue, [t for t in targets if t.paused])
        unable = [t for t in mine if t not in able]
        left = sum(_backlog(session.queue, unable))
        if left:
            broken = {t.collection: t.problem for t in mine if t.problem}
            log.error("not drained", models=problems, broken=broken, left=left)
        self._stop(1 if failed or left else 0)
        return True


def _tell_paused(queue: Queue, paused: Sequence[Target]) -> None:
    if paused and any(_backlog(queue, paused)):
        log.warning("paused collections still owe rows", collections=sorted({t.collection for t in paused}))


def _backlog(queue: Queue, targets: Sequence[Target]) -> tuple[int, int]:
    return queue.backlog([t.collection_id for t in targets], [t.model for t in targets])
