"""The command line's log: where its lines go, and that a log which nobody reads stops no work."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest
import structlog

from pgmeaning.cli.output import configure_logging


@pytest.fixture(autouse=True)
def _configuration() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


class Broken(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("stream", [Broken(), closed()], ids=["broken", "closed"])
def test_a_line_that_cannot_be_written_raises_nothing(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, form: str
) -> None:
    configure_logging(form, "info")
    monkeypatch.setattr(sys, "stderr", stream)
    structlog.get_logger().warning("rows failed", rows=1)


def test_lines_go_to_what_stderr_is_just_then(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging("json", "info")
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    structlog.get_logger().info("batch", rows=1)
    assert '"rows": 1' in later.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_shows_no_values_of_variables(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    configure_logging(form, "info")
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    try:
        secret = "sk-very-" + "secret"
        raise ValueError(len(secret))
    except ValueError:
        structlog.get_logger().exception("unexpected error")
    assert "ValueError" in written.getvalue()
    assert "sk-very-secret" not in written.getvalue()
