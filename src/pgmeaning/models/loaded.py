"""The models that this process has loaded. One runs at a time, and queries go before bulk work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import structlog

from pgmeaning.errors import ModelDrifted, ModelError, OverLimit, describe_in_public

log = structlog.get_logger()
M = TypeVar("M")

# How often an endpoint is tried while it is down.
DOWN_SECONDS = 5.0
# The time until a model that failed to load is tried again: a mount or a download may appear.
RETRY_SECONDS = 60.0
# While a limit is used up, it is looked at again after so long at most: somebody may have raised it.
LIMIT_SECONDS = 60.0
# A drain waits for a limit of a minute, not for the next day.
DRAIN_SECONDS = 120.0


class LoadedModels(Generic[M]):
    """Models by name, loaded on first use; of those that share a priority lock, one runs at a time."""

    def __init__(
        self, load: Callable[[str], M], priority_lock: PriorityLock | None = None,
        passing: tuple[type[Exception], ...] = (),
    ) -> None:  # fmt: skip
        """`passing`: errors of `load` that say nothing about the model; they are raised as they are, and forgotten."""
        self._load = load
        self._passing = passing
        self._loaded: dict[str, M] = {}
        self._failed: dict[str, tuple[float, ModelError]] = {}
        self._over: dict[str, tuple[float, OverLimit]] = {}  # those whose bulk work waits, while queries go on
        self._began: dict[str, float] = {}  # of those that are being loaded
        self._changing = threading.Lock()
        self._loading = threading.Lock()  # one at a time: libraries patch themselves while they load
        self.priority_lock = priority_lock or PriorityLock()

    def get(self, name: str) -> M:
        """The model of that name; raises ModelError if it cannot run here, at once if that is known."""
        if self.is_at_hand(name):
            return self._known(name)
        began = self._began.setdefault(name, time.monotonic())
        try:
            with self._loading:
                return self._known(name) if self.is_at_hand(name) else self._try(name)
        finally:
            if self._began.get(name) == began:
                self._began.pop(name, None)

    def loading_seconds(self, name: str) -> float:
        """How long the model has been loading; 0 if it is not."""
        return time.monotonic() - self._began.get(name, time.monotonic())

    def is_at_hand(self, name: str) -> bool:
        """Whether `get` would answer without loading the model."""
        with self._changing:
            return name in self._loaded or self._rests(name)

    def _known(self, name: str) -> M:
        with self._changing:
            if name in self._failed and (self._rests(name) or name not in self._loaded):
                raise self._failed[name][1]
            self._failed.pop(name, None)
            if name in self._loaded:
                return self._loaded[name]
        return self.get(name)  # it was dropped a moment ago

    def forget(self, name: str) -> None:
        """Drop a model, and that it could not be loaded: the next `get` loads it."""
        with self._changing:
            self._loaded.pop(name, None)
            self._failed.pop(name, None)
            self._over.pop(name, None)

    def suspend(self, name: str, error: ModelError) -> None:
        """Suspend a loaded model for a while: its endpoint is down, or serves something else. Or just its bulk work."""
        if isinstance(error, OverLimit):
            with self._changing:
                self._over[name] = (time.monotonic() + min(error.seconds, LIMIT_SECONDS), error)
            log.info("model waits for its limit", model=name, error=str(error))
            return
        seconds = RETRY_SECONDS if isinstance(error, ModelDrifted) else DOWN_SECONDS
        with self._changing:
            self._failed[name] = (time.monotonic() + seconds, error)
        log.warning("model suspended", model=name, seconds=seconds, error=str(error))

    def is_suspended(self, name: str) -> bool:
        """Whether it is suspended now, at least for bulk work."""
        with self._changing:
            return self._rests(name) or (name in self._over and time.monotonic() < self._over[name][0])

    def waits(self, longer_than: float = 0.0) -> dict[str, str]:
        """Models whose bulk work waits for a limit now, and for how long; only those that wait longer than that."""
        with self._changing:
            now = time.monotonic()
            waiting = [(name, error) for name, (until, error) in self._over.items() if now < until]
        return {name: str(error) for name, error in waiting if error.seconds > longer_than}

    def _rests(self, name: str) -> bool:
        return name in self._failed and time.monotonic() < self._failed[name][0]

    def _try(self, name: str) -> M:
        started = time.monotonic()
        try:
            loaded = self._load(name)
        except self._passing:
            raise
        except BaseException as error:
            failure = (
                error if isinstance(error, ModelError) else ModelError(f"model {name!r} cannot be loaded: {error}")
            )
            with self._changing:
                self._failed[name] = (time.monotonic() + RETRY_SECONDS, failure)
            log.error("model cannot run here", model=name, error=str(failure))
            raise failure from error
        with self._changing:
            self._loaded[name] = loaded
            self._failed.pop(name, None)
        log.info("model loaded", model=name, seconds=round(time.monotonic() - started, 2))
        return loaded

    @property
    def names(self) -> list[str]:
        """Models that are loaded."""
        return sorted(self._loaded)

    @property
    def problems(self) -> dict[str, str]:
        """Models that cannot run here, and why, as far as everybody may know."""
        return {name: describe_in_public(error) for name, (_, error) in self._failed.items()}


class PriorityLock:
    """Decides who runs a model: bulk work only while no query waits, so a query waits for at most one batch."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._busy = False
        self._in_bulk = False
        self._waiting_queries = 0

    @contextmanager
    def query(self) -> Iterator[None]:
        """Take the lock for a query, ahead of any bulk work that waits."""
        with self._condition:
            self._waiting_queries += 1
            self._condition.wait_for(lambda: not self._busy)
            self._waiting_queries -= 1
            self._busy, self._in_bulk = True, False
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """Take the lock for bulk work, when no query waits."""
        with self._condition:
            self._take_for_bulk()
        try:
            yield
        finally:
            self._release()

    def give_way(self) -> None:
        """Within bulk work: let waiting queries go first, then continue. Within a query, continue at once."""
        if not self._waiting_queries:  # nearly always; a query arriving now is seen between the next two layers
            return
        with self._condition:
            if self._in_bulk and self._waiting_queries:
                self._busy = self._in_bulk = False
                self._condition.notify_all()
                self._take_for_bulk()

    def _take_for_bulk(self) -> None:
        self._condition.wait_for(lambda: not self._busy and not self._waiting_queries)
        self._busy = self._in_bulk = True

    def _release(self) -> None:
        with self._condition:
            self._busy = False
            self._condition.notify_all()
