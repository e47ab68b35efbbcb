"""What a build may use: parallel workers, and memory for the graph.

The cores and the memory of the server's machine show only to a process beside it; elsewhere its own settings tell.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.rows import class_row

from pgmeaning.database import sql_files as sql
from pgmeaning.database.connection import Connection
from pgmeaning.database.vector_version import sound_in_parallel
from pgmeaning.settings import Settings

# MB that any server is taken to have to spare, and that PostgreSQL wants for each process of a build.
SPARE = 1024
SHARE = 32
# The names of shared memory segments: what a container with a small /dev/shm refuses.
SEGMENT = re.compile(r"PostgreSQL\.\d+|pg_dynshmem")


@dataclass(frozen=True, slots=True)
class Server:
    """What the server tells; memory in MB."""

    vector_version: str
    beside: bool  # whether it runs on this machine
    workers: int  # of one statement
    all_workers: int  # of all statements
    maintenance_memory: int
    shared_buffers: int


@dataclass(frozen=True, slots=True)
class Resources:
    """Parallel workers besides the process that builds, and the most memory that the graph may take, in MB."""

    workers: int
    memory: int


def resources(connection: Connection, settings: Settings) -> Resources:
    """What a build may use here: as set, or else as the server and this machine have."""
    with connection.cursor(row_factory=class_row(Server)) as cursor:
        server = cursor.execute(sql.query("index/build_resources")).fetchone()
    assert server is not None
    return Resources(
        workers(server) if settings.index_workers is None else settings.index_workers,
        memory(server, available_memory()) if settings.index_memory is None else settings.index_memory,
    )


def workers(server: Server) -> int:
    """Every core of a server beside us, else what its administrator allows; none where they overflow a buffer."""
    if not sound_in_parallel(server.vector_version):
        return 0
    return min(cores() - 1, server.all_workers) if server.beside else server.workers


def memory(server: Server, available: int) -> int:
    """MB: what the server is set up for, and a quarter of what is free on this machine if it runs here."""
    return max(SPARE, server.maintenance_memory, server.shared_buffers // 2, available // 4 if server.beside else 0)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory(proc: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """MB that are free on this machine or in this container; 0 where that cannot be told."""
    try:
        (kilobytes,) = re.findall(r"^MemAvailable:\s+(\d+) kB$", proc.read_text(), re.MULTILINE)
        free = int(kilobytes) // 1024
    except (OSError, ValueError):
        return 0
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return free if limit == "max" else min(free, max(0, int(limit) - int(used)) // 2**20)
    except (OSError, ValueError):
        return free


def no_shared_memory(error: psycopg.Error) -> bool:
    """Whether a build failed because the server could not share so much memory among its processes."""
    refused = isinstance(error, psycopg.errors.DiskFull | psycopg.errors.OutOfMemory)
    return refused and SEGMENT.search(str(error)) is not None
