"""Runs work in parallel threads and shares objects between them; none of the threads keeps the process alive.

Not an executor: its threads would delay the end of the process while a server stalls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

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
