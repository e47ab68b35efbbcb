"""Runs work in parallel threads and shares objects between them; none of the threads keeps the process alive.

Not an executor: its threads would delay the end of the process while a server stalls.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each(
    work: Callable[[T], R], items: Sequence[T], concurrency: int, stopping: threading.Event | None = None
) -> list[R]:
    """The result of `work` for each item, in order, with at most `concurrency` at once; raises the first error.

    Once `stopping` is set, no further item is started: only the results so far are returned.
    """
    found: dict[int, R] = {}
    errors: list[BaseException] = []
    places = iter(range(len(items)))
    taking = threading.Lock()

    def _take() -> Iterator[int]:
        while not errors and not (stopping and stopping.is_set()):
            with taking:
                place = next(places, None)
            if place is None:
                return
            yield place

    def _run() -> None:
        try:
            for place in _take():
                found[place] = work(items[place])
        except BaseException as error:
            errors.append(error)

    _run_all(_run, min(concurrency, len(items)))
    if errors:
        raise errors[0]
    return [found[place] for place in sorted(found)]


class Pool:
    """So many threads, made when they are first needed, that take work in the order in which it is started."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._running = 0
        self._changing = threading.Lock()
        weakref.finalize(self, _end, self._jobs, size)

    def start(self, work: Callable[[T], R], items: Sequence[T]) -> Callable[[], list[R]]:
        """Begin `work` for each item; what is returned waits for the results, in order, and raises the first error."""
        group: _Group[R] = _Group(len(items))
        for place, item in enumerate(items):
            self._jobs.put(partial(group.run, partial(work, item), place))
        with self._changing:
            for _ in range(min(len(items), self._size - self._running)):
                threading.Thread(target=_work, args=[self._jobs], name="pgmeaning pool", daemon=True).start()
                self._running += 1
        return group.wait


class _Group(Generic[R]):
    """Jobs that were started together."""

    def __init__(self, count: int) -> None:
        self._found: dict[int, R] = {}
        self._errors: list[BaseException] = []
        self._missing = count
        self._changed = threading.Condition()

    def run(self, work: Callable[[], R], place: int) -> None:
        """Do one; nothing if another has failed."""
        try:
            if not self._errors:
                self._found[place] = work()
        except BaseException as error:
            self._errors.append(error)
        with self._changed:
            self._missing -= 1
            self._changed.notify_all()

    def wait(self) -> list[R]:
        """All results."""
        with self._changed:
            self._changed.wait_for(lambda: not self._missing)
        if self._errors:
            raise self._errors[0]
        return [self._found[place] for place in sorted(self._found)]


def _work(jobs: SimpleQueue[Any]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # what it holds is not kept until the next one


def _end(jobs: SimpleQueue[Any], size: int) -> None:
    for _ in range(size):
        jobs.put(None)


class Shared(Generic[T]):
    """An object that threads share: made on first use, and used by one of them at a time."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._turn = threading.Lock()
        self._made: T | None = None

    @contextmanager
    def use(self) -> Iterator[T]:
        """Hold the object while the body runs; raises what making it raises, and a later use tries again."""
        with self._turn:
            if self._made is None:
                self._made = self._make()
            yield self._made


def _run_all(body: Callable[[], None], count: int) -> None:
    """Run the body in `count` threads; a single one runs in the caller's."""
    if count < 2:
        return body()
    threads = [threading.Thread(target=body, name="pgmeaning parallel", daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return None
