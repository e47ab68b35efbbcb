"""The queue between the sidecar's steps: what is urgent goes first, and does not go first for ever."""

from __future__ import annotations

from pgmeaning.sidecar.bounded_queue import MAY_PASS, BoundedQueue


def test_urgent_items_go_before_the_others() -> None:
    queue: BoundedQueue[str] = BoundedQueue(4)
    queue.put("a")
    queue.put("b", urgent=True)
    assert [queue.get(), queue.get_nowait(), queue.get_nowait()] == ["b", "a", None]


def test_a_stream_of_urgent_items_lets_another_through_now_and_then() -> None:
    queue: BoundedQueue[str] = BoundedQueue(4)
    queue.put("a")
    taken = []
    for _ in range(MAY_PASS + 1):
        queue.put("urgent", urgent=True)
        taken.append(queue.get())
    assert taken == ["urgent"] * MAY_PASS + ["a"]


def test_what_is_asked_for_as_urgent_is_urgent() -> None:
    queue: BoundedQueue[str] = BoundedQueue(9)
    queue.put("a")
    for _ in range(MAY_PASS + 1):
        queue.put("urgent", urgent=True)
        assert queue.get_urgent() == "urgent"
    assert queue.get_urgent() is None
