"""A test that lacks something is skipped on a developer's machine, and fails under CI."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.needs import needs_package, needs_program

ABSENT: list[Callable[[], object]] = [
    lambda: needs_program("no-such-program"),
    lambda: needs_package("no_such_module", "media"),
]


@pytest.mark.parametrize("need", ABSENT)
@pytest.mark.parametrize("said", [None, "", "0", "false"])
def test_outside_ci_a_test_that_lacks_something_is_skipped(
    monkeypatch: pytest.MonkeyPatch, need: Callable[[], object], said: str | None
) -> None:
    monkeypatch.delenv("CI", raising=False)
    if said is not None:
        monkeypatch.setenv("CI", said)
    with pytest.raises(pytest.skip.Exception, match=r"is not installed: (apt-get|pip) install"):
        need()


@pytest.mark.parametrize("need", ABSENT)
def test_under_ci_it_fails(monkeypatch: pytest.MonkeyPatch, need: Callable[[], object]) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"is not installed: (apt-get|pip) install"):
        need()


def test_what_is_there_is_handed_over() -> None:
    assert needs_program("sh").endswith("/sh")
    assert needs_package("sys", "media") is sys
