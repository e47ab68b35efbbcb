"""The bounded queue between the sidecar's steps. It can be ended, so that no step waits forever."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

# So many urgent items may pass one that is not: a stream of them must not stop all else.
MAY_PASS = 4


class BoundedQueue(Generic[T]):
    """First in, first out, urgent items before the others, MAY_PASS in a row.

    `put` waits while it is full, `get` while it is empty. Urgent items have as much room again.
    Ending the queue wakes all who wait.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[T] = deque()
        self._urgent: deque[T] = deque()
        self._changed = threading.Condition()
        self._passed = 0
        self._ended = False

    def put(self, item: T, *, urgent: bool = False) -> bool:
        """Add an item; returns False if the queue has ended, so that nobody will take it."""
        items = self._urgent if urgent else self._items
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(items) < self._size)
            if not self._ended:
                items.append(item)
                self._changed.notify_all()
            return not self._ended

    def get(self) -> T | None:
        """The next item; None once the queue has ended and is empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._urgent or self._items)
            return self._pop()

    def get_nowait(self) -> T | None:
        """The next item; None if there is none right now."""
        with self._changed:
            return self._pop()

    def get_urgent(self) -> T | None:
        """The next urgent item; None if there is none right now."""
        with self._changed:
            return self._pop(urgent=True) if self._urgent else None

    def _pop(self, *, urgent: bool = False) -> T | None:
        passes = bool(self._urgent) and (urgent or not self._items or self._passed < MAY_PASS)
        self._passed = self._passed + 1 if passes and self._items else 0
        items = self._urgent if passes else self._items
        item = items.popleft() if items else None
        self._changed.notify_all()
        return item

    def is_full(self, *, urgent: bool = False) -> bool:
        """Whether `put` would wait right now."""
        with self._changed:
            return not self._ended and len(self._urgent if urgent else self._items) >= self._size

    def wait_for_room(self, seconds: float) -> None:
        """Wait until `put` of what is not urgent would not wait, or time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._items) < self._size, seconds)

    def end(self) -> None:
        """Accept no more items; those already in it can still be taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """End it and discard the items in it."""
        with self._changed:
            self._items.clear()
            self._urgent.clear()
            self.end()
