"""The SQL reference: functions, procedures and views with the signatures and comments that the database itself has."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

import psycopg

from pgmeaning.database import sql_files

_DEFAULT_TYPE = re.compile(r"::[a-z \[\]]+$")  # of a default: NULL::text

HEAD = """# SQL

<!-- Written by `make docs` from a migrated database: its signatures and COMMENTs. -->

Everything is in the schema `pgmeaning`. Name arguments as in `k => 5`; those with a default may be left out. Functions
run with their caller's privileges. Procedures commit, so call them outside a transaction block.
"""


def page(connection: psycopg.Connection[Any]) -> str:
    """Routines by name, then views."""
    routines = connection.execute(_query("routines")).fetchall()
    text = HEAD + "\n## Functions and procedures\n"
    for name, overloads in groupby(routines, key=lambda row: row[0]):
        text += f"\n### {name}\n" + "".join(_routine(*row) for row in overloads)
    text += "\n## Views\n"
    for name, comment, columns in connection.execute(_query("views")).fetchall():
        text += f"\n### The view {name}\n\n{comment}\n\n```text\n" + "\n".join(columns) + "\n```\n"
    return text


def _query(name: str) -> bytes:
    return (sql_files.folder("sql") / "docs" / f"{name}.sql").read_bytes()


def _routine(
    name: str, kind: str, arguments: list[str], result: str | None, row: list[str] | None, comment: str | None
) -> str:
    """Its comment and signature; the other functions of its name follow without a heading of their own."""
    inputs = [_DEFAULT_TYPE.sub("", part).removeprefix("IN ") for part in arguments if not part.startswith("OUT ")]
    call = _listed(f"{kind} {name}", inputs)
    if kind == "function":
        columns = row or _columns(result or "")
        call += "\n" + (_listed("RETURNS TABLE ", columns) if columns else f"RETURNS {result}")
    return f"\n{comment}\n\n```text\n{call}\n```\n"


def _columns(result: str) -> list[str]:
    return result.removeprefix("TABLE(").removesuffix(")").split(", ") if result.startswith("TABLE(") else []


def _listed(head: str, parts: list[str]) -> str:
    """On one line, or a part a line where that is too long."""
    line = f"{head}({', '.join(parts)})"
    return line if len(line) <= 100 else f"{head}(\n" + ",\n".join(f"    {part}" for part in parts) + "\n)"
