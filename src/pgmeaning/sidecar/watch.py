"""Notices calls that do not return. A thread cannot be stopped, so the process hands back what it holds, and ends."""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pgmeaning.database.connection import Connection

# What is to be done, over a new connection, about what the call was for; it is told why.
GiveUp = Callable[[Connection, str], None]


# On top of the time that a call may take.
FROZEN_SECONDS = 60.0


def end_when_frozen(seconds: float, more: float = FROZEN_SECONDS) -> None:
    """End the process, with a traceback, unless this is called again within the time for one call, and a bit more.

    A call that keeps Python's lock stops every thread, so that only a timer outside Python can notice.
    """
    faulthandler.dump_traceback_later(seconds + more, exit=True, file=2)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call under way, and how long it may take."""

    what: str
    seconds: float
    give_up: GiveUp
    started: float = field(default_factory=time.monotonic)

    @property
    def error(self) -> str:
        """Why it is given up, for whoever waits for its result."""
        return f"{self.what} did not return within {self.seconds:g} s, set by PGMEANING_MODEL_TIMEOUT"


class Watch:
    """The calls under way in all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[Call] = set()

    @contextmanager
    def call(self, what: str, seconds: float, give_up: GiveUp) -> Iterator[None]:
        """Watch what the body does."""
        call = Call(what, seconds, give_up)
        with self._lock:
            self._calls.add(call)
        try:
            yield
        finally:
            with self._lock:
                self._calls.discard(call)

    def overdue(self) -> list[Call]:
        """The calls that have taken longer than they may."""
        now = time.monotonic()
        with self._lock:
            return [call for call in self._calls if now - call.started > call.seconds]
