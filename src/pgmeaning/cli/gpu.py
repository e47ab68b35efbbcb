"""Advice where there is no GPU: the default model of a fresh database needs one.

A GPU is looked for among the system's files, since torch, which would know for sure, takes seconds to import.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

import typer

SMALL_MODEL = "all-MiniLM-L6-v2"
# Backends whose models are too large for a CPU.
LARGE = frozenset({"qwen3_vl"})
# The drivers' device files: NVIDIA's, also before a first program has opened the device; in WSL; AMD's.
NVIDIA = ("dev/nvidia[0-9]*", "proc/driver/nvidia/gpus/*", "dev/dxg")
OTHERS = ("dev/kfd",)


def print_gpu_advice(dsn: str) -> None:
    """One line on stderr where there is no GPU and the database's default model needs one."""
    if not has_gpu() and (advice := _advice(dsn)):
        typer.echo(advice, err=True)


def has_gpu(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this machine seems to have a GPU that torch can use."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return True
    hidden = environment.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    return any(any(root.glob(pattern)) for pattern in (() if hidden else NVIDIA) + OTHERS)


def _advice(dsn: str) -> str | None:
    import psycopg

    try:
        default = _large_default(dsn)
    except psycopg.errors.UndefinedTable:
        from pgmeaning.models.registry import current_release

        new = current_release().embedder
        return _line(f"the default model of a new database, {new},", f"after `pgmeaning migrate`, {_command()}")
    except psycopg.Error:  # what the command itself did went well
        return None
    return _line(f"the default model, {default},", _command()) if default else None


def _line(model: str, what_next: str) -> str:
    return f"no GPU here: {model} needs one where the sidecar runs; {what_next} chooses a small model for CPUs"


def _command() -> str:
    return f"`pgmeaning model default {SMALL_MODEL}`"


def _large_default(dsn: str) -> str | None:
    """The default embedder, if it is a large one."""
    import psycopg
    from psycopg.rows import dict_row

    from pgmeaning.database import sql_files as sql
    from pgmeaning.database.dsn import checked

    with psycopg.connect(checked(dsn), autocommit=True, connect_timeout=5, row_factory=dict_row) as connection:
        models = connection.execute(sql.query("models")).fetchall()
    large = [model["name"] for model in models if (model["kind"], model["status"]) == ("embedder", "default")
             and model["backend"] in LARGE]  # fmt: skip
    return large[0] if large else None
