"""What a build may use: workers and memory, by what the server and the machine tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pgmeaning.indexes import resources
from pgmeaning.indexes.resources import Server, available_memory, cores, memory, no_shared_memory, workers

BESIDE = Server("0.8.6", beside=True, workers=2, all_workers=64, maintenance_memory=64, shared_buffers=128)
ELSEWHERE = replace(BESIDE, beside=False)


def test_a_server_on_this_machine_builds_with_every_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 16)
    assert workers(BESIDE) == 15  # and the one that builds
    assert workers(replace(BESIDE, all_workers=8)) == 8


def test_another_machine_builds_with_what_its_administrator_allows() -> None:
    assert workers(ELSEWHERE) == 2


@pytest.mark.parametrize(("version", "sound"), [("0.8.1", False), ("0.7.4", False), ("0.8.2", True), ("1.0", True)])
def test_there_are_no_workers_where_they_overflow_a_buffer(version: str, sound: bool) -> None:
    assert (workers(replace(ELSEWHERE, vector_version=version)) > 0) is sound


def test_memory_is_what_the_server_is_set_up_for() -> None:
    assert memory(ELSEWHERE, 64_000) == 1024
    assert memory(replace(ELSEWHERE, maintenance_memory=4096), 0) == 4096
    assert memory(replace(ELSEWHERE, shared_buffers=8192), 0) == 4096


def test_on_this_machine_it_is_a_quarter_of_what_is_free() -> None:
    assert memory(BESIDE, 64_000) == 16_000
    assert memory(BESIDE, 800) == 1024


def test_a_containers_limit_bounds_what_is_free(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8388608 kB\n")
    assert available_memory(tmp_path / "meminfo", tmp_path) == 8192
    (tmp_path / "memory.current").write_text(f"{1 << 30}\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path / "meminfo", tmp_path) == 8192
    (tmp_path / "memory.max").write_text(f"{3 << 30}\n")
    assert available_memory(tmp_path / "meminfo", tmp_path) == 2048
    assert available_memory(tmp_path / "absent", tmp_path) == 0


def test_a_core_is_always_there() -> None:
    assert cores() >= 1


def test_only_a_refused_segment_is_a_lack_of_shared_memory() -> None:
    text = 'could not resize shared memory segment "/PostgreSQL.3022" to 2147483648 bytes: No space left on device'
    assert no_shared_memory(psycopg.errors.DiskFull(text))
    assert not no_shared_memory(psycopg.errors.DiskFull('could not extend file "base/5/16384": No space left'))
    assert not no_shared_memory(psycopg.errors.QueryCanceled(text))
