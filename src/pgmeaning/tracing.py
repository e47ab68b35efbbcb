"""OpenTelemetry spans, where its API is installed; where it is not, nothing, at next to no cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# A span's context, which others may name as their parent; None: there is none.
Origin = Any


@cache
def _api() -> Any:
    """The API, or None. Imported at the first span, so that importing pgmeaning stays quick."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace


@contextmanager
def span(name: str, **attributes: Any) -> Iterator[None]:
    """A span around what the body does; spans of other libraries within it are its children."""
    if (trace := _api()) is None:
        yield
        return
    with trace.get_tracer("pgmeaning").start_as_current_span(f"pgmeaning.{name}", attributes=_named(attributes)):
        yield


def ended(name: str, seconds: float, origin: Origin = None, error: str | None = None, **attributes: Any) -> Origin:
    """Record a span that ends now, as a child of `origin`; returns its own context."""
    if (trace := _api()) is None:
        return None
    end = time.time_ns()
    context = None if origin is None else trace.set_span_in_context(trace.NonRecordingSpan(origin))
    made = trace.get_tracer("pgmeaning").start_span(
        f"pgmeaning.{name}", context, attributes=_named(attributes), start_time=end - int(seconds * 1e9)
    )
    if error is not None:
        made.set_status(trace.Status(trace.StatusCode.ERROR, error))
    made.end(end)
    return made.get_span_context()


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"pgmeaning.{name}": value for name, value in attributes.items() if value is not None}
